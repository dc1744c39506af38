"""Render images and synthesise speech of a plan, in parallel and into resumable chunk files.

Each chunk is made by its own process, because eSpeak NG keeps state between utterances.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sir_jax.data.builders.spoken_scenes.plan import PlannedImage
from sir_jax.data.builders.spoken_scenes.render import encode_png, render
from sir_jax.data.builders.work_chunks import chunks_of, make_chunks, save_chunk
from sir_jax.data.media.synthesis import Synthesiser, encode_flac

# About half a second of work; an interrupt loses that per worker.
CHUNK_IMAGES = 24


def fingerprint(plan: Sequence[PlannedImage], image_size: int) -> str:
    """Return a short hash of a plan, for the name of the folder of its chunks."""
    digest = hashlib.blake2b(f"{image_size} {CHUNK_IMAGES}".encode(), digest_size=6)
    for image in plan:
        digest.update(repr(image).encode())
    return digest.hexdigest()


def make_chunk(image_size: int, path: Path, images: Sequence[PlannedImage]) -> None:
    """Render images and synthesise their captions into a file that appears only when complete.

    Args:
      image_size: side in pixels.
      path: path of the chunk, in an existing folder.
      images: planned images.
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
    save_chunk(path, arrays)


def generate_chunks(
    plan: Sequence[PlannedImage],
    image_size: int,
    folder: Path,
    workers: int,
    report: Callable[[int], None] = lambda images: None,
) -> None:
    """Make the missing chunks of a plan.

    Args:
      plan: all images of the corpus.
      image_size: side in pixels.
      folder: folder of the chunks; created if missing.
      workers: number of processes at a time.
      report: called with the number of images that have just become ready; the first call counts
        those that were ready before.

    Raises:
      UserError: a chunk failed twice, for example because the disk is full.
    """
    make = functools.partial(make_chunk, image_size)
    make_chunks(chunks_of(plan, folder, CHUNK_IMAGES), make, workers, report)


def read_chunks(plan: Sequence[PlannedImage], folder: Path) -> Iterator[tuple[PlannedImage, dict]]:
    """Yield images with their bytes from the chunks of a plan.

    Args:
      plan: images to yield: all of the corpus, or those of one split.
      folder: folder of the chunks of the whole corpus.

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
