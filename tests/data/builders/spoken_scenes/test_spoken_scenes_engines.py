"""Corpora by several engines: their names, splits, and who says which caption."""

import dataclasses
from collections import Counter

import pytest

from sir_jax.data.builders.spoken_scenes import SceneConfig, plan_corpus
from sir_jax.errors import UserError

SMALL = SceneConfig("one", 40, 6, 8, captions=4, voices=20, image_size=64, seed=7)
ALL = dataclasses.replace(SMALL, engines="espeak,flite,piper")
PLAIN, PLAN = plan_corpus(SMALL), plan_corpus(ALL)


def split_of(plan, name):
    return [image for image in plan if image.split == name]


def test_name_has_the_engines_unless_it_is_espeak_alone():
    assert SMALL.engines == "espeak" and SMALL.name.endswith("-p64-s7")
    assert ALL.name == f"{SMALL.name}-espeak+flite+piper"
    assert dataclasses.replace(SMALL, engines="piper,flite,espeak,flite") == ALL
    for config in (SMALL, ALL, dataclasses.replace(SMALL, engines="espeak,piper")):
        assert SceneConfig.from_name(config.name) == config
    assert ALL.command().endswith(" --engines=espeak,flite,piper")


@pytest.mark.parametrize(
    "engines, message",
    [
        ("espeak,festival", "engines has 'festival'; .* choose among espeak, flite, mbrola, piper"),
        ("espeak,", "engines has ''"),
        ("flite", "engines is 'flite'; add espeak, which speaks 'val' and 'test'"),
    ],
)
def test_bad_engines_are_named(engines, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, engines=engines)


@pytest.mark.parametrize("end", ["-espeak", "-flite", "-espeak+flite+", "-espeak+nobody"])
def test_bad_names_are_refused(end):
    with pytest.raises(UserError, match="no spoken_scenes name|engines has 'nobody'"):
        SceneConfig.from_name(SMALL.name + end)


def test_one_corpus_has_one_name():
    with pytest.raises(UserError, match="it is written 'one-.*-espeak.flite.piper'"):
        SceneConfig.from_name(f"{SMALL.name}-espeak+piper+flite")


def test_splits():
    assert list(SMALL.splits) == ["train", "val", "test"]
    assert ALL.splits == {
        "train": "",
        "val": "espeak",
        "test": "espeak",
        "test_flite": "flite",
        "test_piper": "piper",
    }
    assert [len(split_of(PLAN, name)) for name in ALL.splits] == [40, 6, 8, 8, 8]
    assert PLAN[46:54] == PLAIN[46:] and split_of(PLAN, "val") == split_of(PLAIN, "val")


def test_half_of_training_is_by_the_other_engines_in_equal_shares():
    captions = [caption for image in split_of(PLAN, "train") for caption in image.captions]
    assert Counter(caption.engine for caption in captions) == {"espeak": 80, "flite": 80}
    speakers = Counter(caption.speaker for caption in captions if caption.engine == "flite")
    assert set(speakers) == {"kal16", "slt", "rms", "kal"} and min(speakers.values()) >= 12
    # What eSpeak NG says does not depend on the engines, nor do the words of anybody.
    plain = [caption for image in split_of(PLAIN, "train") for caption in image.captions]
    assert [c.text for c in captions] == [c.text for c in plain]
    assert all(c == p for c, p in zip(captions, plain, strict=True) if c.engine == "espeak")
    assert all(0.85 <= c.rate / 170 <= 1.15 for c in captions if c.engine == "flite")


def test_engine_without_training_voices_changes_no_training():
    plan = plan_corpus(dataclasses.replace(SMALL, engines="espeak,piper"))
    assert plan[:54] == PLAIN and {image.split for image in plan[54:]} == {"test_piper"}


@pytest.mark.parametrize(
    "split, speaker", [("test_flite", "awb"), ("test_piper", "en_US-joe-medium")]
)
def test_further_test_splits_have_the_pictures_and_words_of_test(split, speaker):
    for image, again in zip(split_of(PLAIN, "test"), split_of(PLAN, split), strict=True):
        assert (again.scene, again.looks) == (image.scene, image.looks)
        assert [c.text for c in again.captions] == [c.text for c in image.captions]
        assert {c.speaker for c in again.captions} == {speaker}
        assert {c.engine for c in again.captions} == {split.partition("_")[2]}
        assert ALL.picture_of(again.image_id) == image.image_id
        for slot, caption in enumerate(again.captions):
            assert caption.caption_id == again.image_id * 4 + slot
            assert abs(caption.rate / 170 - 1) <= 0.07
            assert caption.pitch == 50 if "piper" in split else 44 <= caption.pitch <= 56


def test_ids_are_unique_and_lead_back_to_the_picture():
    assert [image.image_id for image in PLAN] == list(range(70))
    assert [c.caption_id for image in PLAN for c in image.captions] == list(range(280))
    assert [ALL.picture_of(image_id) for image_id in (0, 39, 45, 46, 53, 54, 61, 62, 69)] == [
        *(0, 39, 45, 46, 53),
        *(46, 53),
        *(46, 53),
    ]


def test_one_caption_an_image_is_by_either():
    plan = plan_corpus(dataclasses.replace(ALL, captions=1))
    engines = Counter(image.captions[0].engine for image in split_of(plan, "train"))
    assert engines["espeak"] + engines["flite"] == 40 and 10 <= engines["flite"] <= 30


def test_minimal_pairs_have_one_voice():
    config = dataclasses.replace(ALL, level="compositional")
    plan = plan_corpus(config)
    for first, second in zip(plan[::2], plan[1::2], strict=True):
        for one, other in zip(first.captions, second.captions, strict=True):
            assert (one.speaker, one.rate) == (other.speaker, other.rate)
            assert sorted(one.text.split()) == sorted(other.text.split())
