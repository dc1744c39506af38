"""The layout of SpokenCOCO with both splits: the expected plan of a small corpus."""

import json

import layouts
import pytest

from sir_jax.data.builders.recordings import Counts, PlannedCaption
from sir_jax.data.builders.spoken_coco.layout import LAYOUT, ORIGINAL_LEAKS
from sir_jax.errors import UserError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return layouts.write("spoken_coco", tmp_path_factory.mktemp("coco"), "tree")


@pytest.fixture(scope="module")
def plan(tree):
    return LAYOUT.plan(tree, "karpathy")


def ids(plan):
    return {
        image.image_id: (image.split, [caption.caption_id for caption in image.captions])
        for image in plan.images
    }


# 51 captions, numbered over both files in turn; number 15 repeats the uttid of number 11.
KARPATHY = {
    9: ("train", [6, 7, 8, 9, 10]),
    25: ("train", [0, 1, 2, 3, 4, 5]),
    30: ("train", [11, 12, 13, 14]),
    60623: ("test", [41, 42, 43, 44, 45]),
    184613: ("val", [32, 33, 34, 35, 36]),
    325114: ("test", [16, 17, 18, 19, 20]),
    391895: ("test", [21, 22, 23, 24, 25, 26]),
    522418: ("train", [27, 28, 29, 30, 31]),  # restval
    554625: ("val", [37, 38, 39, 40]),
}


def test_karpathy_ids_splits_and_counts(plan):
    assert next(iter(LAYOUT.configs)) == "karpathy"
    assert ids(plan) == KARPATHY
    assert list(ids(plan)) == sorted(KARPATHY)


def test_original_has_no_split_that_reads_like_a_test_set(tree):
    halves = LAYOUT.plan(tree, "original")
    expected = {
        image: ("train" if image < 100 else "original_val", numbers)
        for image, (_, numbers) in KARPATHY.items()
    }
    # Karpathy does not list this image.
    expected[581929] = ("original_val", [46, 47, 48, 49, 50])
    assert ids(halves) == expected
    assert set(LAYOUT.expected["original"]) == {"train", "original_val"}
    for split in ("val", "test"):
        assert LAYOUT.refused["original"][split] == ORIGINAL_LEAKS
    assert "split 'original_val'" in ORIGINAL_LEAKS and "\n" not in ORIGINAL_LEAKS


def test_a_caption_has_its_words_speaker_and_paths(plan):
    image = next(image for image in plan.images if image.image_id == 391895)
    assert image.key == "COCO_val2014_000000391895.jpg"
    assert image.image == "val2014/COCO_val2014_000000391895.jpg"
    uttid = "m071506415gb9-3LUY3GC63Z0R9PYEETJGN5HO4UEP7B_391895_4548252"
    assert image.captions[5] == PlannedCaption(
        caption_id=26,
        key=uttid,
        audio=f"SpokenCOCO/wavs/val/0/{uttid}.wav",
        text="Caption 5 of picture 391895.",
        speaker="m071506415gb9",
    )


def test_problems_name_everything_that_is_left_out(plan):
    twice = layouts.coco_uttid(30, 0)
    val, train = "COCO_val2014_000000{}.jpg", "COCO_train2014_000000{}.jpg"
    assert [(p.path, p.reason, p.split, p.key) for p in plan.problems] == [
        (f"SpokenCOCO/wavs/train/0/{twice}.wav", "duplicate id", "train", twice),
        (f"val2014/{val.format(581929)}", "bad metadata", "", val.format(581929)),
        (f"train2014/{train.format(581857)}", "no audio", "train", train.format(581857)),
        (f"val2014/{val.format(574769)}", "no audio", "val", val.format(574769)),
    ]
    assert plan.problems[1].detail == "Karpathy does not list it; 5 recordings"


