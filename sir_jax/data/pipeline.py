"""The training input pipeline: an endless, exactly resumable stream of length-bucketed batches.

The position in the stream is one integer, the number of global batches drawn so far. A batch is a
pure function of (corpus, config, seed, position) and, where epochs are dealt in groups, of their
orders. Processes, threads and workers share the work and change nothing in it.
"""

import dataclasses
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sir_jax.config.check import check_section
from sir_jax.config.specs import MODALITIES
from sir_jax.data.epochs import Epochs, Orders
from sir_jax.data.media.audio import load_audio, normalize_waveform, spoken_part
from sir_jax.data.media.augment import AugmentSpec, augment_wave
from sir_jax.data.media.image import ColorJitter, ImageSpec, augment_image, load_image
from sir_jax.errors import UserError
from sir_jax.runtime.process import end_with_parent

if TYPE_CHECKING:
    from sir_jax.data.corpus import ImageRecord, Split
    from sir_jax.data.feature_store import Features

Batch = dict[str, np.ndarray]

# One seed has independent random streams; `plan`, `epochs` and `groups` have the others.
_ITEM_STREAM, _AUGMENT_STREAM = 1, 2


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """The fields of `config.data` that batches depend on, checked.

    Attributes:
      batch_size: captions in a global batch, over all processes.
      buckets: waveform lengths in samples, ascending.
      image: preprocessing of images.
      crop_scale: least and largest share of an image's area in a random crop; (1.0, 1.0) turns
        random crops off.
      normalize_wave: True to normalise each clip to zero mean and unit variance.
      augment: augmentation of waveforms.
      jitter: augmentation of colours.
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
          UserError: a field is invalid. The message names it, its value and the valid values.
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
    orders: Orders | None = None,
) -> Iterator[Batch]:
    """Return an endless stream of training batches from any position.

    Args:
      split: the captions and images.
      data_cfg: `config.data`.
      seed: seed of the order, the crops and the augmentation.
      start: number of global batches drawn so far.
      process_index: p: of a global batch this process gets the rows [p*B/n, (p+1)*B/n).
      process_count: n, the number of processes.
      num_threads: threads per worker that decode and prefetch batches; 0 decodes on demand.
      num_workers: number of worker processes. They help where Python's GIL limits the threads; 0
        decodes in this process.
      features: stored features that replace the waveforms or pixels of frozen encoders.
      orders: of epochs in groups, from `Dealer`; None where all batches are at random.

    Returns:
      An iterator with `.close()`. A batch has the fields wave float32 [B, N], normalised over the
      valid samples and padded with zeros to the length N of its bucket; lengths int32 [B]; pixels
      float32 [B, h, w, 3]; image_ids int32 [B]; and caption_ids int32 [B]. The fields of
      `Features.read` replace those of the modalities that `features` has.

    Raises:
      UserError: the config does not fit the split. While iterating: a caption or image cannot be
        decoded; the message has its id.
    """
    import grain  # part of the [train] extra, which searching does not need

    spec = BatchSpec.from_config(data_cfg)
    batches = _Batches(split, spec, int(seed), process_index, process_count, features, orders)
    if start < 0:
        raise UserError(f"start={start}: the number of batches already drawn cannot be negative")
    # Resume by slicing the dataset: this works with any number of workers. Restoring the state of a
    # grain iterator with another number of workers silently gives wrong batches.
    dataset = grain.MapDataset.source(batches)[int(start) :].to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    )
    if num_workers:
        _parse_absl_flags()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=_begin_worker,
        )
    return iter(dataset)


def check_enough(split: "Split", batch_size: int) -> None:
    """Raise a UserError where a split has fewer captions than a batch."""
    captions = len(split.index)
    if captions < batch_size:
        raise UserError(
            f"data.batch_size={batch_size}: more than the {captions} captions of "
            f"split {split.name!r}; lower it or make a larger corpus"
        )


class _Batches:
    """Random access by number to global batches, of which it holds this process's rows."""

    def __init__(
        self,
        split: "Split",
        spec: BatchSpec,
        seed: int,
        process_index: int,
        process_count: int,
        features: "Features | None",
        orders: Orders | None,
    ):
        captions, images = split.index["caption_id"], split.index["image_id"]
        if spec.batch_size % process_count:
            raise UserError(
                f"data.batch_size={spec.batch_size}: must divide by the {process_count} processes"
            )
        check_enough(split, spec.batch_size)
        if seed < 0:
            raise UserError(f"seed={seed}: must not be negative")
        if max(captions.max(), images.max()) >= 1 << 31:
            raise ValueError("ids beyond int32 would collide on the device")
        stored = features.modalities if features else ()
        # Of sound a draw a clip may have been stored with it.
        changes = not spec.augment.can_be_stored, spec.jitter.active
        for modality, changed in zip(MODALITIES, changes, strict=True):
            if changed and modality in stored:
                raise UserError(
                    f"data.augment changes what the {modality} encoder reads, which stored "
                    "features cannot follow; switch it off, or leave data.features empty"
                )
        self._split, self._spec, self._seed, self._features = split, spec, seed, features
        rows = spec.batch_size // process_count
        self._rows = range(process_index * rows, (process_index + 1) * rows)
        self._per_epoch = len(captions) // spec.batch_size
        self._epochs = Epochs(
            split.index, spec.batch_size, spec.buckets, spec.augment, seed, orders
        )

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Batch:
        epoch, step = divmod(int(number), self._per_epoch)
        plan = self._epochs[epoch]
        length = self._spec.buckets[plan.bucket[step]]
        captions = plan.items[step, self._rows.start : self._rows.stop]
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
            # The random stream of a row follows from its number among the rows of all batches, so
            # the draws do not depend on which process, worker or thread decodes it.
            first = int(number) * self._spec.batch_size + self._rows.start
            silence = None if plan.silence is None else plan.silence[captions]
            batch |= self._decode_rows(entries, length, first, missing, silence)
        return batch

    def _decode_rows(
        self,
        entries: np.ndarray,
        length: int,
        first: int,
        modalities: tuple[str, ...],
        silence: np.ndarray | None,
    ) -> Batch:
        """Decode the rows of a batch.

        Args:
          entries: the rows' entries of the split's index.
          length: length bucket of the batch.
          first: number of the first row among the rows of all global batches.
          modalities: modalities to decode.
          silence: seconds that each clip gets before, within and after, [rows, 3].
        """
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
                quiet = None if silence is None else silence[out]
                wave = self._wave(record, entry, length, rng, first + out, quiet)
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

    def _wave(
        self,
        record: "ImageRecord",
        entry: np.void,
        length: int,
        rng: np.random.Generator,
        position: int,
        silence: np.ndarray | None,
    ) -> np.ndarray:
        """Return a caption's waveform as the encoder reads it, float32 [at most `length`]."""
        wave = read_clip(self._split, record, entry)
        spare = len(wave) - length
        first = int(rng.integers(0, spare + 1)) if spare > 0 else 0
        if self._spec.augment.active:
            # Its own random stream: with and without augmentation the image's draws are the same.
            stream = np.random.default_rng((self._seed, _AUGMENT_STREAM, position))
            wave = augment_wave(wave, self._spec.augment, stream, length, silence)
            first = int(stream.integers(0, max(0, len(wave) - length) + 1))
        wave = wave[first : first + length]
        return normalize_waveform(wave) if self._spec.normalize_wave else wave


