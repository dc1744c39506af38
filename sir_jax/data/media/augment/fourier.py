"""Convolution and energies that do not depend on how many threads there are."""

import functools

import numpy as np


def energy(x: np.ndarray) -> float:
    """Return the sum of squares."""
    # Not `x @ x`: BLAS would use all its threads, and their number would change the sum's rounding.
    return float(np.square(x, dtype=np.float64).sum())


def convolve(wave: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the full convolution, float64 [N + M - 1]."""
    # NumPy would transform float32 in float32: less exact by two digits, and hardly faster.
    wave, kernel = wave.astype(np.float64), kernel.astype(np.float64)
    m, n = len(kernel), len(wave) + len(kernel) - 1
    # With a short kernel the wave is convolved in blocks (overlap-add); with a long one at once.
    size = 1 << (4 * m - 1).bit_length()
    step = size - m + 1
    count = -(-len(wave) // step)
    if count < 3:
        size, step, count = fft_size(n), len(wave), 1
    blocks = np.zeros((count, step))
    blocks.ravel()[: len(wave)] = wave
    blocks = np.fft.irfft(np.fft.rfft(blocks, size) * np.fft.rfft(kernel, size), size)
    if count == 1:
        return blocks[0, :n]
    out = np.zeros((count + 1, step))
    out[:-1] = blocks[:, :step]
    out[1:, : m - 1] += blocks[:, step:]
    return out.ravel()[:n]


@functools.lru_cache(maxsize=4096)
def fft_size(least: int) -> int:
    """Return the smallest number that is at least `least` and has no prime factor above 5."""
    best, fives = 1 << (least - 1).bit_length(), 1
    while fives < best:
        odd = fives
        while odd < best:
            best = min(best, odd << max(0, (-(-least // odd) - 1).bit_length()))
            odd *= 3
        fives *= 5
    return best
