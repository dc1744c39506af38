"""The `embed` verb: embed long lists of pictures and recordings, on one host or on many.

Each host runs the same command with its own --shard i/n, all with the same --inputs, --chunk and
--out, which all must see. It makes every n-th chunk of the list, from the i-th on (from 0), and
skips what is done already. At last, --merge puts the chunks together into an index, which
`sir-jax search` and `sir-jax demo` read. Without --shard, one command does all of it.

Status 3: some files cannot be read; each is named in its chunk, and in the index.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from sir_jax.cli.index import INTERRUPTED, SOME_FAILED, report_failures
from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.errors import UserError


def read_inputs(inputs: str) -> tuple[list, Path | None]:
    """Return what is to be embedded.

    Args:
      inputs: a folder, or a text file with the path of one file a line.

    Returns:
      The `Item`s, and the folder, None for a list.

    Raises:
      UserError: it is neither, it names nothing, or a suffix is neither a picture's nor a
        recording's.
    """
    from sir_jax.index.folder import scan_folder
    from sir_jax.index.items import item_of_path, items_in_folder

    path = Path(inputs)
    if path.is_dir():
        stamps, root = scan_folder(path), path.absolute()
        items = items_in_folder(root, stamps, stamps)
    else:
        root = None
        try:
            # A name can be any bytes.
            lines = os.fsdecode(path.read_bytes()).splitlines()
        except OSError as error:
            raise UserError(f"--inputs {inputs} cannot be read ({error.strerror})") from error
        items = [item_of_path(line) for line in lines if line.strip()]
    if not items:
        raise UserError(f"--inputs {inputs} holds no picture and no recording")
    return items, root


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
    items, root = read_inputs(args.inputs)
    from sir_jax.index.embed_lists import SIZE, ChunkPlan, embed_list
    from sir_jax.index.merge import merge_chunks
    from sir_jax.inference.retriever import Retriever
    from sir_jax.runtime.console import Progress

    plan, out = ChunkPlan.of_items(items, args.chunk or SIZE), Path(args.out)
    model = Retriever.load(args.model, batch_size=args.batch_size)
    counts, status = {"chunks": len(plan.chunks)}, 0
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
        made, failures = merge_chunks(model, plan, out, root)
        counts |= made | {"failed": len(failures)}
        status = report_failures(failures)
    if args.json:
        print(json.dumps(counts))
    else:
        print(f"{args.out}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))
    return status
