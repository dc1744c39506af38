"""The trees of `launch/published_size.py` have their publishers' form, and nothing twice."""

import importlib.util
import io

import pytest
import soundfile
from launch_helpers import ROOT
from PIL import Image

from sir_jax.data.builders.recordings import load_layout

SHARE = 1 / 1_000
COUNTS = {
    # 83 of train and 31 of restval, and one sixth caption of each.
    "spoken_coco": {"train": (114, 572), "val": (5, 25), "test": (5, 26)},
    "flickr8k_audio": {"train": (6, 30), "val": (1, 5), "test": (1, 5)},
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("size", ROOT / "launch/published_size.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COUNTS)
def test_a_share_of_the_tree_is_planned_without_a_problem(script, tmp_path, name):
    getattr(script, f"make_{name}")(tmp_path, SHARE)
    layout = load_layout(name)
    plan = layout.plan(tmp_path, next(iter(layout.configs)))
    assert plan.problems == ()
    counts = {split: [0, 0] for split in COUNTS[name]}
    for image in plan.images:
        counts[image.split][0] += 1
        counts[image.split][1] += len(image.captions)
    assert {split: tuple(count) for split, count in counts.items()} == COUNTS[name]
    pictures = {(tmp_path / image.image).read_bytes() for image in plan.images}
    sounds = {(tmp_path / c.audio).read_bytes() for image in plan.images for c in image.captions}
    assert len(pictures) == len(plan.images)
    assert len(sounds) == sum(count[1] for count in COUNTS[name].values())
    assert all(Image.open(io.BytesIO(data)).size == (24, 24) for data in pictures)
    lengths = [soundfile.info(io.BytesIO(data)).duration for data in sounds]
    assert 0.1 <= min(lengths) and max(lengths) < 0.3


def test_the_counts_are_the_published_ones(script):
    pictures = {split: row[1] for split, row in script.COCO.items()}
    recordings = {split: 5 * row[1] + row[2] for split, row in script.COCO.items()}
    assert sum(pictures.values()) == 123_287 and sum(recordings.values()) == 616_767
    expected = load_layout("spoken_coco").expected["karpathy"]
    assert pictures["train"] + pictures["restval"] == expected["train"].images
    assert (pictures["test"], recordings["test"]) == (
        expected["test"].images,
        expected["test"].captions,
    )
