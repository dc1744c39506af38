"""The layout of Places Audio with its splits of 2020: the expected plan of a small corpus."""

import json

import layouts
import pytest

from sir_jax.data.builders.places_audio.layout import LAYOUT
from sir_jax.data.builders.recordings import PlannedCaption
from sir_jax.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return layouts.write("places_audio", tmp_path_factory.mktemp("places"), "tree")


@pytest.fixture(scope="module")
def plan(tree):
    return LAYOUT.plan(tree, "2020")


def ids(plan):
    return [
        (i.image_id, i.split, i.key.split("/")[-2], [c.caption_id for c in i.captions])
        for i in plan.images
    ]


# Entry 4 names no image, entry 8 has the uttid of entry 7, and the abbey is in two splits.
PLACES = [
    (0, "train", "abbey", [0, 1]),
    (1, "train", "laundromat", [2]),
    (2, "train", "outdoor", [3]),
    (3, "val_seen", "beach", [5]),
    (4, "val_unseen", "kitchen", [6]),
    (5, "test_seen", "forest_road", [7]),
    (6, "test_unseen", "skyscraper", [9]),
    (7, "test_unseen", "abbey", [10]),
    (8, "test_unseen", "bridge", [11]),
]


def test_ids_splits_and_counts(plan):
    assert ids(plan) == PLACES
    assert plan.images[0].key == plan.images[7].key


def test_a_caption_has_its_words_speaker_and_paths(plan):
    image = plan.images[4]
    name = "k/kitchen/gsun_3d42a1b4a7b95c2b9b3b1b5e7d2f6a13.jpg"
    assert image.key == name
    assert image.image == f"data/vision/torralba/deeplearning/images256/{name}"
    assert image.captions == (
        PlannedCaption(
            caption_id=6,
            key="A3FZ4Z6TGQ2JHS-utterance_7",
            audio="placesaudio_2020_splits/wavs/1/utterance_7.wav",
            text="a kitchen",
            speaker="A3FZ4Z6TGQ2JHS",
        ),
    )


def test_fields_that_an_entry_lacks_are_empty(plan):
    (silent,), (anonymous,) = plan.images[1].captions, plan.images[2].captions
    assert (silent.text, silent.speaker) == ("", "A1K5ILJMG439M4")
    assert (anonymous.text, anonymous.speaker) == ("a tall tower", "")


def test_problems_name_everything_that_is_left_out(plan):
    assert [(p.path, p.reason, p.split, p.key) for p in plan.problems] == [
        (
            "placesaudio_2020_splits/train_2020.json#4",
            "bad metadata",
            "train",
            "A2W5DT1WMHGJFX-utterance_5",
        ),
        (
            "placesaudio_2020_splits/wavs/0/utterance_8.wav",
            "duplicate id",
            "test_seen",
            "A2W5DT1WMHGJFX-utterance_8",
        ),
    ]


def test_the_older_tree_and_bare_pictures_are_found(tmp_path):
    tree = layouts.write("places_audio", tmp_path, "tree")
    audio = tree / "PlacesAudio_400k_distro"
    (tree / "placesaudio_2020_splits").rename(audio)
    (audio / "metadata").mkdir()
    for path in audio.glob("*.json"):
        path.rename(audio / "metadata" / path.name)
    (tree / "data/vision/torralba/deeplearning/images256").rename(tree / "images256")
    plan = LAYOUT.plan(tree, "2020")
    assert ids(plan) == PLACES
    assert plan.images[3].image.startswith("images256/b/beach/gsun_")
    assert plan.images[3].captions[0].audio == "PlacesAudio_400k_distro/wavs/0/utterance_6.wav"


def test_folders_of_the_publishers_machine_are_ignored(tmp_path, plan):
    tree = layouts.write("places_audio", tmp_path, "tree")
    for path in tree.glob("placesaudio_2020_splits/*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({"data": content["data"], "image_base_path": "../.."}))
    assert LAYOUT.plan(tree, "2020") == plan


def test_paths_that_lead_out_are_left_out(tmp_path):
    tree = layouts.write("places_audio", tmp_path, "tree")
    path = tree / "placesaudio_2020_splits" / "dev_seen_2020.json"
    (good,) = json.loads(path.read_text())["data"]
    changes = ({"wav": "/etc/passwd"}, {"wav": "../up.wav"}, {"image": "a\\b.jpg"}, {"image": 7})
    path.write_text(json.dumps({"data": [good | change for change in changes]}))
    plan = LAYOUT.plan(tree, "2020")
    assert not [image for image in plan.images if image.split == "val_seen"]
    problems = [p for p in plan.problems if p.split == "val_seen"]
    assert [p.path.split("#")[1] for p in problems] == ["0", "1", "2", "3"]
    assert {p.reason for p in problems} == {"bad metadata"}


def test_missing_pictures_altogether_are_refused(tmp_path):
    tree = layouts.write("places_audio", tmp_path, "tree")
    (tree / "data").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(UserError, match=r"'a/abbey' and the like; unpack imagesPlaces205"):
        LAYOUT.plan(tree, "2020")
