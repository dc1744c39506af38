"""A release holds exactly what inference needs; one that does not fit is refused by name."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_models import random_params, tiny_config

from sir_jax.errors import UserError
from sir_jax.inference import release
from sir_jax.inference.score import mark_of
from sir_jax.models import build_model, tasks_of_params
from sir_jax.objective.switches import fusion_tasks
from sir_jax.pretrained.files import read_header
from sir_jax.runtime.trees import leaf_paths


def release_config(sim: float = 1.0, cmd: float = 1.0) -> ConfigDict:
    return tiny_config(
        **{
            "data.buckets": (24_000, 48_000),
            "model.embed_width": 32,
            "model.remat": "full",
            "model.scan": True,
            "model.attention": "cudnn",
            "loss.sim.weight": sim,
            "loss.cmd.weight": cmd,
            "eval.rerank": 16,
        }
    )


def params_of(cfg) -> dict:
    return random_params(build_model(cfg.model, fusion_tasks(cfg.loss, cfg.model.match.kind)))


def write(out, cfg, params, dtype="float32"):
    return release.write_release(out, cfg, params, "mine", dtype, {"licence": "none"}, "# card\n")


@pytest.fixture(scope="module")
def run():
    cfg = release_config()
    return cfg, params_of(cfg)


def test_round_trip(run, tmp_path):
    cfg, params = run
    mark = write(tmp_path / "out", cfg, params)
    loaded = release.find(tmp_path / "out")
    assert loaded.name == "mine" and loaded.fingerprint == mark
    assert (
        mark == release.fingerprint(cfg, params) == release.fingerprint(loaded.cfg, loaded.params)
    )
    expected = leaf_paths(release.strip(params))
    assert leaf_paths(loaded.params).keys() == expected.keys()
    for path, leaf in leaf_paths(loaded.params).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    # Fields that only matter to training are reset.
    model = loaded.cfg.model
    assert (model.remat, model.scan, model.attention) == ("none", False, "xla")
    assert loaded.cfg.data.buckets == (24_000, 48_000) and release.rerank_of(loaded.cfg) == 16


@pytest.mark.parametrize(
    ("sim", "cmd", "inside"), [(1, 1, True), (1, 0, True), (0, 1, False), (0, 0, False)]
)
def test_no_denoising_head_and_no_fusion_encoder_without_matching(tmp_path, sim, cmd, inside):
    cfg = release_config(sim, cmd)
    write(tmp_path / "out", cfg, params_of(cfg))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    names = {name.partition("/")[0] for name in read_header(tmp_path / "out/model.safetensors")}
    towers = {"speech", "image", "speech_head", "speech_projection", "image_projection"}
    more = {"fusion", "match_head"} if inside else set()
    assert names == towers | {"temperature"} | more
    plain = json.loads((tmp_path / "out/config.json").read_text())
    assert set(plain) == {
        "format",
        "version",
        "name",
        "fingerprint",
        "weights",
        "licence",
        "model",
        "data",
        "eval",
    }
    assert plain["eval"]["rerank"] == (16 if sim else 0)


def test_late_interaction_is_released_without_a_fusion_encoder(run, tmp_path):
    cfg = release_config()
    cfg.model.match.update(kind="late", width=6)
    params = params_of(cfg)
    mark = write(tmp_path / "out", cfg, params)
    loaded = release.find(tmp_path / "out")
    assert "fusion" in params and {"fusion", "match_head"}.isdisjoint(loaded.params)
    assert tasks_of_params(loaded.params) == ("match",) and release.rerank_of(loaded.cfg) == 16
    expected = leaf_paths(params["late"])
    assert leaf_paths(loaded.params["late"]).keys() == expected.keys()
    for path, leaf in leaf_paths(loaded.params["late"]).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    # No vector depends on it: an index stays good.
    other = params | {"late": changed_leaf(params["late"])}
    assert mark == release.fingerprint(cfg, other) and mark_of(params) != mark_of(other)
    # A run with a fusion encoder starts from it with its own one, and the other way round.
    write(tmp_path / "fusion", *run)
    for ours, before, source, kept in (
        (*run, "out", "match_head"),
        (cfg, params, "fusion", "late"),
    ):
        ours, before = ours.copy_and_resolve_references(), changed_leaf(before)
        ours.init.model = str(tmp_path / source)
        started = release.start_from(ours, before)
        assert started.keys() == before.keys() and started[kept] is before[kept]
        assert started["temperature"] != before["temperature"]


def test_bfloat16_halves_the_size(run, tmp_path):
    cfg, params = run
    full, half = write(tmp_path / "a", cfg, params), write(tmp_path / "b", cfg, params, "bfloat16")
    assert full != half  # rounded weights make other vectors, so the fingerprint differs
    sizes = [(tmp_path / x / "model.safetensors").stat().st_size for x in "ab"]
    assert sizes[1] < 0.6 * sizes[0]
    path = "speech_projection/kernel"
    expected = leaf_paths(params)[path].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(leaf_paths(release.find(tmp_path / "b").params)[path], expected)


def test_the_fingerprint_covers_everything_that_a_vector_depends_on(run):
    cfg, params = run[0].copy_and_resolve_references(), run[1]
    mark = release.fingerprint(cfg, params)

    def changed(field: str, value) -> str:
        other = cfg.copy_and_resolve_references()
        with other.unlocked():
            other.update_from_flattened_dict({field: value})
        return release.fingerprint(other, params)

    def nudged(path: str) -> str:
        first, rest = path.split("/")
        leaf = params[first][rest] + np.float32(1e-3)
        return release.fingerprint(cfg, params | {first: params[first] | {rest: leaf}})

    assert mark == release.fingerprint(cfg, jax.tree.map(np.array, params))
    assert mark != changed("data.buckets", (24_000, 64_000))
    assert mark != changed("data.image_fit", "squash")
    assert mark != changed("model.dtype", "bfloat16")
    assert mark != nudged("speech_projection/kernel")
    # Changes that leave all vectors the same leave the fingerprint the same.
    assert mark == changed("optim.learning_rate", 3.0) == changed("data.corpus", "other")
    assert mark == changed("model.remat", "dots") == nudged("match_head/kernel")
    # Nor do places that a transformer head does not read; its old releases lack the field.
    assert mark == changed("model.head.places", 7)
    cfg.model.head.kind = "conv"
    assert len({mark, release.fingerprint(cfg, params), changed("model.head.places", 7)}) == 3


def test_a_release_that_does_not_fit_is_refused_by_name(run, tmp_path):
    cfg, params = run
    out = tmp_path / "out"
    write(out, cfg, params)
    config = json.loads((out / "config.json").read_text())

    def refused(match: str, **changes):
        (out / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=match):
            release.find(out)

    model = config["model"]
    refused(
        "image_projection/kernel has shape .32, 32., not .32, 64.",
        model=model | {"embed_width": 64},
    )
    layers = model["image"] | {"layers": 2}
    refused("image/layers_01 is missing", model=model | {"image": layers})
    refused("has version 2 and this sir_jax reads 1", version=2)
    refused("is no release of sir_jax .its config.json has format 'hubert'.", format="hubert")
    refused("config.json: there is no model.speech.width; get the file again", model={})
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        release.find(out)
    (out / "config.json").write_text(json.dumps(config))
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        release.find(out)
    weights.unlink()
    with pytest.raises(UserError, match="lacks model.safetensors"):
        release.find(out)


def test_an_existing_folder_is_not_overwritten(run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "out", *run)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_neither_a_release_nor_a_workdir(tmp_path):
    with pytest.raises(UserError, match="holds neither a release nor checkpoints; give a folder"):
        release.find(tmp_path)
    with pytest.raises(UserError, match="is no folder; give a folder that `sir-jax export` wrote"):
        release.find("no-such-model")


def test_a_bucket_is_read_through_a_copy(run, tmp_path, monkeypatch):
    # A local folder stands in for the bucket.
    from etils import epath

    write(tmp_path / "out", *run)
    monkeypatch.setattr(release, "as_path", lambda text: epath.Path(tmp_path / "out"))
    loaded = release.find("gs://bucket/out")
    assert loaded.name == "mine"
    np.testing.assert_array_equal(
        loaded.params["temperature"], release.strip(run[1])["temperature"]
    )


def changed_leaf(tree, by=1.0):
    return jax.tree.map(lambda leaf: leaf + np.asarray(by, leaf.dtype), tree)


def test_training_starts_from_a_retriever_and_keeps_what_the_retriever_lacks(run, tmp_path):
    cfg, params = run
    write(tmp_path / "out", cfg, params)
    theirs, before = leaf_paths(release.strip(params)), changed_leaf(params)
    cfg = cfg.copy_and_resolve_references()
    # Where `init.model` is set, encoders that the config names as well are ignored.
    cfg.init.update(speech="package:spoken_scenes/speech", model=str(tmp_path / "out"))
    started = leaf_paths(release.start_from(cfg, before))
    assert started.keys() == leaf_paths(before).keys()
    for path, leaf in started.items():
        expected = theirs.get(path, leaf_paths(before)[path])
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
    assert "denoise_image" in before  # no release has this head, so training's own one is kept

    # A retriever without a fusion encoder leaves the model's own; a model without a fusion encoder
    # ignores the retriever's.
    plain = release_config(0, 0)
    write(tmp_path / "plain", plain, params_of(plain))
    cfg.init.model = str(tmp_path / "plain")
    kept = release.start_from(cfg, before)
    np.testing.assert_array_equal(kept["match_head"]["kernel"], before["match_head"]["kernel"])
    plain.init.model = str(tmp_path / "out")
    assert "fusion" not in release.start_from(plain, params_of(plain))


def test_a_retriever_that_does_not_fit_the_config_is_refused_by_name(run, tmp_path):
    cfg, params = run
    write(tmp_path / "out", cfg, params)

    def refusal(**changes) -> str:
        other = cfg.copy_and_resolve_references()
        other.init.model = str(tmp_path / "out")
        other.update_from_flattened_dict(changes)
        with pytest.raises(UserError) as caught:
            release.start_from(other, params_of(other))
        return str(caught.value)

    assert "set data.normalize_wave=True (here False)" in refusal(**{"data.normalize_wave": False})
    wider = refusal(**{"model.embed_width": 64})
    assert "does not fit this config's model: image_projection/kernel has shape (32, 32)" in wider
    assert "is no folder" in refusal(**{"init.model": "nowhere/at-all"})
