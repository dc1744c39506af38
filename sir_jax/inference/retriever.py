"""The `Retriever`: a trained model that turns files into unit vectors and match scores."""

import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from PIL import Image

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.data.media.image import ImageSpec, blank_reason, preprocess_image
from sir_jax.data.parallel import GROUP
from sir_jax.errors import UserError
from sir_jax.inference import release
from sir_jax.inference.attention import Attention, attend_pair
from sir_jax.inference.embed import KeepTokens, embed_images, embed_speech
from sir_jax.inference.inputs import (
    Noted,
    Picture,
    Reader,
    Speech,
    known_length,
    load_picture,
    load_speech,
    read_speech,
    require_list,
)
from sir_jax.inference.matching import score_pairs
from sir_jax.inference.score import UNFITTED, Scale, Score
from sir_jax.inference.token_store import TokenStore
from sir_jax.models import build_model, tasks_of_params
from sir_jax.runtime.sharding import make_mesh, replicated


class Retriever:
    """Encode speech and images into one space, where a dot product is the similarity.

    Example:
      >>> import numpy as np, sir_jax
      >>> model = sir_jax.load("spoken-scenes")
      >>> second = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
      >>> speech = model.encode_speech([(second, 16_000)])  # or paths of sound files
      >>> picture = np.arange(64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
      >>> image = model.encode_image([picture])  # or paths of pictures
      >>> speech.shape == image.shape == (1, model.width)
      True
      >>> similarity = speech @ image.T
    """

    def __init__(
        self,
        cfg,
        params,
        batch_size: int = 32,
        name: str = "",
        devices: Sequence | None = None,
        score: Score = UNFITTED,
    ):
        """Place a model on its devices.

        Args:
          cfg: the whole config of the run that trained the model, or the config of a release.
          params: the model's parameters, a nested dict of arrays; those that only training needs
            are dropped.
          batch_size: most items that are encoded at once.
          name: the model's name in messages and indexes.
          devices: each batch is split over them. None: all local accelerators, or one CPU device
            where there is no accelerator.
          score: weights and calibration, fitted on a validation split.
        """
        params = release.strip(params)
        self.cfg = cfg
        self.name = name or "unnamed"
        self._image_spec = ImageSpec.from_config(cfg.data)
        self.batch_size = batch_size
        self.model = build_model(cfg.model, tasks_of_params(params))
        self.score = score
        self.scale = Scale(params, self.model.embed_width, self.model.pooled_width, score)
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
          source: the name of a model that ships with sir_jax; a folder, on disk or in a bucket,
            that `sir-jax export` wrote; or the `--workdir` of `sir-jax train`.
          which: the checkpoint of a workdir, 'best' or 'last'; ignored for other sources.
          batch_size: most items that are encoded at once.

        Raises:
          UserError: there is no such model, or its files are damaged.
        """
        parts = release.find(source, which)
        model = cls(parts.cfg, parts.params, batch_size, parts.name, score=parts.score)
        model._fingerprint = parts.fingerprint
        return model

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that an embedding depends on.

        The embeddings of two models can be compared exactly when their fingerprints are equal.
        """
        if not self._fingerprint:
            self._fingerprint = release.fingerprint(self.cfg, self.params, self.score)
        return self._fingerprint

    @property
    def width(self) -> int:
        """Return the width of a vector: of an embedding and, where there is one, pooled match."""
        return self.scale.width

    @property
    def can_match(self) -> bool:
        """Tell whether the model has a matching head, which `match` and `attention` need."""
        return "match" in self.model.tasks

    @property
    def temperature(self) -> float:
        """Return by what a product of two vectors is divided to be a logit."""
        return self.scale.temperature

    def probability(self, similarity, log_odds=None) -> np.ndarray | None:
        """Return the calibrated probability that each result of one query is right.

        Args:
          similarity: float[n], products of vectors, of the best results.
          log_odds: float[n], from `match`; None where nothing was re-ranked.

        Returns:
          float64[n]; None for one result, or without a calibration of such results.
        """
        if self.can_match and log_odds is None:
            return None
        return self.score.probabilities(self.score.fused(similarity, self.temperature, log_odds))

    def encode_speech(
        self,
        clips: Iterable[Speech],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        errors: str = "raise",
        failures: list[tuple[int, str]] | None = None,
        notes: list[tuple[int, str]] | None = None,
    ) -> np.ndarray:
        """Encode recordings of any length, rate and channel count.

        A recording longer than the longest bucket is cut into windows of that length; the last
        window ends with the recording. Its embedding is the mean of the windows' embeddings, scaled
        to unit length.

        Args:
          clips: a list, generator or array of paths, file contents, (samples, rate in Hz), dicts
            with 'array' and 'sampling_rate', audio of `datasets`, decoded or not, or what
            `sir_jax.say` gives: its vector is the mean of its voices', scaled to unit length. A
            generator is read only as fast as it is encoded.
          batch_size: most clips that are encoded at once; None for the model's own.
          progress: whether to report progress on stderr: a bar on a terminal, else lines.
          errors: what happens to a clip that cannot be read: 'raise', 'skip' (it gets no row) or
            'nan' (its row is NaN).
          failures: a list to which (position, message) of each clip that cannot be read is added.
          notes: a list to which (position, message) of each clip is added in which nothing can be
            heard: digital silence, or channels that cancel each other. None: a `QuietMedia` warning
            names them.

        Returns:
          float32[n, E], unit norm, in input order.

        Raises:
          UserError: a clip cannot be read, or holds no sample; it is named by its path or its
            position in the list.
          TypeError: `clips` is one item instead of a list.
        """
        clips = require_list(clips)
        reader = Reader(read_speech, errors, progress, "clips")
        rows = self.encode_waves(reader(clips), known_length(clips), batch_size)
        if failures is not None:
            failures += reader.failures
        reader.say(notes)
        return reader.add_nan_rows(rows)

    def encode_image(
        self,
        images: Iterable[Picture],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        errors: str = "raise",
        failures: list[tuple[int, str]] | None = None,
        notes: list[tuple[int, str]] | None = None,
    ) -> np.ndarray:
        """Encode pictures of any size.

        Args:
          images: a list, generator or array of paths, file contents, PIL images or uint8 arrays.
          batch_size: most pictures that are encoded at once; None for the model's own.
          progress: whether to report progress on stderr.
          errors: what happens to a picture that cannot be read: 'raise', 'skip' or 'nan', as in
            `encode_speech`.
          failures: a list to which (position, message) of each picture that cannot be read is
            added.
          notes: a list to which (position, message) of each picture of one colour is added. None: a
            `QuietMedia` warning names them.

        Returns:
          float32[n, E], unit norm, in input order.

        Raises:
          UserError: a picture cannot be read; it is named by its path or its position in the list.
          TypeError: `images` is one item instead of a list.
        """
        images = require_list(images)
        reader = Reader(self.read_pixels, errors, progress, "pictures", GROUP)
        rows = self.encode_pixels(reader(images), known_length(images), batch_size)
        if failures is not None:
            failures += reader.failures
        reader.say(notes)
        return reader.add_nan_rows(rows)

    def encode_waves(
        self,
        waves: Iterable[np.ndarray | list[np.ndarray]],
        count: int | None = None,
        batch_size: int | None = None,
        keep: KeepTokens | None = None,
    ) -> np.ndarray:
        """Encode decoded clips.

        Args:
          waves: float32[N] each, mono, 16 kHz; a list of such waves gets one vector.
          count: about how many clips there are, so that few clips get a small batch; None where
            that is not known.
          batch_size: most clips that are encoded at once; None for the model's own.
          keep: called with the number and the token features of each window, see
            `inference.embed.KeepTokens`; None drops them.

        Returns:
          float32[n, E].
        """
        rows = self._batch_rows(count, batch_size)
        given = self.model, self.params, waves, self.cfg.data, rows, keep
        return embed_speech(*given, self.scale.vectors)

    def load_pixels(self, position: int, source: Picture) -> np.ndarray:
        """Read a picture and prepare it for the encoder.

        Args:
          position: its number in the list, for the message about an item that has no path.
          source: a path, file contents, a PIL image or a uint8 array.

        Returns:
          float32[h, w, 3], see `data.media.image.preprocess_image`.

        Raises:
          UserError: the picture cannot be read.
        """
        return self.read_pixels(position, source).value

    def read_pixels(self, position: int, source: Picture) -> Noted:
        """Read a picture as `load_pixels` does, with a note if it is of one colour."""
        image = load_picture(position, source)
        name = f"picture {position}" if not isinstance(source, str | os.PathLike) else source
        reason = blank_reason(image)
        return Noted(
            preprocess_image(image, self._image_spec), f"{name} {reason}" if reason else ""
        )

    def encode_pixels(
        self,
        pixels: Iterable[np.ndarray],
        count: int | None = None,
        batch_size: int | None = None,
        keep: KeepTokens | None = None,
    ) -> np.ndarray:
        """Encode prepared pictures.

        Args:
          pixels: float32[h, w, 3] each, made by `load_pixels`.
          count: about how many pictures there are, so that few pictures get a small batch; None
            where that is not known.
          batch_size: most pictures that are encoded at once; None for the model's own.
          keep: called with the number and the token features of each picture; None drops them.

        Returns:
          float32[n, E].
        """
        rows = self._batch_rows(count, batch_size)
        return embed_images(self.model, self.params, pixels, rows, keep, self.scale.vectors)

    def match(
        self,
        speech: Sequence[Speech],
        image: Sequence[Picture],
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Score pairs of a recording and a picture by fusion encoder or late interaction.

        Args:
          speech: n recordings, or one recording that is paired with every picture.
          image: n pictures, or one picture that is paired with every recording.
          batch_size: most pairs that are scored at once; None for the model's own.

        Returns:
          float32[n], the log-odds that each pair matches; for a recording that is cut into windows,
          or said by several voices, the mean over these.

        Raises:
          UserError: the model has no matching head, an item cannot be read, or the lists differ in
            length.
          TypeError: `speech` or `image` is one item instead of a list.
        """
        self._require_matching()
        speech, image = list(require_list(speech)), list(require_list(image))
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
                _pad_to_power_of_two(store, count)
            rows = self._batch_rows(n, batch_size)
            scores, _ = score_pairs(self.model, self.params, tokens_s, tokens_i, pairs, rows)
        return scores.astype(np.float32)

    def attention(self, speech: Speech, image: Picture) -> Attention:
        """Return where the model looks when it matches one pair, see `Attention`.

        Args:
          speech: one recording; of what `sir_jax.say` gives, the first voice.
          image: one picture.
        Returns:
          `Attention`: the weights of the patches for each speech frame, and how much the score
          depends on each frame and each patch.

        Raises:
          UserError: the model has no matching head, its image tokens are not patches, or an item
            cannot be read.
        """
        self._require_matching()
        wave, picture = load_speech(0, speech), load_picture(0, image)
        wave = wave[0] if isinstance(wave, list) else wave
        return attend_pair(self.model, self.params, self.cfg.data, wave, picture)

    def warmup(self, rerank: int = 0) -> None:
        """Compile the programs of a single query, so that the first query need not wait for it.

        Args:
          rerank: how many pictures re-ranking pairs with a query; 0 for no re-ranking.
        """
        black = Image.new("RGB", (self._image_spec.size,) * 2)
        self.encode_image([black], notes=[])
        for samples in self.cfg.data.buckets:
            silence = np.zeros(samples, np.float32)
            self.encode_waves([silence], 1)
            if rerank and self.can_match:
                self.match([(silence, SAMPLE_RATE)], [black] * rerank)

    def _require_matching(self) -> None:
        if not self.can_match:
            why = "model.match.kind was pooled" if self.model.tasks else "loss.sim.weight was 0"
            raise UserError(
                f"model {self.name} has no matching head ({why}); search without re-ranking, or "
                "train with loss.sim.weight=1 and model.match.kind=fusion, both or late"
            )

    def _batch_rows(self, count: int | None, batch_size: int | None) -> int:
        most = batch_size or self.batch_size
        # Powers of two: one query does not pay for a full batch, and few programs are compiled.
        return most if count is None else min(most, 1 << max(count - 1, 0).bit_length())


def _pad_to_power_of_two(store: TokenStore, count: int) -> None:
    """Append entries that belong to no pair, so that few shapes occur and few programs compile."""
    target = 1 << (len(store) - 1).bit_length()
    if target > len(store):
        last = len(store) - 1
        tokens, _ = store.batch(np.array([last]), int(store.lengths[last]))
        for extra in range(target - len(store)):
            store.append(count + extra, tokens[0])
