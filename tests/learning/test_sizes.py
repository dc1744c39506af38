"""Sizes follow the amount of data and the machine, and their reasons say how."""

import numpy as np
import pytest

from sir_jax.config.presets import small_pair
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.learning import sizes
from sir_jax.learning.report import result_line, search_commands


@pytest.mark.parametrize(
    ("captions", "voices"),
    [(1, 16), (1_000, 16), (1_500, 16), (3_000, 8), (40_000, 2)],
)
def test_few_captions_are_said_by_many_voices(captions, voices):
    choice = sizes.choose_voices(captions)
    assert choice.value == voices
    assert f"make {captions * voices:,} recordings" in choice.why


@pytest.mark.parametrize(
    ("pictures", "batch"), [(2, 2), (7, 7), (10, 8), (127, 120), (128, 128), (5_000, 128)]
)
def test_a_step_has_no_more_pairs_than_there_are_pictures(pictures, batch):
    assert sizes.choose_batch(pictures).value == batch


@pytest.mark.parametrize(
    ("pictures", "batch", "step", "minutes", "steps", "why"),
    [
        (10, 8, 0.2, 20.0, 800, "each picture is seen 640 times"),
        (2, 2, 0.1, 20.0, 640, "each picture is seen 640 times"),
        (500, 64, 0.2, 20.0, 5_000, "each picture is seen 640 times"),
        (1_000, 64, 1.2, 20.0, 1_000, "20 min at 1.20 s a step, in which each picture is seen 64"),
        (1_000, 128, 0.2, 20.0, 5_000, "each picture is seen 640 times"),
        (40_000, 64, 1.2, 0.1, 100, "2 min at 1.20 s a step, the least, for which 0.1 min are too"),
    ],
)
def test_steps_follow_pictures_and_minutes(pictures, batch, step, minutes, steps, why):
    choice = sizes.choose_steps(pictures, batch, step, minutes)
    assert choice.value == steps and choice.why.startswith(why)


def test_a_thousand_pictures_take_less_than_half_an_hour_on_two_cores():
    voices = sizes.choose_voices(1_000).value
    clip, batch = 2.0, sizes.choose_batch(1_000).value
    step = sizes.step_seconds(batch, cores=2)
    assert 0.1 < step < 0.2 and sizes.step_seconds(batch, 8) == step / 4
    steps = sizes.choose_steps(1_000, batch, step, 20.0).value
    encoding = sizes.encode_seconds(1_000 * voices, clip, 2)
    corpus = 1_000 * (voices + 2) * sizes.SAY / 2
    assert (encoding + steps * step + corpus + 3 * sizes.COMPILE) / 60 < 27


def test_buckets_hold_clips_with_the_silence_that_is_added():
    samples = np.linspace(12_000, 20_000, 500)
    augment = small_pair("a/b").data.augment
    choice = sizes.choose_buckets(samples, AugmentSpec.from_config(augment))
    first, *_, last = choice.value
    assert first == 20_000 and 60_000 < last < 90_000 and len(choice.value) == 3
    assert choice.why.startswith("clips last 1.0 s in the middle and 1.2 s at most; with the sil")
    clip = sizes.padded_seconds(samples, choice.value, AugmentSpec.from_config(augment))
    assert 1.5 < clip < 3.0
    # Without silence, short words need one program alone; long ones are not cut below 15 s.
    augment.silence.probability = 0.0
    plain = AugmentSpec.from_config(augment)
    assert sizes.choose_buckets(np.array([9_000, 15_000]), plain).value == (16_000,)
    assert sizes.choose_buckets(np.array([16_000] * 99 + [900_000]), plain).value == (
        16_000,
        240_000,
    )


def test_slow_and_missing_engines_are_left_out():
    choice, lines = sizes.choose_engines({"en": 100, "fr": 100}, 2, {})
    assert choice.value == ("espeak", "flite", "mbrola", "piper") and lines == []
    assert choice.why.endswith(
        "flite says 100 of the captions; mbrola says 200 of the captions; piper says 100 of the "
        "captions"
    )
    choice, lines = sizes.choose_engines(
        {"en": 1_000}, 2, {"flite": "flite is not here", "mbrola": "nor mbrola"}
    )
    assert choice.value == ("espeak",)
    assert lines == [
        "not flite: flite is not here",
        "not mbrola: nor mbrola",
        "not piper: it would take 5 min to say 1,000 captions",
    ]
    choice, lines = sizes.choose_engines({"be": 9, "ru": 9}, 2, {})
    assert choice.value == ("espeak",) and lines[0] == "not flite: it speaks none of be, ru"
    assert sizes.show(choice) == "engines = espeak: eSpeak NG speaks every language"


def test_lines_for_people(tmp_path):
    ends = {"_low": 0.5, "": 0.625, "_high": 0.75}
    metrics = {f"s2i_{r}{end}": x for r in ("r1", "r10") for end, x in ends.items()}
    metrics["s2i_gallery"] = 500.0
    line = result_line("test_flite", metrics, held_out=True)
    assert line == (
        "flite, voices that no training heard: R@1 62.5 % [50.0, 75.0], R@10 62.5 % [50.0, 75.0] "
        "of 500 pictures that it never saw (chance 0.2 %)"
    )
    by_voice, by_typing = search_commands(tmp_path, {"text": "l'âne", "language": "fr"})
    start = f"sir-jax search --model={tmp_path}/release --index={tmp_path}/index"
    assert by_voice == f"{start} --query=YOU.wav"
    assert by_typing == f"""{start} '--say=l'"'"'âne' --language=fr"""
