"""A trained retriever, for people who never train: files in, unit vectors and scores out."""

import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from PIL import Image

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.data.parallel import GROUP
from sir_jax.errors import UserError
from sir_jax.inference import release
from sir_jax.inference.attention import Attention, attend_pair
from sir_jax.inference.embed import Keep, embed_images, embed_speech
from sir_jax.inference.inputs import (
    Picture,
    Reader,
    Speech,
    count_of,
    load_picture,
    load_speech,
    several,
)
from sir_jax.inference.matching import score_pairs
from sir_jax.inference.token_store import TokenStore
from sir_jax.models import build_model
from sir_jax.runtime.sharding import make_mesh, replicated


class Retriever:
    """Encode speech and images into one space, where a dot product is the similarity."""

    def __init__(
        self, cfg, params, batch_size: int = 32, name: str = "", devices: Sequence | None = None
    ):
        """Hold a model ready to encode.

        Args:
          cfg: the whole config of the run that trained it, or of a release.
          params: its parameters, a nested dict of arrays; what inference does not need is dropped.
          batch_size: most items that are encoded at once.
          name: what messages and indexes call it.
          devices: over which batches are spread; None: all local accelerators, or one CPU.
        """
        params = release.strip(params)
        self.cfg = cfg
        self.name = name or "unnamed"
        self._image_spec = ImageSpec.from_config(cfg.data)
        self.batch_size = batch_size
        self.model = build_model(cfg.model, ("match",) if "match_head" in params else ())
        self._fingerprint = ""
        if devices is None:
            devices = jax.local_devices() if jax.default_backend() != "cpu" else jax.devices()[:1]
        if len(devices) == 1:
            self.params = jax.device_put(params, devices[0])
        else:
            mesh = make_mesh(dict(data=len(devices), fsdp=1, tensor=1), devices)
            self.params = jax.device_put(params, replicated(mesh))

    @classmethod
    def load(cls, source: str | os.PathLike, which: str = "best", batch_size: int = 32):
        """Load a trained retriever.

        Args:
          source: the name of a model that ships with sir_jax; a folder, here or in a bucket, that
            `sir-jax export` wrote; or the `--workdir` of `sir-jax train`.
          which: 'best' or 'last' checkpoint of a workdir.
          batch_size: most items that are encoded at once.

        Raises:
          UserError: there is no such model, or its files are damaged.
        """
        found = release.find(source, which)
        model = cls(found.cfg, found.params, batch_size, found.name)
        model._fingerprint = found.fingerprint
        return model

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that a vector depends on: equal ones make comparable vectors."""
        if not self._fingerprint:
            self._fingerprint = release.fingerprint(self.cfg, self.params)
        return self._fingerprint

    @property
    def width(self) -> int:
        """Return E, the width of a vector."""
        return self.model.embed_width

    @property
    def can_match(self) -> bool:
        """Tell whether `match` and `attention` work: whether a matching head was trained."""
        return "match" in self.model.tasks

    @property
    def temperature(self) -> float:
        """Return what training divided similarities by: score / temperature is a logit."""
        return float(self.params["temperature"])

    def encode_speech(
        self,
        clips: Iterable[Speech],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        errors: str = "raise",
        failures: list[tuple[int, str]] | None = None,
    ) -> np.ndarray:
        """Encode recordings of any length, rate and channel count.

        One longer than the last bucket is cut into windows of that length, the last one ending with
        it; its vector is the mean of theirs, scaled to unit length.

        Args:
          clips: a list or generator of paths, file contents, (samples, rate in Hz), or dicts with
            'array' and 'sampling_rate'; a generator is read as it is needed.
          batch_size: most clips at once; None for the model's.
          progress: say on stderr how far it is: a bar on a terminal, else lines.
          errors: what a clip that cannot be read does: 'raise', 'skip' (it has no row) or 'nan'
            (its row is NaN).
          failures: is given (position, message) of each one that was skipped or is NaN.

        Returns:
          float32[n, E], unit norm, in input order.

        Raises:
          UserError: a clip cannot be read; it is named by its path or its place in the list.
          TypeError: one item where a list belongs.
        """
        reader = Reader(load_speech, errors, progress, "clips")
        rows = self.encode_waves(reader(several(clips)), count_of(clips), batch_size)
        if failures is not None:
            failures += reader.failures
        return reader.place(rows)

    def encode_image(
        self,
        images: Iterable[Picture],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        errors: str = "raise",
        failures: list[tuple[int, str]] | None = None,
    ) -> np.ndarray:
        """Encode pictures of any size.

        Args:
          images: a list or generator of paths, file contents, PIL images or arrays.
          batch_size, progress, errors, failures: see `encode_speech`.

        Returns:
          float32[n, E], unit norm, in input order.

        Raises:
          UserError: a picture cannot be read; it is named by its path or its place in the list.
          TypeError: one item where a list belongs.
        """
        reader = Reader(self.load_pixels, errors, progress, "pictures", GROUP)
        rows = self.encode_pixels(reader(several(images)), count_of(images), batch_size)
        if failures is not None:
            failures += reader.failures
        return reader.place(rows)

    def encode_waves(
        self,
        waves: Iterable[np.ndarray],
        count: int | None = None,
        batch_size: int | None = None,
        keep: Keep | None = None,
    ) -> np.ndarray:
        """Encode decoded clips.

        Args:
          waves: float32[N] each, mono, 16 kHz.
          count: about how many; small ones get a small batch; None where nobody knows.
          batch_size: most at once; None for the model's.
          keep: where the tokens go, see `evaluation.embed`.

        Returns:
          float32[n, E].
        """
        rows = self._rows(count, batch_size)
        return embed_speech(self.model, self.params, waves, self.cfg.data, rows, keep)

    def load_pixels(self, place: int, source: Picture) -> np.ndarray:
        """Read a picture and make it ready for the encoder.

        Args:
          place: its position, for the message about an item that has no path.
          source: see `Picture`.

        Returns:
          float32[h, w, 3], see `data.image.preprocess_image`.

        Raises:
          UserError: it cannot be read.
        """
        return preprocess_image(load_picture(place, source), self._image_spec)

    def encode_pixels(
        self,
        pixels: Iterable[np.ndarray],
        count: int | None = None,
        batch_size: int | None = None,
        keep: Keep | None = None,
    ) -> np.ndarray:
        """Encode pictures that are ready.

        Args:
          pixels: float32[h, w, 3] each, as of `load_pixels`.
          count, batch_size, keep: see `encode_waves`.

        Returns:
          float32[n, E].
        """
        rows = self._rows(count, batch_size)
        return embed_images(self.model, self.params, pixels, rows, keep)

    def match(
        self,
        speech: Sequence[Speech],
        image: Sequence[Picture],
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Ask the fusion encoder of each pair whether it belongs together.

        Args:
          speech: n recordings, or one that meets every image.
          image: n pictures, or one that meets every recording.
          batch_size: most pairs at once; None for the model's.

        Returns:
          float32[n], log-odds that a pair matches; of a long recording, the mean over its windows.

        Raises:
          UserError: the model has no matching head, an item cannot be read, or the lists differ in
            length.
          TypeError: one item where a list belongs.
        """
        self._require_matching()
        speech, image = list(several(speech)), list(several(image))
        n = max(len(speech), len(image)) if speech and image else 0
        if n and (len(speech) not in (1, n) or len(image) not in (1, n)):
            raise UserError(
                f"{len(speech)} recordings do not pair with {len(image)} pictures; give equally "
                "many, or one of either"
            )
        if not n:
            return np.zeros(0, np.float32)
        pairs = np.zeros((n, 2), np.int64)
        for column, items in enumerate((speech, image)):
            pairs[:, column] = np.arange(n) if len(items) == n else 0
        waves = Reader(load_speech, "raise", False, "clips")(speech)
        pixels = Reader(self.load_pixels, "raise", False, "pictures", GROUP)(image)
        with TokenStore() as tokens_s, TokenStore() as tokens_i:
            self.encode_waves(waves, len(speech), batch_size, tokens_s.append)
            self.encode_pixels(pixels, len(image), batch_size, tokens_i.append)
            for store, count in ((tokens_s, len(speech)), (tokens_i, len(image))):
                _fill_up(store, count)
            rows = self._rows(n, batch_size)
            scores, _ = score_pairs(self.model, self.params, tokens_s, tokens_i, pairs, rows)
        return scores.astype(np.float32)

    def attention(self, speech: Speech, image: Picture) -> Attention:
        """Look where the fusion encoder looks when it matches one pair.

        Args:
          speech: one recording.
          image: one picture.

        Returns:
          `Attention`.

        Raises:
          UserError: the model has no matching head or no patches, or an item cannot be read.
        """
        self._require_matching()
        wave, picture = load_speech(0, speech), load_picture(0, image)
        return attend_pair(self.model, self.params, self.cfg.data, wave, picture)

    def warmup(self, rerank: int = 0) -> None:
        """Compile what single queries need, so that the first one does not wait for it.

        Args:
          rerank: pictures that a query is matched with; 0 for none.
        """
        black = Image.new("RGB", (self._image_spec.size,) * 2)
        self.encode_image([black])
        for samples in self.cfg.data.buckets:
            silence = np.zeros(samples, np.float32)
            self.encode_waves([silence], 1)
            if rerank and self.can_match:
                self.match([(silence, SAMPLE_RATE)], [black] * rerank)

    def _require_matching(self) -> None:
        if not self.can_match:
            raise UserError(
                f"model {self.name} has no matching head (loss.sim.weight was 0); search "
                "without re-ranking, or train with --config.loss.sim.weight=1"
            )

    def _rows(self, count: int | None, batch_size: int | None) -> int:
        most = batch_size or self.batch_size
        # Powers of two: one query does not pay for a full batch, and few programs are compiled.
        return most if count is None else min(most, 1 << max(count - 1, 0).bit_length())


def _fill_up(store: TokenStore, count: int) -> None:
    """Append entries that no pair asks for, up to a power of two: few shapes, few programs."""
    wanted = 1 << (len(store) - 1).bit_length()
    if wanted > len(store):
        last = len(store) - 1
        tokens, _ = store.batch(np.array([last]), int(store.lengths[last]))
        for extra in range(wanted - len(store)):
            store.append(count + extra, tokens[0])
