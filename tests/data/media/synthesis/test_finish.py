"""What every engine's sound goes through."""

import io

import numpy as np
import pytest
import soundfile

from sir_jax.data.media.synthesis import SAMPLE_RATE, encode_flac, finish


def test_silence_is_trimmed_and_the_tone_kept():
    rate = 22_050
    tone = (9000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.int16)
    silence = np.zeros(rate, np.int16)
    wave = finish(np.concatenate([silence, tone, silence]), rate)
    assert len(wave) == pytest.approx(1.12 * SAMPLE_RATE, abs=20)
    middle = wave[3000:-3000] / 32767
    # The peak of a sine whose RMS over the tone and its margins is 0.1.
    assert np.abs(middle).max() == pytest.approx(0.1 * np.sqrt(2 * 1.12), rel=0.01)
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() * SAMPLE_RATE / len(middle) == pytest.approx(440, abs=2)


def test_loud_peak_is_kept_below_full_scale():
    sparse = np.zeros(8000, np.int16)
    sparse[::1000] = 32_000
    assert np.abs(finish(sparse, SAMPLE_RATE)).max() == pytest.approx(0.89 * 32_767, abs=1)


def test_flac_keeps_every_sample():
    wave = np.random.default_rng(0).integers(-32_768, 32_768, 5000).astype(np.int16)
    back, rate = soundfile.read(io.BytesIO(encode_flac(wave)), dtype="int16")
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(back, wave)
