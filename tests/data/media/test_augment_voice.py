"""Speed, pitch, tempo, tract and silence: what they do to tones, vowels and the map of time."""

import dataclasses
import math

import numpy as np
import pytest

from sir_jax.data.media.augment import (
    AugmentSpec,
    Timeline,
    augment_wave,
    augment_with_times,
    change_pitch,
    change_tempo,
    change_tract,
    insert_silence,
)
from sir_jax.data.media.augment.silence import find_pause, fit_silence
from sir_jax.data.media.augment.tract import warp_axis

RATE = 16_000


def tone(hz: float, samples: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / RATE)).astype(np.float32)


def peak(wave: np.ndarray, low: float = 0.0, high: float = 8_000.0, smooth: float = 0.0) -> float:
    """Return the frequency of the most power in a band, of which `smooth` Hz are averaged."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 17)) ** 2
    hz = np.fft.rfftfreq(1 << 17, 1 / RATE)
    if smooth:
        window = np.hanning(round(smooth / hz[1]))
        power = np.convolve(power, window, "same")
    inside = (hz > low) & (hz < high)
    return float(hz[inside][power[inside].argmax()])


def vowel(formants: tuple[float, ...], pitch: float = 100.0) -> np.ndarray:
    """Return a second of pulses through resonances 100 Hz wide."""
    pulses = np.zeros(RATE)
    pulses[np.arange(0, RATE, RATE / pitch).astype(int)] = 1
    spectrum, z = np.fft.rfft(pulses), np.exp(-2j * np.pi * np.fft.rfftfreq(RATE))
    for hz in formants:
        pole = math.exp(-math.pi * 100 / RATE) * np.exp(2j * np.pi * hz / RATE)
        spectrum /= (1 - pole * z) * (1 - pole.conjugate() * z)
    wave = np.fft.irfft(spectrum)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def period(wave: np.ndarray) -> int:
    """Return the lag of the highest autocorrelation between 4 and 20 ms."""
    middle = wave[6_000:9_000]
    lags = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return 64 + int(lags[64:320].argmax())


@pytest.mark.parametrize("factor", [0.5, 0.8, 0.97, 1.25, 2.0])
def test_tempo_changes_the_length_and_leaves_the_pitch(factor):
    out = change_tempo(tone(440.0), factor)
    assert out.dtype == np.float32 and out.shape == (round(RATE / factor),)
    assert peak(out) == pytest.approx(440, rel=0.01)
    inner = out[1_000:-1_000].astype(np.float64)
    assert math.sqrt(2 * np.square(inner).mean()) == pytest.approx(0.5, rel=0.03)


def test_tempo_keeps_events_in_order_and_within_ten_milliseconds():
    clicks = np.zeros(RATE, np.float32)
    at = np.array([2_000, 5_000, 9_000, 13_000])
    clicks[at] = 1.0
    for factor in (0.8, 1.25):
        out = change_tempo(clicks, factor)
        for place in at / factor:
            near = np.abs(out[int(place) - 170 : int(place) + 170])
            assert near.max() > 0.4
        far = np.ones(len(out), bool)
        for place in at / factor:
            far[int(place) - 500 : int(place) + 500] = False
        assert np.abs(out[far]).max() < 1e-6


def test_tempo_of_tiny_clips_and_of_none():
    for samples in (1, 2, 319, 641):
        for factor in (0.5, 1.1, 2.0):
            out = change_tempo(tone(300, samples), factor)
            assert len(out) == max(1, round(samples / factor)) and np.isfinite(out).all()
    wave = tone(300, 50)
    assert change_tempo(wave, 1.0) is wave and change_pitch(wave, 0.0) is wave
    assert change_tract(wave, 1.0) is wave
    assert not change_tempo(wave[:0], 2.0).size and not change_pitch(wave[:0], 2.0).size


@pytest.mark.parametrize("semitones", [-5.0, -1.0, 2.0, 12.0])
def test_pitch_moves_a_tone_and_leaves_the_length(semitones):
    out = change_pitch(tone(440.0), semitones)
    assert out.dtype == np.float32 and out.shape == (RATE,)
    assert peak(out) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.01)


@pytest.mark.parametrize("factor", [0.85, 0.93, 1.07, 1.15])
def test_tract_moves_formants_and_leaves_pitch_and_energy(factor):
    wave = vowel((700.0, 2_000.0))
    out = change_tract(wave, factor)
    assert out.dtype == np.float32 and out.shape == (RATE,)
    # Only harmonics of 100 Hz sound, so a formant is known to within half of that.
    assert peak(out, 400, 1_200, 250) == pytest.approx(700 * factor, abs=55)
    assert peak(out, 1_400, 3_000, 250) == pytest.approx(2_000 * factor, abs=55)
    assert period(out) == period(wave) == 160
    energies = [np.square(x.astype(np.float64)).sum() for x in (out, wave)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-4)


def test_tract_of_silence_and_of_parts_of_it():
    silent = np.zeros(3_000, np.float32)
    assert change_tract(silent, 1.1) is silent
    half = vowel((600.0,))
    half[4_000:12_000] = 0
    out = change_tract(half, 1.1)
    assert np.isfinite(out).all() and not out[4_600:11_400].any()
    assert np.isfinite(change_tract(half[:3], 1.1)).all()


def test_the_warped_axis_is_linear_below_and_ends_where_it_did():
    for factor in (0.8, 1.0, 1.2):
        low = np.array([0.0, 500.0, 3_900.0])
        np.testing.assert_allclose(warp_axis(low, factor), low * factor)
        axis = warp_axis(np.linspace(0, 8_000, 101), factor)
        assert axis[-1] == 8_000 and (np.diff(axis) > 0).all()


def test_inserted_silence_has_its_length_and_loudness():
    wave, rng = tone(200), np.random.default_rng(0)
    out = insert_silence(wave, 5_000, 8_000, 0.01, rng)
    np.testing.assert_array_equal(out[:5_000], wave[:5_000])
    np.testing.assert_array_equal(out[13_000:], wave[5_000:])
    assert out.dtype == np.float32 and out[5_000:13_000].std() == pytest.approx(0.01, rel=0.05)
    assert not insert_silence(wave, 0, 100, 0.0, rng)[:100].any()
    assert insert_silence(wave, 0, 0, 0.0, rng) is wave


def test_a_pause_goes_where_it_is_quiet():
    wave = tone(300)
    wave[6_400:9_600] *= 0.01
    places = {find_pause(wave, np.random.default_rng(seed)) for seed in range(50)}
    assert len(places) > 3 and all(6_400 <= place < 9_600 for place in places)
    assert find_pause(wave[:10], np.random.default_rng(0)) == 5


def test_silence_shrinks_to_the_room_there_is():
    drawn = np.array([0.3, 0.1, 0.2])
    assert fit_silence(drawn, None).tolist() == [4_800, 1_600, 3_200]
    assert fit_silence(drawn, 9_600).tolist() == [4_800, 1_600, 3_200]
    assert fit_silence(drawn, 960).tolist() == [480, 160, 320]
    assert fit_silence(drawn, -5).tolist() == [0, 0, 0]
    assert fit_silence(0 * drawn, -5).tolist() == [0, 0, 0]


def test_silence_of_a_clip_is_as_drawn():
    wave = tone(200)
    spec = AugmentSpec(silence=1.0, before=(0.5, 0.5), within=(0.1, 0.1), after=(0.2, 0.2))
    digital = augment_wave(wave, dataclasses.replace(spec, digital=1.0), np.random.default_rng(1))
    assert len(digital) == RATE + 8_000 + 1_600 + 3_200
    assert not digital[:8_000].any() and not digital[-3_200:].any()
    noisy = dataclasses.replace(spec, digital=0.0, floor_db=(-40.0, -40.0))
    out = augment_wave(wave, noisy, np.random.default_rng(1))
    floor = 20 * math.log10(out[:8_000].std() / wave.std())
    assert floor == pytest.approx(-40, abs=0.3)
    draws = AugmentSpec(silence=0.25, before=(1.0, 2.0)).draw_silence(
        4_000, np.random.default_rng(0)
    )
    some = draws.any(axis=1)
    assert some.mean() == pytest.approx(0.25, abs=0.03)
    assert draws[some, 0].min() >= 1 and draws[some, 0].mean() == pytest.approx(1.5, abs=0.05)


def test_silence_makes_noise_no_louder():
    wave = tone(200)
    spec = AugmentSpec(silence=1.0, before=(3.0, 3.0), after=(0.0, 0.0), digital=1.0)
    spec = dataclasses.replace(spec, noise=1.0, noise_kinds=("white",), snr=(10.0, 10.0))
    out = augment_wave(wave, spec, np.random.default_rng(0)).astype(np.float64)
    assert 20 * math.log10(wave.std() / out[:48_000].std()) == pytest.approx(10, abs=0.2)


def test_the_map_of_time_by_hand():
    times = Timeline.unchanged(16_000).resized(8_000)  # twice as fast
    times = times.with_silence(8_000, 1_600).with_silence(4_000, 800).with_silence(0, 3_200)
    at = np.array([-0.01, 0.1, 0.2, 0.3, 0.44, 0.46, 0.5, 0.6, 0.74, 0.76, 0.84, 0.9])
    nan = math.nan
    expected = [nan, nan, 0.0, 0.2, 0.48, nan, 0.5, 0.7, 0.98, nan, nan, nan]
    np.testing.assert_allclose(times.source_seconds(at), expected, atol=1e-9)
    cropped = times.cropped(4_000, 5_000)  # from a quarter of a second on
    np.testing.assert_allclose(
        cropped.source_seconds(np.array([0.05, 0.22, 0.26])), [0.2, nan, 0.52], atol=1e-9
    )


def test_the_map_of_time_finds_what_is_heard():
    # Every tenth of a second has a tone of its own.
    hz = 300 + 150 * np.arange(20)
    wave = np.concatenate([tone(f, 1_600) for f in hz])
    spec = AugmentSpec(speed=1.0, factor=(0.8, 0.8), silence=1.0, before=(0.3, 0.3))
    spec = dataclasses.replace(
        spec, tempo=1.0, tempo_factor=(1.3, 1.3), within=(0.2, 0.2), digital=1.0
    )
    out, times = augment_with_times(wave, spec, np.random.default_rng(3))
    heard = 0
    for first in range(0, len(out) - 800, 400):
        middle = (first + 400) / RATE
        source, ends = (
            times.source_seconds(np.array(t)) for t in (middle, [middle - 0.035, middle + 0.035])
        )
        if np.isnan(source) and np.isnan(ends).all():
            assert not out[first : first + 800].any()
        elif not np.isnan(ends).any() and len(set((ends * 10).astype(int))) == 1:
            assert peak(out[first : first + 800]) == pytest.approx(
                0.8 * hz[int(source * 10)], rel=0.05
            )
            heard += 1
    assert heard >= 10
