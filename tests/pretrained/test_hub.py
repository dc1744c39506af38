"""Where checkpoints are looked for, and what is said where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from sir_jax import pretrained
from sir_jax.errors import UserError
from sir_jax.pretrained import hub

ID, HASH = "facebook/hubert-tiny--x", "0123abc"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def cached(root, name=ID, revision=HASH):
    repository = Path(root) / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision + "\n")
    return snapshot


@pytest.mark.parametrize(
    "variable, below",
    [
        ("HF_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ],
)
def test_hub_id_is_found_in_each_place_of_the_cache(tmp_path, monkeypatch, variable, below):
    monkeypatch.setenv(variable, str(tmp_path / "there"))
    snapshot = cached(tmp_path / "there" / below)
    assert hub.resolve(ID) == snapshot


def test_hub_cache_goes_before_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "b"))
    cached(tmp_path / "a" / "hub", revision="other")
    snapshot = cached(tmp_path / "b")
    assert hub.resolve(ID) == snapshot


def test_places_are_those_of_huggingface_hub(tmp_path, monkeypatch):
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(tmp_path / "there"))
            out = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            assert str(hub.cache_folder()) == out.stdout.strip(), variable


def test_main_is_the_snapshot_that_refs_main_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, revision="old")
    new = cached(tmp_path, revision="new")
    cached(tmp_path, revision="aaa")
    repository = new.parents[1]
    (repository / "refs" / "main").write_text("new")
    assert hub.resolve(ID) == new
    assert hub.resolve(str(repository)) == new  # the cache's own folder
    assert hub.resolve(str(repository / "snapshots" / "old")).name == "old"


def test_a_directory_goes_before_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    cached(tmp_path / "cache")
    here = tmp_path / ID
    here.mkdir(parents=True)
    (here / "config.json").write_text("{}")
    assert hub.resolve(ID) == Path(ID)


def test_absent_id_says_where_it_was_looked_for_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        pretrained.load("facebook/hubert-large-ll60k")
    assert str(caught.value) == (
        "facebook/hubert-large-ll60k is no directory here, and is not in the hub's cache "
        f"({tmp_path}/cache/models--facebook--hubert-large-ll60k); "
        "get it with: hf download facebook/hubert-large-ll60k"
    )


def test_other_revision_alone_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = cached(tmp_path)
    (snapshot.parents[1] / "refs" / "main").unlink()
    with pytest.raises(UserError) as caught:
        hub.resolve(ID)
    assert "has no refs/main; get it with: hf download" in str(caught.value)
    assert f"or give one of: {snapshot}" in str(caught.value)


def test_half_downloaded_snapshot_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = cached(tmp_path)
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


def test_package_ships_its_checkpoints():
    assert hub.resolve("package:spoken_scenes/speech").name == "speech"
