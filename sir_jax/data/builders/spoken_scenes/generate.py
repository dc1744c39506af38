"""Draw and speak a plan in parallel, into chunk files that survive an interrupt.

Every chunk is made by a process of its own, because eSpeak NG carries state from one utterance to
the next, and reaches its name only when complete. A second call goes on with the missing chunks.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from sir_jax.data.builders.spoken_scenes.plan import PlannedImage
from sir_jax.data.builders.spoken_scenes.render import encode_png, render
from sir_jax.data.builders.spoken_scenes.synthesis import Synthesiser, encode_flac
from sir_jax.errors import UserError

# About half a second of work: what an interrupt can lose per worker.
CHUNK_IMAGES = 24
_ATTEMPTS = 2


def default_workers() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def fingerprint(plan: Sequence[PlannedImage], image_size: int) -> str:
    """Return a short name of a plan, so that chunks of another plan are never taken for its own."""
    digest = hashlib.blake2b(f"{image_size} {CHUNK_IMAGES}".encode(), digest_size=6)
    for image in plan:
        digest.update(repr(image).encode())
    return digest.hexdigest()


def chunks_of(plan: Sequence[PlannedImage], folder: Path) -> dict[Path, Sequence[PlannedImage]]:
    """Return the chunk files of a plan and the images in each."""
    starts = range(0, len(plan), CHUNK_IMAGES)
    return {folder / f"{i:06d}.npz": plan[i : i + CHUNK_IMAGES] for i in starts}


def make_chunk(path: Path, images: Sequence[PlannedImage], image_size: int) -> None:
    """Draw and speak some images into a file that appears only when complete.

    Args:
      path: of the chunk; its folder exists.
      images: of the plan.
      image_size: side in pixels.
    """
    synthesiser = Synthesiser()
    arrays = {}
    for image in images:
        picture = encode_png(render(image.scene, image_size, image.looks))
        arrays[f"image-{image.image_id}"] = np.frombuffer(picture, np.uint8)
        for caption in image.captions:
            wave = synthesiser.speak(caption.text, caption.speaker, caption.rate, caption.pitch)
            arrays[f"audio-{caption.caption_id}"] = np.frombuffer(encode_flac(wave), np.uint8)
            arrays[f"samples-{caption.caption_id}"] = np.array(len(wave), np.int64)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
    os.replace(partial, path)


def _work(path: Path, images: Sequence[PlannedImage], image_size: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        make_chunk(path, images, image_size)
    except OSError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        sys.exit(1)


def _context():
    # Not fork: the caller may hold threads. The server imports once and forks clean children.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def generate_chunks(
    plan: Sequence[PlannedImage],
    image_size: int,
    folder: Path,
    workers: int,
    report: Callable[[int], None] = lambda images: None,
) -> None:
    """Make every missing chunk of a plan.

    Args:
      plan: all images.
      image_size: side in pixels.
      folder: where the chunks go; made where missing.
      workers: processes at a time.
      report: called with the number of images that just became ready, also those found ready.

    Raises:
      UserError: a chunk failed twice (a worker was killed, the disk is full, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob("*.partial"):
        partial.unlink(missing_ok=True)
    chunks = chunks_of(plan, folder)
    pending = [path for path in chunks if not path.exists()]
    report(sum(len(chunks[path]) for path in chunks if path not in set(pending)))
    pending.reverse()
    failures: dict[Path, int] = {}
    running: dict[int, tuple] = {}
    context = _context()
    try:
        while pending or running:
            while pending and len(running) < workers:
                path = pending.pop()
                process = context.Process(target=_work, args=(path, chunks[path], image_size))
                process.start()
                running[process.sentinel] = (process, path)
            for sentinel in wait(list(running)):
                process, path = running.pop(sentinel)
                process.join()
                if process.exitcode == 0:
                    report(len(chunks[path]))
                    continue
                failures[path] = failures.get(path, 0) + 1
                if failures[path] == _ATTEMPTS:
                    raise UserError(
                        f"making {path.name} failed {_ATTEMPTS} times (exit status "
                        f"{process.exitcode}); mend the cause above and run the same command "
                        "again, finished chunks are kept"
                    )
                pending.append(path)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def read_chunks(plan: Sequence[PlannedImage], folder: Path) -> Iterator[tuple[PlannedImage, dict]]:
    """Yield every image of a plan with its bytes.

    Args:
      plan: all images, or those of some split.
      folder: with the chunks of the whole plan.

    Yields:
      The planned image and {'image': bytes, 'audio': [bytes per caption], 'samples': [int]}.
    """
    by_chunk: dict[int, list[PlannedImage]] = {}
    for image in plan:
        by_chunk.setdefault(image.image_id // CHUNK_IMAGES * CHUNK_IMAGES, []).append(image)
    for start, images in by_chunk.items():
        with np.load(folder / f"{start:06d}.npz") as arrays:
            for image in images:
                ids = [caption.caption_id for caption in image.captions]
                yield (
                    image,
                    {
                        "image": arrays[f"image-{image.image_id}"].tobytes(),
                        "audio": [arrays[f"audio-{i}"].tobytes() for i in ids],
                        "samples": [int(arrays[f"samples-{i}"]) for i in ids],
                    },
                )
