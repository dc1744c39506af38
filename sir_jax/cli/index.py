"""The `index` verb: index a folder of pictures and recordings, or follow what changed in it.

An interrupted command goes on where it was when it is given again. Status 3: the index is written,
but some files are not in it, because they cannot be read; each is named on stderr, and tried again
when it has changed.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.index.engines import WAYS

SOME_FAILED = 3
INTERRUPTED = 130
_NAMED = 20  # failures, on stderr


def report_failures(failed: Mapping) -> int:
    """Name on stderr what cannot be read (id -> `Failure`); return the exit status."""
    from sir_jax.index.gallery import INDEX_FILE

    for failure in list(failed.values())[:_NAMED]:
        print(f"skipped: {failure.reason}", file=sys.stderr)
    if len(failed) > _NAMED:
        print(f"and {len(failed) - _NAMED} more; {INDEX_FILE} names all", file=sys.stderr)
    return SOME_FAILED if failed else 0


def run(args: argparse.Namespace) -> tuple:
    """Build or update.

    Args:
      args: see `parse`.

    Returns:
      The `Index`, and what was done to it.

    Raises:
      UserError: see `Index.build`, `Index.load` and `Index.update`.
    """
    from sir_jax.index.gallery import INDEX_FILE
    from sir_jax.index.index import Index
    from sir_jax.inference.retriever import Retriever

    model, out = Retriever.load(args.model, batch_size=args.batch_size), Path(args.out)
    if not (out / INDEX_FILE).exists():
        way = args.way or "auto"
        index = Index.build(model, args.folder, out=out, progress=True, way=way)
        added = sorted([*index.images.ids, *index.recordings.ids])
        return index, dict(added=added, changed=[], removed=[])
    index = Index.load(out, model)
    index.way = args.way or index.way
    done = index.update(args.folder, out=out, progress=True)
    return index, dict(added=done.added, changed=done.changed, removed=done.removed)


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options.

    Raises:
      UserError: a number out of range.
    """
    parser = make_parser("index", __doc__, keep_lines=True)
    add_model(parser)
    parser.add_argument("--folder", required=True, help="of pictures and recordings")
    parser.add_argument("--out", required=True, help="the index; updated where there is one")
    add_batch_size(parser, "files")
    parser.add_argument("--way", choices=WAYS, help="of search; default: by the number of files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    require_least(args, batch_size=1)
    return args


def main(argv: list[str]) -> int:
    """Run `sir-jax index`.

    Args:
      argv: the arguments after the verb.

    Returns:
      0, or 3 where some files cannot be read.

    Raises:
      UserError: the model, the folder or what is in `--out` cannot be used.
    """
    args = parse(argv)
    start = time.monotonic()
    try:
        index, done = run(args)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    seconds = time.monotonic() - start
    if args.json:
        failed = {name: failure.reason for name, failure in index.failed.items()}
        print(json.dumps(index.describe() | done | dict(failed=failed, seconds=seconds)))
    else:
        counts = ", ".join(f"{len(ids):,} {what}" for what, ids in done.items())
        print(f"{counts}, {len(index.failed):,} failed in {seconds:.1f} s")
        print(
            f"{args.out}: {len(index.images):,} pictures and {len(index.recordings):,} recordings"
        )
    return report_failures(index.failed)
