"""The model that ships finds what the sample recordings describe, as the README says."""

import json

import numpy as np
import pytest

import sir_jax
from sir_jax.data.builders.spoken_scenes.config import SceneConfig
from sir_jax.data.builders.spoken_scenes.plan import plan_corpus
from sir_jax.data.builders.spoken_scenes.render import object_masks
from sir_jax.data.preparation.samples import CORPUS, write_samples
from sir_jax.data.preparation.scenes import make_spoken_scenes
from sir_jax.evaluation.pointing import measure, patch_shares
from sir_jax.inference import release
from sir_jax.pretrained.files import read_header


@pytest.fixture(scope="module")
def model():
    # One at a time: a program for single items serves queries and galleries, and compiles once.
    return sir_jax.load("spoken-scenes", batch_size=1)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samples"), pictures=100)


@pytest.mark.parametrize(("name", "matches"), [("spoken-scenes", True), ("named-things", False)])
def test_they_are_whole_and_small(name, matches):
    model = sir_jax.load(name)
    release.verify(model)
    folder = release.SHIPPED / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000_000
    tops = {name.partition("/")[0] for name in read_header(folder / "model.safetensors")}
    assert ("match_head" in tops) == matches and not tops & {"denoise_image", "denoise_speech"}
    card = (folder / "README.md").read_text()
    # No path of the machine that made it.
    assert model.fingerprint in card and f"--name={name}" in card and "--workdir=runs/" in card
    assert sorted(release.shipped()) == ["named-things", "spoken-scenes"]


@pytest.mark.parametrize("rerank", [pytest.param(0, marks=pytest.mark.release), 8])
def test_every_recording_finds_its_picture(model, samples, rerank):
    index = sir_jax.Index.build(model, samples)
    truth = json.loads((samples / "truth.json").read_text())
    for recording, picture in truth.items():
        (first, *_) = index.search(samples / "recordings" / recording, 5, rerank=rerank)
        assert first.id == f"pictures/{picture}"
        (best, *_) = index.search(samples / "pictures" / picture, 3)
        assert best.id == f"recordings/{recording}"


# What the shipped files do is seen when they are made; what attention is, in test_attention.py.
@pytest.mark.release
def test_attention_points_at_the_object(model, samples):
    truth = json.loads((samples / "truth.json").read_text())
    planned = [image for image in plan_corpus(CORPUS) if image.split == "test"]
    hits = 0
    for recording, picture in truth.items():
        attention = model.attention(
            samples / "recordings" / recording, samples / "pictures" / picture
        )
        image = planned[int(picture[:3])]
        mask = object_masks(image.scene, CORPUS.image_size, image.looks)[0]
        shown = patch_shares(mask, 8) >= 0.25
        assert shown.mean() < 0.25
        hits += shown.flat[int(np.argmax(attention.during(0, attention.seconds)))]
    assert hits >= 8  # of twelve; a random patch would hit less than three times


# By `launch/release.sh`, too, at full size (`sir-jax bench pointing`).
@pytest.mark.release
def test_of_two_objects_it_depends_on_the_named_one(model, tmp_path):
    scenes = SceneConfig(train_images=1, val_images=1, test_images=60, captions=1, seed=11)
    split = make_spoken_scenes(scenes, tmp_path, workers=1).split("test")
    planned = [image for image in plan_corpus(scenes) if image.split == "test"]
    accuracies = measure(model, split, planned, 60)
    choice, peak = accuracies["beside choice dependence"], accuracies["beside peak dependence"]
    assert choice.tries > 45 and choice.hits > 0.65 * choice.tries  # chance: one half
    assert peak.hits > 0.5 * peak.tries  # chance: one in fourteen
