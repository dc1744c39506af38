"""Find what is in two splits of a corpus, by its bytes and not by its name.

A model that is tested on what it was trained on looks better than it is. Each picture and recording
is known by 16 bytes, so that a corpus of any published size fits in memory.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sir_jax.data.builders.chunk_files import DIGEST_BYTES
from sir_jax.data.builders.recordings import Plan, PlannedImage
from sir_jax.data.builders.records import progress
from sir_jax.data.parallel import GROUP, ordered_map
from sir_jax.errors import UserError
from sir_jax.runtime.files import whole_file

LEAKS = "leaks.jsonl"

# A picture (`caption` is then -1) or a recording: the digest of its bytes, the number of its split,
# and which one it is.
ENTRY_DTYPE = np.dtype(
    [("digest", f"V{DIGEST_BYTES}"), ("split", "i4"), ("image", "i4"), ("caption", "i4")]
)

# Where an entry is: its split, and its name there.
Place = tuple[str, str]
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Copies:
    """The contents that a corpus has more than once.

    Attributes:
      leaks: for each content that is in more than one split, its ENTRY_DTYPE entries.
      repeats: number of pictures and recordings that their own split has already.
    """

    leaks: tuple[np.ndarray, ...]
    repeats: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of leaks by kind, 'pictures' and 'recordings'."""
        counts = Counter(_kind(leak) for leak in self.leaks)
        return {f"{kind}s": counts[kind] for kind in ("picture", "recording")}


