"""The `index` verb: index a folder of pictures and recordings, or follow what changed in it.

An interrupted command goes on where it was when it is given again. Files that are gone are removed
if they are few; if they are many, their drive may not be mounted, and nothing is done without
--prune. Status 3: the index is written, but some files are not in it, or cannot be reached any
more; each is named on stderr, and tried again the next time.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sir_jax.cli.options import add_batch_size, add_model, make_parser, require_least
from sir_jax.errors import UserError, first_few
from sir_jax.index.engines import WAYS

SOME_FAILED = 3
INTERRUPTED = 130
_NAMED = 20  # files of one fault, on stderr
# What is said of a `Failure.fault`.
_FAULTS = {
    "undecodable": "cannot be decoded",
    "truncated": "cut off",
    "not supported": "a format that is not supported here",
    "no samples": "holds no sound",
    "missing": "no such file",
    "error": "cannot be read",
}


def report_failures(failed: Mapping) -> int:
    """Name on stderr what cannot be read (id -> `Failure`); return the exit status."""
    from sir_jax.index.gallery import INDEX_FILE

    for failure in list(failed.values())[:_NAMED]:
        print(f"skipped: {failure.reason}", file=sys.stderr)
    if len(failed) > _NAMED:
        print(f"and {len(failed) - _NAMED} more; {INDEX_FILE} names all", file=sys.stderr)
    return SOME_FAILED if failed else 0


def report_notes(noted: Mapping[str, str]) -> None:
    """Warn on stderr of items that are in the index and cannot be meant, by what is odd."""
    by_note: dict[str, list[str]] = {}
    for name, note in sorted(noted.items()):
        by_note.setdefault(note.partition(" (")[0].removeprefix("is "), []).append(name)
    for note, names in by_note.items():
        shown = first_few(names, _NAMED, joint=", ")
        print(f"warning: {len(names):,} x {note}: {shown}", file=sys.stderr)


def count_left_out(failed: Mapping, passed: Mapping) -> dict[str, dict[str, int]]:
    """Count the files that are not in an index: {why: {suffix: count}}.

    Args:
      failed: id -> `Failure`.
      passed: id -> `Passed`.
    """
    from sir_jax.index.folder import count_by_suffix

    reasons = [(name, _FAULTS.get(x.fault, x.fault)) for name, x in failed.items()]
    return count_by_suffix(reasons + [(name, x.reason) for name, x in passed.items()])


def describe_left_out(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the counts as a line, '' where everything is indexed."""
    return "; ".join(
        f"{why}: " + ", ".join(f"{n:,} {suffix or 'without suffix'}" for suffix, n in of.items())
        for why, of in counts.items()
    )


def run(args: argparse.Namespace) -> tuple:
    """Build or update.

    Args:
      args: see `parse`.

    Returns:
      The `Index`; what was done to it, ids by 'added', 'changed' and 'removed'; and id -> why, of
      files that cannot be reached and are kept.

    Raises:
      UserError: see `Index.build`, `Index.load` and `updates.plan_update`; or more is gone than may
        be removed without being asked for.
    """
    from sir_jax.index.gallery import INDEX_FILE
    from sir_jax.index.index import Index
    from sir_jax.index.updates import carry_out
    from sir_jax.inference.retriever import Retriever

    model, out = Retriever.load(args.model, batch_size=args.batch_size), Path(args.out)
    if not (out / INDEX_FILE).exists():
        way = args.way or "auto"
        index = Index.build(model, args.folder, out=out, progress=True, way=way)
        added = sorted([*index.images.ids, *index.recordings.ids])
        return index, dict(added=added, changed=[], removed=[]), {}
    index = Index.load(out, model)
    index.way = args.way or index.way
    plan = make_plan(index, args)
    if plan.refusal:
        raise UserError(
            f"{plan.refusal}; nothing was changed: see that its drive is mounted, choose another "
            "--out, or give --prune (--dry-run shows what it would do)"
        )
    done = carry_out(index, plan, out=out, progress=True)
    return index, dict(added=done.added, changed=done.changed, removed=done.removed), plan.kept


