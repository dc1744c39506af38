"""The voice table, and the synthesised speech of its voices."""

import io

import numpy as np
import pytest
import soundfile

from sir_jax.data.builders.spoken_scenes.config import SPLITS
from sir_jax.data.builders.spoken_scenes.voices import (
    ACCENTS,
    MIN_VOICES,
    VARIANTS,
    VOICES,
    voices_of,
)
from sir_jax.data.media.synthesis import SAMPLE_RATE, Synthesiser, _finish, encode_flac
from sir_jax.errors import UserError

TEXT = "a small orange star at the top left on a dotted background"


@pytest.fixture(scope="module")
def synthesiser():
    return Synthesiser()


def fundamental(wave):
    """Return the median pitch in Hz of the loud frames, by autocorrelation."""
    pitches = []
    for start in range(0, len(wave) - 800, 400):
        frame = wave[start : start + 800].astype(np.float64)
        if np.sqrt(np.mean(frame**2)) < 2000:
            continue
        frame = frame - frame.mean()
        auto = np.correlate(frame, frame, "full")[799:]
        lag = 40 + auto[40:320].argmax()
        if auto[lag] > 0.5 * auto[0]:
            pitches.append(SAMPLE_RATE / lag)
    return float(np.median(pitches))


def test_voices_are_many_distinct_and_kept_apart():
    assert len({voice.name for voice in VOICES}) == len(VOICES) == 144
    assert len({v for variants in VARIANTS.values() for v in variants}) == 41 + 7 + 14
    for voice in VOICES:
        accent, variant = voice.name.split("+")
        assert accent == voice.accent in ACCENTS
        assert variant in VARIANTS[voice.split]
        assert 150 <= voice.rate <= 200 and 40 <= voice.pitch <= 60


def test_unclear_combinations_are_not_in_the_table():
    unclear = {"en-us-nyc+linda", "en-gb-x-gbclan+Mario", "en-gb-x-gbcwmd+RicishayMax"}
    assert not unclear & {voice.name for voice in VOICES}


def test_sixty_four_voices_by_split():
    assert [len(voices_of(split, 64)) for split in SPLITS] == [43, 7, 14]


@pytest.mark.parametrize("count", [MIN_VOICES, 20, 64, 144])
def test_every_accent_occurs_in_train_and_no_split_is_empty(count):
    assert {voice.accent for voice in voices_of("train", count)} == set(ACCENTS)
    assert sum(len(voices_of(split, count)) for split in SPLITS) == count
    assert all(voices_of(split, count) for split in SPLITS)


def test_every_voice_speaks_clearly_and_unclipped(synthesiser):
    for voice in VOICES:
        wave = synthesiser.speak(TEXT, voice.name, voice.rate, voice.pitch)
        assert wave.dtype == np.int16
        assert 2.0 < len(wave) / SAMPLE_RATE < 4.5, voice.name
        full = wave / 32768
        assert np.abs(full).max() <= 0.9, voice.name
        assert 0.03 < np.sqrt(np.mean(full**2)) <= 0.101, voice.name
        heard = np.flatnonzero(np.abs(full) > 0.02 * np.abs(full).max()) / SAMPLE_RATE
        assert heard[0] < 0.12 and len(wave) / SAMPLE_RATE - heard[-1] < 0.15, voice.name


def test_rate_and_pitch_are_heard(synthesiser):
    slow = synthesiser.speak(TEXT, "en-us+m2", 150, 50)
    fast = synthesiser.speak(TEXT, "en-us+m2", 200, 50)
    assert 1.2 < len(slow) / len(fast) < 1.5
    low = synthesiser.speak(TEXT, "en-us+m2", 170, 30)
    high = synthesiser.speak(TEXT, "en-us+m2", 170, 70)
    assert fundamental(high) > 1.15 * fundamental(low)
    assert fundamental(synthesiser.speak(TEXT, "en-us+f2", 170, 50)) > 150
    assert 70 < fundamental(low) < 130


def test_unknown_voice_is_refused(synthesiser):
    with pytest.raises(RuntimeError, match="no voice 'xx"):
        synthesiser.speak(TEXT, "xx+nobody", 170, 50)


def test_silence_is_trimmed_and_the_tone_kept():
    rate = 22_050
    tone = (9000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.int16)
    silence = np.zeros(rate, np.int16)
    wave = _finish(np.concatenate([silence, tone, silence]), rate)
    assert len(wave) == pytest.approx(1.12 * SAMPLE_RATE, abs=20)
    middle = wave[3000:-3000] / 32767
    # The peak of a sine whose RMS over the tone and its margins is 0.1.
    assert np.abs(middle).max() == pytest.approx(0.1 * np.sqrt(2 * 1.12), rel=0.01)
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() * SAMPLE_RATE / len(middle) == pytest.approx(440, abs=2)


def test_loud_peak_is_kept_below_full_scale():
    sparse = np.zeros(8000, np.int16)
    sparse[::1000] = 32_000
    assert np.abs(_finish(sparse, SAMPLE_RATE)).max() == pytest.approx(0.89 * 32_767, abs=1)


def test_flac_keeps_every_sample():
    wave = np.random.default_rng(0).integers(-32_768, 32_768, 5000).astype(np.int16)
    back, rate = soundfile.read(io.BytesIO(encode_flac(wave)), dtype="int16")
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(back, wave)


def test_missing_synthesiser_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install 'sir_jax\[synth\]'"):
        Synthesiser()
