"""Spectrograms: parity with librosa, and the image of the levels."""

import librosa
import numpy as np
import pytest

from sir_jax.data.media.spectrogram import (
    BANDS,
    HOP,
    RANGE_DB,
    WINDOW,
    colour,
    log_mel,
    mel_filters,
)


def tone(hertz, samples=16_000):
    return np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000).astype(np.float32)


def test_filters_are_librosas():
    expected = librosa.filters.mel(
        sr=16_000, n_fft=WINDOW, n_mels=BANDS, fmin=0, fmax=8_000, htk=True, norm=None
    )
    np.testing.assert_allclose(mel_filters(), expected, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 399, 400, 401, 7_777])
def test_levels_are_librosas(samples):
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    padded = np.pad(wave.astype(np.float64), (0, WINDOW))
    power = librosa.feature.melspectrogram(
        y=padded,
        sr=16_000,
        n_fft=WINDOW,
        hop_length=HOP,
        n_mels=BANDS,
        fmin=0,
        fmax=8_000,
        htk=True,
        norm=None,
        pad_mode="constant",
    )[:, : -(-samples // HOP)]
    expected = np.maximum(10 * np.log10(power / power.max()), -RANGE_DB)
    levels = log_mel(wave)
    assert levels.shape == (-(-samples // HOP), BANDS) and levels.dtype == np.float32
    np.testing.assert_allclose(levels, expected.T, atol=2e-4)


def test_a_tone_peaks_in_its_band():
    # 8 kHz are 2840.0 mel, so the 64 centres are 2840 / 65 = 43.69 mel apart. The nearest to 1 kHz
    # (1000 mel) is the 23rd; the nearest to 4 kHz (2146 mel) is the 49th.
    assert (log_mel(tone(1_000))[5:-5].argmax(1) == 22).all()
    assert (log_mel(tone(4_000))[5:-5].argmax(1) == 48).all()


def test_the_loudest_is_0_whatever_the_gain_and_silence_is_the_floor():
    levels = log_mel(tone(440))
    assert levels.max() == 0 and levels.min() >= -RANGE_DB
    np.testing.assert_allclose(log_mel(tone(440) * 1e-3), levels, atol=1e-3)
    assert (log_mel(np.zeros(500, np.float32)) == -RANGE_DB).all()
    assert log_mel(np.zeros(0, np.float32)).shape == (1, BANDS)


def test_pitch_goes_up_and_time_goes_right():
    levels = np.full((3, 2), -RANGE_DB, np.float32)
    levels[2, 1] = 0.0
    levels[0, 0] = -RANGE_DB / 2
    pixels = np.asarray(colour(levels), int).sum(-1)
    assert pixels.shape == (2, 3)
    assert pixels.argmax() == 2  # top right
    assert pixels[1, 0] > pixels[1, 1] == pixels[0, 0]
