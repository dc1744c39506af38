"""Training from stored features equals training from waveforms and pixels, but for rounding."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from shared_runs import filled_states
from tiny_models import tiny_config
from training_helpers import memory_corpus

from sir_jax import pretrained
from sir_jax.data.feature_store import FeatureReader, read_manifest
from sir_jax.data.media.audio import normalize_waveform
from sir_jax.data.media.augment.apply import augment_wave
from sir_jax.data.media.augment.spec import AugmentSpec
from sir_jax.data.pipeline import read_clip
from sir_jax.inference.workdirs import restore_params
from sir_jax.models import HubertSpec, SpeechImageModel, VitSpec, build_model
from sir_jax.runtime import sharding
from sir_jax.training import loop
from sir_jax.training.featurize import featurize
from sir_jax.training.metrics import JSONL, read_records
from sir_jax.training.setup import prepare
from sir_jax.training.stored_features import make_layout, params_hash

# All clips of `memory_corpus` fit the bucket: training on waveforms crops longer ones at random.

FROZEN = {"optim.freeze": ("speech", "image"), "data.buckets": (7_000,), "train.steps": 3}

# All terms, in both directions.
UNIFIED = FROZEN | {
    "loss.sic.queue": 20,
    "loss.sic.alpha": 0.4,
    "loss.sim.weight": 1.0,
    "loss.cmd.weight": 1.0,
    "loss.cmd.direction": "both",
    "loss.cmd.ratio": 0.5,
}


class RoundedModel(SpeechImageModel):
    """The joint model; the outputs of its frozen encoders are rounded as in a store."""

    frozen: tuple[str, ...] = ()

    def speech_features(self, *args, **kwargs):
        return self._rounded("speech", super().speech_features(*args, **kwargs))

    def image_features(self, *args, **kwargs):
        return self._rounded("image", super().image_features(*args, **kwargs))

    def _rounded(self, modality, features):
        if modality not in self.frozen:
            return features
        return jax.tree.map(
            lambda x: x if x.dtype == bool else jax.lax.reduce_precision(x, 8, 7), features
        )


def build_rounded(cfg, tasks=(), flash=None, *, frozen):
    model = build_model(cfg, tasks, flash)
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    return RoundedModel(**fields, frozen=frozen)


@pytest.fixture(autouse=True, scope="module")
def random_parameters():
    with filled_states():
        yield


@pytest.fixture(scope="module")
def corpus():
    return memory_corpus()


def losses(cfg, workdir, corpus):
    loop.train(cfg, workdir, None, corpus)
    return np.array([record["train/loss"] for record in read_records(workdir / JSONL)])


def compare(fields, tmp_path, corpus, monkeypatch, modalities=("speech", "image"), live=True):
    """Return losses of live features if asked for, of rounded ones, and of stored features."""
    out = tmp_path / "features"
    folders = featurize(tiny_config(**fields), corpus, "train", out, 8)
    assert [folder.name.split("-")[0] for folder in folders] == list(modalities)
    stored = tiny_config(**fields, **{"data.features": str(out)})
    plain = tiny_config(**fields)
    exact = losses(plain, tmp_path / "live", corpus) if live else None
    from_store = losses(stored, tmp_path / "stored", corpus)
    build = functools.partial(build_rounded, frozen=modalities)
    monkeypatch.setattr("sir_jax.training.setup.build_model", build)
    rounded = losses(plain, tmp_path / "rounded", corpus)
    return exact, rounded, from_store


# Rounding to bfloat16 changes a value by at most 2^-9 of itself. Unit vectors made of features
# change by about as much, and similarities over the temperature of 0.07 by at most 2 * 2^-9 / 0.07.
# A loss is a mean over many of these, with errors of both signs. The bound is a tenth of the above;
# measured differences are twenty times smaller.
BFLOAT16_BOUND = 0.1 * 2 * 2**-9 / 0.07

# With the same rounding both paths are equal, mostly bit for bit: float32 sums in another order
# make one value in some thousands round differently.
ROUNDED_BOUND = 1e-5


def check_losses(live, rounded, from_store):
    assert len(from_store) == 3 and np.isfinite(from_store).all()
    assert np.abs(from_store - rounded).max() < ROUNDED_BOUND, (rounded, from_store)
    if live is not None:
        assert 0 < np.abs(from_store - live).max() < BFLOAT16_BOUND, (live, from_store)


@pytest.mark.parametrize("weigh_layers", [True, pytest.param(False, marks=pytest.mark.release)])
def test_unified_objective_has_the_same_losses(tmp_path, corpus, monkeypatch, weigh_layers):
    fields = UNIFIED | {"model.head.weigh_layers": weigh_layers}
    # How far rounding goes is seen below, behind `--all`.
    runs = compare(fields, tmp_path, corpus, monkeypatch, live=False)
    check_losses(*runs)
    # A checkpoint holds the frozen encoders, too: evaluation and search need them.
    _, params = restore_params(tmp_path / "stored", "last")
    _, other = restore_params(tmp_path / "rounded", "last")
    for modality in ("speech", "image"):
        assert params_hash(params[modality]) == params_hash(other[modality])


@pytest.mark.release
@pytest.mark.parametrize("modality", ["speech", "image"])
def test_one_frozen_modality_with_accumulated_gradients(tmp_path, corpus, monkeypatch, modality):
    # Without dropout, because the updates of the encoder that is trained must be the same.
    fields = FROZEN | {"optim.freeze": (modality,), "train.grad_accum": 2, "loss.sic.queue": 20}
    runs = compare(fields, tmp_path, corpus, monkeypatch, (modality,))
    check_losses(*runs)


# That losses do not depend on the mesh is seen in test_loop.py, at each change.
@pytest.mark.release
def test_losses_from_features_do_not_depend_on_the_mesh(tmp_path, corpus):
    # The encoders come from a file: random ones created in shards differ in their last bits.
    cfg = tiny_config(**{"optim.freeze": ("speech", "image")})
    params = prepare(cfg, sharding.make_mesh(cfg.mesh)).create_state().params
    for name, spec in (("speech", HubertSpec), ("image", VitSpec)):
        pretrained.save(tmp_path / name, spec(**cfg.model[name]), jax.device_get(params[name]))
    fields = UNIFIED | {
        "data.features": str(tmp_path / "f"),
        "model.head.weigh_layers": True,
        "init.speech": str(tmp_path / "speech"),
        "init.image": str(tmp_path / "image"),
    }
    # Eight devices write the store; one and eight read it.
    featurize(tiny_config(**fields, **{"mesh.data": 8}), corpus, "train", tmp_path / "f", 4)
    one = losses(tiny_config(**fields), tmp_path / "one", corpus)
    for sizes in ((8, 1), (4, 2)):
        mesh = dict(zip(("mesh.data", "mesh.fsdp"), sizes, strict=True))
        many = losses(tiny_config(**fields, **mesh), tmp_path / f"many{sizes}", corpus)
        np.testing.assert_allclose(many, one, rtol=0, atol=1e-5)


def test_one_draw_of_augmentation_a_clip_is_stored(tmp_path, corpus):
    noisy = {"data.augment.noise.probability": 1.0, "data.augment.pitch.probability": 0.5}
    cfg, split, row = tiny_config(**FROZEN | noisy), corpus.splits["train"], 3
    featurize(cfg, corpus, "train", tmp_path, 4)
    (folder,) = tmp_path.glob("speech-*")
    layout = make_layout("speech", folder, cfg, split, read_manifest(folder)["rows_per_shard"])
    found = FeatureReader(layout)[row][0].astype(np.float32)
    setup = prepare(cfg, sharding.make_mesh(cfg.mesh))
    entry, batch = split.index[row], np.zeros((1, 7_000), np.float32)
    clean = read_clip(split, split[entry["row"]], entry)
    stream = np.random.default_rng((cfg.seed, 0xFEA7, row))
    wave = augment_wave(clean, AugmentSpec.from_config(cfg.data.augment), stream)
    encode = functools.partial(
        jax.jit(setup.model.apply, static_argnames="method"),
        {"params": setup.create_state().params},
        method="speech_features",
    )
    tokens = []
    for each in (wave, clean):
        batch[0, : len(each)] = normalize_waveform(each)
        expected = encode(batch, np.array([len(each)]))
        tokens.append(np.asarray(expected.tokens[0][expected.mask[0]]))
    np.testing.assert_allclose(found, tokens[0], rtol=2**-7, atol=1e-4)
    assert np.abs(found - tokens[1]).max() > 0.05
