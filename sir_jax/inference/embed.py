"""Turn clips, images and whole splits into unit vectors, in input order.

Each batch has one of a fixed list of shapes (a bucket of samples, or the image size), so there is
one compiled program per bucket; a short last batch is filled with copies and the copies dropped.

A clip longer than the last bucket, L samples, is cut into ceil(n / L) windows of exactly L: they
start at 0, L, 2L, ... and the last one ends with the clip, overlapping its neighbour. Each window
is encoded as a clip of its own; the clip's vector is the mean of theirs, scaled to unit length.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from sir_jax.data.media.audio import load_audio, normalize_waveform
from sir_jax.data.media.image import ImageSpec, load_image, preprocess_image
from sir_jax.data.parallel import GROUP, ordered_map
from sir_jax.runtime.distributed import place, run_together
from sir_jax.runtime.interrupt import give_way
from sir_jax.runtime.sharding import BATCH_SPEC, batch_sharding, replicated

# Is given the number of a clip or an image and its valid tokens [n, D], CLS first, in the model's
# dtype; for each window of a clip once, in no promised order.
Keep = Callable[[int, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Hold a split's vectors, captions sorted by caption id, images in the split's order."""

    speech: np.ndarray  # float32[Ns, E]
    image: np.ndarray  # float32[Ni, E]
    speech_image_ids: np.ndarray  # int[Ns]
    image_ids: np.ndarray  # int[Ni]
    caption_ids: np.ndarray  # int[Ns]


def windows(wave: np.ndarray, longest: int) -> list[np.ndarray]:
    """Cut a clip as the module's docstring says; a clip that fits is returned whole.

    Args:
      wave: float32[N], any N from 0 up.
      longest: samples of a window.

    Returns:
      Views, each at most `longest` samples.
    """
    if len(wave) <= longest:
        return [wave]
    last = len(wave) - longest
    starts = [*range(0, last, longest), last]
    return [wave[start : start + longest] for start in starts]


def embed_speech(
    model, params, waves: Iterable[np.ndarray], data_cfg, batch_size: int, keep: Keep | None = None
) -> np.ndarray:
    """Encode clips of any length.

    Args:
      model: the joint model.
      params: its parameters; where they are sharded over a mesh, so is the batch.
      waves: float32[N] at 16 kHz each, N from 0 up, not normalised; read as they are needed.
      data_cfg: `config.data`, of which `buckets` and `normalize_wave` are used.
      batch_size: rows of a batch.
      keep: where the tokens go; None for nowhere.

    Returns:
      float32[n, E], unit norm, in input order.
    """
    buckets = tuple(data_cfg.buckets)

    def prepared(item: tuple[int, np.ndarray]) -> list[tuple[int, int, np.ndarray]]:
        number, wave = item
        out = []
        for window in windows(np.asarray(wave, np.float32), buckets[-1]):
            window = normalize_waveform(window) if data_cfg.normalize_wave else window
            out.append((number, next(b for b in buckets if b >= len(window)), window))
        return out

    def batches(rows: int) -> Iterator[tuple[list[int], tuple[np.ndarray, ...]]]:
        waiting: dict[int, list] = collections.defaultdict(list)
        for group in ordered_map(prepared, enumerate(waves)):
            for number, bucket, window in group:
                waiting[bucket].append((number, window))
                if len(waiting[bucket]) == rows:
                    yield _speech_batch(waiting.pop(bucket), bucket, rows)
        for bucket in sorted(waiting):
            yield _speech_batch(waiting[bucket], bucket, rows)

    sums: dict[int, np.ndarray] = {}
    for numbers, vectors in _encoded(model, params, "encode_speech", batches, batch_size, keep):
        for number, vector in zip(numbers, vectors, strict=True):
            sums[number] = sums.get(number, 0) + vector.astype(np.float64)
    return _unit_rows(sums, model.embed_width)