def test_folders_may_lie_deeper_and_karpathys_other_archive_will_do(tmp_path, plan):
    tree = layouts.write("spoken_coco", tmp_path, "nested")
    (tree / "coco").mkdir()
    (tree / "caption_datasets" / "dataset_coco.json").rename(tree / "coco" / "dataset.json")
    nested = LAYOUT.plan(tree, "karpathy")
    assert ids(nested) == KARPATHY
    assert nested.images[0].image == "train2014/" + plan.images[0].image
    assert nested.images[0].captions[0].audio == "SpokenCOCO/" + plan.images[0].captions[0].audio


def edit(tree, name, change):
    path = tree / "SpokenCOCO" / name
    content = json.loads(path.read_text())
    change(content["data"])
    path.write_text(json.dumps(content))


def test_odd_entries_are_left_out_one_by_one(tmp_path):
    tree = layouts.write("spoken_coco", tmp_path, "tree")

    def spoil(data):
        data[0]["image"] = "../val2014/COCO_val2014_000000325114.jpg"
        data[1]["captions"][0] = None
        data[1]["captions"][1]["wav"] = "/etc/passwd"
        del data[1]["captions"][2]["speaker"], data[1]["captions"][2]["text"]
        data[2] = "not an entry"

    edit(tree, "SpokenCOCO_val.json", spoil)
    plan = LAYOUT.plan(tree, "karpathy")
    # Captions that are left out are numbered, too; but an entry that is a string has none.
    assert ids(plan)[391895] == ("test", [23, 24, 25, 26])
    assert ids(plan)[184613] == ("val", [27, 28, 29, 30, 31])
    assert 325114 not in ids(plan) and 522418 not in ids(plan)
    bare = next(image for image in plan.images if image.image_id == 391895).captions[0]
    assert (bare.text, bare.speaker) == ("", "")
    path = "SpokenCOCO/SpokenCOCO_val.json"
    assert [p.path for p in plan.problems if p.reason == "bad metadata"][:4] == [
        f"{path}#0",
        f"{path}#1.0",
        f"{path}#1.1",
        f"{path}#2",
    ]


def test_a_picture_in_both_halves_stays_in_the_first(tmp_path):
    tree = layouts.write("spoken_coco", tmp_path, "tree")
    edit(
        tree,
        "SpokenCOCO_val.json",
        lambda data: data[0].update(image="train2014/COCO_train2014_000000000009.jpg"),
    )
    plan = LAYOUT.plan(tree, "original")
    assert ids(plan)[9] == KARPATHY[9] and 325114 not in ids(plan)
    assert [p.path for p in plan.problems if p.reason == "duplicate id"][1:] == [
        "SpokenCOCO/SpokenCOCO_val.json#0"
    ]


@pytest.mark.parametrize(
    ("config", "name", "archive"),
    [
        ("karpathy", "dataset_coco.json", "caption_datasets.zip"),
        ("original", "SpokenCOCO/SpokenCOCO_val.json", "SpokenCOCO.tar.gz"),
    ],
)
def test_missing_metadata_is_refused_by_name(tmp_path, config, name, archive):
    tree = layouts.write("spoken_coco", tmp_path, "tree")
    (tree / name).unlink()
    with pytest.raises(UserError, match=rf"{name.split('/')[-1]}.*unpack {archive}"):
        LAYOUT.plan(tree, config)


def test_original_needs_no_file_of_karpathy(tmp_path):
    tree = layouts.write("spoken_coco", tmp_path, "tree")
    (tree / "dataset_coco.json").unlink()
    assert len(LAYOUT.plan(tree, "original").images) == 10


def test_json_that_is_cut_off_is_refused(tmp_path):
    tree = layouts.write("spoken_coco", tmp_path, "tree")
    path = tree / "SpokenCOCO" / "SpokenCOCO_train.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"SpokenCOCO_train.json: no JSON object with a list"):
        LAYOUT.plan(tree, "karpathy")


def test_published_counts():
    assert LAYOUT.expected["karpathy"] == {
        "train": Counts(113287, 0),
        "val": Counts(5000, 0),
        "test": Counts(5000, 25031),
    }
    total = 113287 + 5000 + 5000
    assert sum(counts.images for counts in LAYOUT.expected["original"].values()) == total
