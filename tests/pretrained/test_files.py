"""The safetensors format both ways against its own library, and damaged files by name."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from sir_jax.errors import UserError
from sir_jax.pretrained.files import METADATA, open_tensors, read_metadata, write_tensors

BF16 = ml_dtypes.bfloat16
SHAPES = {"b.scalar": (), "a": (3, 5), "z": (7,), "empty": (0, 4), "c": (2, 3, 4)}


def values(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def bits(array):
    return np.asarray(array).view({4: np.uint32, 2: np.uint16}[np.asarray(array).itemsize])


def write(path, given, dtype=np.float32):
    write_tensors(path, {k: v.shape for k, v in given.items()}, given.__getitem__, dtype)


@pytest.fixture
def single(tmp_path):
    save_file(values(), tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    given = values()
    parts = {"m-1.safetensors": ["a", "b.scalar"], "m-2.safetensors": ["c", "empty", "z"]}
    for shard, names in parts.items():
        save_file({name: given[name] for name in names}, tmp_path / shard)
    weight_map = {name: shard for shard, names in parts.items() for name in names}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def change_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def change_header(folder, change):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header = change(header) or header
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_reads_what_the_library_writes(tmp_path, dtype):
    given = {name: torch.from_numpy(value).to(dtype) for name, value in values().items()}
    save_torch(given, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = open_tensors(tmp_path)
    assert tensors.shapes == SHAPES
    assert tensors.bytes == sum(t.nbytes for t in given.values())
    for name, tensor in given.items():
        got = tensors.read(name)
        assert got.shape == SHAPES[name]
        np.testing.assert_array_equal(got.astype(np.float32), tensor.float().numpy(), err_msg=name)
        assert got.flags.owndata and got.flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16])
def test_the_library_reads_what_is_written(tmp_path, dtype):
    write(tmp_path / "model.safetensors", values(), dtype)
    theirs = load_torch(tmp_path / "model.safetensors")
    assert sorted(theirs) == sorted(SHAPES)
    for name, value in values().items():
        assert tuple(theirs[name].shape) == SHAPES[name]
        expected = torch.from_numpy(value).to(theirs[name].dtype)
        assert theirs[name].dtype.itemsize == np.dtype(dtype).itemsize
        assert torch.equal(theirs[name], expected), name
    again = open_tensors(tmp_path)
    for name, value in values().items():
        np.testing.assert_array_equal(bits(again.read(name)), bits(value.astype(dtype)))
    assert read_metadata(tmp_path / "model.safetensors") == METADATA


def test_written_tensors_begin_at_a_multiple_of_eight(tmp_path):
    for name in ("a", "ab", "abc"):
        write(tmp_path / "x", {name: np.ones(2, np.float32)})
        assert int.from_bytes((tmp_path / "x").read_bytes()[:8], "little") % 8 == 0


def test_layouts_other_than_rows_are_written_as_rows(tmp_path):
    given = {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    write(tmp_path / "x", given)
    np.testing.assert_array_equal(load_file(tmp_path / "x")["t"], given["t"])


def test_writer_asks_for_one_tensor_at_a_time(tmp_path):
    path, sizes = tmp_path / "x", []

    def read(name):
        sizes.append(os.path.getsize(path))
        return np.ones((1 << 18,), np.float32)

    write_tensors(path, dict.fromkeys("abc", (1 << 18,)), read, np.float32)
    # What was asked for before is on disk, but for a buffer.
    assert sizes[1] >= 1 << 20 and sizes[2] >= 2 << 20


def test_half_that_overflows_is_refused_by_name(tmp_path):
    given = {"a": np.ones(2, np.float32), "big": np.array([1.0, -70000.0], np.float32)}
    with pytest.raises(UserError, match="tensor big has the value 70000, too large for float16"):
        write(tmp_path / "x", given, np.float16)
    write(tmp_path / "x", given, BF16)


def test_tensor_of_another_shape_than_announced_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="tensor a has shape"):
        write_tensors(tmp_path / "x", {"a": (3,)}, lambda name: np.ones(2, np.float32), np.float32)


def test_shards_read_as_the_single_file_does(sharded):
    tensors = open_tensors(sharded)
    assert tensors.shapes == SHAPES
    assert [path.name for path in tensors.files] == ["m-1.safetensors", "m-2.safetensors"]
    for name, value in values().items():
        np.testing.assert_array_equal(tensors.read(name), value, err_msg=name)


def test_truncated_file_names_what_lies_beyond_its_end(single):
    path = single / "model.safetensors"
    whole = path.read_bytes()
    entries = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    # 'c' keeps all but its last byte; what lies before it is whole.
    ends = {name: entries[name]["data_offsets"][1] for name in SHAPES}
    path.write_bytes(whole[: len(whole) - max(ends.values()) + ends["c"] - 1])
    lost = sorted(name for name in SHAPES if ends[name] >= ends["c"])
    assert "c" in lost and "a" not in lost
    with pytest.raises(UserError, match=f"is truncated: .*cut off are {', '.join(lost)}; get"):
        open_tensors(single)


def test_file_that_is_too_long_is_damaged(single):
    with (single / "model.safetensors").open("ab") as file:
        file.write(b"12345")
    with pytest.raises(UserError, match="damaged: 5 bytes follow the last tensor"):
        open_tensors(single)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "header of 0 bytes does not fit in 0"),
        (b"<html>404 Not found</html>", "its header of .* bytes does not fit in 26"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "does not fit in 10"),
        ((4).to_bytes(8, "little") + b"{ab}", "its header is no JSON"),
        ((4).to_bytes(8, "little") + b"\xff\xfe  ", "its header is no JSON"),
        ((2).to_bytes(8, "little") + b"[]", "its header is no dict"),
    ],
)
def test_damaged_header_is_refused(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"model.safetensors is damaged: .*{message}"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        dict(dtype="F32", shape=[3, -5], data_offsets=[0, 60]),
        dict(dtype="F32", shape=[3, 5], data_offsets=[60, 0]),
        dict(dtype="F32", shape=[3, 5]),
        dict(dtype="F32", shape=[3, 5], data_offsets=[0]),
        dict(dtype=["F32"], shape=[3, 5], data_offsets=[0, 60]),
        dict(dtype="F32", shape=[3, 4], data_offsets=[0, 60]),
        dict(dtype="I64", shape=[3, 5], data_offsets=[0, 60]),
        # Of a kind that has no known size.
        dict(dtype="F8_E4M3", shape=[60], data_offsets=[60, 0]),
    ],
)
def test_damaged_entry_is_named(single, entry):
    change_header(single, lambda header: header.update(a=entry))
    with pytest.raises(UserError, match="model.safetensors is damaged: .*tensor a "):
        open_tensors(single)


def test_overlapping_tensors_are_refused(single):
    change_header(single, lambda h: h["z"].update(data_offsets=h["a"]["data_offsets"], shape=[15]))
    with pytest.raises(UserError, match="does not begin where the one before it ends"):
        open_tensors(single)


def test_integers_may_lie_in_a_file_but_are_no_weights(tmp_path):
    save_file({"ids": np.arange(3), "w": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path)
    np.testing.assert_array_equal(tensors.read("w"), [1, 1])
    with pytest.raises(UserError, match="tensor ids of .* is I64; read are F32, F16, BF16"):
        tensors.read("ids")


def test_missing_shards_are_named_together(sharded):
    (sharded / "m-1.safetensors").unlink()
    change_index(sharded, lambda weights: weights.update(a="m-3.safetensors"))
    with pytest.raises(UserError, match="lacks m-1.safetensors, m-3.safetensors, listed in"):
        open_tensors(sharded)


def test_tensor_that_the_index_promises_and_the_shard_lacks_is_named(sharded):
    change_index(sharded, lambda weights: weights.update(ghost="m-2.safetensors"))
    with pytest.raises(UserError, match="m-2.safetensors lacks ghost, listed in model.safetens"):
        open_tensors(sharded)


def test_tensor_that_the_index_does_not_list_is_named(sharded):
    change_index(sharded, lambda weights: weights.pop("z"))
    with pytest.raises(UserError, match="m-2.safetensors holds z, not listed for it in"):
        open_tensors(sharded)


def test_tensor_in_another_shard_than_listed_is_named(sharded):
    change_index(sharded, lambda weights: weights.update(a="m-2.safetensors"))
    with pytest.raises(UserError, match="m-1.safetensors holds a, not listed for it"):
        open_tensors(sharded)


@pytest.mark.parametrize("shard", ["../m-1.safetensors", "/etc/passwd", 7, "", ".."])
def test_index_may_not_point_out_of_the_folder(sharded, shard):
    change_index(sharded, lambda weights: weights.update(a=shard))
    with pytest.raises(UserError, match="lists a in .*no file name beside it|lacks"):
        open_tensors(sharded)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}'])
def test_damaged_index_is_refused(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="index.json (cannot be|holds no dict|has no weight_map)"):
        open_tensors(sharded)


def test_truncated_shard_is_named(sharded):
    path = sharded / "m-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"m-2.safetensors is truncated: .*cut off are "):
        open_tensors(sharded)
