"""The pitch of speech."""

import numpy as np


def fundamental(wave):
    """Return the median pitch in Hz of the loud frames of int16 [N], 16 kHz, by autocorrelation."""
    pitches = []
    for start in range(0, len(wave) - 800, 400):
        frame = wave[start : start + 800].astype(np.float64)
        if np.sqrt(np.mean(frame**2)) < 2000:
            continue
        frame = frame - frame.mean()
        auto = np.correlate(frame, frame, "full")[799:]
        lag = 40 + auto[40:320].argmax()
        if auto[lag] > 0.5 * auto[0]:
            pitches.append(16_000 / lag)
    return float(np.median(pitches))
