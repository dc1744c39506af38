"""The pointing benchmark: hits and chance of small maps, and a whole run."""

import dataclasses
import re

import numpy as np
import pytest

from sir_jax.cli import main as cli
from sir_jax.data.builders.spoken_scenes.config import SceneConfig
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.spoken_scenes.render import object_masks, render
from sir_jax.data.media.image import load_image
from sir_jax.data.preparation.scenes import make_spoken_scenes
from sir_jax.evaluation import pointing
from sir_jax.evaluation.pointing import (
    LEVELS,
    Tally,
    beside,
    judge,
    measure,
    partner,
    patch_shares,
    shown,
)
from sir_jax.inference.retriever import Retriever

SCENES = SceneConfig(train_images=2, val_images=2, test_images=8, captions=1, image_size=32, seed=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return level -> (corpus, its config)."""
    folder = tmp_path_factory.mktemp("corpora")
    configs = {level: dataclasses.replace(SCENES, level=level) for level in LEVELS}
    return {
        k: (make_spoken_scenes(scenes, folder, workers=1), scenes) for k, scenes in configs.items()
    }


def test_shares_of_patches():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    np.testing.assert_allclose(patch_shares(mask, 2), [[0.5, 0], [0, 0]])
    # With three patches for eight pixels, the middle patch begins inside a pixel.
    np.testing.assert_allclose(patch_shares(mask, 3).sum() * 64 / 9, mask.sum(), rtol=1e-6)


def test_a_partner_is_another_thing_far_away():
    planned = [image for image in plan_corpus(SCENES) if image.split == "test"]
    for position, image in enumerate(planned):
        scene = partner(position, planned)
        if scene is None:
            assert all(beside(image, other) is None for other in planned)
            continue
        named, other = scene.objects
        assert named == image.scene.objects[0] and scene.background == image.scene.background
        assert (named.shape, named.colour) != (other.shape, other.colour)
        assert (
            max(abs(named.place % 3 - other.place % 3), abs(named.place // 3 - other.place // 3))
            == 2
        )
    assert beside(planned[0], planned[0]) is None


def test_tally_counts_hits_and_chance():
    tally = Tally()
    for hit in (True, True, False, True):
        tally.add(hit, 0.25)
    # The standard error of four tries with chance 1/4 is sqrt(0.25 * 0.75 / 4) = 0.2165.
    assert tally.line == " 75.0 %  (chance 25.0 %, +2 standard errors, 4 clips)"


def test_judging_a_map_of_four_patches():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4, :4] = True  # the named object covers the first patch
    masks[1, 4:, :] = True  # the other object covers the third and the fourth
    assert list(judge(np.array([[0.4, 0], [0.3, 0.3]]), masks)) == [
        ("beside peak", True, 0.25),
        ("beside choice", True, 0.5),
    ]
    # The other object has twice as many patches, so weights are compared per patch. Equal weights
    # are not a hit.
    for last, hit in ((0.27, False), (0.25, False), (0.2, True)):
        assert list(judge(np.array([[0.3, 0.1], [0.35, last]]), masks)) == [
            ("beside peak", False, 0.25),
            ("beside choice", hit, 0.5),
        ]
    assert list(judge(np.array([[0.4, 0], [0.3, 0.3]]), masks[:1])) == [("alone peak", True, 0.25)]


@pytest.mark.parametrize("level", LEVELS)
def test_hits_are_where_the_largest_weight_is(level, made, matching_workdir, monkeypatch):
    model = Retriever.load(matching_workdir)
    corpus, scenes = made[level]
    split = corpus.split("test")
    planned = [image for image in plan_corpus(scenes) if image.split == "test"]
    tallies = measure(model, split, planned, 8)
    alone = 8 if level == "one" else sum(len(image.scene.objects) == 1 for image in planned)
    assert 0 < tallies["alone peak attention"].tries == alone
    assert tallies["beside peak attention"].tries == tallies["beside choice dependence"].tries > 0
    assert all(0 <= tally.hits <= tally.tries for tally in tallies.values())

    # Maps made from the mask of the named object always hit, their opposites never.
    plans = {image.image_id: image for image in planned}
    masks = []
    for row in range(8):
        record, image = split[row], plans[split[row].image_id]
        # The record holds the picture of the planned scene.
        picture = render(image.scene, 32, image.looks)
        np.testing.assert_array_equal(load_image(record.image), picture)
        for scene, _ in shown(image, picture, planned):
            masks.append(object_masks(scene, 32, image.looks)[0])
    next_masks = iter(masks)

    def perfect_maps(attention):
        right = patch_shares(next(next_masks), 2)
        return {"attention": right, "dependence": 1 - right}

    monkeypatch.setattr(pointing, "maps_of", perfect_maps)
    tallies = measure(model, split, planned, 8)
    assert tallies["beside choice attention"].hits == tallies["beside choice attention"].tries
    assert tallies["beside choice dependence"].hits == 0
    hits = tallies["alone peak attention"].hits + tallies["beside peak attention"].hits
    assert hits == sum((patch_shares(mask, 2) >= 0.25).any() for mask in masks)


def test_the_command(made, matching_workdir, capsys):
    corpus, _ = made["one"]
    folder = corpus.directory.parents[2]
    options = [f"--model={matching_workdir}", f"--corpus={corpus.name}", f"--data_dir={folder}"]
    assert cli.main(["bench", "pointing", *options, "--clips=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6
    assert all(
        re.search(r"chance +[\d.]+ %, [+-]\d+ standard errors, [123] clips", line)
        for line in lines[1:]
    )
    assert cli.main(["bench", "pointing", "--corpus=spoken_coco/karpathy"]) == 2
    assert "give a spoken_scenes corpus of level one or among" in capsys.readouterr().err
