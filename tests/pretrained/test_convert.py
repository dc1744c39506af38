"""`sir-jax convert`: what it reads, writes, refuses and prints; and memory at a released size."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file, save_file

from sir_jax import pretrained
from sir_jax.cli import main as cli
from sir_jax.models import VitSpec
from sir_jax.pretrained import convert, verify
from sir_jax.pretrained.load import leaf_shapes, write_encoder

OUT = ["config.json", "model.safetensors"]


@pytest.fixture
def source(hubert, tmp_path):
    hubert.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(source, out, *options):
    return cli.main(["convert", "--source", str(source), "--out", str(out), *options])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def to_bin(folder, state=None, **options):
    """Replace a folder's safetensors by the pickle that older releases have."""
    state = state or load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(state, folder / "pytorch_model.bin", **options)


def assert_same(ours, expected, rtol=0.0):
    ours, expected = flatten_dict(ours, sep="/"), flatten_dict(expected, sep="/")
    assert sorted(ours) == sorted(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(ours[path], value, rtol=rtol, atol=rtol, err_msg=path)


def test_result_loads_as_the_source_here_and_in_transformers(hubert, source, out):
    assert run(source, out) == 0
    assert names(out) == OUT
    spec, expected = pretrained.load(source)
    got_spec, got = pretrained.load(out)
    assert got_spec == spec
    assert_same(got, expected)
    again = transformers.HubertModel.from_pretrained(out).state_dict()
    for name, tensor in hubert.state_dict().items():
        if name != "masked_spec_embed":
            assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_gives_the_same_as_safetensors(source, out, zipped):
    _, expected = pretrained.load(source)
    to_bin(source, _use_new_zipfile_serialization=zipped)
    assert run(source, out) == 0
    assert_same(pretrained.load(out)[1], expected)


def test_pickle_with_old_weight_norm_heads_and_halves(hubert, source, out):
    _, expected = pretrained.load(source)
    old = {}
    for name, tensor in hubert.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        old[f"hubert.{name}"] = tensor.to(torch.bfloat16)
    old |= {"lm_head.weight": torch.zeros(2, 32), "lm_head.bias": torch.zeros(2)}
    to_bin(source, old)
    assert run(source, out) == 0
    assert_same(pretrained.load(out)[1], expected, rtol=2.0**-8)
    spelled = load_file(out / "model.safetensors")
    assert "encoder.pos_conv_embed.conv.parametrizations.weight.original0" in spelled


def test_sharded_pickle(source, out):
    _, expected = pretrained.load(source)
    state = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    parts = [sorted(state)[::2], sorted(state)[1::2]]
    weight_map = {}
    for i, part in enumerate(parts):
        torch.save({name: state[name] for name in part}, source / f"m-{i}.bin")
        weight_map |= dict.fromkeys(part, f"m-{i}.bin")
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert run(source, out) == 0
    assert_same(pretrained.load(out)[1], expected)


def test_missing_shard_of_a_pickle_is_named(source, out, capsys):
    index = {"weight_map": {"a": "m-0.bin"}}
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert run(source, out) == 2
    assert "lacks m-0.bin, listed in pytorch_model.bin.index.json" in capsys.readouterr().err
    torch.save({"b": torch.zeros(1)}, source / "m-0.bin")
    assert run(source, out) == 2
    assert "m-0.bin lacks a, listed in" in capsys.readouterr().err


def test_sharded_safetensors(hubert, tmp_path, out):
    hubert.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert run(tmp_path / "many", out) == 0
    hubert.save_pretrained(tmp_path / "one")
    assert_same(pretrained.load(out)[1], pretrained.load(tmp_path / "one")[1])


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_not_run(source, out, capsys, monkeypatch, zipped):
    monkeypatch.chdir(source.parent)
    to_bin(source, {"a": torch.zeros(1), "b": Evil()}, _use_new_zipfile_serialization=zipped)
    assert run(source, out) == 2
    assert "holds more than tensors, or is damaged; it is not opened" in capsys.readouterr().err
    assert names(source.parent) == ["source"]


@pytest.mark.parametrize("state", [{"model": {"w": torch.zeros(1)}}, {"step": 3}, [1, 2]])
def test_pickle_of_another_form_is_refused_by_entry(source, out, capsys, state):
    to_bin(source, state)
    assert run(source, out) == 2
    err = capsys.readouterr().err
    assert "is not as transformers saves it" in err and err.count("\n") == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickle_is_refused_in_one_line(source, out, capsys, zipped):
    to_bin(source, _use_new_zipfile_serialization=zipped)
    path = source / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run(source, out) == 2
    err = capsys.readouterr().err
    assert "pytorch_model.bin" in err and err.count("\n") == 1
    path.write_bytes(b"")
    assert run(source, out) == 2
    assert not out.exists()


def test_folder_without_weights_is_refused(source, out, capsys):
    (source / "model.safetensors").unlink()
    assert run(source, out) == 2
    assert "has neither model.safetensors nor pytorch_model.bin" in capsys.readouterr().err


@pytest.mark.parametrize("dtype, unit", [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_file_is_half_as_large_and_rounded(source, out, dtype, unit):
    assert run(source, out, "--dtype", dtype) == 0
    stored = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert_same(pretrained.load(out)[1], pretrained.load(source)[1], rtol=unit)


def test_too_large_for_float16_leaves_nothing_behind(source, out, capsys, tmp_path):
    state = load_file(source / "model.safetensors")
    state["encoder.layer_norm.bias"][3] = 1e6
    save_file(state, source / "model.safetensors")
    assert run(source, out, "--dtype", "float16") == 2
    assert "encoder.layer_norm.bias has the value 1e+06, too large" in capsys.readouterr().err
    assert names(tmp_path) == ["source"]


def test_what_was_read_and_left_out_is_printed(make_blip2, tmp_path, out, capsys):
    make_blip2("Blip2ForImageTextRetrieval").save_pretrained(tmp_path / "source")
    capsys.readouterr()
    assert run(tmp_path / "source", out) == 0
    lines = capsys.readouterr().out.splitlines()
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    kept = load_file(out / "model.safetensors")
    assert lines[0].endswith(
        f"blip2, model.safetensors, {len(tensors)} tensors, "
        f"{sum(t.nbytes for t in tensors.values()) / 1e6:.1f} MB"
    )
    assert lines[1].startswith(f"left out {len(tensors) - len(kept)} of them, not the encoder's: ")
    assert "text_projection.* (2)" in lines[1] and "itm_head.* (2)" in lines[1]
    assert lines[2] == "no preprocessor_config.json there: how its input is prepared is not known"
    parameters = sum(t.numel() for t in kept.values())
    assert lines[3] == f"wrote {parameters:,} parameters as float32 to {out}"


@pytest.mark.parametrize("nested", [False, True])
def test_processor_goes_along_and_transformers_reads_it(clip, tmp_path, out, nested):
    source = tmp_path / "source"
    clip.save_pretrained(source)
    processor = transformers.CLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=32)
    fields = processor.to_dict()
    name, content = "preprocessor_config.json", fields
    if nested:
        name, content = "processor_config.json", {"image_processor": fields}
    (source / name).write_text(json.dumps(content))
    assert run(source, out) == 0
    assert names(out) == [*OUT, "preprocessor_config.json"]
    assert pretrained.preprocessing(out) == pretrained.preprocessing(source)
    again = transformers.CLIPImageProcessorPil.from_pretrained(out)
    assert again.to_dict() == fields


def test_processor_that_is_not_ported_is_refused(clip, tmp_path, out, capsys):
    clip.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "preprocessor_config.json").write_text('{"resample": 2}')
    assert run(tmp_path / "source", out) == 2
    assert "resample=2; only 3 is ported" in capsys.readouterr().err
    assert not out.exists()


def test_folder_of_another_is_never_overwritten(source, out, capsys):
    shutil.copytree(source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(source, out) == 2
    assert "holds files that sir_jax did not write (config.json, model." in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(source, source) == 2


def test_own_folder_is_replaced_unless_something_was_added(source, out, capsys, tmp_path):
    out.mkdir()
    assert run(source, out) == 0  # an empty folder will do
    assert run(source, out, "--dtype", "float16") == 0
    assert load_file(out / "model.safetensors")["encoder.layer_norm.bias"].dtype == torch.float16
    (out / "notes.txt").write_text("mine")
    assert run(source, out) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["out", "source"]


def test_own_folder_can_be_its_own_source(source, out):
    assert run(source, out) == 0
    _, expected = pretrained.load(out)
    assert run(out, out) == 0
    assert_same(pretrained.load(out)[1], expected)


def test_file_in_the_place_of_the_folder_is_refused(source, out, capsys):
    out.write_text("mine")
    assert run(source, out) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert run(source, out / "below") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_failure_keeps_the_old_folder_and_nothing_half_written(source, out, monkeypatch, tmp_path):
    assert run(source, out) == 0
    before = (out / "model.safetensors").read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "summary", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(source, out, "--dtype", "float16")
    assert (out / "model.safetensors").read_bytes() == before
    assert names(tmp_path) == ["out", "source"]


def table(text):
    """Return the printed errors by output."""
    rows = (line.rsplit(maxsplit=2) for line in text.splitlines() if "e-" in line or "nan" in line)
    return {row[0]: (float(row[1]), float(row[2])) for row in rows if len(row) == 3}


def test_verify_prints_each_outputs_error(source, out, capsys):
    to_bin(source)
    capsys.readouterr()
    assert run(source, out, "--verify") == 0
    text = capsys.readouterr().out
    assert "bound 0.001 relative\n" in text
    errors = table(text)
    assert sorted(errors) == ["states", "tokens"]
    assert all(0 < relative < 1e-4 for _, relative in errors.values())


def test_verify_of_an_image_encoder_says_the_wider_bound_of_halves(clip, tmp_path, out, capsys):
    clip.save_pretrained(tmp_path / "source")
    assert run(tmp_path / "source", out, "--verify", "--dtype", "bfloat16") == 0
    text = capsys.readouterr().out
    assert "bound 0.1 relative, wider because the weights are rounded to bfloat16" in text
    errors = table(text)
    assert sorted(errors) == ["pooled", "states", "tokens"]
    assert all(1e-4 < relative < 0.1 for _, relative in errors.values())


@pytest.mark.parametrize("architecture", ["Blip2ForImageTextRetrieval", "Blip2Model"])
def test_verify_of_blip2_compares_both_parts(make_blip2, tmp_path, out, capsys, architecture):
    make_blip2(architecture).save_pretrained(tmp_path / "source")
    assert run(tmp_path / "source", out, "--verify") == 0
    errors = table(capsys.readouterr().out)
    expected = {f"vision {x}" for x in ("tokens", "pooled", "states")}
    expected |= {"qformer tokens", "qformer states"}
    if architecture != "Blip2Model":
        expected.add("qformer projected")
    assert set(errors) == expected
    assert all(relative < 1e-4 for _, relative in errors.values())


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_verify_refuses_a_wrong_conversion(source, out, capsys, monkeypatch, value):
    # Of one leaf of many, moved behind the converter's back.
    def tampered(source, folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["encoder.layers.2.feed_forward.output_dense.bias"][5] += value
        save_file(tensors, path)
        return original(source, folder)

    original = verify.compare
    monkeypatch.setattr(verify, "compare", tampered)
    assert run(source, out, "--verify") == 2
    message = "differ from PyTorch's by more than 0.001; nothing was written"
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_options_are_not_abbreviated(source, out):
    with pytest.raises(SystemExit):
        run(source, out, "--ver")


CHILD = """
import sys
import torch
from sir_jax import pretrained
from sir_jax.cli import main as cli
import sir_jax.pretrained.convert

def status(field):
    line = next(x for x in open("/proc/self/status") if x.startswith(field))
    return int(line.split()[1]) * 1024

verb, source, out = sys.argv[1:]
before = status("VmRSS")
if verb == "load":
    kept = pretrained.load(source)
else:
    assert cli.main(["convert", "--source", source, "--out", out]) == 0
print("grown", status("VmHWM") - before)
"""


def grown(verb, source, out):
    """Return by how many bytes a process' peak exceeds what it had after its imports."""
    args = [sys.executable, "-c", CHILD, verb, str(source), str(out)]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rsplit(maxsplit=1)[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "pickle"])
def test_peak_memory_is_at_most_1_3_times_the_float32_size(tmp_path, kind):
    spec = VitSpec(layers=6)
    shapes = leaf_shapes(spec)
    rng = np.random.default_rng(0)
    leaves = {k: rng.standard_normal(shape, np.float32) for k, shape in shapes.items()}
    size = sum(leaf.nbytes for leaf in leaves.values())
    source = tmp_path / "source"
    write_encoder(source, spec, leaves, convert.DTYPES.get(kind, np.float32))
    del leaves
    if kind == "pickle":
        to_bin(source)
    else:
        # What the imports had and gave back is missing in the growth: less than one part in twenty.
        assert 0.95 * size <= grown("load", source, "") <= 1.3 * size
    assert grown("convert", source, tmp_path / "out") <= 1.3 * size
