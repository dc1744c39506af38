"""Where the fusion encoder looks: which patches it attends to during which part of the speech."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sir_jax.data.media.audio import SAMPLE_RATE, as_encoded, longest_window, trimmed_part
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.errors import UserError
from sir_jax.inference.embed import cut_windows
from sir_jax.losses.matching import match_score
from sir_jax.models import attention_maps


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention of the fusion encoder for one recording and one picture.

    Attributes:
      weights: float32[T, rows, cols], the share of each patch in each speech frame; the shares of
        a frame sum to 1. They are cross-attention weights, averaged over heads and layers; of late
        interaction the patch that is most like the frame has all of it.
      by_frame: float32[T], how much the score depends on each frame, scaled to sum to 1. Before
        scaling it is the change of the score, to first order, if the frame's token is replaced by
        the mean token.
      by_patch: float32[rows, cols], how much the score depends on each patch, measured and scaled
        as `by_frame`.
      score: log-odds that the pair matches.
      frame_seconds: length of a frame; frame t starts at t * frame_seconds.
      seconds: length of the recording.
      box: left, top, right and bottom, in pixels, of the part of the picture that the patches
        cover.
    """

    weights: np.ndarray
    by_frame: np.ndarray
    by_patch: np.ndarray
    score: float
    frame_seconds: float
    seconds: float
    box: tuple[float, float, float, float]

    def during(self, start: float, end: float) -> np.ndarray:
        """Average the patches' shares over an interval of the recording.

        Args:
          start: seconds from the beginning of the recording.
          end: seconds from the beginning of the recording. The frame that contains `start` is
            always included.

        Returns:
          float32[rows, cols], summing to 1; each frame is weighted by its share in `by_frame`.
        """
        last = len(self.by_frame) - 1
        first = min(max(int(start / self.frame_seconds), 0), last)
        stop = min(max(math.ceil(end / self.frame_seconds), first + 1), last + 1)
        share = self.by_frame[first:stop] + np.float32(1e-12)
        return np.einsum("t,tij->ij", share / share.sum(), self.weights[first:stop])


def attend_pair(model, params, data_cfg, wave: np.ndarray, picture: Image.Image) -> Attention:
    """Compute the attention of one pair.

    Args:
      model: the joint model, with the task 'match'.
      params: the model's parameters.
      data_cfg: `config.data`.
      wave: float32[N] at 16 kHz. A clip longer than the longest bucket is processed window by
        window; where two windows overlap, the later one counts.
      picture: an RGB picture.

    Raises:
      UserError: the model's image tokens are not patches.
    """
    if not model.image_has_cls:
        raise UserError("a Q-Former's queries have no place in the picture: no map can be drawn")
    buckets, longest = tuple(data_cfg.buckets), longest_window(data_cfg)
    spec = ImageSpec.from_config(data_cfg)
    pixels = preprocess_image(picture, spec)[None]
    hop = math.prod(model.speech_spec.conv_stride)
    total = max(1, -(-max(len(wave), 1) // hop))
    patches = (spec.size // model.image_spec.patch) ** 2
    weights = np.full((total, patches), 1 / patches, np.float32)
    by_frame = np.zeros(total, np.float32)
    by_patch, scores = np.zeros(patches, np.float64), []
    for start, window in _windows_with_starts(np.asarray(wave, np.float32), longest):
        start += trimmed_part(window, data_cfg.trim_silence)[0]
        window = as_encoded(window, data_cfg)
        bucket = next(b for b in buckets if b >= len(window))
        padded = np.zeros((1, bucket), np.float32)
        padded[0, : len(window)] = window
        attend = _jit_attend(model)
        window_results = attend(params, padded, np.array([len(window)], np.int32), pixels)
        shares, frames, image, score, mask = jax.device_get(window_results)
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
        by_frame=_normalize(by_frame),
        by_patch=_normalize(by_patch).reshape(side, side),
        score=float(np.mean(scores)),
        frame_seconds=hop / SAMPLE_RATE,
        seconds=len(wave) / SAMPLE_RATE,
        box=_visible_box(picture.size, spec.fit),
    )


@functools.lru_cache(maxsize=8)
def _jit_attend(model) -> Callable:
    """Compile the attention of one window.

    Returns:
      A function of (params, wave [1, N], lengths [1], pixels [1, h, w, 3]) that gives the patches'
      shares in each frame [T, P], the dependence on each frame [T] and on each patch [P], the
      score, and the mask of the valid frames [T].
    """

    def attend(params, wave, lengths, pixels):
        speech, image = (
            model.apply({"params": params}, *inputs, deterministic=True, method=method)
            for method, inputs in (
                ("encode_speech", (wave, lengths)),
                ("encode_image", (pixels,)),
            )
        )

        speech = speech._replace(tokens=model.matched(speech), frames=None)

        def score(tokens):
            pair = speech._replace(tokens=tokens[0]), image._replace(tokens=tokens[1])
            return match_score(model.apply({"params": params}, *pair, method="match"))[0]

        tokens = speech.tokens, image.tokens
        value, slopes = jax.value_and_grad(score)(tokens)
        frames, patches = (
            _dependence(x[0, 1:], slope[0, 1:], one.mask[0, 1:])
            for x, slope, one in zip(tokens, slopes, (speech, image), strict=True)
        )
        shares = _shares(model, params, speech, image)
        return shares, frames, patches, value, speech.mask[0, 1:]

    return jax.jit(attend)


def _shares(model, params, speech, image):
    """Return each patch's share in each frame of one pair, [T, P]; CLS is in neither."""
    if model.is_late:
        cosines = model.apply({"params": params}, speech, image, method="cosines")[0, :, 1:]
        return jax.nn.one_hot(cosines.argmax(axis=-1), cosines.shape[-1])
    maps = attention_maps(model, params, speech, image).mean(axis=(0, 2))[0]
    shares = maps[1:, 1:] if model.fusion_spec.query == "speech" else maps[1:, 1:].T
    return shares / jnp.maximum(shares.sum(axis=-1, keepdims=True), 1e-12)


def _dependence(tokens, slopes, mask):
    """Return |slope . (token - mean token)| for each token, [n]; CLS is not among them.

    Not |slope . token|: a norm layer follows, so that a token's length hardly changes the score.
    """
    tokens, slopes = tokens.astype(jnp.float32), slopes.astype(jnp.float32)
    counted = mask[:, None]
    mean = jnp.where(counted, tokens, 0).sum(axis=0) / jnp.maximum(counted.sum(), 1)
    return jnp.abs(jnp.where(counted, (tokens - mean) * slopes, 0).sum(axis=-1))


def _windows_with_starts(wave: np.ndarray, longest: int) -> list[tuple[int, np.ndarray]]:
    """Return (first sample, window) for each window of `cut_windows`."""
    windows = cut_windows(wave, longest)
    last = len(wave) - len(windows[-1])
    return [(min(number * longest, last), window) for number, window in enumerate(windows)]


def _normalize(values: np.ndarray) -> np.ndarray:
    """Scale values to sum to 1; equal shares if all are 0."""
    total = float(values.sum())
    if not total:
        return np.full(values.shape, 1 / values.size, np.float32)
    return (values / total).astype(np.float32)


def _visible_box(size: tuple[int, int], fit: str) -> tuple[float, float, float, float]:
    """Return the box of the picture that the encoder's square input shows."""
    width, height = size
    if fit == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
