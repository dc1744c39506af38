"""The images and some recordings of a split as plain files, like those of a user."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile

from sir_jax.data.corpus import Split
from sir_jax.data.media.audio import SAMPLE_RATE, load_audio

QUERIES = 5


@dataclasses.dataclass(frozen=True)
class Query:
    """A caption to search with."""

    row: int
    slot: int
    image_id: int
    caption_id: int


def choose_queries(split: Split, count: int, seed: int = 0) -> list[Query]:
    """Choose captions at random, of different images and, as far as possible, different speakers.

    The choice does not depend on a model, so that the queries are no better than average.

    Args:
      split: a split of a corpus.
      count: number of captions; of a split with fewer images, one per image.
      seed: random seed of the choice.
    """
    waiting = list(np.random.default_rng(seed).permutation(split.index))
    chosen: list[Query] = []
    while waiting and len(chosen) < count:
        rows, speakers, left = {q.row for q in chosen}, set(), []
        for entry in waiting:
            row, slot = int(entry["row"]), int(entry["slot"])
            if row in rows or len(chosen) == count:
                continue
            speaker = split[row].captions[slot].speaker
            if speaker in speakers:
                left.append(entry)
                continue
            chosen.append(Query(row, slot, int(entry["image_id"]), int(entry["caption_id"])))
            rows.add(row)
            speakers.add(speaker)
        waiting = left
    return chosen


def write_split(split: Split, folder: Path) -> list[Path]:
    """Write the images of a split and a few spoken queries as files.

    Args:
      split: a split of a corpus.
      folder: gets `images/*.png`, `queries/*.wav` with the words in `queries/*.txt`, and
        `truth.json`, which maps queries to images.

    Returns:
      The paths of the queries.
    """
    images, queries = folder / "images", folder / "queries"
    for each in (images, queries):
        each.mkdir(parents=True, exist_ok=True)
    for row in range(len(split)):
        record = split[row]
        (images / _image_name(record.image_id)).write_bytes(record.image)
    paths, truth = [], {}
    for query in choose_queries(split, QUERIES):
        caption = split[query.row].captions[query.slot]
        path = queries / f"caption_{query.caption_id:06d}.wav"
        wave = load_audio(caption.audio, f"caption {query.caption_id}")
        soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
        path.with_suffix(".txt").write_text(f"{caption.text}\n")
        truth[path.name] = _image_name(query.image_id)
        paths.append(path)
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    return paths


def _image_name(image_id: int) -> str:
    return f"scene_{image_id:06d}.png"
