"""The objective of the small speech encoder: spell what it hears, hear it as its teacher does.

Both are read off the same tokens: CTC (Graves et al. 2006) over phones, and the teacher's frames
of the clean clip, of which the encoder hears an augmented copy (as DistilHuBERT learns, Chang et
al. 2021).
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sir_jax.config.specs import HubertSpec
from sir_jax.data.media.audio import normalize_waveform
from sir_jax.data.pipeline import read_clip
from sir_jax.models.hubert import Hubert
from sir_jax.training.pretraining.clips import Source
from sir_jax.training.pretraining.phones import Alphabet, edit_distance, greedy_decode
from sir_jax.training.pretraining.teacher import WIDTH


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each of the teacher's numbers, float32 [96]."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray) -> "Scale":
        """Measure frames [F, 96]."""
        frames = frames.astype(np.float32)
        return cls(frames.mean(0), frames.std(0) + 1e-3)


def init_speech(spec: HubertSpec, phones: int, seed: int) -> dict:
    """Return random parameters of an encoder and its two heads."""
    encoder, spelling, teacher = jax.random.split(jax.random.key(seed), 3)
    wave = jnp.zeros((1, spec.min_samples))
    lengths = jnp.full((1,), spec.min_samples)
    draw = 0.02 * jax.random.normal(spelling, (spec.width, 1 + phones))
    return {
        "encoder": jax.jit(Hubert(spec).init)(encoder, wave, lengths)["params"],
        "phones": {"kernel": draw, "bias": jnp.zeros(1 + phones)},
        "teacher": {
            "kernel": 0.02 * jax.random.normal(teacher, (spec.width, WIDTH)),
            "bias": jnp.zeros(WIDTH),
        },
    }


def speech_loss(params, batch, rng, *, module: Hubert, scale: Scale, teacher_weight: float):
    """Return the loss: CTC a phone, and `teacher_weight` times the error of the teacher's frames.

    Args:
      params: from `init_speech`.
      batch: wave [B, N], lengths [B], frames [B, T, 96], heard [B, T], phones and no_phone [B, L];
        no_phone is 1 where there is no phone.
      rng: of dropout; None for none.
      module: the encoder.
      scale: of the teacher's frames, whose error is in standard deviations, squared.
      teacher_weight: of the second term.

    Returns:
      The loss, and both terms by name.
    """
    rngs = None if rng is None else {"dropout": rng}
    variables = {"params": params["encoder"]}
    out = module.apply(variables, batch["wave"], batch["lengths"], rng is None, rngs=rngs)
    logits = _linear(out.tokens, params["phones"])
    padding = 1.0 - out.mask.astype(jnp.float32)
    each = optax.ctc_loss(logits, padding, batch["phones"], batch["no_phone"])
    phones = (1.0 - batch["no_phone"]).sum(axis=-1)
    # Without a text there is nothing to spell: CTC alone would teach silence.
    spelling = jnp.where(phones > 0, each, 0.0).sum() / jnp.maximum(1.0, phones.sum())
    wanted = (batch["frames"] - scale.mean) / scale.std
    error = jnp.square(_linear(out.tokens, params["teacher"]) - wanted).mean(axis=-1)
    heard = (batch["heard"] & out.mask).astype(jnp.float32)
    hearing = (error * heard).sum() / jnp.maximum(1.0, heard.sum())
    terms = {"ctc": spelling, "teacher": hearing}
    return spelling + teacher_weight * hearing, terms


def _linear(x, params):
    return x @ params["kernel"] + params["bias"]


def phone_errors(params, module: Hubert, source: Source, alphabet: Alphabet, most: int) -> dict:
    """Count the phone errors of a split, by group, at most `most` clips of each.

    Returns:
      For each group (errors, phones, clips).
    """

    @jax.jit
    def classes(wave, length):
        out = module.apply({"params": params["encoder"]}, wave, length)
        return jnp.where(out.mask, _linear(out.tokens, params["phones"]).argmax(-1), 0)

    counts: dict[str, np.ndarray] = {}
    for clip, group in _spaced(source.targets.groups, most):
        wanted = alphabet.numbers(source.targets.phones[clip])
        if not len(wanted):
            continue
        entry = source.split.index[clip]
        wave = normalize_waveform(read_clip(source.split, source.split[int(entry["row"])], entry))
        # A few shapes only, each of which is compiled.
        padded = np.zeros((1, -(-len(wave) // 32_000) * 32_000), np.float32)
        padded[0, : len(wave)] = wave
        said = greedy_decode(np.asarray(classes(padded, np.array([len(wave)])))[0])
        found = np.array([edit_distance(said, wanted), len(wanted), 1])
        counts[group] = counts.get(group, 0) + found
    return {group: tuple(map(int, found)) for group, found in sorted(counts.items())}


def _spaced(groups: tuple[str, ...], most: int) -> Iterator[tuple[int, str]]:
    """Yield at most `most` clips of each group, evenly spaced."""
    for group in sorted(set(groups)):
        clips = np.flatnonzero(np.array(groups) == group)
        for clip in clips[np.unique(np.linspace(0, len(clips) - 1, most).astype(int))]:
            yield int(clip), group