def make_plan(index, args: argparse.Namespace):
    """Return the `updates.Plan` of an update."""
    from sir_jax.index.updates import plan_update

    options = dict(allow_removal=args.prune, checksum=args.checksum)
    return plan_update(index, args.folder, out=args.out, **options)


def show_plan(args: argparse.Namespace) -> None:
    """Print what would be done, and do nothing.

    Raises:
      UserError: there is no such folder, or what is in `--out` cannot be used.
    """
    from sir_jax.index.folder import scan
    from sir_jax.index.gallery import INDEX_FILE
    from sir_jax.index.index import Index

    out, lists, kept, refusal = Path(args.out), {}, {}, ""
    if (out / INDEX_FILE).exists():
        plan = make_plan(Index.load(out), args)
        lists = plan.changes._asdict() | {"retried": plan.retried}
        passed, kept, refusal = plan.scan.passed, plan.kept, plan.refusal
    else:
        found = scan(args.folder, skip=out)
        lists = {"added": list(found.stamps), "changed": [], "removed": [], "retried": []}
        passed = found.passed
    left_out = count_left_out({}, passed)
    if args.json:
        print(json.dumps(lists | dict(kept=kept, passed_over=left_out, refused=refusal)))
        return
    counts = ", ".join(f"{len(ids):,} {what}" for what, ids in lists.items())
    print(f"nothing was done; it would be: {counts}")
    for what, ids in lists.items():
        for name in ids:
            print(f"  {what:<8}{name}")
    for name, why in kept.items():
        print(f"  kept    {name}: {why}")
    if left_out:
        print(f"passed over: {describe_left_out(left_out)}")
    if refusal:
        print(f"it would be refused without --prune: {refusal}")


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
    parser.add_argument(
        "--prune", action="store_true", help="remove all that is not in the folder any more"
    )
    parser.add_argument(
        "--checksum", action="store_true", help="compare contents, not sizes and times of change"
    )
    parser.add_argument(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="do nothing, and show what would be done",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    require_least(args, batch_size=1)
    from sir_jax.runtime.workdir import require_local

    args.out = require_local(args.out)
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
    if args.dry_run:
        show_plan(args)
        return 0
    start = time.monotonic()
    try:
        index, done, kept = run(args)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    report(args, index, done, kept, time.monotonic() - start)
    return report_failures(index.failed) or (SOME_FAILED if kept else 0)


def report(
    args: argparse.Namespace,
    index,
    done: Mapping[str, list[str]],
    kept: Mapping[str, str],
    seconds: float,
) -> None:
    """Print what was done and what is not in the index; warn on stderr of what is odd.

    Args:
      args: see `parse`.
      index: the `Index`.
      done: see `run`.
      kept: see `run`.
      seconds: that it took.
    """
    from sir_jax.index.folder import links_outside

    left_out = count_left_out(index.failed, index.passed)
    outside = links_outside(index.root, done["added"] + done["changed"])
    if args.json:
        found: dict[str, Any] = index.describe() | dict(done)
        found |= dict(
            noted=dict(index.noted),
            failed={name: failure.reason for name, failure in index.failed.items()},
            not_indexed=left_out,
            kept=dict(kept),
            links_outside=outside,
            seconds=seconds,
        )
        print(json.dumps(found))
    else:
        counts = ", ".join(f"{len(ids):,} {what}" for what, ids in done.items())
        print(f"{counts}, {len(index.failed):,} failed in {seconds:.1f} s")
        if left_out:
            print(f"not indexed: {describe_left_out(left_out)}")
        print(
            f"{args.out}: {len(index.images):,} pictures and {len(index.recordings):,} recordings"
        )
        if (about := index.describe())["long"]:
            print(
                f"of these, {about['long']:,} long: {about['moments']:,} moments, "
                f"{about['silent']:,} silent ones left out"
            )
    if outside:
        print(
            f"warning: {len(outside):,} x a link to a file outside of {args.folder}: "
            f"{first_few(outside, joint=', ')}",
            file=sys.stderr,
        )
    report_kept(kept)
    report_notes(index.noted)


def report_kept(kept: Mapping[str, str]) -> None:
    """Name on stderr what cannot be reached and keeps its vectors, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in kept.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        print(
            f"kept, though not there ({why}): {first_few(names, joint=', ')}; --prune removes them",
            file=sys.stderr,
        )
