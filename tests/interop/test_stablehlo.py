"""Exported StableHLO programs give the model's vectors, also in a process without sir_jax."""

import json
import subprocess
import sys

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax import export
from safetensors.numpy import load_file, save_file
from tiny_models import random_params

from sir_jax.errors import UserError
from sir_jax.inference.retriever import Retriever
from sir_jax.interop import stablehlo
from sir_jax.interop.stablehlo import check_export, export_encoders
from sir_jax.models import build_model

# A program that a user without sir_jax could write according to `encoders.json`.
READER = """
import json, sys
from pathlib import Path
import jax.export, numpy as np
from safetensors.numpy import load_file

out = Path(sys.argv[1])
info = json.loads((out / "encoders.json").read_text())
inputs_file = np.load(out / "inputs.npz")

def run(modality, program, *inputs):
    weights = load_file(out / info[modality]["weights"])
    data = bytearray((out / program["file"]).read_bytes())
    return np.asarray(jax.export.deserialize(data).call(weights, *inputs))

vectors = {}
speech = info["speech"]
assert speech["normalize"]
for program in speech["programs"]:
    batch = np.zeros((len(inputs_file["lengths"]), program["samples"]), np.float32)
    lengths = np.minimum(inputs_file["lengths"], program["samples"]).astype(np.int32)
    for row, wave, length in zip(batch, inputs_file["waves"], lengths):
        clip = wave[:length]
        row[:length] = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    vectors[str(program["samples"])] = run("speech", program, batch, lengths)
image = info["image"]
pixels = (inputs_file["pixels"] / 255 - np.array(image["mean"])) / np.array(image["std"])
for rows in (1, 6):
    vectors[f"image{rows}"] = run("image", image["programs"][0], pixels[:rows].astype(np.float32))
assert not [name for name in sys.modules if name.split(".")[0] in ("sir_jax", "flax")]
np.savez(out / "vectors.npz", **vectors)
"""


@pytest.fixture(scope="module")
def model(workdir) -> Retriever:
    return Retriever.load(workdir)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("stablehlo") / "new" / "folder"
    paths = export_encoders(model, out)
    assert paths[-1].name == "encoders.json" and sorted(paths) == sorted(out.iterdir())
    return out


@pytest.fixture
def copied(exported, tmp_path):
    for path in exported.iterdir():
        if path.name != "inputs.npz":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_another_process_without_sir_jax_gets_the_models_vectors(model, exported):
    rng = np.random.default_rng(1)
    waves = rng.standard_normal((7, 48_000)).astype(np.float32)
    lengths = np.array([48_000, 1, 399, 16_000, 24_001, 30_000, 47_999])
    pixels = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    np.savez(exported / "inputs.npz", waves=waves, lengths=lengths, pixels=pixels)
    subprocess.run([sys.executable, "-c", READER, str(exported)], check=True)
    vectors = np.load(exported / "vectors.npz")
    for bucket in (24_000, 48_000):
        clips = [wave[: min(length, bucket)] for wave, length in zip(waves, lengths, strict=True)]
        own = model.encode_waves(clips, len(clips))
        np.testing.assert_allclose(vectors[str(bucket)], own, atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-6)
    own = model.encode_image(list(pixels))
    np.testing.assert_allclose(vectors["image6"], own, atol=2e-6)
    np.testing.assert_allclose(vectors["image1"], own[:1], atol=2e-6)


def test_the_check_names_each_program_and_its_difference(model, exported):
    differences = check_export(model, exported)
    names = ["speech_24000.jax_export", "speech_48000.jax_export", "image.jax_export"]
    assert [each.program for each in differences] == names
    assert all(each.error < 2e-6 for each in differences)
    assert str(differences[-1]).startswith("image.jax_export: largest difference")


def test_one_copy_of_the_weights_serves_every_program_on_every_platform(model, exported):
    own = flatten_dict(model.params, sep="/")
    held = {
        k: v
        for n in ("speech", "image")
        for k, v in load_file(exported / f"{n}.safetensors").items()
    }
    assert set(own) - set(held) <= {"temperature"}
    for name, array in held.items():
        np.testing.assert_array_equal(array, own[name])
    for bucket in (24_000, 48_000):
        assert (exported / f"speech_{bucket}.jax_export").stat().st_size < 150_000
    for path in exported.glob("*.jax_export"):
        program = export.deserialize(bytearray(path.read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")
        assert str(program.in_avals[-1].shape[0]) == "rows" == str(program.out_avals[0].shape[0])
        # A program that calls a library would need that library's version of today.
        calls = set(program.mlir_module().split("custom_call @")[1:])
        assert {call.split("(")[0] for call in calls} <= {"shape_assertion"}


def test_changed_weights_and_another_model_are_refused(model, copied, monkeypatch):
    monkeypatch.setattr(stablehlo, "CHECK_ROWS", (1,))
    weights = load_file(copied / "image.safetensors")
    weights["image/position"] += 0.01 * np.arange(32, dtype=np.float32)
    save_file(weights, copied / "image.safetensors")
    with pytest.raises(UserError, match="image.jax_export differs from the model by .* than 1e-05"):
        check_export(model, copied)

    description = json.loads((copied / "encoders.json").read_text())
    description["fingerprint"] = "0" * 64
    (copied / "encoders.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="exported from another model"):
        check_export(model, copied)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("encoders.json", None, "encoders.json is missing"),
        ("encoders.json", b"{", "encoders.json cannot be read"),
        ("encoders.json", b'{"format": 99}', "has format 99"),
        ("speech_24000.jax_export", b"nothing of ours", "speech_24000.jax_export cannot be read"),
        ("speech_24000.jax_export", None, "speech_24000.jax_export is missing"),
        ("image.safetensors", b"x" * 20, "image.safetensors cannot be read"),
    ],
)
def test_a_damaged_export_is_named(model, copied, name, content, message):
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_export(model, copied)


def test_a_missing_package_and_a_file_as_folder_are_refused(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        export_encoders(model, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r"pip install 'sir_jax\[stablehlo\]'"):
        export_encoders(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_forms_of_the_encoders_can_be_exported(model, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "CHECK_ROWS", (3,))
    cfg = model.cfg.copy_and_resolve_references().unlock()
    cfg.data.buckets = (4_000,)
    cfg.data.normalize_wave = False
    cfg.model.update(dtype="bfloat16", scan=True, image_head="qformer")
    cfg.model.speech.update(layers=2, conv_norm="group", norm_first=False)
    cfg.model.image.update(form="blip2")
    cfg.model.head.weigh_layers = True
    cfg.model.qformer.update(
        width=32, layers=1, heads=2, mlp_width=64, queries=4, projection=cfg.model.embed_width
    )
    other = Retriever(cfg, random_params(build_model(cfg.model)))
    export_encoders(other, tmp_path)
    assert all(each.error < 1e-2 for each in check_export(other, tmp_path))
    assert stablehlo.read_description(tmp_path)["speech"]["normalize"] is False


def test_joint_vectors_are_exported_whole(model, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "CHECK_ROWS", (1,))
    cfg = model.cfg.copy_and_resolve_references().unlock()
    cfg.data.buckets = (4_000,)
    cfg.model.match.update(kind="pooled", queries=2, hidden=8, width=6)
    other = Retriever(cfg, random_params(build_model(cfg.model, ("pool",))))
    export_encoders(other, tmp_path)
    assert stablehlo.read_description(tmp_path)["width"] == cfg.model.embed_width + 6
    assert all(each.error < 1e-5 for each in check_export(other, tmp_path))
