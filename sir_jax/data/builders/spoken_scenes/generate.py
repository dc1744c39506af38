"""Render images and synthesise speech of a plan, in parallel and into resumable chunk files.

Each chunk is made by its own process, because eSpeak NG keeps state between utterances.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sir_jax.data.builders.chunk_files import new_chunk
from sir_jax.data.builders.spoken_scenes.plan import PlannedImage
from sir_jax.data.builders.spoken_scenes.render import encode_png, render
from sir_jax.data.builders.work_chunks import RECORD_FORM, chunks_of, make_chunks
from sir_jax.data.media.synthesis import encode_flac, engine

# An interrupt loses the work of this many images per worker: half a second, but with Piper, which
# says a caption in that time, a minute.
CHUNK_IMAGES = 24
# Raised when the same plan gives other chunks than before.
_FORM = 2


def fingerprint(plan: Sequence[PlannedImage], image_size: int) -> str:
    """Return a short hash of a plan, for the name of the folder of its chunks."""
    digest = hashlib.blake2b(f"{_FORM} {image_size} {CHUNK_IMAGES}".encode(), digest_size=6)
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
    from sir_jax.data.builders.record_form import scene_record

    with new_chunk(path) as chunk:
        for image in images:
            picture = encode_png(render(image.scene, image_size, image.looks))
            sounds, lengths = {}, {}
            for caption in image.captions:
                wave = engine(caption.engine).speak(
                    caption.text, caption.speaker, caption.rate, caption.pitch, caption.language
                )
                sounds[caption.caption_id] = encode_flac(wave)
                lengths[caption.caption_id] = len(wave)
            record = scene_record(image, picture, sounds, lengths)
            chunk.add(image.image_id, record, picture, sounds)


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
    chunks = chunks_of(plan, folder, CHUNK_IMAGES)
    make_chunks(chunks, make, workers, report, preload=[RECORD_FORM])
