"""Verify that a prepared corpus is complete and undamaged."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sir_jax.data.builders.checksums import checked_files, file_sha256, read_checksums
from sir_jax.data.builders.chunk_files import digest
from sir_jax.data.builders.recordings import LAYOUTS, load_layout
from sir_jax.data.builders.records import progress
from sir_jax.data.builders.work_chunks import default_workers
from sir_jax.data.corpus import Corpus, ImageRecord, Split, open_corpus
from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import load_image
from sir_jax.data.preparation.leaks import (
    ENTRY_DTYPE,
    Copies,
    counted,
    find_copies,
    leak_line,
    without_pictures,
)
from sir_jax.data.preparation.report import Report, read_report
from sir_jax.errors import UserError

# Records that are checked together, which bounds the memory in use.
_ROWS = 256
# Corpora of the user's own lists, who can mend them.
_OWN = ("manifest/", "spoken_captions/")
# Leaks that are named.
_NAMED = 50


def open_named(name: str, data_dir: str) -> Corpus:
    """Open a prepared corpus by its name or by the name of its builder.

    Args:
      name: 'BUILDER/CONFIG', or 'BUILDER' for the first config of a published corpus.
      data_dir: folder of the corpora; '' for $SIR_JAX_DATA or `data`.

    Raises:
      UserError: the corpus does not exist, or its dataset_info.json is damaged.
    """
    if name in LAYOUTS:
        name = f"{name}/{next(iter(load_layout(name).configs))}"
    try:
        return open_corpus(name, data_dir)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{name}: its dataset_info.json cannot be read ({_one_line(error)}); restore it or "
            "prepare the corpus again"
        ) from None


def count_images(corpus: Corpus) -> int:
    """Return the number of images of a corpus, without splits that cannot be read."""
    return sum(map(_length, corpus.splits.values()))


def verify(corpus: Corpus, full: bool = False, notes: list[str] | None = None) -> list[str]:
    """Compare a prepared corpus with its checksums, its index, its report and published counts.

    Pictures and recordings that are in more than one split are faults of a user's own corpus,
    unless it was prepared with `allow_leaks`. A published corpus may have some, and is kept.

    Args:
      corpus: the corpus to check.
      full: True to decode all images and recordings, too.
      notes: gets lines that are worth knowing and no faults.

    Returns:
      A line for each fault.
    """
    wrong = list(check_files(corpus.directory))
    unreadable = [line for split in corpus.splits.values() for line in check_index(split)]
    if unreadable:
        return wrong + unreadable
    wrong += check_counts(corpus)
    contents = []
    for number, split in enumerate(corpus.splits.values()):
        wrong += check_split(split, full, lambda row, n=number: contents.append(_entries(n, *row)))
    copies = find_copies(np.concatenate([np.empty(0, ENTRY_DTYPE), *contents]))
    faults, remarks = _judge(corpus, copies)
    if notes is not None:
        notes += remarks
    return wrong + faults


def _judge(corpus: Corpus, copies: Copies) -> tuple[list[str], list[str]]:
    """Return the faults and the notes that copies are."""
    splits = list(corpus.splits.values())

    def place(entry: np.void) -> tuple[str, str]:
        split, slot = splits[entry["split"]], int(entry["caption"])
        record = split[int(entry["image"])]
        if slot < 0:
            return split.name, record.key or f"image {record.image_id}"
        caption = record.captions[slot]
        return split.name, caption.key or f"caption {caption.caption_id}"

    notes, report = [], read_report(corpus.directory.parent)
    family = _same_pictures(corpus, report)
    if family is not None:
        copies, meant = without_pictures(copies, [split.name for split in splits], family)
        if meant:
            notes.append(f"{meant:,} pictures are in several splits, as meant: voices are held out")
    lines = [leak_line(leak, place) for leak in copies.leaks[:_NAMED]]
    if len(copies.leaks) > _NAMED:
        lines.append(f"... and {len(copies.leaks) - _NAMED:,} more in more than one split")
    if any(copies.repeats.values()):
        notes.append(f"twice in one split: {counted(copies.repeats)}, kept")
    if not lines or (corpus.name.startswith(_OWN) and not _allowed(report)):
        return lines, notes
    why = "accepted when it was prepared" if _allowed(report) else "kept as published"
    notes.append(f"in more than one split: {counted(copies.counts)}, {why}")
    return [], notes + lines


def _same_pictures(corpus: Corpus, report: Report | None) -> str | None:
    """Return the start of the names of splits that may share pictures; None if none may."""
    if corpus.name.startswith("spoken_scenes/"):
        return ""
    rule = report.rules.get("same_pictures") if report is not None else None
    return (rule if isinstance(rule, str) else "") if rule else None


def _allowed(report: Report | None) -> bool:
    return report is not None and bool(report.rules.get("allow_leaks"))


def check_files(directory: Path) -> Iterator[str]:
    """Yield a line for each file that is missing, new, or does not have its checksum."""
    sums = read_checksums(directory)
    if sums is None:
        # A spoken_scenes corpus has no checksums: it can be made again.
        return
    paths = {path.name: path for path in checked_files(directory)}
    for name in sorted(sums.keys() - paths.keys()):
        yield f"{name}: missing"
    for name in sorted(paths.keys() - sums.keys()):
        yield f"{name}: not there when the corpus was made"
    both = sorted(sums.keys() & paths.keys())
    size = sum(paths[name].stat().st_size for name in both)
    with progress(size, "B", "checksums", unit_scale=True) as bar:
        for name in both:
            if file_sha256(paths[name], bar.update) != sums[name]:
                yield f"{name}: its checksum has changed; restore it or prepare the corpus again"


def check_index(split: Split) -> Iterator[str]:
    """Yield a line if a split's index cannot be read."""
    try:
        split.index.dtype.fields["caption_id"]
    # On damaged files NumPy and zipfile raise any exception.
    except Exception as error:
        yield f"split {split.name}: its index cannot be read ({_one_line(error)})"


