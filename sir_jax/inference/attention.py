"""Where the fusion encoder looks: which patches answer which stretch of speech."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sir_jax.data.media.audio import SAMPLE_RATE, normalize_waveform
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.errors import UserError
from sir_jax.inference.embed import windows
from sir_jax.losses.matching import match_score
from sir_jax.models import attention_maps


@dataclasses.dataclass(frozen=True)
class Attention:
    """What one picture is asked about by one recording.

    Attributes:
      weights: for each speech frame the shares of the patches, float32[T, rows, cols], which sum to
        1: cross-attention, the mean over heads and layers.
      by_frame: how much the match depends on each frame, float32[T], summing to 1: to first order,
        how much the score changes where the frame's token becomes the mean of all.
      by_patch: how much it depends on each patch, float32[rows, cols], likewise.
      score: log-odds that the pair matches.
      frame_seconds: length of a frame; frame t starts at t * frame_seconds.
      seconds: length of the recording.
      box: the part of the picture that the patches cover: left, top, right, bottom, in pixels.
    """

    weights: np.ndarray
    by_frame: np.ndarray
    by_patch: np.ndarray
    score: float
    frame_seconds: float
    seconds: float
    box: tuple[float, float, float, float]

    def during(self, start: float, end: float) -> np.ndarray:
        """Return the patches' shares while a stretch of speech is heard.

        Args:
          start: seconds from the beginning.
          end: likewise; the frame that holds `start` counts at least.

        Returns:
          float32[rows, cols], summing to 1; frames count by how much the match depends on them.
        """
        last = len(self.by_frame) - 1
        first = min(max(int(start / self.frame_seconds), 0), last)
        stop = min(max(math.ceil(end / self.frame_seconds), first + 1), last + 1)
        share = self.by_frame[first:stop] + np.float32(1e-12)
        return np.einsum("t,tij->ij", share / share.sum(), self.weights[first:stop])


def attend_pair(model, params, data_cfg, wave: np.ndarray, picture: Image.Image) -> Attention:
    """Look at one pair.

    Args:
      model: the joint model, with the task 'match'.
      params: its parameters.
      data_cfg: `config.data`.
      wave: float32[N] at 16 kHz; one longer than the last bucket is looked at window by window,
        and where windows overlap the later one counts.
      picture: RGB.

    Raises:
      UserError: the model's image tokens are no patches.
    """
    if not model.image_has_cls:
        raise UserError("a Q-Former's queries have no place in the picture: no map can be drawn")
    buckets, spec = tuple(data_cfg.buckets), ImageSpec.from_config(data_cfg)
    pixels = preprocess_image(picture, spec)[None]
    hop = math.prod(model.speech_spec.conv_stride)
    total = max(1, -(-max(len(wave), 1) // hop))
    patches = (spec.size // model.image_spec.patch) ** 2
    weights = np.full((total, patches), 1 / patches, np.float32)
    by_frame = np.zeros(total, np.float32)
    by_patch, scores = np.zeros(patches, np.float64), []
    for start, window in _placed_windows(np.asarray(wave, np.float32), buckets[-1]):
        bucket = next(b for b in buckets if b >= len(window))
        padded = np.zeros((1, bucket), np.float32)
        padded[0, : len(window)] = normalize_waveform(window) if data_cfg.normalize_wave else window
        found = _jit_look(model)(params, padded, np.array([len(window)], np.int32), pixels)
        shares, frames, image, score, mask = jax.device_get(found)
        shares, frames = shares[mask], frames[mask]
        first = start // hop
        stop = min(first + len(shares), total)
        weights[first:stop] = shares[: stop - first]
        by_frame[first:stop] = frames[: stop - first]
        by_patch += image
        scores.append(float(score))
    side = math.isqrt(patches)
    return Attention(
        weights=weights.reshape(total, side, side),
        by_frame=_shares(by_frame),
        by_patch=_shares(by_patch).reshape(side, side),
        score=float(np.mean(scores)),
        frame_seconds=hop / SAMPLE_RATE,
        seconds=len(wave) / SAMPLE_RATE,
        box=_covered(picture.size, spec.fit),
    )


@functools.lru_cache(maxsize=8)
def _jit_look(model) -> Callable:
    """Return a function of (params, wave [1, N], lengths [1], pixels [1, h, w, 3]).

    It gives the patches' shares [T, P] of each frame, the dependence on each frame [T] and on each
    patch [P], the score, and which frames are valid [T].
    """

    def look(params, wave, lengths, pixels):
        speech, image = (
            model.apply({"params": params}, *inputs, deterministic=True, method=method)
            for method, inputs in (
                ("encode_speech", (wave, lengths)),
                ("encode_image", (pixels,)),
            )
        )

        def score(tokens):
            pair = speech._replace(tokens=tokens[0]), image._replace(tokens=tokens[1])
            return match_score(model.apply({"params": params}, *pair, method="match"))[0]

        tokens = speech.tokens, image.tokens
        value, slopes = jax.value_and_grad(score)(tokens)
        frames, patches = (
            _dependence(x[0, 1:], slope[0, 1:], one.mask[0, 1:])
            for x, slope, one in zip(tokens, slopes, (speech, image), strict=True)
        )
        maps = attention_maps(model, params, speech, image).mean(axis=(0, 2))[0]
        shares = maps[1:, 1:] if model.fusion_spec.query == "speech" else maps[1:, 1:].T
        shares = shares / jnp.maximum(shares.sum(axis=-1, keepdims=True), 1e-12)
        return shares, frames, patches, value, speech.mask[0, 1:]

    return jax.jit(look)


def _dependence(tokens, slopes, mask):
    """Return the size of slope . (token - mean token), [n]; CLS is not among them.

    The slope along the token itself would not do: behind the norm that follows, a token's length
    hardly counts.
    """
    tokens, slopes = tokens.astype(jnp.float32), slopes.astype(jnp.float32)
    counted = mask[:, None]
    mean = jnp.where(counted, tokens, 0).sum(axis=0) / jnp.maximum(counted.sum(), 1)
    return jnp.abs(jnp.where(counted, (tokens - mean) * slopes, 0).sum(axis=-1))


def _placed_windows(wave: np.ndarray, longest: int) -> list[tuple[int, np.ndarray]]:
    """Return the windows of `embed.windows` with the sample that each starts at."""
    cut = windows(wave, longest)
    last = len(wave) - len(cut[-1])
    return [(min(number * longest, last), window) for number, window in enumerate(cut)]


def _shares(values: np.ndarray) -> np.ndarray:
    total = float(values.sum())
    if not total:
        return np.full(values.shape, 1 / values.size, np.float32)
    return (values / total).astype(np.float32)


def _covered(size: tuple[int, int], fit: str) -> tuple[float, float, float, float]:
    """Return the box of a picture that its square input shows."""
    width, height = size
    if fit == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
