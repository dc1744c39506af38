"""Encode clips, images and whole splits as unit vectors, in input order.

Each batch has one of a fixed list of shapes (a length bucket, or the image size), so one program is
compiled per bucket. A short last batch is padded with copies of its last item, whose results are
dropped.

A clip of n samples that is longer than the longest bucket, L samples, is cut into ceil(n / L)
windows of exactly L samples. They start at 0, L, 2L, ...; the last window ends with the clip and so
overlaps the window before it. Each window is encoded as a clip of its own. The clip's vector is the
mean of its windows' vectors, scaled to unit length. Several waves that are one item, such as the
same words by several voices, are encoded likewise: as windows of one clip.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from sir_jax.data.media.audio import as_encoded, load_audio, longest_window
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.data.parallel import GROUP, ordered_map
from sir_jax.losses.fused_score import joint_rows
from sir_jax.runtime.distributed import place, run_together
from sir_jax.runtime.interrupt import give_way
from sir_jax.runtime.sharding import BATCH_SPEC, batch_sharding, replicated

# Makes vectors float32[n, W] of rows float64[n, E + F]: of each item the mean of its windows'
# embeddings and, where the model has one, of its pooled vectors.
Finish = Callable[[np.ndarray], np.ndarray]

# Called as (number of the clip or image, its valid tokens [n, D] in the model's dtype, CLS first).
# A clip that is cut into windows causes one call per window. The order of calls is not defined.
KeepTokens = Callable[[int, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The vectors of a split: captions sorted by caption id, images in the split's order."""

    speech: np.ndarray  # float32[Ns, E], or what `Finish` made
    image: np.ndarray  # float32[Ni, E], likewise
    speech_image_ids: np.ndarray  # int[Ns]
    image_ids: np.ndarray  # int[Ni]
    caption_ids: np.ndarray  # int[Ns]


def cut_windows(wave: np.ndarray, longest: int) -> list[np.ndarray]:
    """Cut a clip into windows as the module's docstring describes.

    Args:
      wave: float32[N], any N from 0 up.
      longest: samples of a window.

    Returns:
      Views of the clip, each at most `longest` samples; a clip that fits is returned whole.

    Example:
      >>> [window.tolist() for window in cut_windows(np.arange(7), 3)]
      [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    """
    if len(wave) <= longest:
        return [wave]
    last = len(wave) - longest
    starts = [*range(0, last, longest), last]
    return [wave[start : start + longest] for start in starts]


def embed_speech(
    model,
    params,
    waves: Iterable[np.ndarray | list[np.ndarray]],
    data_cfg,
    batch_size: int,
    keep: KeepTokens | None = None,
    finish: Finish | None = None,
) -> np.ndarray:
    """Encode clips of any length.

    Args:
      model: the joint model.
      params: the model's parameters; if they are sharded over a mesh, the batch is, too.
      waves: float32[N] at 16 kHz each, N from 0 up, not normalised, or a list of such waves that
        get one vector; read as they are needed.
      data_cfg: `config.data`, of which `buckets`, `trim_silence` and `normalize_wave` are used.
      batch_size: rows of a batch.
      keep: called with the token features of each window; None drops them.
      finish: makes the vectors; None for those of the embedding alone.

    Returns:
      What `finish` returns, or float32[n, E], unit norm; in input order.
    """
    buckets, longest = tuple(data_cfg.buckets), longest_window(data_cfg)

    def prepare(item: tuple[int, Any]) -> list[tuple[int, int, np.ndarray]]:
        number, wave = item
        waves = wave if isinstance(wave, list) else [wave]
        out = []
        for window in (w for each in waves for w in cut_windows(_as_wave(each), longest)):
            window = as_encoded(window, data_cfg)
            out.append((number, next(b for b in buckets if b >= len(window)), window))
        return out

    def batches(rows: int) -> Iterator[tuple[list[int], tuple[np.ndarray, ...]]]:
        waiting: dict[int, list] = collections.defaultdict(list)
        for group in ordered_map(prepare, enumerate(waves)):
            for number, bucket, window in group:
                waiting[bucket].append((number, window))
                if len(waiting[bucket]) == rows:
                    yield _speech_batch(waiting.pop(bucket), bucket, rows)
        for bucket in sorted(waiting):
            yield _speech_batch(waiting[bucket], bucket, rows)

    sums: dict[int, np.ndarray] = {}
    encoded = _encode_batches(model, params, "encode_speech", batches, batch_size, keep)
    for numbers, vectors in encoded:
        for number, vector in zip(numbers, vectors, strict=True):
            sums[number] = sums.get(number, 0) + vector.astype(np.float64)
    return _finished(sums, model, finish)


