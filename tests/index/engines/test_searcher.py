"""Repeated search of one gallery, on a CPU and by the code for accelerators."""

import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.index.engines import exact_device, searcher
from sir_jax.index.engines.exact import exact_search
from sir_jax.index.engines.exact_device import DeviceGallery
from sir_jax.index.engines.searcher import Searcher


def unit(rng, rows, width=16):
    z = rng.standard_normal((rows, width)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture
def gallery():
    return unit(np.random.default_rng(0), 3_000)


@pytest.fixture
def queries():
    return unit(np.random.default_rng(1), 5)


@pytest.mark.parametrize("budget", [0, 2 * 1024 * 16 * 4, 1 << 30])
def test_chunks_stay_within_the_budget(gallery, queries, budget, monkeypatch):
    monkeypatch.setattr(exact_device, "ROWS", 1024)
    on_device, expected = DeviceGallery(gallery, budget), exact_search(queries, gallery, 7)
    for _ in range(2):
        result = exact_search(queries, gallery, 7, device="accelerator", device_gallery=on_device)
        np.testing.assert_array_equal(result.rows, expected.rows)
        np.testing.assert_array_equal(result.scores, expected.scores)
    assert len(on_device._kept) == {0: 0, 131_072: 2, 1 << 30: 3}[budget]


def test_an_accelerator_keeps_the_gallery(gallery, queries, monkeypatch):
    expected = exact_search(queries, gallery, 7)
    monkeypatch.setattr(searcher.jax, "default_backend", lambda: "gpu")
    search = Searcher(gallery)
    np.testing.assert_array_equal(search.search(queries, 7).rows, expected.rows)
    kept = search._device_gallery
    np.testing.assert_array_equal(search.search(queries, 7).scores, expected.scores)
    assert kept is not None and search._device_gallery is kept


def test_ways(gallery, queries):
    pytest.importorskip("faiss")
    search = Searcher(gallery)
    expected = exact_search(queries, gallery, 7)
    np.testing.assert_array_equal(search.search(queries, 7).rows, expected.rows)
    assert search.faiss is None
    result = search.search(queries, 7, "ivf", gallery)
    assert search.faiss.way == "ivf" and (result.rows == expected.rows).mean() > 0.5
    kept = search.faiss
    search.search(queries, 7, "ivf")
    assert search.faiss is kept
    search.search(queries, 7, "hnsw")
    assert search.faiss.way == "hnsw"
    with pytest.raises(UserError, match="none of auto"):
        search.search(queries, 7, "flat")


def test_empty_gallery(queries):
    empty = Searcher(np.zeros((0, 16), np.float32))
    assert empty.search(queries, 3, "ivf").rows.shape == (5, 0)
