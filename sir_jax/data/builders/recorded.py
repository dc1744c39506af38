"""Read, check and store the images and recordings of a plan; list those that cannot be used.

A chunk is two files: the records of usable images with their recordings, and one line per problem
(.problems). The .problems file is written first, so that a chunk whose first file exists is
complete.
"""

import dataclasses
import functools
import hashlib
import importlib
import io
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from sir_jax.data.builders.chunk_files import (
    CONTENT_DTYPE,
    SUFFIX,
    ChunkWriter,
    digest,
    new_chunk,
    read_contents,
)
from sir_jax.data.builders.recordings import (
    Layout,
    Plan,
    PlannedCaption,
    PlannedImage,
    Problem,
    no_audio,
)
from sir_jax.data.builders.work_chunks import RECORD_FORM, chunks_of, files_of, make_chunks
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio, read_header
from sir_jax.data.media.image import load_image
from sir_jax.data.media.sources import read_source
from sir_jax.errors import BadMedia, UserError
from sir_jax.runtime.files import write_text

# About half a second of work at five recordings per image; an interrupt loses that per worker.
CHUNK_IMAGES = 24
MAX_CHANNELS = 8
# Raised when the same plan gives other chunks than before.
_FORM = 2
# The values of `BadMedia.fault` to which a reason adds 'audio' or 'image'.
_MEDIUM_FAULTS = ("missing", "undecodable", "truncated")


@dataclasses.dataclass(frozen=True)
class Rules:
    """The limits for recordings.

    Attributes:
      folder: folder that the plan's paths are relative to.
      rate: sampling rate in Hz that every recording must have; None for any.
      max_seconds: longest duration of a recording.
      once: leave out a recording that sounds, sample by sample, like another one of its image.
      readers: see `Layout`.
    """

    folder: Path
    rate: int | None
    max_seconds: float
    once: bool = False
    readers: str = ""


@dataclasses.dataclass(frozen=True)
class Lost:
    """An image or a recording that a problem excludes from the corpus.

    Attributes:
      problem: the problem, for the report.
      image_id: the excluded image; -1 if the problem excludes none.
      caption_id: the excluded recording; -1 if the problem excludes none.
      stamp: size and modification time of the file that was read; None if it did not exist. If it
        changes, the chunk is made again.
    """

    problem: Problem
    image_id: int = -1
    caption_id: int = -1
    stamp: tuple[int, int] | None = None


def encode_wave(wave: np.ndarray) -> bytes:
    """Encode float32 [N] at 16 kHz as 16-bit FLAC; lossless if the samples had 16 bits."""
    scaled = np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, scaled, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def read_recording(path: Path, rules: Rules, name: str) -> np.ndarray:
    """Return a recording as float32 [N] at 16 kHz; its header is checked before decoding.

    Raises:
      BadMedia: the recording cannot be used.
    """
    _, data = read_source(_regular(path, name), name, "sound")
    header = read_header(data, name)
    if rules.rate is not None and header.rate != rules.rate:
        raise BadMedia(f"{name}: {header.rate} Hz, published at {rules.rate} Hz", "wrong rate")
    if header.channels > MAX_CHANNELS:
        raise BadMedia(f"{name}: {header.channels} channels, at most {MAX_CHANNELS}", "too large")
    seconds = header.samples / header.rate
    if seconds > rules.max_seconds:
        raise BadMedia(
            f"{name}: {seconds:.1f} s, at most {rules.max_seconds:g} s (max_seconds)", "too long"
        )
    wave = load_audio(data, name)
    if not wave.size:
        raise BadMedia(f"{name}: holds no samples", "no samples")
    return wave


def read_picture(path: Path, name: str) -> bytes:
    """Return the bytes of an image file, after checking that the image decodes.

    Raises:
      BadMedia: the image cannot be used.
    """
    data = read_picture_bytes(path, name)
    load_image(data, name)
    return data


def read_picture_bytes(path: Path, name: str) -> bytes:
    """Return the bytes of an image file, unchecked.

    Raises:
      BadMedia: it is not there, or cannot be read.
    """
    return read_source(_regular(path, name), name, "picture")[1]


def read_sound(rules: Rules, caption: PlannedCaption) -> np.ndarray:
    """Return a planned recording as float32 [N] at 16 kHz.

    Raises:
      BadMedia: the recording cannot be used.
    """
    if rules.readers:
        return importlib.import_module(rules.readers).read_sound(rules, caption)
    return read_recording(rules.folder / caption.audio, rules, caption.audio)