def read_clip(split: "Split", record: "ImageRecord", entry: np.void) -> np.ndarray:
    """Decode a caption's audio.

    Args:
      split: the split of the caption.
      record: the record of the caption's image.
      entry: the caption's entry of `split.index`.

    Returns:
      The waveform, float32 [N]: the whole, or without its quiet ends where `split.trim`.

    Raises:
      UserError: the audio cannot be decoded, or its length is not that of the index.
    """
    name = f"caption {entry['caption_id']} of split {split.name!r}"
    wave = load_audio(record.captions[int(entry["slot"])].audio, name)
    if split.trim:
        wave = wave[slice(*spoken_part(wave))]
    if len(wave) != entry["samples"]:
        raise UserError(
            f"{name}: {len(wave)} samples, its index says {entry['samples']}; make the corpus again"
        )
    return wave


def read_image(split: "Split", record: "ImageRecord") -> Image.Image:
    """Decode a record's image.

    Args:
      split: the split of the record.
      record: the record.

    Raises:
      UserError: the image cannot be decoded.
    """
    return load_image(record.image, f"image {record.image_id} of split {split.name!r}")


def _begin_worker(worker: int, workers: int) -> None:
    """Let a worker process end when the trainer is gone; grain calls this."""
    del worker, workers
    end_with_parent()


def _parse_absl_flags() -> None:
    """Mark absl's flags as parsed: grain's workers need that, and a notebook has no absl app."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
