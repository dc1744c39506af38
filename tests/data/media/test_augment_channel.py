"""Clipping, codecs and masks: extents, levels, delays; where all is off, nothing is done."""

import dataclasses
import math

import numpy as np
import pytest

from sir_jax.config.augment_fields import EFFECTS, PRESETS, augment_like, preset_values
from sir_jax.config.check import check_config
from sir_jax.config.presets import base_config
from sir_jax.data.media.augment import (
    CODECS,
    AugmentSpec,
    augment_wave,
    augment_with_times,
    clip_peaks,
    mask_bands,
    mask_time,
)
from sir_jax.data.media.augment.mask import draw_bands, draw_stretches
from sir_jax.errors import UserError

RATE = 16_000


def tone(hz: float, samples: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / RATE)).astype(np.float32)


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    powers = [np.square(x.astype(np.float64)).sum() for x in (a, b)]
    return 10 * math.log10(powers[0] / powers[1])


def test_clipping_has_its_ceiling():
    wave = tone(200)
    out = clip_peaks(wave, 6.0)
    assert np.abs(out).max() == pytest.approx(0.5 * 10 ** (-6 / 20), rel=1e-5)
    below = np.abs(wave) < 0.25
    np.testing.assert_array_equal(out[below], wave[below])
    assert clip_peaks(wave, 0.0) is wave and not clip_peaks(wave[:0], 3.0).size


@pytest.mark.parametrize(
    ("kind", "kbps", "least"),
    [("mp3", 16, 20), ("mp3", 64, 20), ("opus", 16, 15), ("mu_law", 128, 35)],
)
def test_a_codec_keeps_a_tone_in_its_place(kind, kbps, least):
    # Swept and swelling, so that any delay would tell.
    time = np.arange(RATE) / RATE
    wave = 0.4 * np.sin(2 * np.pi * (300 + 250 * time) * time) * np.sin(np.pi * time)
    wave = wave.astype(np.float32)
    out = CODECS[kind](wave, kbps)
    assert out.dtype == np.float32 and out.shape == wave.shape
    inner = slice(1_000, -1_000)
    error = out[inner].astype(np.float64) - wave[inner]
    assert decibels(wave[inner], error) > least
    assert not np.array_equal(out, wave)


@pytest.mark.parametrize("kind", sorted(CODECS))
def test_codecs_of_any_length_and_loudness(kind):
    for samples in (0, 1, 700, 2_305):
        out = CODECS[kind](4 * tone(300, samples), 8)
        assert out.shape == (samples,) and np.isfinite(out).all()
    # One step of 16 bits: Opus adds so much noise.
    assert np.abs(CODECS[kind](np.zeros(800, np.float32), 8)).max() <= 2**-15


