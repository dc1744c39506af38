"""Where checkpoints are looked for, and what is said where there is none."""

import dataclasses
import sys
from pathlib import Path

import jax
import pytest
from huggingface_hub import constants

from sir_jax import pretrained
from sir_jax.config.presets import RELEASED_IMAGE, RELEASED_SPEECH
from sir_jax.config.specs import hubert_fields, vit_fields
from sir_jax.errors import UserError
from sir_jax.pretrained import hub

ID, HASH = "facebook/hubert-tiny-x", "0123abc"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Return the hub's cache, which is not there yet."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def cached(root, name=ID, revision=HASH):
    repository = Path(root) / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    return snapshot


def test_hub_id_is_found_in_the_hubs_cache(cache):
    snapshot = cached(cache)
    assert hub.resolve(ID) == snapshot


def test_main_is_the_snapshot_that_refs_main_names(cache):
    cached(cache, revision="old")
    new = cached(cache, revision="new")
    cached(cache, revision="aaa")
    repository = new.parents[1]
    (repository / "refs" / "main").write_text("new")
    assert hub.resolve(ID) == new
    assert hub.resolve(str(repository)) == new  # the cache's own folder
    assert hub.resolve(str(repository / "snapshots" / "old")).name == "old"


def test_a_directory_goes_before_the_hubs_cache(tmp_path, cache):
    cached(cache)
    here = tmp_path / ID
    here.mkdir(parents=True)
    (here / "config.json").write_text("{}")
    assert hub.resolve(ID) == Path(ID)


def test_absent_id_says_where_it_was_looked_for_and_how_to_get_it(cache):
    with pytest.raises(UserError) as caught:
        pretrained.load("facebook/hubert-large-ll60k")
    assert str(caught.value) == (
        "facebook/hubert-large-ll60k is no directory here, and is not in the hub's cache "
        f"({cache}/models--facebook--hubert-large-ll60k); "
        "get it with: hf download facebook/hubert-large-ll60k"
    )


def test_other_revision_alone_is_not_guessed(cache):
    snapshot = cached(cache)
    (snapshot.parents[1] / "refs" / "main").unlink()
    with pytest.raises(UserError) as caught:
        hub.resolve(ID)
    assert "has no refs/main; get it with: hf download" in str(caught.value)
    assert f"or give one of: {snapshot}" in str(caught.value)


def test_half_downloaded_snapshot_is_named(cache):
    snapshot = cached(cache)
    (snapshot / "config.json").unlink()
    with pytest.raises(UserError, match=f"{snapshot}, which .*main names, has no config.json"):
        hub.resolve(ID)


def test_directory_without_config_and_no_directory_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="has no config.json; give a directory"):
        hub.resolve(tmp_path)
    with pytest.raises(UserError, match="nowhere/at/all is no directory; give"):
        hub.resolve("nowhere/at/all")
    with pytest.raises(UserError, match="package:nothing is no directory"):
        hub.resolve("package:nothing")


def test_a_name_that_the_hub_forbids():
    with pytest.raises(UserError, match="facebook/a--b is no directory here, and no hub id: "):
        hub.resolve("facebook/a--b")


def test_without_huggingface_hub_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError) as caught:
        hub.resolve(ID)
    assert str(caught.value) == (
        f"{ID} is no directory here, and reading the hub's cache needs huggingface_hub; "
        "pip install huggingface_hub, or give the folder that holds config.json"
    )


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (RELEASED_SPEECH["tiny"], hubert_fields("tiny")),
        (RELEASED_SPEECH["small"], hubert_fields("small")),
        (RELEASED_IMAGE["tiny"], vit_fields("tiny")),
    ],
)
def test_package_ships_encoders_of_the_shape_that_their_variant_has(name, fields):
    spec, params = pretrained.load(name)
    # A checkpoint tells no dropout of ours.
    assert dataclasses.asdict(spec) | {"dropout": None} == fields | {"dropout": None}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 6_000_000
