"""Augmentation of waveforms: each effect a pure function, drawn from its own random stream."""

from sir_jax.data.media.augment.apply import augment_wave, augment_with_times
from sir_jax.data.media.augment.channel import change_gain, clip_peaks, code_mu_law, narrow_band
from sir_jax.data.media.augment.codec import CODECS
from sir_jax.data.media.augment.mask import mask_bands, mask_time
from sir_jax.data.media.augment.noise import (
    NOISES,
    add_noise,
    babble_noise,
    fit_length,
    pink_noise,
    white_noise,
)
from sir_jax.data.media.augment.reverb import add_reverb, make_response
from sir_jax.data.media.augment.silence import insert_silence
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.media.augment.timeline import Timeline
from sir_jax.data.media.augment.tract import change_tract
from sir_jax.data.media.augment.voice import change_pitch, change_speed, change_tempo

__all__ = [
    "CODECS",
    "NOISES",
    "AugmentSpec",
    "Timeline",
    "add_noise",
    "add_reverb",
    "augment_wave",
    "augment_with_times",
    "babble_noise",
    "change_gain",
    "change_pitch",
    "change_speed",
    "change_tempo",
    "change_tract",
    "clip_peaks",
    "code_mu_law",
    "fit_length",
    "insert_silence",
    "make_response",
    "mask_bands",
    "mask_time",
    "narrow_band",
    "pink_noise",
    "white_noise",
]
