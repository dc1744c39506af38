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
from PIL import Image

from sir_jax.config.check import check_section
from sir_jax.config.specs import MODALITIES
from sir_jax.data.media.audio import load_audio, normalize_waveform
from sir_jax.data.media.augment import AugmentSpec, augment_wave
from sir_jax.data.media.image import ColorJitter, ImageSpec, augment_image, load_image
from sir_jax.errors import UserError

if TYPE_CHECKING:
    from sir_jax.data.corpus import ImageRecord, Split
    from sir_jax.data.feature_store import Features

Batch = dict[str, np.ndarray]

# Keep the random streams of one seed apart.
_PLAN_STREAM, _ITEM_STREAM, _AUGMENT_STREAM = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What the pipeline needs of `cfg.data`, checked.

    Attributes:
      batch_size: global, over all processes.
      buckets: waveform lengths in samples, ascending.
      image: what the image encoder reads.
      crop_scale: least and largest share of a picture's area; (1.0, 1.0) means no augmentation.
      normalize_wave: zero mean and unit variance per clip.
      augment: what happens to waveforms.
      jitter: what happens to colours.
    """

    batch_size: int
    buckets: tuple[int, ...]
    image: ImageSpec
    crop_scale: tuple[float, float]
    normalize_wave: bool
    augment: AugmentSpec = AugmentSpec()
    jitter: ColorJitter = ColorJitter()

    @classmethod
    def from_config(cls, data_cfg: Any) -> "BatchSpec":
        """Read and check a data config.

        Raises:
          UserError: naming the field, its value and what it may be.
        """
        check_section("data", data_cfg)
        least, largest = map(float, data_cfg.crop_scale)
        return cls(
            int(data_cfg.batch_size),
            tuple(int(n) for n in data_cfg.buckets),
            ImageSpec.from_config(data_cfg),
            (least, largest),
            bool(data_cfg.normalize_wave),
            AugmentSpec.from_config(data_cfg.augment),
            ColorJitter.from_config(data_cfg.augment),
        )


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
    features: "Features | None" = None,
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
      features: frozen encoders' outputs, read in place of their waveforms or pixels.

    Returns:
      An iterator with `.close()`. A batch holds, N being the length of its bucket:
      wave float32 [B, N] (normalised over the valid samples, then padded with zeros), lengths
      int32 [B], pixels float32 [B, h, w, 3], image_ids int32 [B], caption_ids int32 [B]. With
      `features`, its fields stand for those of the modalities that it has.

    Raises:
      UserError: a config that cannot be dealt, or, while iterating, a caption or picture that
        cannot be decoded, by its id.
    """
    import grain  # of the [train] extra, which people who only search do not have

    batches = _Batches(
        split, BatchSpec.from_config(data_cfg), int(seed), process_index, process_count, features
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
        self,
        split: "Split",
        spec: BatchSpec,
        seed: int,
        process_index: int,
        process_count: int,
        features: "Features | None",
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
        stored = features.modalities if features else ()
        for modality, change in zip(MODALITIES, (spec.augment, spec.jitter), strict=True):
            if change.active and modality in stored:
                raise UserError(
                    f"data.augment changes what the {modality} encoder reads, which stored "
                    "features cannot follow; switch it off, or leave data.features empty"
                )
        self._split, self._spec, self._seed, self._features = split, spec, seed, features
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
        length = self._spec.buckets[bucket[step]]
        captions = items[step, self._rows.start : self._rows.stop]
        entries = self._split.index[captions]
        batch = {
            "image_ids": entries["image_id"].astype(np.int32),
            "caption_ids": entries["caption_id"].astype(np.int32),
        }
        missing = MODALITIES
        if self._features:
            batch |= self._features.read(captions, entries["row"], length)
            missing = tuple(m for m in MODALITIES if m not in self._features.modalities)
        if missing:
            # One stream per global position, so that the draws do not depend on who decodes it.
            first = int(number) * self._spec.batch_size + self._rows.start
            batch |= self._decode_rows(entries, length, first, missing)
        return batch

    def _decode_rows(
        self, entries: np.ndarray, length: int, first: int, modalities: tuple[str, ...]
    ) -> Batch:
        """Decode the rows of a batch; the first one's global position gives all their draws."""
        size, count, batch = self._spec.image.size, len(entries), {}
        if "speech" in modalities:
            batch["wave"] = np.zeros((count, length), np.float32)
            batch["lengths"] = np.zeros(count, np.int32)
        if "image" in modalities:
            batch["pixels"] = np.empty((count, size, size, 3), np.float32)
        for out, entry in enumerate(entries):
            record = self._split[int(entry["row"])]
            rng = np.random.default_rng((self._seed, _ITEM_STREAM, first + out))
            if "speech" in modalities:
                wave = self._wave(record, entry, length, rng, first + out)
                batch["wave"][out, : len(wave)] = wave
                batch["lengths"][out] = len(wave)
            if "image" in modalities:
                image = read_image(self._split, record)
                augment_image(
                    image,
                    self._spec.image,
                    rng,
                    self._spec.crop_scale,
                    self._spec.jitter,
                    out=batch["pixels"][out],
                )
        return batch

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if epoch not in self._plans:
                index, spec = self._split.index, self._spec
                # Prefetching threads straddle two epochs at most.
                self._plans = {e: p for e, p in self._plans.items() if e == epoch - 1}
                self._plans[epoch] = plan_epoch(
                    index["samples"],
                    index["image_id"],
                    spec.buckets,
                    spec.batch_size,
                    self._seed,
                    epoch,
                )
            return self._plans[epoch]

    def _wave(
        self,
        record: "ImageRecord",
        entry: np.void,
        length: int,
        rng: np.random.Generator,
        position: int,
    ) -> np.ndarray:
        """Return a caption's clip as the encoder reads it, float32 [n <= length]."""
        wave = read_clip(self._split, record, entry)
        spare = len(wave) - length
        first = int(rng.integers(0, spare + 1)) if spare > 0 else 0
        if self._spec.augment.active:
            # A stream of its own, so that the picture's draws are those without augmentation.
            stream = np.random.default_rng((self._seed, _AUGMENT_STREAM, position))
            wave = augment_wave(wave, self._spec.augment, stream)
            first = int(stream.integers(0, max(0, len(wave) - length) + 1))
        wave = wave[first : first + length]
        return normalize_waveform(wave) if self._spec.normalize_wave else wave


def read_clip(split: "Split", record: "ImageRecord", entry: np.void) -> np.ndarray:
    """Decode a caption's clip.

    Args:
      split: that it is of.
      record: the caption's image's.
      entry: the caption's, of `split.index`.

    Returns:
      float32 [N], the whole clip.

    Raises:
      UserError: it cannot be decoded, or has another length than its index says.
    """
    name = f"caption {entry['caption_id']} of split {split.name!r}"
    wave = load_audio(record.captions[int(entry["slot"])].audio, name)
    if len(wave) != entry["samples"]:
        raise UserError(
            f"{name}: {len(wave)} samples, its index says {entry['samples']}; make the corpus again"
        )
    return wave


def read_image(split: "Split", record: "ImageRecord") -> Image.Image:
    """Decode a record's picture.

    Args:
      split: that it is of.
      record: the picture's.

    Raises:
      UserError: it cannot be decoded.
    """
    return load_image(record.image, f"image {record.image_id} of split {split.name!r}")


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