def find_copies(entries: np.ndarray) -> Copies:
    """Find the contents that occur more than once.

    Args:
      entries: ENTRY_DTYPE, of all splits.
    """
    if not len(entries):
        return Copies((), {"pictures": 0, "recordings": 0})
    digests = np.ascontiguousarray(entries["digest"]).view("u8").reshape(-1, 2)
    sounds = entries["caption"] >= 0
    keys = (entries["image"], entries["split"], digests[:, 1], digests[:, 0], sounds)
    order = np.lexsort(keys)
    sounds, digests, splits = sounds[order], digests[order], entries["split"][order]
    same = (sounds[1:] == sounds[:-1]) & (digests[1:] == digests[:-1]).all(axis=1)
    repeated = same & (splits[1:] == splits[:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    ends = np.append(starts[1:], len(order))
    # Within a group splits ascend.
    leaking = splits[starts] != splits[ends - 1]
    leaks = [
        entries[order[first:end]] for first, end in zip(starts[leaking], ends[leaking], strict=True)
    ]
    leaks.sort(key=lambda leak: (_kind(leak), int(leak["image"][0]), int(leak["caption"][0])))
    repeats = {
        "pictures": int((repeated & ~sounds[1:]).sum()),
        "recordings": int((repeated & sounds[1:]).sum()),
    }
    return Copies(tuple(leaks), repeats)


def without_pictures(copies: Copies, splits: Sequence[str], family: str = "") -> tuple[Copies, int]:
    """Leave out pictures that are in several splits by intention.

    Args:
      copies: from `find_copies`.
      splits: the names of the splits by their numbers.
      family: of splits whose names begin so; '' for all.

    Returns:
      The other copies, and the number of those left out.
    """

    def meant(leak: np.ndarray) -> bool:
        same = all(splits[number].startswith(family) for number in leak["split"])
        return same and _kind(leak) == "picture"

    leaks = tuple(leak for leak in copies.leaks if not meant(leak))
    return Copies(leaks, copies.repeats), len(copies.leaks) - len(leaks)


def file_copies(plan: Plan, folder: Path) -> Copies:
    """Find the files of a plan that are in more than one split, before anything is decoded.

    Only files that have the size of one in another split are read.

    Args:
      plan: the plan.
      folder: folder that its paths are relative to.
    """
    numbers = {split: i for i, split in enumerate(splits_of(plan.images))}
    files = [
        (_size(os.path.join(folder, path)), caption_id >= 0, numbers[image.split])
        for image in plan.images
        for caption_id, path in _paths(image)
    ]
    suspects = _of_equal_size(np.array(files, "i8").reshape(-1, 3))
    total = sum(files[i][0] for i in np.flatnonzero(suspects))
    del files
    chosen = itertools.compress(
        (
            (os.path.join(folder, path), numbers[image.split], image.image_id, caption_id)
            for image in plan.images
            for caption_id, path in _paths(image)
        ),
        suspects,
    )
    entries = []
    with progress(total, "B", "look for copies", unit_scale=True) as bar:
        for size, *entry in ordered_map(_file_entry, chosen, GROUP):
            bar.update(size)
            if size:
                entries.append(np.array([tuple(entry)], ENTRY_DTYPE))
    return find_copies(np.concatenate(entries) if entries else np.empty(0, ENTRY_DTYPE))


def _of_equal_size(files: np.ndarray) -> np.ndarray:
    """Tell which files have the size of one of their kind in another split.

    Args:
      files: size, kind and number of the split of each, int64 [n, 3]. Sizes below 1 count as none.
    """
    if not len(files):
        return np.zeros(0, bool)
    order = np.lexsort(files.T[::-1])
    sizes, kinds, splits = files[order].T
    begins = (sizes[1:] != sizes[:-1]) | (kinds[1:] != kinds[:-1])
    starts = np.flatnonzero(np.concatenate([[True], begins]))
    ends = np.append(starts[1:], len(order))
    # Within a group splits ascend.
    several = (splits[starts] != splits[ends - 1]) & (sizes[starts] > 0)
    out = np.zeros(len(order), bool)
    out[order] = np.repeat(several, ends - starts)
    return out


def content_entries(contents: np.ndarray, images: Sequence[PlannedImage]) -> np.ndarray:
    """Return the ENTRY_DTYPE entries of what a corpus keeps.

    Args:
      contents: CONTENT_DTYPE, of the chunks.
      images: what the corpus keeps.
    """
    numbers = {split: i for i, split in enumerate(splits_of(images))}
    known = sorted((image.image_id, numbers[image.split]) for image in images)
    ids, splits = np.array(known, "i8").reshape(-1, 2).T
    at = np.minimum(np.searchsorted(ids, contents["image_id"]), max(len(ids) - 1, 0))
    kept = ids[at] == contents["image_id"] if len(ids) else np.zeros(len(contents), bool)
    entries = np.empty(int(kept.sum()), ENTRY_DTYPE)
    entries["digest"], entries["split"] = contents["digest"][kept], splits[at[kept]]
    entries["image"], entries["caption"] = contents["image_id"][kept], contents["caption_id"][kept]
    return entries


def splits_of(images: Sequence[PlannedImage]) -> list[str]:
    """Return the names of the splits, whose positions are the numbers in entries."""
    return list(dict.fromkeys(image.split for image in images))


def planned_places(images: Sequence[PlannedImage]) -> Callable[[np.void], Place]:
    """Return the function that tells where an entry of a plan is, by its path."""
    by_id = {image.image_id: image for image in images}

    def place(entry: np.void) -> Place:
        image = by_id[int(entry["image"])]
        return image.split, dict(_paths(image))[int(entry["caption"])]

    return place


def leak_line(leak: np.ndarray, place: Callable[[np.void], Place]) -> str:
    """Return a line that names a content and where it is."""
    places = ", ".join(f"{name} ({split})" for split, name in map(place, leak))
    return f"the same {_kind(leak)}: {places}"


def counted(counts: dict[str, int]) -> str:
    """Return counts in words, such as '2 pictures and 1 recording'."""
    words = [f"{n:,} {kind if n > 1 else kind[:-1]}" for kind, n in counts.items() if n]
    return " and ".join(words)


def list_leaks(folder: Path, copies: Copies, place: Callable[[np.void], Place]) -> Path:
    """Write the list of leaks, one a line, and print the first ones; return its path."""
    path = folder / LEAKS
    if not copies.leaks:
        path.unlink(missing_ok=True)
        return path
    with whole_file(path) as part, part.open("w") as stream:
        for leak in copies.leaks:
            places = [{"split": split, "name": name} for split, name in map(place, leak)]
            stream.write(json.dumps({"kind": _kind(leak), "places": places}) + "\n")
    for leak in copies.leaks[:_SHOWN]:
        print(leak_line(leak, place))
    if len(copies.leaks) > _SHOWN:
        print(f"... and {len(copies.leaks) - _SHOWN:,} more")
    return path


def refuse(name: str, copies: Copies, where: Path) -> None:
    """Refuse a user's corpus that has leaks.

    Raises:
      UserError: it has.
    """
    if copies.leaks:
        raise UserError(
            f"{name}: in more than one split: {counted(copies.counts)}, so that a model would be "
            f"tested on what it was trained on; listed in {where}; take each out of all splits but "
            "one, or accept this with allow_leaks"
        )


def _kind(leak: np.ndarray) -> str:
    return "picture" if leak["caption"][0] < 0 else "recording"


def _paths(image: PlannedImage) -> Iterator[tuple[int, str]]:
    yield -1, image.image
    for caption in image.captions:
        yield caption.caption_id, caption.audio


def _size(path: str) -> int:
    """Return the size of a regular file; -1 of anything else, which the preparation will name."""
    with contextlib.suppress(OSError, ValueError):
        info = os.stat(path)
        if stat.S_ISREG(info.st_mode):
            return info.st_size
    return -1


def _file_entry(file: tuple[str, int, int, int]) -> tuple[int, bytes, int, int, int]:
    """Return the bytes read of a file and its entry; 0 if the preparation will not read it, too."""
    digest, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    with contextlib.suppress(OSError), open(file[0], "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
            size += len(part)
        return size, digest.digest(), *file[1:]
    return 0, b"", *file[1:]
