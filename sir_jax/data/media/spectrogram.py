"""Log-mel spectrograms for display, and their colours."""

import functools

import numpy as np
from PIL import Image

from sir_jax.data.media.audio import SAMPLE_RATE

WINDOW, HOP = 400, 160  # in samples: windows of 25 ms every 10 ms
BANDS = 64  # mel bands
RANGE_DB = 70.0  # levels further below a clip's peak are drawn as silence

# Dark to bright; the lightness rises evenly, so that the image is readable in grey, too.
_COLOURS = (
    (8, 6, 20),
    (59, 15, 92),
    (133, 32, 107),
    (207, 68, 70),
    (247, 144, 30),
    (252, 240, 166),
)


def hertz_to_mel(hertz):
    """Convert hertz to mels by the HTK formula, 2595 log10(1 + f / 700)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz, np.float64) / 700.0)


def mel_to_hertz(mel):
    """Convert mels to hertz, the inverse of `hertz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel, np.float64) / 2595.0) - 1.0)


@functools.cache
def mel_filters(bands: int = BANDS) -> np.ndarray:
    """Return triangular filters of height 1, evenly spaced in mels from 0 Hz to 8 kHz.

    Args:
      bands: number of filters.

    Returns:
      float64 [bands, WINDOW // 2 + 1].
    """
    nyquist = SAMPLE_RATE / 2
    edges = mel_to_hertz(np.linspace(0.0, hertz_to_mel(nyquist), bands + 2))
    bins = np.linspace(0.0, nyquist, WINDOW // 2 + 1)
    low, centre, high = (edges[i : i + bands, None] for i in range(3))
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def log_mel(wave: np.ndarray, bands: int = BANDS) -> np.ndarray:
    """Return the power in mel bands, in dB relative to the clip's loudest band.

    Args:
      wave: [N] at 16 kHz.
      bands: number of mel bands.

    Returns:
      float32 [T, bands] in [-RANGE_DB, 0], with T = ceil(N / HOP) frames but at least one. All
      values are -RANGE_DB for silence.
    """
    frames = max(1, -(-len(wave) // HOP))
    padded = np.zeros((frames - 1) * HOP + WINDOW)
    # Windows are centred: the first one is centred on the clip's first sample.
    keep = min(len(wave), len(padded) - WINDOW // 2)
    padded[WINDOW // 2 : WINDOW // 2 + keep] = wave[:keep]
    views = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(views * hann)) ** 2 @ mel_filters(bands).T
    peak = power.max()
    if peak <= 0:
        return np.full(power.shape, -RANGE_DB, np.float32)
    floor = 10 ** (-RANGE_DB / 10)
    return (10 * np.log10(np.maximum(power / peak, floor))).astype(np.float32)


def colour(levels: np.ndarray) -> Image.Image:
    """Draw a log-mel spectrogram with time to the right and frequency upwards.

    Args:
      levels: [T, bands] in dB, from `log_mel`.

    Returns:
      An RGB image of width T and height `bands`.
    """
    share = 1.0 + levels.T[::-1] / RANGE_DB
    stops = np.linspace(0.0, 1.0, len(_COLOURS))
    channels = [np.interp(share, stops, column) for column in zip(*_COLOURS, strict=True)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
