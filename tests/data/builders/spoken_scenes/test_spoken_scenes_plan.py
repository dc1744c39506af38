"""Config names are reversible; plans are complete, and pure functions of the config."""

import subprocess
import sys

import pytest

from sir_jax.data.builders.spoken_scenes import LEVELS, SPLITS, SceneConfig, plan_corpus
from sir_jax.data.builders.spoken_scenes.generate import fingerprint
from sir_jax.data.builders.spoken_scenes.voices import VOICES
from sir_jax.errors import UserError

SMALL = SceneConfig("one", 40, 6, 8, captions=3, voices=20, image_size=64, seed=7)


def test_name_carries_every_parameter():
    assert SceneConfig().name == "one-i3000-d250-t500-c4-v64-p128-s0"
    assert SMALL.name == "one-i40-d6-t8-c3-v20-p64-s7"
    for config in (SMALL, SceneConfig(), SceneConfig("compositional", 2, 4, 6, 1, 144, 32, 99)):
        assert SceneConfig.from_name(config.name) == config


def test_command_of_a_name_makes_that_name():
    options = SMALL.command().removeprefix("sir-jax data spoken_scenes ").split()
    values = dict(option.removeprefix("--").split("=") for option in options)
    words = {"level": values.pop("level"), "engines": values.pop("engines")}
    assert words["engines"] == "espeak"
    assert SceneConfig(**words, **{k: int(v) for k, v in values.items()}) == SMALL


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"level": "hard"}, "level 'hard' is unknown; choose one of one, among, two, several"),
        ({"voices": 3}, "voices is 3; choose a number from 12 to 144"),
        ({"train_images": 0}, "train_images is 0; choose a number from 1"),
        ({"image_size": 8}, "image_size is 8; choose a number from 32"),
        ({"seed": -1}, "seed is -1"),
        ({"level": "compositional", "test_images": 501}, "test_images is 501; .* even number"),
    ],
)
def test_bad_parameters_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        SceneConfig(**fields)


@pytest.mark.parametrize("name", ["one", "one-i3-t4", "", "one-i3000-d250-t500-c4-v64-p128-s0x"])
def test_bad_names_are_refused_with_an_example(name):
    with pytest.raises(UserError, match="is no spoken_scenes name; one looks like"):
        SceneConfig.from_name(name)


def test_plan_has_all_images_captions_and_ids():
    plan = plan_corpus(SMALL)
    assert [sum(p.split == split for p in plan) for split in SPLITS] == [40, 6, 8]
    assert [p.image_id for p in plan] == list(range(54))
    ids = [c.caption_id for p in plan for c in p.captions]
    assert ids == list(range(54 * 3))
    assert len({p.scene for p in plan}) == 54


def test_voices_speak_only_in_their_split_and_vary():
    split_of_voice = {voice.name: voice for voice in VOICES[: SMALL.voices]}
    plan = plan_corpus(SMALL)
    for image in plan:
        speakers = [c.speaker for c in image.captions]
        assert {split_of_voice[s].split for s in speakers} == {image.split}
        for caption in image.captions:
            voice = split_of_voice[caption.speaker]
            assert abs(caption.rate / voice.rate - 1) < 0.07
            assert abs(caption.pitch - voice.pitch) <= 6
    train = [image for image in plan if image.split == "train"]
    assert all(len({c.speaker for c in image.captions}) == 3 for image in train)
    assert len({c.speaker for image in train for c in image.captions}) == 13


@pytest.mark.parametrize("level", LEVELS)
def test_plan_is_a_pure_function_of_the_config(level):
    config = SceneConfig(level, 30, 4, 6, captions=2, seed=1)
    assert plan_corpus(config) == plan_corpus(config)
    other = SceneConfig(level, 30, 4, 6, captions=2, seed=2)
    assert [p.scene for p in plan_corpus(config)] != [p.scene for p in plan_corpus(other)]


def test_plan_is_the_same_in_another_process():
    code = (
        "from sir_jax.data.builders.spoken_scenes import *\n"
        "from sir_jax.data.builders.spoken_scenes.generate import fingerprint\n"
        f"print(fingerprint(plan_corpus(SceneConfig.from_name({SMALL.name!r})), 64))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint(plan_corpus(SMALL), 64)


def test_larger_corpus_begins_with_the_smaller_ones_scenes_and_words():
    larger = plan_corpus(SceneConfig("one", 60, 6, 8, captions=3, voices=20, seed=7))
    for a, b in zip(plan_corpus(SMALL)[:40], larger, strict=False):
        assert (a.scene, a.looks, a.captions) == (b.scene, b.looks, b.captions)


def test_plan_did_not_change_since_the_encoders_were_trained():
    first = plan_corpus(SceneConfig())[0]
    assert first.captions[0].text == "on a dotted background a little brown fish at the top right"
    assert first.captions[0].speaker == "en-029+sandro"


def test_importing_the_plan_is_light():
    code = (
        "import sys, sir_jax.data.builders.spoken_scenes\n"
        "heavy = {'jax', 'torch', 'tensorflow', 'tensorflow_datasets', 'librosa', 'grain'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
