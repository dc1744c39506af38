"""Phrases of a stream: each between two pauses, however the stream is cut."""

import numpy as np
import pytest

from sir_jax.data.media.audio import SAMPLE_RATE
from sir_jax.index.moments.phrases import Phrases

# In seconds: when something is said in `talk`, and which phrases that makes.
SAID = [(1.0, 1.8), (2.1, 2.9), (4.5, 5.2), (8.0, 13.0), (14.0, 14.6)]
FOUND = [(1.0, 1.8), (2.1, 2.9), (1.0, 2.9), (4.5, 5.2), (14.0, 14.6)]


@pytest.fixture(scope="module")
def talk():
    """Return 15 s of a buzz like a voice's, with pauses of faint noise."""
    time = np.arange(15 * SAMPLE_RATE) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 120 * n * time) / n for n in range(1, 30))
    wave = 1e-4 * np.random.default_rng(0).normal(size=len(time))
    for start, end in SAID:
        wave += np.where((time >= start) & (time < end), 0.2 * voice, 0)
    return wave.astype(np.float32)


def heard(wave, block, seconds=4.0):
    """Return the phrases of a wave that comes in blocks."""
    phrases = Phrases(round(seconds * SAMPLE_RATE))
    cuts = (wave[n : n + block] for n in range(0, len(wave), block))
    return [found for cut in cuts for found in phrases.hear(cut)] + phrases.end()


def test_phrases_lie_between_pauses(talk):
    found = heard(talk, SAMPLE_RATE)
    spans = sorted((start / SAMPLE_RATE, (start + len(w)) / SAMPLE_RATE) for start, w in found)
    # What goes on for longer than 4 s is left out; two that are 0.3 s apart are found as one, too.
    # The margin is 0.12 s, and the detector ends a voice a tenth of a second late at most.
    assert len(spans) == len(FOUND)
    for (start, end), (begun, ended) in zip(spans, sorted(FOUND), strict=True):
        assert begun - 0.18 <= start <= begun and ended <= end <= ended + 0.3
    for start, samples in found:
        np.testing.assert_array_equal(samples, talk[start : start + len(samples)])


@pytest.mark.parametrize("block", [37, 480, 10_000, 10**6])
def test_phrases_are_the_same_however_the_stream_is_cut(talk, block):
    short, whole = heard(talk[:80_000], block), heard(talk[:80_000], 80_000)
    assert [start for start, _ in short] == [start for start, _ in whole]
    for (_, one), (_, other) in zip(short, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_held_is_bounded(talk):
    phrases = Phrases(2 * SAMPLE_RATE)
    for n in range(0, len(talk), 4_000):
        phrases.hear(talk[n : n + 4_000])
        assert len(phrases._held) <= 2 * SAMPLE_RATE + 4_000 + 10 * 480


def test_silence_has_no_phrase():
    assert heard(np.zeros(48_000, np.float32), 1_000) == []
    assert heard(np.zeros(0, np.float32), 1_000) == []