def read_image(rules: Rules, image: PlannedImage) -> bytes:
    """Return the bytes of a planned picture.

    Raises:
      BadMedia: the picture cannot be used.
    """
    if rules.readers:
        return importlib.import_module(rules.readers).read_picture(rules, image)
    return read_picture(rules.folder / image.image, image.image)


def make_chunk(rules: Rules, path: Path, images: Sequence[PlannedImage]) -> None:
    """Read images and their recordings into the two files of a chunk.

    Args:
      rules: the limits for recordings.
      path: path of the chunk, in an existing folder.
      images: planned images.
    """
    lost = []
    with new_chunk(path) as chunk:
        for image in images:
            lost += _add_image(chunk, rules, image)
        _write_problems(path, lost)


def make_chunks_of(
    plan: Plan,
    rules: Rules,
    folder: Path,
    workers: int,
    report: Callable[[int], None] = lambda images: None,
    deadline: float = Layout.deadline,
    make=make_chunk,
) -> None:
    """Make the missing chunks, and again those whose problem files have changed.

    Args:
      plan: from `recordings.without_duplicates`.
      rules: the limits for recordings.
      folder: folder of the chunks; created if missing.
      workers: number of processes at a time.
      report: called with the number of images that have just become ready.
      deadline: seconds after which a decoder is taken to hang.
      make: function that makes one chunk, like `make_chunk`.

    Raises:
      UserError: a file cannot be written, for example because the disk is full.
    """
    for path in _stale(folder, rules):
        path.with_suffix(SUFFIX).unlink(missing_ok=True)
        path.unlink()
    chunks = chunks_of(plan.images, folder, CHUNK_IMAGES)
    make = functools.partial(make, rules)
    make_chunks(chunks, make, workers, report, deadline, _give_up, preload=[RECORD_FORM])


def fingerprint(plan: Plan, rules: Rules) -> str:
    """Return a short hash of a plan and its rules, for the name of the folder of its chunks."""
    digest = hashlib.blake2b(f"{_FORM} {rules} {CHUNK_IMAGES}".encode(), digest_size=6)
    for image in plan.images:
        digest.update(repr(image).encode(errors="surrogatepass"))
    return digest.hexdigest()


def read_losses(plan: Plan, folder: Path) -> list[Lost]:
    """Return the lost images and recordings of a plan's chunks, in the plan's order."""
    lost = []
    for path, _ in files_of(chunks_of(plan.images, folder, CHUNK_IMAGES)):
        lost += _load(path.with_suffix(".problems"))
    return lost


def kept_images(plan: Plan, lost: Sequence[Lost]) -> tuple[PlannedImage, ...]:
    """Return a plan's images and recordings without the lost ones."""
    images = {entry.image_id for entry in lost}
    captions = {entry.caption_id for entry in lost}
    kept = []
    for image in plan.images:
        if image.image_id in images:
            continue
        left = tuple(c for c in image.captions if c.caption_id not in captions)
        whole = len(left) == len(image.captions)
        kept.append(image if whole else dataclasses.replace(image, captions=left))
    return tuple(kept)


def records_of(
    plan: Plan, kept: Sequence[PlannedImage], folder: Path
) -> Iterator[tuple[PlannedImage, Path]]:
    """Yield images with the chunk file that holds the record of each.

    Args:
      plan: the plan that the chunks were made of.
      kept: images to yield, from `kept_images`.
      folder: folder of the chunks.
    """
    by_id = {image.image_id: image for image in kept}
    for path, images in files_of(chunks_of(plan.images, folder, CHUNK_IMAGES)):
        for image in images:
            if image.image_id in by_id:
                yield by_id[image.image_id], path


def contents_of(plan: Plan, folder: Path) -> np.ndarray:
    """Return a CONTENT_DTYPE entry for each picture and recording that a plan's chunks hold."""
    files = files_of(chunks_of(plan.images, folder, CHUNK_IMAGES))
    none = np.empty(0, CONTENT_DTYPE)
    return np.concatenate([none, *(read_contents(path) for path, _ in files)])


