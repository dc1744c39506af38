"""What an update of an index would do, and whether it may: that a file is absent proves little.

A drive that is not mounted, a share that is down and a mistyped folder all look like deleted files.
So a few files that are gone are removed from the index, and many are not unless the caller says so.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from sir_jax.errors import UserError, first_few
from sir_jax.index.folder import Changes, Scan, Stamp, Update, compare, scan
from sir_jax.index.gallery import IN_ROOT
from sir_jax.index.items import items_in_folder

# More than this share of an index's files, and more than one file, are removed only if asked for.
REMOVED_SHARE = 0.25
# A folder at another place is the same one, moved, if at least this share of the files is there.
SAME_SHARE = 0.5
NOT_MOUNTED = "its folder is empty, as that of a drive that is not mounted"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an update would do.

    Attributes:
      root: the folder.
      scan: what it holds now.
      changes: the files that are new, changed, and gone for good.
      retried: files that could not be read before and have not changed.
      kept: id -> why, of files that cannot be reached and keep their vectors.
      restamped: the new stamps of files whose content is the same.
      refusal: why so much is not removed unless it is asked for; '' where it may be.
    """

    root: Path
    scan: Scan
    changes: Changes
    retried: list[str]
    kept: dict[str, str]
    restamped: dict[str, Stamp]
    refusal: str

    @property
    def to_embed(self) -> list[str]:
        """Return the ids of the files that are to be read."""
        return [*self.changes.added, *self.changes.changed, *self.retried]


def plan_update(
    index,
    folder: str | os.PathLike | None = None,
    *,
    out: str | os.PathLike | None = None,
    allow_removal: bool = False,
    checksum: bool = False,
) -> Plan:
    """Find what an update would do, and change nothing.

    Args:
      index: an `Index` that was built from a folder.
      folder: the folder if it was moved; None for the index's.
      out: the index's own folder, which is left out where it lies in `folder`.
      allow_removal: whether everything that is not there is to be removed.
      checksum: whether contents are compared, not sizes and times.

    Raises:
      UserError: the index was not built from a folder, or there is no such folder.
    """
    if index.root is None:
        raise UserError("the index was not built from a folder; use add and remove")
    root = index.root if folder is None else Path(folder).absolute()
    indexed = {
        name: stamp
        for gallery in (index.images, index.recordings)
        for name, source, stamp in zip(gallery.ids, gallery.sources, gallery.stamps, strict=True)
        if source == IN_ROOT
    }
    failed = {name: x.stamp for name, x in index.failed.items() if x.source == IN_ROOT}
    skip = None if out is None else Path(out)
    now = scan(root, indexed, index.passed, skip=skip, checksum=checksum)
    # A stamp that is missing fits none: the file had gone when it was read.
    before = indexed | {name: stamp or Stamp(-1, -1) for name, stamp in failed.items()}
    changes = compare(before, now.stamps)
    kept = {} if allow_removal else _unreachable(changes.removed, now)
    removed = [name for name in changes.removed if name not in kept]
    changes = changes._replace(removed=removed)
    retried = sorted(name for name in failed if name in now.stamps and name not in changes.changed)
    restamped = {
        name: stamp
        for name, stamp in now.stamps.items()
        if name in indexed and indexed[name].fits(stamp) and indexed[name][:2] != stamp[:2]
    }
    refusal = "" if allow_removal else _refusal(root, index.root, indexed, removed, now)
    return Plan(root, now, changes, retried, kept, restamped, refusal)


def carry_out(
    index,
    plan: Plan,
    *,
    out: str | os.PathLike | None = None,
    progress: bool = False,
    errors: str = "skip",
) -> Update:
    """Do what was planned, even if the plan has a refusal; see `Index.update`."""
    changes = plan.changes
    items = items_in_folder(plan.root, plan.scan.stamps, plan.to_embed)
    before = index.root, index.passed
    index.root, index.passed = plan.root, plan.scan.passed
    try:
        gone = {*changes.changed, *changes.removed}
        failed = index.put(items, gone, out, progress, errors, plan.restamped)
    except BaseException:
        index.root, index.passed = before
        raise
    return Update(
        sorted(name for name in (*changes.added, *plan.retried) if name not in failed),
        [name for name in changes.changed if name not in failed],
        changes.removed,
        sorted(failed),
    )


def _unreachable(absent: list[str], now: Scan) -> dict[str, str]:
    """Return which of the absent files are there or may be, and why they cannot be read."""
    kept = {name: now.lost[name] for name in absent if name in now.lost}
    for folder in now.empty:
        within = [name for name in absent if name.startswith(folder)]
        # One deleted file leaves an empty folder behind, too.
        if len(within) > 1:
            kept |= dict.fromkeys(within, NOT_MOUNTED)
    return kept


def _refusal(
    root: Path, old_root: Path, indexed: Mapping[str, Stamp], removed: list[str], now: Scan
) -> str:
    """Return why an update would lose too much; '' where it would not."""
    lost = [name for name in removed if name in indexed]
    total = len(indexed)
    if total and not now.stamps:
        return f"{root} holds none of the {total:,} files that the index has of {old_root}"
    if os.path.realpath(root) != os.path.realpath(old_root):
        # A camera's names are in every folder of its pictures; their sizes are not.
        same = sum(now.stamps[n].size == indexed[n].size for n in indexed if n in now.stamps)
        if same < SAME_SHARE * total:
            return (
                f"{root} is another folder than {old_root}, of which the index was made: it holds "
                f"{same:,} of its {total:,} files"
            )
    if len(lost) > max(1, REMOVED_SHARE * total):
        return (
            f"{len(lost):,} of {total:,} files of the index are not in {root} any more "
            f"({first_few(lost, joint=', ')})"
        )
    return ""
