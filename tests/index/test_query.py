"""The kind of a query in every form that a search takes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.index.query import group_queries, kind_of_content


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
