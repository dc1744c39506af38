"""Outlines of recordings: their values, and that each is computed once."""

import asyncio
import os

import numpy as np
import pytest

from sir_jax.errors import BadMedia
from sir_jax.page.item_files import ItemFiles, Missing, Outlines
from sir_jax.page.outline import PEAKS, STEP, outline_of, peaks


def test_an_outline_is_the_same_however_the_sound_comes():
    wave = np.random.default_rng(0).uniform(-1, 1, 3 * PEAKS * STEP + 123).astype(np.float32)
    seconds, *tops = outline_of([wave])
    assert seconds == pytest.approx(len(wave) / 16_000) and len(tops) == PEAKS
    cuts = [0, 1, 700, 701, 90_000, 90_000, len(wave)]
    pieces = [wave[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    assert outline_of(pieces).tolist() == [seconds, *tops]


def test_an_outline_shows_where_it_is_loud():
    wave = np.zeros(100 * PEAKS * STEP, np.float32)
    wave[len(wave) // 4] = -0.5
    _, *tops = outline_of(wave.reshape(100, -1))
    assert np.flatnonzero(tops).tolist() == [PEAKS // 4] and max(tops) == 0.5
    assert outline_of([]).tolist() == [0]


def test_peaks_of_short_waves():
    assert peaks(np.zeros(0, np.float32)) == []
    assert peaks(np.array([0.25, -0.5], np.float32)) == [0.25, 0.5]


@pytest.fixture
def talk(tmp_path):
    """Return a file that passes for a recording."""
    path = tmp_path / "talk.wav"
    path.write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(99))
    return path


def outlines(talk, compute):
    return Outlines(
        ItemFiles(talk.parent, {"talk.wav"}, lambda name: talk.parent / name, "recording"), compute
    )


def test_an_outline_is_computed_once_until_its_file_changes(talk):
    computed = []

    async def compute(item, path):
        computed.append((item, path))
        await asyncio.sleep(0)
        return np.array([2.5, 0.123456, 1], np.float32)

    async def work():
        kept = outlines(talk, compute)
        both = await asyncio.gather(kept.of("talk.wav"), kept.of("talk.wav"))
        assert both == [{"seconds": 2.5, "peaks": [0.1235, 1.0]}] * 2
        assert computed == [("talk.wav", talk)]
        await kept.of("talk.wav")
        assert len(computed) == 1
        os.utime(talk, ns=(1, 1))
        await kept.of("talk.wav")
        assert len(computed) == 2
        with pytest.raises(Missing, match="holds no recording 'other.wav'"):
            await kept.of("other.wav")

    asyncio.run(work())


def test_who_leaves_does_not_end_an_outline_and_a_failure_is_not_kept(talk):
    go, failures = asyncio.Event(), [BadMedia("talk.wav: damaged", "truncated")]

    async def compute(item, path):
        await go.wait()
        if failures:
            raise failures.pop()
        return np.array([1, 0.5], np.float32)

    async def work():
        kept = outlines(talk, compute)
        leaving = asyncio.create_task(kept.of("talk.wav"))
        staying = asyncio.create_task(kept.of("talk.wav"))
        await asyncio.sleep(0.05)
        leaving.cancel()
        go.set()
        with pytest.raises(BadMedia, match="damaged"):
            await staying
        assert await kept.of("talk.wav") == {"seconds": 1, "peaks": [0.5]}

    asyncio.run(work())
