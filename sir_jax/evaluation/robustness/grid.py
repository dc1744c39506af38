"""Run the grid: encode what a condition touches, rank it both ways, and add it to the table.

Pictures are encoded once for all conditions of sound, and clips once for all of pictures. A run
that was stopped goes on where it was: a condition's rows are written when it is done.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sir_jax.data.media.audio import load_audio
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.data.parallel import GROUP, ordered_map
from sir_jax.evaluation.intervals import RESAMPLES
from sir_jax.evaluation.ranking import Metrics, retrieval_metrics
from sir_jax.evaluation.robustness.conditions import CLEAN, SOUND, Condition
from sir_jax.evaluation.robustness.parts import choose_parts, label_captions, part_metrics
from sir_jax.evaluation.robustness.table import (
    CLEAN_VECTORS,
    TABLE,
    VERSION,
    claim,
    conditions_done,
    corpus_mark,
    metric_rows,
    read_table,
    write_table,
)
from sir_jax.inference.embed import Embeddings, embed_images, embed_speech, embed_split
from sir_jax.runtime.console import say
from sir_jax.runtime.files import whole_file

_TRIES = 20


def run_grid(
    model,
    params,
    split,
    data_cfg,
    conditions: Sequence[Condition],
    folder: Path,
    *,
    fingerprint: str,
    corpus: str,
    batch_size: int = 32,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Path:
    """Evaluate a split under conditions that the folder's table does not hold yet.

    Args:
      model: the joint model.
      params: its parameters.
      split: a `sir_jax.data.corpus.Split`, or a part of one.
      data_cfg: `config.data`.
      conditions: of `conditions.choose`.
      folder: gets the table, what it was made of, and the clean vectors.
      fingerprint: of the model.
      corpus: its name.
      batch_size: rows of a batch.
      seed: of all draws.
      resamples: of each interval.

    Returns:
      The table's path.

    Raises:
      UserError: the folder holds the grid of another model, corpus or seed.
    """
    mark = {"model": fingerprint, "corpus": corpus, "split": split.name, "seed": seed}
    mark |= {"clips": corpus_mark(split), "resamples": resamples, "version": VERSION}
    claim(folder, mark)
    path = folder / TABLE
    z = _clean_vectors(model, params, split, data_cfg, batch_size, folder / CLEAN_VECTORS)
    ids = z.speech_image_ids, z.image_ids
    clean = retrieval_metrics(z.speech, z.image, *ids)
    if (CLEAN, "") not in conditions_done(read_table(path)):
        write_table(path, _clean_rows(z, clean, split, resamples))
    encode = {True: _encode_speech, False: _encode_images}
    for number, condition in enumerate(conditions, 1):
        key = condition.family, condition.level
        if key in conditions_done(read_table(path)):
            continue
        say(f"{number}/{len(conditions)} {condition.name}")
        heard = condition.side == SOUND
        new = encode[heard](model, params, split, data_cfg, batch_size, condition, seed)
        sides = (new, z.image) if heard else (z.speech, new)
        labels = {"side": condition.side, "family": key[0], "level": key[1], "part": ""}
        rows = metric_rows(labels, retrieval_metrics(*sides, *ids), clean, resamples)
        write_table(path, read_table(path) + rows)
    return path


def _clean_rows(z: Embeddings, clean: Metrics, split, resamples: int) -> list[dict[str, str]]:
    """Return the rows of the clean condition: of the whole split, and of its parts."""
    labels = {"side": "", "family": CLEAN, "level": "", "part": ""}
    rows = metric_rows(labels, clean, None, resamples)
    ids = z.speech_image_ids, z.image_ids
    for part, chosen in choose_parts(label_captions(split)).items():
        found = part_metrics(z.speech, z.image, *ids, chosen)
        rows += metric_rows(labels | {"part": part}, found, None, resamples)
    return rows


def _clean_vectors(model, params, split, data_cfg, batch_size: int, path: Path) -> Embeddings:
    """Encode the split, or read what an earlier run encoded."""
    names = ("speech", "image", "speech_image_ids", "image_ids", "caption_ids")
    if path.exists():
        with np.load(path) as stored:
            return Embeddings(**{name: stored[name] for name in names})
    say("clean")
    z = embed_split(model, params, split, data_cfg, batch_size)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **{name: getattr(z, name) for name in names})
    return z


class _Clips:
    """The clips of a split, decoded by the number of their entry in its index."""

    def __init__(self, split):
        self._split, self._index = split, split.index

    def wave(self, number: int) -> np.ndarray:
        entry = self._index[number]
        caption = self._split[int(entry["row"])].captions[int(entry["slot"])]
        name = f"caption {caption.caption_id} of {self._split.name}"
        return load_audio(caption.audio, name=name)

    def other(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a clip of another picture; where all show the same one, any clip."""
        for _ in range(_TRIES):
            drawn = int(rng.integers(len(self._index)))
            if self._index["image_id"][drawn] != self._index["image_id"][number]:
                break
        return self.wave(drawn)


def _encode_speech(model, params, split, data_cfg, batch_size, condition: Condition, seed: int):
    clips, index = _Clips(split), split.index
    # In the order of the records, which lie in groups on the disk.
    order = np.lexsort((index["slot"], index["row"]))

    def change(number: int) -> np.ndarray:
        number = int(number)
        rng = condition.stream(seed, int(index["caption_id"][number]))
        return condition.apply(clips.wave(number), rng, lambda draw: clips.other(number, draw))

    vectors = np.empty((len(order), model.embed_width), np.float32)
    waves = ordered_map(change, order)
    vectors[order] = embed_speech(model, params, waves, data_cfg, batch_size)
    return vectors


def _encode_images(model, params, split, data_cfg, batch_size, condition: Condition, seed: int):
    spec = ImageSpec.from_config(data_cfg)

    def change(row: int) -> np.ndarray:
        record = split[row]
        picture = load_image(record.image, f"image {record.image_id} of {split.name}")
        rng = condition.stream(seed, record.image_id)
        return preprocess_image(condition.apply(picture, rng, spec.size), spec)

    def pixels() -> Iterator[np.ndarray]:
        yield from ordered_map(change, range(len(split)), GROUP)

    return embed_images(model, params, pixels(), batch_size)
