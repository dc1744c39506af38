"""The kind of a query in every form that a search takes."""

from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.index.query import check_search, group_queries, kind_of_content, plain_queries


def test_kinds():
    pictures = [Image.new("RGB", (2, 2)), np.zeros((2, 2), np.uint8), "a.PNG", Path("b/c.webp")]
    assert {kind_of_content(each) for each in pictures} == {"image"}
    clips = [(np.zeros(3), 8_000), {"array": [], "sampling_rate": 1}, "a.wav", Path("x.mp3")]
    assert {kind_of_content(each, "image") for each in clips} == {"speech"}
    for unknown in (b"bytes", "no suffix", Path("a.txt"), 3):
        assert kind_of_content(unknown) is None
        assert kind_of_content(unknown, "speech") == "speech"


def test_groups():
    queries = ["a.wav", "b.png", "c.wav", b"x"]
    assert group_queries(queries[:3], None) == {
        ("speech", "image"): [0, 2],
        ("image", "speech"): [1],
    }
    # If the kind of a query is unknown, it is the other kind than the one searched for.
    assert group_queries(queries, "image") == {
        ("speech", "image"): [0, 2, 3],
        ("image", "image"): [1],
    }
    assert group_queries([], None) == {}
    with pytest.raises(UserError, match="query 3 .1 bytes. does not say"):
        group_queries(queries, None)
    with pytest.raises(UserError, match=r"query 0 \('a.txt'\) does not say"):
        group_queries(["a.txt"], None)


VECTORS = np.array([[0.5, -1.0, 0.25], [2.0, 0.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    "given",
    [
        VECTORS,
        VECTORS.astype(np.float64),
        VECTORS.astype(np.float16),
        VECTORS.astype(ml_dtypes.bfloat16),
        VECTORS.astype(">f8"),
        jnp.asarray(VECTORS),
        jnp.asarray(VECTORS, jnp.bfloat16),
        torch.tensor(VECTORS),
        list(VECTORS.astype(np.float64)),
        list(jnp.asarray(VECTORS)),
        VECTORS.tolist(),
    ],
    ids=lambda given: type(given).__name__,
)
def test_vectors_of_any_float_type(given):
    for actual, expected in (
        (plain_queries(given), VECTORS),
        (plain_queries(given[0]), VECTORS[0]),
    ):
        assert actual.dtype == np.float32 and type(actual) is np.ndarray
        np.testing.assert_array_equal(actual, expected)


def test_what_is_no_vector_stays_what_it_is():
    picture, sound = np.zeros((4, 4, 3), np.uint8), (np.zeros(9, np.float32), 16_000)
    for query in (picture, sound, "a.png", b"x", [sound, "a.wav"], [picture, picture], []):
        assert plain_queries(query) is query or plain_queries(query) == query
    assert plain_queries(np.array(["a.png", "b.wav"])) == ["a.png", "b.wav"]
    assert plain_queries(np.array([Path("a.png")], object)) == [Path("a.png")]
    assert plain_queries(np.array("a.png")) == "a.png"
    on_device = plain_queries(jnp.zeros((4, 4, 3), jnp.uint8))
    assert type(on_device) is np.ndarray and kind_of_content(on_device) == "image"
    with pytest.raises(UserError, match="vectors of different lengths"):
        plain_queries([np.zeros(3), np.zeros(4)])


def test_numbers_of_any_library():
    assert check_search(np.int64(5), np.uint8(9), None) == (5, 9)
    assert check_search(jnp.int32(5), jnp.int32(0), "image") == (5, 0)
    assert [type(value) for value in check_search(np.int64(5), np.uint8(9), None)] == [int, int]
    for k in (2.0, "3", None, np.float32(1)):
        with pytest.raises(UserError, match="^k is .*; give a whole number$"):
            check_search(k, 0, None)
