"""The training input pipeline: an endless, exactly resumable stream of length-bucketed batches.

Position is one integer, the number of global batches already drawn. What a batch holds is a pure
function of (corpus, config, seed, position); processes, threads and workers only share the labour.
"""

import dataclasses
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sir_jax.data.audio import load_audio, normalize_waveform
from sir_jax.data.image import ImageSpec, augment_image, load_image
from sir_jax.errors import UserError

if TYPE_CHECKING:
    from sir_jax.data.corpus import Split

Batch = dict[str, np.ndarray]

# Keep the random streams of one seed apart.
_PLAN_STREAM, _ITEM_STREAM = 0, 1


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What the pipeline needs of `cfg.data`, checked.

    Attributes:
      batch_size: global, over all processes.
      buckets: waveform lengths in samples, ascending.
      image: what the image encoder reads.
      crop_scale: least and largest share of a picture's area; (1.0, 1.0) means no augmentation.
      normalize_wave: zero mean and unit variance per clip.
    """

    batch_size: int
    buckets: tuple[int, ...]
    image: ImageSpec
    crop_scale: tuple[float, float]
    normalize_wave: bool

    @classmethod
    def from_config(cls, data_cfg: Any) -> "BatchSpec":
        """Read and check a data config.

        Raises:
          UserError: names the field, its value and what it must be.
        """
        batch_size = int(data_cfg.batch_size)
        buckets = tuple(int(n) for n in data_cfg.buckets)
        scale = tuple(float(x) for x in data_cfg.crop_scale)
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: must be at least 1")
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            raise UserError(f"data.buckets={buckets}: give rising numbers of samples, at least one")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"data.crop_scale={scale}: give (min, max) with 0 < min <= max <= 1")
        return cls(
            batch_size, buckets, ImageSpec.from_config(data_cfg), scale,
            bool(data_cfg.normalize_wave),
        )  # fmt: skip


def plan_epoch(
    samples: np.ndarray,
    image_ids: np.ndarray,
    buckets: tuple[int, ...],
    batch_size: int,
    seed: int,
    epoch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Deal one epoch's captions into batches of one bucket each.

    Every caption has the same chance to be among the n % batch_size that sit the epoch out; each
    other occurs exactly once. A caption goes to the shortest bucket that holds it (the longest,
    where none does). What does not fill a batch there goes up into the next longer bucket, so
    there are exactly n // batch_size batches. Captions of one image are spread over a bucket's
    batches. The order of the batches is shuffled.

    Args:
      samples: int [n], length of each caption's clip.
      image_ids: int [n], image of each caption.
      buckets: lengths in samples, ascending.
      batch_size: captions per batch.
      seed: of the run.
      epoch: number of the epoch, from 0.

    Returns:
      items int64 [n // batch_size, batch_size], indices into `samples`; and bucket
      int64 [n // batch_size], indices into `buckets`.
    """
    rng = np.random.default_rng((seed, _PLAN_STREAM, epoch))
    n_batches = len(samples) // batch_size
    chosen = rng.permutation(len(samples))[: n_batches * batch_size]
    home = np.minimum(np.searchsorted(buckets, samples[chosen]), len(buckets) - 1)
    waiting, items, bucket = chosen[:0], [], []
    for b in range(len(buckets)):
        waiting = _spread(np.concatenate([waiting, chosen[home == b]]), image_ids)
        full = len(waiting) // batch_size
        items.append(waiting[: full * batch_size].reshape(full, batch_size))
        bucket += [b] * full
        waiting = waiting[full * batch_size :]
    order = rng.permutation(n_batches)
    return np.concatenate(items)[order], np.array(bucket, np.int64)[order]


