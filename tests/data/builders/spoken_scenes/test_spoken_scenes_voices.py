"""The voice table, and the synthesised speech of its voices."""

import numpy as np
import pytest

from sir_jax.data.builders.spoken_scenes.config import SPLITS
from sir_jax.data.builders.spoken_scenes.voices import (
    MIN_VOICES,
    VOICES,
    other_voices,
    voices_of,
)
from sir_jax.data.media.synthesis import SAMPLE_RATE, espeak
from sir_jax.data.media.synthesis.espeak_voices import ACCENTS, VARIANTS

TEXT = "a small orange star at the top left on a dotted background"


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


def test_voices_of_other_engines():
    engines = ["espeak", "flite", "piper"]
    assert [v.name for v in other_voices(engines, "train")] == ["kal16", "slt", "rms", "kal"]
    assert [v.name for v in other_voices(engines, "test")] == ["awb", "en_US-joe-medium"]
    assert other_voices(engines, "val") == other_voices(["espeak"], "test") == ()


def test_every_voice_speaks_clearly_and_unclipped():
    for voice in VOICES:
        wave = espeak().speak(TEXT, voice.name, voice.rate, voice.pitch)
        assert wave.dtype == np.int16
        assert 2.0 < len(wave) / SAMPLE_RATE < 4.5, voice.name
        full = wave / 32768
        assert np.abs(full).max() <= 0.9, voice.name
        assert 0.03 < np.sqrt(np.mean(full**2)) <= 0.101, voice.name
        heard = np.flatnonzero(np.abs(full) > 0.02 * np.abs(full).max()) / SAMPLE_RATE
        assert heard[0] < 0.12 and len(wave) / SAMPLE_RATE - heard[-1] < 0.15, voice.name