def _add_image(chunk: ChunkWriter, rules: Rules, image: PlannedImage) -> list[Lost]:
    """Add the record of an image and its recordings to a chunk; return the lost ones."""
    from sir_jax.data.builders.record_form import published_record

    sounds, lengths, first, lost = {}, {}, {}, []
    for caption in image.captions:
        try:
            wave = read_sound(rules, caption)
            sound = encode_wave(wave)
            same = first.setdefault(digest(sound), caption)
            if rules.once and same is not caption:
                detail = f"{caption.audio}: the same sound as {same.audio}, of the same picture"
                raise BadMedia(detail, "duplicate id")
        except UserError as error:
            lost.append(_lost_caption(rules, image, caption, error))
        else:
            sounds[caption.caption_id], lengths[caption.caption_id] = sound, len(wave)
    try:
        picture = read_image(rules, image)
    except UserError as error:
        problem = _problem(image.image, error, "image", image.split, image.key)
        stamp = _stamp(rules.folder / image.image)
        without = [
            Lost(
                Problem(c.audio, "no image", f"{image.image} is out", image.split, c.key),
                caption_id=c.caption_id,
                stamp=_stamp(rules.folder / c.audio),
            )
            for c in image.captions
            if c.caption_id in sounds
        ]
        return [Lost(problem, image.image_id, stamp=stamp), *lost, *without]
    if not sounds:
        problem = no_audio(image)
        stamp = _stamp(rules.folder / problem.path)
        return [*lost, Lost(problem, image.image_id, stamp=stamp)]
    record = published_record(image, picture, sounds, lengths)
    chunk.add(image.image_id, record, picture, sounds)
    return lost


def _lost_caption(
    rules: Rules, image: PlannedImage, caption: PlannedCaption, error: UserError
) -> Lost:
    problem = _problem(caption.audio, error, "audio", image.split, caption.key)
    stamp = _stamp(rules.folder / caption.audio)
    return Lost(problem, caption_id=caption.caption_id, stamp=stamp)


def _problem(path: str, error: UserError, medium: str, split: str, key: str) -> Problem:
    fault = getattr(error, "fault", "undecodable")
    reason = f"{fault} {medium}" if fault in _MEDIUM_FAULTS else fault
    detail = " ".join(str(error).removeprefix(f"{path}: ").split())
    return Problem(path, reason, detail, split, key)


def _give_up(path: Path, image: PlannedImage, why: str) -> None:
    """Exclude an image and its recordings, because decoding one of them kills the process."""
    # No file has this stamp, so the next call tries again.
    stamp = (-1, -1)
    detail = f"{why}, reading this picture or one of its {len(image.captions)} recordings"
    picture = Problem(image.image, "decoder died", detail, image.split, image.key)
    lost = [Lost(picture, image.image_id, stamp=stamp)]
    for caption in image.captions:
        detail = f"{why}, reading this recording, its picture or another recording of it"
        problem = Problem(caption.audio, "decoder died", detail, image.split, caption.key)
        lost.append(Lost(problem, caption_id=caption.caption_id, stamp=stamp))
    with new_chunk(path):
        _write_problems(path, lost)


def _regular(path: Path, name: str) -> Path:
    """Return the path if it is a regular file: opening a pipe would block.

    Raises:
      BadMedia: there is no such file, or it is not a regular one.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BadMedia(f"{name}: no such file", "missing") from None
    except OSError as error:
        raise BadMedia(f"{name}: cannot be read ({error.strerror})", "missing") from None
    except ValueError:
        raise BadMedia(f"{name!r}: no path of a file", "missing") from None
    if not stat.S_ISREG(mode):
        raise BadMedia(f"{name}: no regular file, but a {_file_type(mode)}")
    return path


def _file_type(mode: int) -> str:
    types = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe (FIFO)", stat.S_IFSOCK: "socket"}
    return types.get(stat.S_IFMT(mode), "device")


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return info.st_size, info.st_mtime_ns


def _write_problems(path: Path, lost: Sequence[Lost]) -> None:
    problems = path.with_suffix(".problems")
    # Left by a call that was killed before it wrote the second file.
    problems.unlink(missing_ok=True)
    if lost:
        lines = (json.dumps(dataclasses.asdict(entry)) + "\n" for entry in lost)
        write_text(problems, "".join(lines), own=True)


def _load(path: Path) -> list[Lost]:
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Lost(
            Problem(**entry["problem"]),
            entry["image_id"],
            entry["caption_id"],
            entry["stamp"] and tuple(entry["stamp"]),
        )
        for entry in entries
    ]


def _stale(folder: Path, rules: Rules) -> list[Path]:
    """Return the .problems files that name a file which has changed since."""
    return [
        path
        for path in sorted(folder.glob("*.problems"))
        if any(_stamp(rules.folder / e.problem.path) != e.stamp for e in _load(path))
    ]