def embed_images(
    model,
    params,
    pixels: Iterable[np.ndarray],
    batch_size: int,
    keep: KeepTokens | None = None,
    finish: Finish | None = None,
) -> np.ndarray:
    """Encode prepared images.

    Args:
      model: the joint model.
      params: the model's parameters; if they are sharded over a mesh, the batch is, too.
      pixels: float32[h, w, 3] each, made by `data.media.image.preprocess_image`; read as they are
        needed.
      batch_size: rows of a batch.
      keep: called with the token features of each image; None drops them.
      finish: makes the vectors; None for those of the embedding alone.

    Returns:
      What `finish` returns, or float32[n, E], unit norm; in input order.
    """

    def batches(rows: int) -> Iterator[tuple[list[int], tuple[np.ndarray, ...]]]:
        group: list[np.ndarray] = []
        done = 0
        for image in pixels:
            group.append(image)
            if len(group) == rows:
                yield list(range(done, done + rows)), (np.stack(group),)
                done, group = done + rows, []
        if group:
            padded = group + [group[-1]] * (rows - len(group))
            yield list(range(done, done + len(group))), (np.stack(padded),)

    by_number: dict[int, np.ndarray] = {}
    encoded = _encode_batches(model, params, "encode_image", batches, batch_size, keep)
    for numbers, vectors in encoded:
        by_number.update(zip(numbers, vectors, strict=True))
    return _finished(by_number, model, finish)


def embed_split(
    model,
    params,
    split,
    data_cfg,
    batch_size: int,
    keep_speech: KeepTokens | None = None,
    keep_image: KeepTokens | None = None,
    finish: Finish | None = None,
) -> Embeddings:
    """Encode every image and every caption of a split; each process reads the whole split.

    Args:
      model: the joint model.
      params: the model's parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of a batch.
      keep_speech: called with a row of `Embeddings.speech` and the token features of the clip or
        of one of its windows; None drops them.
      keep_image: called with a row of `Embeddings.image` and the token features of the image; None
        drops them.
      finish: makes the vectors; None for those of the embedding alone.

    Returns:
      `Embeddings`.
    """
    # In the order of the records, so that each record is read once for all of its captions.
    order = np.lexsort((split.index["slot"], split.index["row"]))
    rows, firsts = np.unique(split.index["row"][order], return_index=True)
    slots = np.split(split.index["slot"][order], firsts[1:])

    def decode_record(item: tuple[int, np.ndarray]) -> list[np.ndarray]:
        row, row_slots = item
        captions = split[int(row)].captions
        return [_decode_caption(captions[slot], split.name) for slot in row_slots]

    records = ordered_map(decode_record, zip(rows, slots, strict=True))
    waves = (wave for record in records for wave in record)
    keep = keep_speech and (lambda number, tokens: keep_speech(int(order[number]), tokens))
    in_order = embed_speech(model, params, waves, data_cfg, batch_size, keep, finish)
    speech = np.empty_like(in_order)
    speech[order] = in_order

    prepare = functools.partial(_prepare_image, split, ImageSpec.from_config(data_cfg))
    image_ids: list[int] = []

    def pixels() -> Iterator[np.ndarray]:
        for image_id, image in ordered_map(prepare, range(len(split)), GROUP):
            image_ids.append(image_id)
            yield image

    image = embed_images(model, params, pixels(), batch_size, keep_image, finish)
    return Embeddings(
        speech=speech,
        image=image,
        speech_image_ids=np.array(split.index["image_id"]),
        image_ids=np.array(image_ids, np.int64),
        caption_ids=np.array(split.index["caption_id"]),
    )


def _as_wave(wave) -> np.ndarray:
    return np.asarray(wave, np.float32)