def embed_images(
    model, params, pixels: Iterable[np.ndarray], batch_size: int, keep: Keep | None = None
) -> np.ndarray:
    """Encode images that are ready for the encoder.

    Args:
      model: the joint model.
      params: its parameters; where they are sharded over a mesh, so is the batch.
      pixels: float32[h, w, 3] each, see `data.image.preprocess_image`; read as they are needed.
      batch_size: rows of a batch.
      keep: where the tokens go; None for nowhere.

    Returns:
      float32[n, E], unit norm, in input order.
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
            filled = group + [group[-1]] * (rows - len(group))
            yield list(range(done, done + len(group))), (np.stack(filled),)

    found: dict[int, np.ndarray] = {}
    for numbers, vectors in _encoded(model, params, "encode_image", batches, batch_size, keep):
        found.update(zip(numbers, vectors, strict=True))
    return _unit_rows(found, model.embed_width)


def embed_split(
    model,
    params,
    split,
    data_cfg,
    batch_size: int,
    keep_speech: Keep | None = None,
    keep_image: Keep | None = None,
) -> Embeddings:
    """Encode every image and every caption of a split; each process reads all of it.

    Args:
      model: the joint model.
      params: its parameters.
      split: a `sir_jax.data.corpus.Split`.
      data_cfg: `config.data`.
      batch_size: rows of a batch.
      keep_speech: where the clips' tokens go, with the row of `Embeddings.speech`; None for
        nowhere.
      keep_image: likewise for the images'.

    Returns:
      `Embeddings`.
    """
    # Row by row, so that a record is read once for all of its captions.
    order = np.lexsort((split.index["slot"], split.index["row"]))
    rows, firsts = np.unique(split.index["row"][order], return_index=True)
    slots = np.split(split.index["slot"][order], firsts[1:])

    def clips(item: tuple[int, np.ndarray]) -> list[np.ndarray]:
        row, wanted = item
        captions = split[int(row)].captions
        return [_decoded(captions[slot], split.name) for slot in wanted]

    waves = (wave for group in ordered_map(clips, zip(rows, slots, strict=True)) for wave in group)
    speech = np.empty((len(order), model.embed_width), np.float32)
    keep = keep_speech and (lambda number, tokens: keep_speech(int(order[number]), tokens))
    speech[order] = embed_speech(model, params, waves, data_cfg, batch_size, keep)

    picture = functools.partial(_picture, split, ImageSpec.from_config(data_cfg))
    image_ids: list[int] = []

    def pixels() -> Iterator[np.ndarray]:
        for image_id, image in ordered_map(picture, range(len(split)), GROUP):
            image_ids.append(image_id)
            yield image

    image = embed_images(model, params, pixels(), batch_size, keep_image)
    return Embeddings(
        speech=speech,
        image=image,
        speech_image_ids=np.array(split.index["image_id"]),
        image_ids=np.array(image_ids, np.int64),
        caption_ids=np.array(split.index["caption_id"]),
    )


def _decoded(caption, split: str) -> np.ndarray:
    return load_audio(caption.audio, name=f"caption {caption.caption_id} of {split}")


def _picture(split, spec: ImageSpec, row: int) -> tuple[int, np.ndarray]:
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


def fetched(started: Iterable[tuple]) -> Iterator[tuple]:
    """Bring results of the device to the host, each while the next one is computed.

    More in flight would only fill the device.

    Args:
      started: (label, device arrays); drawing one starts its computation.

    Yields:
      (label, the arrays as NumPy's), in order.
    """
    waiting = None
    for label, result in started:
        if waiting is not None:
            yield waiting[0], jax.device_get(waiting[1])
        waiting = label, result
    if waiting is not None:
        yield waiting[0], jax.device_get(waiting[1])


def _encoded(model, params, method: str, batches: Callable, batch_size: int, keep: Keep | None):
    """Run batches; yield (numbers, float32[len(numbers), E]) with the filling dropped."""
    params = jax.tree.map(jnp.asarray, params)
    split, whole, parts = placement(params)
    rows = -(-batch_size // parts) * parts
    encode = jit_encode(model, method, keep is not None, whole)
    started = (
        (numbers, run_together(encode, params, *place(inputs, split)))
        for numbers, inputs in batches(rows)
    )
    for numbers, (vectors, *features) in fetched(started):
        give_way()
        if keep is not None:
            # Shorter than the batch where it was filled.
            for number, tokens, mask in zip(numbers, *features, strict=False):
                keep(number, tokens[mask])
        yield numbers, vectors[: len(numbers)]


@functools.lru_cache(maxsize=16)
def jit_encode(model, method: str, with_tokens: bool, out: NamedSharding | None) -> Callable:
    """Return a model's method over (params, *inputs): (embeddings[, tokens, mask])."""

    def encode(params, *inputs):
        found = model.apply({"params": params}, *inputs, deterministic=True, method=method)
        return (found.embed, found.tokens, found.mask) if with_tokens else (found.embed,)

    return jax.jit(encode, out_shardings=out)


def placement(params) -> tuple[NamedSharding | None, NamedSharding | None, int]:
    """Find where batches go, by where the parameters lie.

    Args:
      params: leaves on a device, or sharded over a mesh.

    Returns:
      The batch's sharding, the result's (whole on every device) and the batch's parts; None, None
      and 1 on one device.
    """
    sharding = jax.tree.leaves(params)[0].sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None, None, 1
    mesh = sharding.mesh
    parts = math.prod(mesh.shape[axis] for axis in BATCH_SPEC[0])
    return batch_sharding(mesh), replicated(mesh), parts


def _unit_rows(rows: dict[int, np.ndarray], width: int) -> np.ndarray:
    if not rows:
        return np.zeros((0, width), np.float32)
    z = np.stack([rows[number] for number in range(len(rows))]).astype(np.float64)
    # Windows that point in opposite directions cancel; the vector then stays zero.
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)).astype(np.float32)
