"""The `embed` verb: embed long lists of pictures and recordings, on one host or on many.

Each host runs the same command with its own --shard i/n, all with the same --inputs, --chunk and
--out, which all must see. It makes every n-th chunk of the list, from the i-th on (from 0), and
skips what is done already. At last, --merge puts the chunks together into an index, which
`sir-jax search` and `sir-jax demo` read. Without --shard, one command does all of it.

Status 3: some files cannot be read; each is named in its chunk, and in the index.
"""

import argparse
import codecs
import json
import os
import re
import sys
from pathlib import Path

from sir_jax.cli.index import (
    INTERRUPTED,
    SOME_FAILED,
    count_left_out,
    describe_left_out,
    report_failures,
    report_notes,
)
from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.errors import UserError


def read_inputs(inputs: str) -> tuple[list, Path | None, dict]:
    """Return what is to be embedded.

    Args:
      inputs: a folder, or a text file with the path of one file a line.

    Returns:
      The `Item`s; the folder, None for a list; id -> `Passed` of the folder's other files.

    Raises:
      UserError: it is neither, it names nothing, or a suffix is neither a picture's nor a
        recording's.
    """
    from sir_jax.index.items import item_of_path, items_of_source

    path = Path(inputs)
    if path.is_dir():
        root, items, passed = items_of_source(path)
    else:
        root, passed = None, {}
        try:
            lines = read_names(path.read_bytes())
        except OSError as error:
            raise UserError(f"--inputs {inputs} cannot be read ({error.strerror})") from error
        items = [item_of_path(line) for line in lines]
    if not items:
        raise UserError(f"--inputs {inputs} holds no picture and no recording")
    return items, root, passed


def read_names(text: bytes) -> list[str]:
    r"""Return the names in a list, one a line.

    Only \n and \r\n end a line: a name can hold any other character, and any bytes. A byte order
    mark is dropped, and lines of white space are passed over.

    >>> read_names(b"\xef\xbb\xbfa.png\r\n\nb\xe2\x80\xa8c.png\n")
    ['a.png', 'b\u2028c.png']
    """
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        lines = text.decode("utf-16", "replace").split("\n")
    else:
        lines = os.fsdecode(text.removeprefix(codecs.BOM_UTF8)).split("\n")
    names = [line.removesuffix("\r") for line in lines]
    return [name for name in names if name.strip()]


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of 'i/n'.

    Raises:
      UserError: it is something else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard {text}: give i/n with i from 0 to n - 1, such as 0/4")
    return int(found[1]), int(found[2])


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options.

    Raises:
      UserError: a number out of range.
    """
    parser = make_parser("embed", __doc__, keep_lines=True)
    add_model(parser)
    parser.add_argument("--inputs", required=True, help="a folder, or a .txt with a path a line")
    parser.add_argument("--out", required=True, help="gets the chunks, and the index")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--shard", default="", help="i/n: make every n-th chunk, from the i-th on")
    part.add_argument("--merge", action="store_true", help="make the index of what is there")
    parser.add_argument("--chunk", type=int, help="files of a chunk")
    add_batch_size(parser, "files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    require_least(args, chunk=1, batch_size=1)
    from sir_jax.runtime.workdir import require_local

    args.out = require_local(args.out)
    args.shard = parse_shard(args.shard) if args.shard else None
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax embed`.

    Args:
      argv: the arguments after the verb.

    Returns:
      0, or 3 where some files cannot be read.

    Raises:
      UserError: the model, the list, an option or what is in `--out` cannot be used.
    """
    args = parse(argv)
    items, root, passed = read_inputs(args.inputs)
    from sir_jax.index.embed_lists import SIZE, ChunkPlan, embed_list
    from sir_jax.index.merge import merge_chunks
    from sir_jax.inference.retriever import Retriever
    from sir_jax.runtime.console import Progress

    plan, out = ChunkPlan.of_items(items, args.chunk or SIZE), Path(args.out)
    model = Retriever.load(args.model, batch_size=args.batch_size)
    counts, status, left_out = {"chunks": len(plan.chunks)}, 0, {}
    if not args.merge:
        shard = args.shard or (0, 1)
        files = sum(len(plan.chunk(number)) for number in plan.of_shard(shard))
        try:
            with Progress(files, "files embedded", True) as bar:
                counts |= embed_list(model, plan, out, shard=shard, done=bar.update)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from there", file=sys.stderr)
            return INTERRUPTED
        status = SOME_FAILED if counts["failed"] else 0
    if not args.shard:
        made = merge_chunks(model, plan, out, root, passed)
        counts |= made.counts | {"failed": len(made.failed)}
        left_out = count_left_out(made.failed, passed)
        report_notes(made.noted)
        status = report_failures(made.failed)
    if args.json:
        print(json.dumps(counts | ({"not_indexed": left_out} if left_out else {})))
    else:
        print(f"{args.out}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
        if left_out:
            print(f"not indexed: {describe_left_out(left_out)}")
    return status
