"""Stores of features: what they hold, how they are made again, and when they are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import finish, start
from shared_runs import untrained
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax.cli.data import featurize as featurize_verb
from sir_jax.config.compare import compare_workdir, to_json
from sir_jax.data.corpus import Corpus
from sir_jax.data.feature_store import BFLOAT16, FeatureReader, read_manifest
from sir_jax.data.media.audio import normalize_waveform
from sir_jax.data.media.image import ImageSpec, preprocess_image
from sir_jax.data.pipeline import read_clip, read_image
from sir_jax.errors import UserError
from sir_jax.runtime import sharding
from sir_jax.training import featurize as featurize_module
from sir_jax.training import loop, stored_features
from sir_jax.training.featurize import featurize
from sir_jax.training.metrics import JSONL, read_records
from sir_jax.training.setup import Setup, prepare
from sir_jax.training.step import batch_shapes, bucket_length
from sir_jax.training.stored_features import make_layout, open_features

# All clips of `memory_corpus` fit the bucket: training on waveforms crops longer ones at random.


@pytest.fixture(autouse=True, scope="module")
def random_parameters():
    with untrained():
        yield


@pytest.fixture(scope="module")
def corpus():
    return memory_corpus()


def frozen_config(**fields):
    return tiny_config(**{"optim.freeze": ("speech", "image"), **fields})


@pytest.fixture(scope="module")
def stored(tmp_path_factory, corpus):
    """Return a folder with stores of `frozen_config`, each of some shards, and the parameters."""
    out = tmp_path_factory.mktemp("stored")
    patch = pytest.MonkeyPatch()
    patch.setattr("sir_jax.data.feature_store.SHARD_BYTES", 3_000)
    cfg = frozen_config()
    featurize(cfg, corpus, "train", out, 4)
    patch.undo()
    setup = prepare(cfg, sharding.make_mesh(cfg.mesh))
    return out, (setup.model, setup.create_state().params)


def only(out, modality):
    (folder,) = out.glob(f"{modality}-*")
    return folder


def reader(out, modality, cfg, split):
    folder = only(out, modality)
    rows = read_manifest(folder)["rows_per_shard"]
    return FeatureReader(make_layout(modality, folder, cfg, split, rows))


def test_a_store_holds_the_outputs_of_the_encoders_for_each_clip_alone(stored, corpus):
    (out, (model, params)), cfg = stored, frozen_config()
    split = corpus.splits["train"]
    longest = cfg.data.buckets[-1]
    assert (split.index["samples"] > longest).any()
    speech, image = (reader(out, modality, cfg, split) for modality in ("speech", "image"))
    assert speech.layout.shards > 2 and image.layout.shards > 2
    apply = jax.jit(
        lambda *args, method: model.apply({"params": params}, *args, method=method),
        static_argnames="method",
    )
    # After float32 sums in another order a value may round differently, by one part in 256.
    close = {"rtol": 2**-7, "atol": 1e-4}
    for row in (0, 17, int(np.argmax(split.index["samples"]))):
        entry = split.index[row]
        wave = normalize_waveform(read_clip(split, split[entry["row"]], entry)[:longest])
        batch = np.zeros((1, 7_000), np.float32)
        batch[0, : len(wave)] = wave
        expected = apply(batch, np.array([len(wave)]), method="speech_features")
        tokens = np.asarray(expected.tokens[0][expected.mask[0]])
        assert speech[row].shape == (1, *tokens.shape) and speech[row].dtype == BFLOAT16
        np.testing.assert_allclose(speech[row][0].astype(np.float32), tokens, **close)
        picture = read_image(split, split[entry["row"]])
        pixels = preprocess_image(picture, ImageSpec.from_config(cfg.data))
        expected = apply(pixels[None], method="image_features")
        record = image[entry["row"]][0].astype(np.float32)
        np.testing.assert_allclose(record[:-1], expected.tokens[0], **close)
        np.testing.assert_allclose(record[-1], expected.pooled[0], **close)


def test_sizes_and_cut_clips_are_announced(tmp_path, corpus, capsys):
    cfg = frozen_config(**{"optim.freeze": ("speech",), "model.head.weigh_layers": True})
    (folder,) = featurize(cfg, corpus, "train", tmp_path, 4)
    out, split = capsys.readouterr().out, corpus.splits["train"]
    cut = int((split.index["samples"] > 6_400).sum())
    assert (
        f"{cut} of 48 clips are longer than the longest bucket, 6,400 samples, and are cut to"
        in out
    )
    manifest = read_manifest(folder)
    frames = make_layout("speech", folder, cfg, split, 1).sizes
    assert manifest["bytes"] == 2 * 2 * 32 * frames.sum()
    assert f"speech: 48 clips x 2 x {frames.mean():.1f} x 32 in bfloat16" in out
    assert manifest["initialised_from"] == "random, seed 0"
    assert manifest["identity"]["preprocessing"] == {
        "normalize_wave": True,
        "longest_samples": 6_400,
    }
    featurize(cfg, corpus, "train", tmp_path, 4)
    assert f"{folder} is complete already" in capsys.readouterr().out


def contents(folder):
    # The lock names the process that held it.
    files = sorted(path for path in folder.iterdir() if path.name != ".lock")
    return {path.name: path.read_bytes() for path in files}


def test_missing_shards_are_made_again_with_the_same_bytes(tmp_path, stored, corpus, monkeypatch):
    out, whole = stored[0], {m: contents(only(stored[0], m)) for m in ("speech", "image")}
    monkeypatch.setattr("sir_jax.data.feature_store.SHARD_BYTES", 3_000)
    featurize(frozen_config(), corpus, "train", tmp_path, 4)
    for modality in ("speech", "image"):
        folder = only(tmp_path, modality)
        assert contents(folder) == whole[modality]
        shards = sorted(folder.glob("*.array_record"))
        kept = shards[0].stat()
        # What a killed process may leave: a part of the last shard, and none of one in the middle.
        data = shards[-1].read_bytes()
        shards[-1].with_name(f"{shards[-1].name}.part").write_bytes(data[: len(data) // 2])
        shards[-1].unlink()
        shards[1].unlink()
        with pytest.raises(UserError, match=f"{modality}-.* 2 of .* files are missing; go on with"):
            open_features(
                stored[1][1],
                frozen_config(**{"data.features": str(tmp_path)}),
                corpus,
                corpus.splits["train"],
            )
        # The layout of the manifest is kept, although another one would be chosen now.
        monkeypatch.undo()
        featurize(frozen_config(), corpus, "train", tmp_path, 4)
        assert contents(folder) == whole[modality]
        assert shards[0].stat().st_mtime_ns == kept.st_mtime_ns
    assert out != tmp_path


def test_a_store_that_does_not_fit_is_refused_with_the_differences(stored, corpus):
    out, (_, params) = stored
    split = corpus.splits["train"]

    def opened(params=params, corpus=corpus, **fields):
        cfg = frozen_config(**{"data.features": str(out), **fields})
        return open_features(params, cfg, corpus, corpus.splits["train"])

    assert opened().modalities == ("speech", "image")
    # A store depends neither on the heads, nor on the objective, nor on shorter buckets.
    features = opened(**{"loss.sim.weight": 1.0, "data.buckets": (1_600, 6_400)})
    assert set(features.bucket_frames) == {1_600, 6_400}
    moved = params["image"]["cls"].at[0].add(1e-3)
    other = {**params, "image": {**params["image"], "cls": moved}}
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    index = split.index.copy()
    index["samples"][0] += 1
    longer = memory_corpus()
    longer.splits["train"].index = index
    renamed = Corpus("spoken_scenes/other", corpus.directory, corpus.splits)
    cases = [
        ({"params": other}, "no image features of this run's kind; the nearest differ in checkp"),
        ({"params": half}, r"speech .* param_dtype \(\['float32'\] there, \['bfloat16'\] here\)"),
        ({"data.normalize_wave": False}, r"preprocessing.normalize_wave \(True there, False here"),
        (
            {"data.buckets": (3_200, 6_000)},
            r"preprocessing.longest_samples \(6400 there, 6000 here\)",
        ),
        ({"data.image_fit": "squash"}, r"preprocessing.image_fit \('crop' there, 'squash' here\)"),
        ({"model.head.weigh_layers": True}, r"stored \('tokens' there, 'states' here\)"),
        ({"model.dtype": "bfloat16"}, r"compute_dtype \('float32' there, 'bfloat16' here\)"),
        ({"corpus": longer}, r"differ in corpus.index \([0-9a-f]{12} there, [0-9a-f]{12} here\)"),
        ({"corpus": renamed}, "differ in corpus.name"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message) as error:
            opened(**changes)
        command = f"`sir-jax data featurize --out={out}` and this run's --config options"
        assert str(error.value).endswith(f"make them with {command}"), changes
        assert "\n" not in str(error.value)


def test_training_refuses_before_it_compiles_or_writes(tmp_path, stored, corpus, monkeypatch):
    out = str(stored[0])

    def compiled(*args):
        raise AssertionError("compiled")

    monkeypatch.setattr(Setup, "compile_steps", compiled)
    cases = [
        ({"data.features": str(tmp_path / "none")}, "has no speech features; make them with"),
        ({"seed": 1}, "differ in checkpoint"),
        ({"data.crop_scale": (0.5, 1.0)}, "data.crop_scale=.0.5, 1.0. chang"),
        ({"data.augment.tempo.probability": 0.1}, "data.augment.speed, .tempo"),
        ({"data.augment.noise.probability": 0.1}, "differ in .*augment"),
        ({"data.augment.image.grey": 0.1}, "data.augment.image changes"),
        ({"optim.freeze": ("speech/frontend",)}, "freezes neither 'speech' nor 'image' as a whole"),
        (
            {"model.match.frames": True, "model.head.weigh_layers": True},
            "model.match.frames reads .* switch one off",
        ),
    ]
    for fields, message in cases:
        with pytest.raises(UserError, match=message):
            cfg = frozen_config(**{"data.features": out} | fields)
            loop.train(cfg, tmp_path / "run", None, corpus)
    assert not (tmp_path / "run").exists()


def test_augmentation_of_the_trained_modality_is_allowed(stored, corpus):
    out, (_, params) = stored
    cfg = frozen_config(
        **{
            "optim.freeze": ("speech",),
            "data.crop_scale": (0.5, 1.0),
            "data.features": str(out),
        }
    )
    stored_features.check_cacheable(params, cfg)
    assert open_features(params, cfg, corpus, corpus.splits["train"]).modalities == ("speech",)


def test_bad_commands_are_refused(tmp_path, corpus, monkeypatch):
    cfg = frozen_config()
    with pytest.raises(UserError, match="in-memory has no split 'dev'; choose one of train, val"):
        featurize(cfg, corpus, "dev", tmp_path, 4)
    with pytest.raises(UserError, match="freezes neither"):
        featurize(tiny_config(), corpus, "train", tmp_path, 4)
    usage = type("usage", (), {"free": 50_000})
    monkeypatch.setattr(featurize_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs .* kB and has 50 kB free; make room, choose"):
        featurize(cfg, corpus, "train", tmp_path, 4)
    assert not list(tmp_path.iterdir())
    file = tmp_path / "c.py"
    file.write_text(CONFIG.format(json.dumps(to_json(cfg))))
    for argv, message in (
        ([], "give --out=DIR"),
        (["--out=x", "--batch_size=0"], "--batch_size=0; give 1 or more"),
        (["--out=x", "--batchsize=3"], "no option --batchsize; the nearest is --batch_size"),
    ):
        with pytest.raises(UserError, match=message):
            featurize_verb.main([f"--config={file}", *argv])


def test_a_resumed_run_may_move_its_features_but_not_add_or_drop_them(tmp_path):
    before = to_json(tiny_config(**{"data.features": "a"}))
    (tmp_path / "config.json").write_text(json.dumps(before))
    moved = compare_workdir(tiny_config(**{"data.features": "b"}), tmp_path)
    assert moved == ["data.features is 'a' there and 'b' here"]
    with pytest.raises(UserError, match="data.features is 'a' there and '' here"):
        compare_workdir(tiny_config(), tmp_path)


def test_batch_shapes_are_those_of_the_batches(stored, corpus):
    out, (_, params) = stored
    for cached, freeze in (
        ((), ()),
        (("speech",), ("speech",)),
        (("image",), ("image",)),
        (("speech", "image"), ("speech", "image")),
    ):
        cfg = tiny_config(**{"optim.freeze": freeze, "data.features": str(out) if freeze else ""})
        features = open_features(params, cfg, corpus, corpus.splits["train"])
        batches = loop.train_batches(
            corpus.splits["train"], cfg.data, seed=0, start=0, num_threads=0, features=features
        )
        shapes = [batch_shapes(cfg, samples, cached) for samples in cfg.data.buckets]
        by_length = {bucket_length(fields): fields for fields in shapes}
        for _ in range(6):
            batch = next(batches)
            del batch["caption_ids"]
            expected = by_length[bucket_length(batch)]
            actual = {name: (x.shape, x.dtype) for name, x in batch.items()}
            assert actual == {name: (x.shape, x.dtype) for name, x in expected.items()}
        batches.close()


CONFIG = """
import json
from sir_jax.config.compare import from_json

