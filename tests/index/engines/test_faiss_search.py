"""FAISS search, compared with exact search."""

import builtins

import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.index.engines import faiss_search
from sir_jax.index.engines.exact import exact_search
from sir_jax.index.engines.faiss_search import FaissSearch, choose_way, recall_of

pytest.importorskip("faiss")


def unit(rng, rows, width=16):
    z = rng.standard_normal((rows, width)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def gallery():
    return unit(np.random.default_rng(0), 4_000)


@pytest.fixture(scope="module")
def queries():
    return unit(np.random.default_rng(1), 80)


def test_way_by_size():
    assert choose_way(1_000_000) == "exact" and choose_way(1_000_001) == "ivf"
    assert choose_way(5, "hnsw") == "hnsw" and choose_way(10**8, "exact") == "exact"
    with pytest.raises(UserError, match="'flat' is none of auto, exact, ivf, hnsw"):
        choose_way(5, "flat")


def test_recall():
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall_of(exact[:, ::-1], exact) == 1
    assert recall_of(np.array([[4, 9, 1], [8, 0, 2]]), exact) == 3 / 8
    assert recall_of(np.zeros((2, 0), int), exact) == 0
    assert recall_of(exact, np.zeros((2, 0), int)) == 1


@pytest.mark.parametrize("way", ["ivf", "hnsw"])
def test_the_target_recall_is_reached(way, gallery, queries):
    search = FaissSearch.build(gallery, way, samples=queries, recall=0.9)
    result, exact = search.search(queries, 10), exact_search(queries, gallery, 10)
    assert recall_of(result.rows, exact.rows) == pytest.approx(search.recall)
    assert 0.9 <= search.recall
    right = result.rows == exact.rows
    assert right[:, 0].mean() > 0.9
    np.testing.assert_array_equal(result.scores[right], exact.scores[right])
    assert (np.diff(result.scores, axis=1) <= 0).all()


def test_a_recall_of_one_gives_the_exact_result(gallery, queries):
    search = FaissSearch.build(gallery, "ivf", recall=1.0, samples=queries)
    result, exact = search.search(queries, 10), exact_search(queries, gallery, 10)
    np.testing.assert_array_equal(result.rows, exact.rows)
    np.testing.assert_array_equal(result.scores, exact.scores)


def test_a_low_target_recall_searches_fewer_lists(gallery, queries):
    search = FaissSearch.build(gallery, "ivf", samples=queries, recall=0.3)
    assert 0.3 <= search.recall < 0.9


def test_a_k_beyond_the_searched_lists_is_searched_exactly(gallery, queries):
    search = FaissSearch.build(gallery, "ivf", samples=queries, recall=0.3)
    result = search.search(queries, 3_000)
    np.testing.assert_array_equal(result.rows, exact_search(queries, gallery, 3_000).rows)


def test_tiny_gallery(gallery):
    search = FaissSearch.build(gallery[:3], "ivf")
    assert search.search(gallery[:2], 9).rows[:, 0].tolist() == [0, 1]
    assert search.search(gallery[:2], 9).rows.shape == (2, 3)


@pytest.mark.parametrize("way", ["ivf", "hnsw"])
def test_save_and_load(way, gallery, queries, tmp_path):
    search = FaissSearch.build(gallery, way, samples=queries)
    search.save(tmp_path / "a.faiss")
    assert [p.name for p in tmp_path.iterdir()] == ["a.faiss"]
    again = FaissSearch.load(tmp_path / "a.faiss", gallery, way, search.recall)
    np.testing.assert_array_equal(again.search(queries, 7).rows, search.search(queries, 7).rows)
    with pytest.raises(UserError, match="4,000 vectors of width 16, not of 3,999"):
        FaissSearch.load(tmp_path / "a.faiss", gallery[1:], way, 1.0)


def test_damaged_file(gallery, tmp_path):
    (tmp_path / "a.faiss").write_bytes(b"IwFl" + bytes(20))
    with pytest.raises(UserError, match=r"a\.faiss cannot be read .*; build it again"):
        FaissSearch.load(tmp_path / "a.faiss", gallery, "ivf", 1.0)


def test_without_faiss(monkeypatch, gallery):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'sir_jax\[faiss\]'"):
        faiss_search.FaissSearch.build(gallery)