def check_counts(corpus: Corpus) -> Iterator[str]:
    """Yield a line for each count that differs from the report or is too far below published."""
    report = read_report(corpus.directory.parent)
    builder, _, config = corpus.name.partition("/")
    published = load_layout(builder).expected.get(config, {}) if builder in LAYOUTS else {}
    if report is None:
        if builder != "spoken_scenes":
            yield "report.json: missing beside the corpus; counts cannot be compared"
        return
    tolerance = report.rules["tolerance"]
    for name, counts in report.splits.items():
        split = corpus.splits.get(name)
        held = (0, 0) if split is None else (_length(split), len(split.index))
        if held != (counts.images, counts.captions):
            yield (
                f"split {name}: {held[0]} pictures and {held[1]} recordings; "
                f"{counts.images} and {counts.captions} were prepared"
            )
        stated = published.get(name)
        if stated and (stated.images, stated.captions) != (
            counts.published_images,
            counts.published_captions,
        ):
            yield (
                f"split {name}: {stated.images} pictures and {stated.captions} recordings are "
                f"published; it was compared with {counts.published_images} and "
                f"{counts.published_captions}"
            )
        if counts.missing > tolerance:
            share = f"{100 * counts.missing:.2f} %"
            yield f"split {name}: {share} are missing, more than was accepted"
    for name in corpus.splits.keys() - report.splits.keys():
        yield f"split {name}: not in the report"


def check_split(
    split: Split, full: bool, report: Callable[[tuple[int, list[bytes]]], None] = lambda row: None
) -> Iterator[str]:
    """Yield a line for each fault of a split's records, by its index and, if full, by decoding.

    Args:
      split: the split.
      full: True to decode all images and recordings, too.
      report: called for each record that can be read, with its row and the digests of its picture
        and recordings.
    """
    rows = _length(split)
    order = np.lexsort((split.index["slot"], split.index["row"]))
    index = split.index[order]
    if len(np.unique(index["caption_id"])) != len(index):
        yield f"split {split.name}: its index has a caption id twice"
    if len(index) and not 0 <= index["row"][0] <= index["row"][-1] < rows:
        yield f"split {split.name}: its index names a record that is not there"
    starts = np.searchsorted(index["row"], np.arange(rows + 1))
    with (
        progress(rows, "image", f"records of {split.name}") as bar,
        ThreadPoolExecutor(default_workers()) as pool,
    ):
        for first in range(0, rows, _ROWS):
            some = range(first, min(first + _ROWS, rows))
            entries = [index[starts[row] : starts[row + 1]] for row in some]
            arguments = ([split] * len(some), some, entries, [full] * len(some))
            for row, (lines, digests) in zip(some, pool.map(_check_row, *arguments), strict=True):
                yield from lines
                if digests:
                    report((row, digests))
            bar.update(len(some))


def _length(split: Split) -> int:
    try:
        return len(split)
    # On damaged files readers raise any exception.
    except Exception:
        return 0


def _entries(split: int, row: int, digests: list[bytes]) -> np.ndarray:
    # The picture comes first, and has the number -1; it is b"" where there is none.
    entries = [(d, split, row, slot - 1) for slot, d in enumerate(digests) if d]
    return np.array(entries, ENTRY_DTYPE)


def _check_row(
    split: Split, row: int, entries: np.ndarray, full: bool
) -> tuple[list[str], list[bytes]]:
    """Return a line for each fault of a record, and the digests of its picture and recordings."""
    where = f"split {split.name}, record {row}"
    try:
        record = split[row]
    except Exception as error:
        return [f"{where}: cannot be read ({type(error).__name__}: {_one_line(error)})"], []
    held = [
        (slot, c.samples, record.image_id, c.caption_id) for slot, c in enumerate(record.captions)
    ]
    indexed = entries[["slot", "samples", "image_id", "caption_id"]].tolist()
    wrong = [] if held == indexed else [f"{where}: not as its index says"]
    sounds = [digest(caption.audio) for caption in record.captions]
    digests = [digest(record.image) if record.image else b"", *sounds]
    return wrong + (_decode(where, record) if full else []), digests


def _decode(where: str, record: ImageRecord) -> list[str]:
    wrong = []
    try:
        if record.image:
            load_image(record.image, f"image {record.image_id}")
    except UserError as error:
        wrong.append(f"{where}: {_one_line(error)}")
    for caption in record.captions:
        name = f"caption {caption.caption_id}"
        try:
            samples = len(load_audio(caption.audio, name))
        except UserError as error:
            wrong.append(f"{where}: {_one_line(error)}")
        else:
            if samples != caption.samples:
                wrong.append(f"{where}: {name}: {samples} samples, {caption.samples} announced")
    return wrong


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