@pytest.mark.parametrize("samples", [1_151, 1_152, 5_000, 16_000])
@pytest.mark.parametrize("kbps", [8, 24, 40])
def test_mp3_is_aligned_at_any_length(samples, kbps):
    # A burst: the best shift of the result is none.
    wave = np.zeros(samples, np.float32)
    wave[samples // 2 : samples // 2 + 400] = tone(500, 400) * np.hanning(400)
    out = CODECS["mp3"](wave, kbps)
    shifts = np.correlate(out, wave, "full")
    assert int(shifts.argmax()) - (samples - 1) == 0


def test_masked_stretches_have_their_extents():
    wave = tone(200) + 2
    out = mask_time(wave, [(100, 50), (15_900, 100)])
    zero = np.flatnonzero(out == 0)
    assert zero.tolist() == [*range(100, 150), *range(15_900, 16_000)]
    rng, lengths, counts = np.random.default_rng(0), [], set()
    for _ in range(300):
        stretches = draw_stretches(RATE, 3, (0.02, 0.1), rng)
        counts.add(len(stretches))
        lengths += [length for _, length in stretches]
        assert all(0 <= first and first + length <= RATE for first, length in stretches)
    assert counts == {0, 1, 2, 3} and 320 <= min(lengths) < max(lengths) <= 1_600
    # At most a fifth of a short clip.
    assert all(n <= 200 for _, n in draw_stretches(1_000, 9, (0.5, 0.5), rng))


def test_a_masked_band_is_silent_and_the_rest_is_as_it_was():
    inner = slice(2_000, -2_000)
    for hz in (1_050, 1_300, 1_450):
        assert decibels(mask_bands(tone(hz), [(1_000, 1_500)])[inner], tone(hz)[inner]) < -60
    for hz in (300, 850, 1_650, 5_000):
        out = mask_bands(tone(hz), [(1_000, 1_500)])
        assert out.dtype == np.float32
        np.testing.assert_allclose(out[inner], tone(hz)[inner], atol=1e-3)
    two = mask_bands(tone(400) + tone(3_000), [(300, 500), (2_900, 3_100)])
    assert decibels(two[inner], tone(400)[inner]) < -55
    for low, high in (
        band
        for seed in range(99)
        for band in draw_bands(2, (100, 800), np.random.default_rng(seed))
    ):
        assert 0 <= low < high <= 8_000 and high - low <= 800


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_changes_no_draw_of_another(effect):
    # Gain is last, so its draw can be measured; the others are told by what is left without them.
    wave = tone(200, 4_000)
    people = AugmentSpec.preset("people")
    off = dataclasses.replace(people, **dict.fromkeys(EFFECTS, 0.0))
    gain = dataclasses.replace(off, gain=1.0)
    both = dataclasses.replace(gain, **{effect: 1.0})
    if effect == "gain":
        both = dataclasses.replace(gain, tract=1.0)
    without = dataclasses.replace(both, gain=0.0)
    for seed in range(3):
        rng = lambda: np.random.default_rng(seed)  # noqa: B023, E731
        change = decibels(augment_wave(wave, gain, rng()), wave)
        loud, soft = augment_wave(wave, both, rng()), augment_wave(wave, without, rng())
        assert decibels(loud, soft) == pytest.approx(change, abs=1e-3)


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_alone_changes_the_clip(effect):
    wave = tone(200, 4_000)
    off = dataclasses.replace(AugmentSpec.preset("people"), **dict.fromkeys(EFFECTS, 0.0))
    one = dataclasses.replace(off, **{effect: 1.0})
    outs = [augment_wave(wave, one, np.random.default_rng(seed)) for seed in range(4)]
    assert any(len(out) != len(wave) or not np.array_equal(out, wave) for out in outs)
    again = augment_wave(wave, one, np.random.default_rng(3))
    np.testing.assert_array_equal(outs[3], again)
    assert all(np.isfinite(out).all() and out.dtype == np.float32 for out in outs)


def test_where_all_is_off_nothing_is_done():
    wave = tone(200)
    off = dataclasses.replace(AugmentSpec.preset("people"), **dict.fromkeys(EFFECTS, 0.0))
    out, times = augment_with_times(wave, off, np.random.default_rng(0))
    assert out is wave and not off.active
    np.testing.assert_array_equal(times.source_seconds(np.array([0.0, 0.5])), [0.0, 0.5])
    assert AugmentSpec.preset("none") == AugmentSpec()


def test_people_is_what_every_config_takes_by_name():
    c = base_config("tiny", "tiny")
    c.data.augment.image.grey = 0.2
    augment_like(c, "people")
    check_config(c)
    spec = AugmentSpec.from_config(c.data.augment)
    assert spec == AugmentSpec.preset("people") and all(getattr(spec, e) > 0 for e in EFFECTS)
    assert spec.snr == (0.0, 30.0) and spec.before == (0.0, 2.5) and spec.after == (0.0, 1.5)
    assert c.data.augment.image.grey == 0.2
    assert PRESETS["people"].keys() <= preset_values("people").keys()
    augment_like(c, "none")
    assert AugmentSpec.from_config(c.data.augment) == AugmentSpec()
    with pytest.raises(UserError, match="data.augment='poeple' is none of none, people"):
        augment_like(c, "poeple")