def train_batches(
    split: "Split",
    data_cfg: Any,
    *,
    seed: int,
    start: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Stream training batches for ever, from any position, epoch after epoch.

    Args:
      split: captions and pictures, by random access.
      data_cfg: batch_size, buckets, image_size, image_mean, image_std, image_fit,
        crop_scale, normalize_wave.
      seed: of order, crops and augmentation.
      start: number of global batches already drawn.
      process_index: which rows of the global batch: process p of n gets [p*B/n, (p+1)*B/n).
      process_count: n above.
      num_threads: that decode and prefetch batches, per worker; 0 decodes on demand.
      num_workers: worker processes, for when the threads' share of Python is the limit.

    Returns:
      An iterator with `.close()`. A batch holds, N being the length of its bucket:
      wave float32 [B, N] (normalised over the valid samples, then padded with zeros), lengths
      int32 [B], pixels float32 [B, h, w, 3], image_ids int32 [B], caption_ids int32 [B].

    Raises:
      UserError: a config that cannot be dealt, or, while iterating, a caption or picture that
        cannot be decoded, by its id.
    """
    import grain  # of the [train] extra, which people who only search do not have

    batches = _Batches(
        split, BatchSpec.from_config(data_cfg), int(seed), process_index, process_count
    )
    if start < 0:
        raise UserError(f"start={start}: the number of batches already drawn cannot be negative")
    # Slicing before the iterator is the resume that works with any number of workers; restoring
    # a grain iterator's own state with another number gives wrong batches without a word.
    dataset = grain.MapDataset.source(batches)[int(start) :].to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    )
    if num_workers:
        _parse_absl_flags()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        )
    return iter(dataset)


class _Batches:
    """Random access to this process's rows of the global batches, by batch number."""

    def __init__(
        self, split: "Split", spec: BatchSpec, seed: int, process_index: int, process_count: int
    ):
        captions, images = split.index["caption_id"], split.index["image_id"]
        if spec.batch_size % process_count:
            raise UserError(
                f"data.batch_size={spec.batch_size}: must divide by the {process_count} processes"
            )
        if len(captions) < spec.batch_size:
            raise UserError(
                f"data.batch_size={spec.batch_size}: more than the {len(captions)} captions of "
                f"split {split.name!r}; lower it or make a larger corpus"
            )
        if seed < 0:
            raise UserError(f"seed={seed}: must not be negative")
        if max(captions.max(), images.max()) >= 1 << 31:
            raise ValueError("ids beyond int32 would collide on the device")
        self._split, self._spec, self._seed = split, spec, seed
        rows = spec.batch_size // process_count
        self._rows = range(process_index * rows, (process_index + 1) * rows)
        self._per_epoch = len(captions) // spec.batch_size
        self._plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Batch:
        epoch, step = divmod(int(number), self._per_epoch)
        items, bucket = self._plan(epoch)
        length, size = self._spec.buckets[bucket[step]], self._spec.image.size
        batch = {
            "wave": np.zeros((len(self._rows), length), np.float32),
            "lengths": np.zeros(len(self._rows), np.int32),
            "pixels": np.empty((len(self._rows), size, size, 3), np.float32),
            "image_ids": np.zeros(len(self._rows), np.int32),
            "caption_ids": np.zeros(len(self._rows), np.int32),
        }
        for out, row in enumerate(self._rows):
            entry = self._split.index[items[step, row]]
            # One stream per global position, so that the draws do not depend on who decodes it.
            position = int(number) * self._spec.batch_size + row
            rng = np.random.default_rng((self._seed, _ITEM_STREAM, position))
            wave, pixels = self._decode(entry, length, rng)
            batch["wave"][out, : len(wave)] = wave
            batch["lengths"][out] = len(wave)
            batch["pixels"][out] = pixels
            batch["image_ids"][out] = entry["image_id"]
            batch["caption_ids"][out] = entry["caption_id"]
        return batch

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if epoch not in self._plans:
                index, spec = self._split.index, self._spec
                # Prefetching threads straddle two epochs at most.
                self._plans = {e: p for e, p in self._plans.items() if e == epoch - 1}
                self._plans[epoch] = plan_epoch(
                    index["samples"], index["image_id"], spec.buckets, spec.batch_size,
                    self._seed, epoch,
                )  # fmt: skip
            return self._plans[epoch]

    def _decode(
        self, entry: np.void, length: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the clip float32 [n <= length] and the pixels float32 [h, w, 3] of a caption."""
        record = self._split[int(entry["row"])]
        where = f"of split {self._split.name!r}"
        wave = load_audio(
            record.captions[int(entry["slot"])].audio, f"caption {entry['caption_id']} {where}"
        )
        if len(wave) != entry["samples"]:
            raise UserError(
                f"caption {entry['caption_id']} {where}: {len(wave)} samples, its index says "
                f"{entry['samples']}; make the corpus again"
            )
        if len(wave) > length:
            first = int(rng.integers(0, len(wave) - length + 1))
            wave = wave[first : first + length]
        if self._spec.normalize_wave:
            wave = normalize_waveform(wave)
        image = load_image(record.image, f"image {entry['image_id']} {where}")
        return wave, augment_image(image, self._spec.image, rng, self._spec.crop_scale)


def _spread(items: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
    """Order items so that first captions of images come first, then second ones, and so on."""
    ids = image_ids[items]
    by_image = np.argsort(ids, kind="stable")
    # Where each item's image begins in the sorted order; the distance to it counts repeats.
    begins = np.searchsorted(ids[by_image], ids[by_image], side="left")
    repeats = np.empty(len(items), np.int64)
    repeats[by_image] = np.arange(len(items)) - begins
    return items[np.argsort(repeats, kind="stable")]


def _parse_absl_flags() -> None:
    """Let grain's workers start where no absl app has parsed the flags, as in a notebook."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
