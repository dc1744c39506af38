"""Matrices and their JSON on disk: exact round trips, and damage is reported."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sir_jax.errors import UserError
from sir_jax.index import vectors


@pytest.fixture
def matrix():
    return np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def test_round_trip_in_parts(tmp_path, matrix):
    path = tmp_path / "a.safetensors"
    vectors.write_matrix(path, [matrix[:3], matrix[3:3], matrix[3:]], 7, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    mapped = vectors.read_matrix(path, 7, 5)
    np.testing.assert_array_equal(mapped, matrix)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    assert mapped.ctypes.data % 64 == 0
    # The safetensors library can read the file.
    np.testing.assert_array_equal(load_file(path)["vectors"], matrix)


def test_no_rows(tmp_path):
    path = tmp_path / "a.safetensors"
    vectors.write_matrix(path, [], 0, 5)
    assert vectors.read_matrix(path, 0, 5).shape == (0, 5)
    assert load_file(path)["vectors"].shape == (0, 5)


def test_a_failed_write_leaves_the_old_file(tmp_path, matrix):
    path = tmp_path / "a.safetensors"
    vectors.write_matrix(path, [matrix], 7, 5)
    for parts in ([matrix[:6]], [matrix.astype(np.float64)], [matrix[:, :4]], [matrix, matrix]):
        with pytest.raises(ValueError, match="vectors"):
            vectors.write_matrix(path, parts, 7, 5)
        np.testing.assert_array_equal(vectors.read_matrix(path, 7, 5), matrix)


@pytest.mark.parametrize("cut", [0, 5, 40, 1])
def test_truncated(tmp_path, matrix, cut):
    path = tmp_path / "a.safetensors"
    vectors.write_matrix(path, [matrix], 7, 5)
    data = path.read_bytes()
    path.write_bytes(data[: cut if cut != 1 else len(data) - 1])
    with pytest.raises(UserError, match=r"a\.safetensors is (damaged|truncated)"):
        vectors.read_matrix(path, 7, 5)


def test_another_dtype_width_count_or_name(tmp_path, matrix):
    path = tmp_path / "a.safetensors"
    save_file({"vectors": matrix.astype(np.float16)}, path)
    with pytest.raises(UserError, match=r"vectors of F16 \[7, 5\], not F32 \[7, 5\]"):
        vectors.read_matrix(path, 7, 5)
    vectors.write_matrix(path, [matrix], 7, 5)
    with pytest.raises(UserError, match=r"F32 \[7, 5\], not F32 \[7, 6\]"):
        vectors.read_matrix(path, 7, 6)
    with pytest.raises(UserError, match=r"F32 \[7, 5\], not F32 \[8, 5\]"):
        vectors.read_matrix(path, 8, 5)
    save_file({"weights": matrix}, path)
    with pytest.raises(UserError, match="holds weights, not vectors"):
        vectors.read_matrix(path, 7, 5)
    with pytest.raises(UserError, match=r"missing\.safetensors cannot be read"):
        vectors.read_matrix(tmp_path / "missing.safetensors", 7, 5)


def test_head_round_trip_and_what_it_refuses(tmp_path):
    path = tmp_path / "a.json"
    # Python represents a file name that is not UTF-8 by lone surrogates.
    content = {"ids": ["ä/b.png", "\udcff.png"], "rows": 2}
    vectors.write_head(path, "index", content)
    assert vectors.read_head(path, "index") == {"format": "index", "version": 1} | content
    with pytest.raises(UserError, match="is no chunk: its format is 'index'"):
        vectors.read_head(path, "chunk")
    path.write_text(json.dumps({"format": "index", "version": 2}))
    with pytest.raises(UserError, match="has version 2, and this sir_jax reads 1"):
        vectors.read_head(path, "index")
    path.write_text('{"format": "ind')
    with pytest.raises(UserError, match=r"a\.json cannot be read"):
        vectors.read_head(path, "index")