def get_config(arg=""):
    return from_json(json.loads('''{}'''))
"""


def write_config(folder) -> Path:
    """Make a small corpus by the command, and a config file that reads it; return the file."""
    made = finish(
        start(
            "data",
            "spoken_scenes",
            "--engines=espeak",
            "--level=one",
            "--train_images=40",
            "--val_images=4",
            "--test_images=4",
            "--captions=2",
            "--image_size=32",
            f"--data_dir={folder}/data",
        )
    )
    (name,) = {
        word.strip(",.:'")
        for word in made.split()
        if "spoken_scenes/one-" in word and "/data/" not in word
    }
    cfg = frozen_config(
        **{
            "data.corpus": name,
            "data.data_dir": f"{folder}/data",
            "train.steps": 2,
            "data.buckets": (16_000, 40_000),
            "train.compile_cache": f"{folder}/compiled",
        }
    )
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(json.dumps(to_json(cfg))))
    return path


def featurizing(config, out) -> subprocess.Popen:
    """Start `sir-jax data featurize` with files of four clips: twenty files."""
    program = "\n".join(
        [
            "import sys, sir_jax.data.feature_store as store",
            "from sir_jax.cli.main import main",
            "store.SHARD_BYTES = 1",
            "sys.exit(main(sys.argv[1:]))",
        ]
    )
    command = [
        sys.executable,
        "-c",
        program,
        "data",
        "featurize",
        f"--out={out}",
        f"--config={config}",
        "--batch_size=2",
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


# In one process, at each change: test_missing_shards_are_made_again_with_the_same_bytes.
@pytest.mark.release
def test_sigkill_and_the_same_command_give_the_same_bytes(tmp_path):
    """The command line also trains from the result."""
    config = write_config(tmp_path)
    finish(featurizing(config, tmp_path / "whole"))
    killed = tmp_path / "killed"
    process = featurizing(config, killed)
    while process.poll() is None and not list(killed.glob("speech-*/*.array_record")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, out
    assert len(list(killed.glob("*/*.array_record"))) < 30
    finish(featurizing(config, killed))
    for modality in ("speech", "image"):
        ours, theirs = (contents(only(d, modality)) for d in (killed, tmp_path / "whole"))
        assert len([n for n in ours if n.endswith(".array_record")]) in (20, 10)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if ours[name] != theirs[name]] == []
    options = f"--workdir={tmp_path}/run", f"--config.data.features={killed}"
    out = finish(start("train", f"--config={config}", *options))
    assert f"features of frozen encoders from {killed}: speech, image" in out
    assert read_records(tmp_path / "run" / JSONL)[-1]["step"] == 2