def _decode_caption(caption, split: str) -> np.ndarray:
    return load_audio(caption.audio, name=f"caption {caption.caption_id} of {split}")


def _prepare_image(split, spec: ImageSpec, row: int) -> tuple[int, np.ndarray]:
    record = split[row]
    name = f"image {record.image_id} of {split.name}"
    return record.image_id, preprocess_image(load_image(record.image, name), spec)


def _speech_batch(items: list[tuple[int, np.ndarray]], bucket: int, rows: int):
    wave = np.zeros((rows, bucket), np.float32)
    lengths = np.zeros(rows, np.int32)
    for row in range(rows):
        _, window = items[min(row, len(items) - 1)]
        wave[row, : len(window)] = window
        lengths[row] = len(window)
    return [number for number, _ in items], (wave, lengths)


def fetch_results(started: Iterable[tuple]) -> Iterator[tuple]:
    """Copy each result to the host while the device computes the next one.

    At most two results are in flight: more would only take device memory.

    Args:
      started: (label, device arrays) pairs; drawing a pair starts its computation.

    Yields:
      (label, NumPy arrays), in order.
    """
    waiting = None
    for label, result in started:
        if waiting is not None:
            yield waiting[0], jax.device_get(waiting[1])
        waiting = label, result
    if waiting is not None:
        yield waiting[0], jax.device_get(waiting[1])


def _encode_batches(
    model, params, method: str, batches: Callable, batch_size: int, keep: KeepTokens | None
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Encode batches; yield (numbers, float32[len(numbers), E + F]) without the padding rows."""
    params = jax.tree.map(jnp.asarray, params)
    split, whole, parts = placement(params)
    rows = -(-batch_size // parts) * parts
    encode = jit_encode(model, method, keep is not None, whole)
    started = (
        (numbers, run_together(encode, params, *place(inputs, split)))
        for numbers, inputs in batches(rows)
    )
    for numbers, (vectors, *features) in fetch_results(started):
        give_way()
        if keep is not None:
            # `features` is longer than `numbers` if the batch was padded.
            for number, tokens, mask in zip(numbers, *features, strict=False):
                keep(number, tokens[mask])
        yield numbers, vectors[: len(numbers)]


@functools.lru_cache(maxsize=16)
def jit_encode(model, method: str, with_tokens: bool, out: NamedSharding | None) -> Callable:
    """Compile an encoder: (params, *inputs) -> (rows,) or (rows, tokens, mask).

    A row is an embedding or, where the model pools, an embedding followed by a pooled vector.

    Args:
      model: the joint model.
      method: 'encode_speech' or 'encode_image'.
      with_tokens: whether to return the tokens that a match reads and their mask, too.
      out: sharding of all results; None on a single device.
    """

    def encode(params, *inputs):
        encoded = model.apply({"params": params}, *inputs, deterministic=True, method=method)
        rows = encoded.embed
        if model.pooled_width:
            modality = method.removeprefix("encode_")
            pooled = model.apply({"params": params}, encoded, modality, method="pool")
            rows = jnp.concatenate([rows, pooled], axis=1)
        return (rows, model.matched(encoded), encoded.mask) if with_tokens else (rows,)

    return jax.jit(encode, out_shardings=out)


def placement(params) -> tuple[NamedSharding | None, NamedSharding | None, int]:
    """Derive the shardings of batches and results from that of the parameters.

    Args:
      params: parameters on one device, or sharded over a mesh.

    Returns:
      (sharding of the batch, sharding of the results, which are replicated, number of parts that
      a batch is cut into); (None, None, 1) on one device.
    """
    sharding = jax.tree.leaves(params)[0].sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None, None, 1
    mesh = sharding.mesh
    parts = math.prod(mesh.shape[axis] for axis in BATCH_SPEC[0])
    return batch_sharding(mesh), replicated(mesh), parts


def _finished(rows: dict[int, np.ndarray], model, finish: Finish | None) -> np.ndarray:
    """Make vectors of what the encoders gave, in the order of the items' numbers."""
    width = model.embed_width
    raw = np.zeros((0, width + model.pooled_width))
    if rows:
        raw = np.stack([rows[number] for number in range(len(rows))]).astype(np.float64)
    return joint_rows(raw, width, 1.0, 0.0) if finish is None else finish(raw)
