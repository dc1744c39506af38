"""Exact search returns the rows of the best float64 scores in every precision and on any device."""

import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.index.engines import exact
from sir_jax.index.engines.exact import exact_search

WAYS = [
    {"device": "cpu", "precision": "bfloat16"},
    {"device": "cpu", "precision": "float32"},
    {"device": "cpu", "precision": "float64"},
    {"device": "accelerator"},
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("precision", "accelerator"))


def unit(rng, rows, width=24):
    z = rng.standard_normal((rows, width)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def expected_result(queries, gallery, k):
    products = queries[:, None].astype(np.float64) * gallery[None].astype(np.float64)
    scores = products.sum(2).astype(np.float32)
    scores[:, ~np.isfinite(gallery).all(1)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def assert_result(result, expected):
    np.testing.assert_array_equal(result.rows, expected[0])
    np.testing.assert_array_equal(result.scores, expected[1])
    assert result.rows.dtype == np.int64 and result.scores.dtype == np.float32


@ways
@pytest.mark.parametrize("count", [1, 40])
def test_finds_the_best_of_several_chunks(way, count):
    rng = np.random.default_rng(0)
    gallery, queries = unit(rng, 9_001), unit(rng, count)
    assert_result(exact_search(queries, gallery, 10, **way), expected_result(queries, gallery, 10))


@ways
def test_nearly_equal_vectors(way):
    # All scores lie within 1e-6 of each other, so that no low precision can order them.
    rng = np.random.default_rng(1)
    gallery = (unit(rng, 1)[0] + 1e-7 * rng.standard_normal((5_000, 24))).astype(np.float32)
    queries = unit(rng, 40)
    assert_result(exact_search(queries, gallery, 7, **way), expected_result(queries, gallery, 7))


@ways
def test_equal_scores_keep_the_order_of_the_gallery(way):
    rng = np.random.default_rng(2)
    gallery = np.tile(unit(rng, 3), (2_000, 1))
    queries = np.concatenate([gallery[:3]] * 14)
    result = exact_search(queries, gallery, 5, **way)
    np.testing.assert_array_equal(result.rows[1], 1 + 3 * np.arange(5))
    np.testing.assert_array_equal(result.rows[5], 2 + 3 * np.arange(5))
    assert (result.scores == result.scores[:, :1]).all()


@ways
def test_rows_that_are_not_finite_are_ignored(way):
    rng = np.random.default_rng(3)
    gallery, queries = unit(rng, 4_500), unit(rng, 33)
    gallery[::3] = np.nan
    gallery[1, 4], gallery[4, 0] = np.inf, -np.inf
    assert_result(exact_search(queries, gallery, 10, **way), expected_result(queries, gallery, 10))
    few = np.full((50, 24), np.nan, np.float32)
    few[[4, 44]] = unit(rng, 2)
    result = exact_search(queries, few, 10, **way)
    assert_result(result, expected_result(queries, few, 2))
    assert not exact_search(queries, few[:4], 3, **way).rows.size


@ways
@pytest.mark.parametrize("scale", [1e-6, 3e6])
def test_vectors_of_any_length(way, scale):
    rng = np.random.default_rng(4)
    gallery = unit(rng, 3_000) * rng.exponential(scale, (3_000, 1)).astype(np.float32)
    queries = unit(rng, 40) * np.float32(scale)
    assert_result(exact_search(queries, gallery, 9, **way), expected_result(queries, gallery, 9))


@ways
@pytest.mark.parametrize(
    ("scale", "of_query"), [(1e-19, 1.0), (1e-22, 1.0), (1e-22, 1e-20), (1e-41, 1.0)]
)
def test_no_row_is_lost_where_squares_are_too_small_for_float32(way, scale, of_query):
    rng = np.random.default_rng(10)
    gallery = (unit(rng, 3_000) * rng.exponential(scale, (3_000, 1))).astype(np.float32)
    queries = unit(rng, 40) * np.float32(of_query)
    assert_result(exact_search(queries, gallery, 9, **way), expected_result(queries, gallery, 9))
    # Beside vectors of usual length, too.
    gallery[::700] = unit(rng, 5)
    assert_result(exact_search(queries, gallery, 9, **way), expected_result(queries, gallery, 9))


@ways
def test_vectors_whose_squares_overflow_are_refused_by_name(way):
    rng = np.random.default_rng(11)
    gallery, queries = unit(rng, 4_500), unit(rng, 40)
    gallery[7, 0], gallery[4_321] = np.inf, 9e18
    assert_result(
        exact_search(queries, gallery[:4_000], 9, **way),
        expected_result(queries, gallery[:4_000], 9),
    )
    with pytest.raises(UserError, match=r"row 4321 of the gallery is longer than 9\.2e\+18"):
        exact_search(queries, gallery, 9, **way)
    queries[3] *= np.float32(2e19)
    with pytest.raises(UserError, match=r"query 3 is longer than 9\.2e\+18; scale it down"):
        exact_search(queries, gallery[:9], 9, **way)


@ways
def test_negative_scores_and_k_above_the_size_of_the_gallery(way):
    rng = np.random.default_rng(5)
    queries = np.abs(unit(rng, 40))
    gallery = -np.abs(unit(rng, 30))
    result = exact_search(queries, gallery, 100, **way)
    assert result.rows.shape == (40, 30)
    assert_result(result, expected_result(queries, gallery, 30))
    assert (result.scores < 0).all()


@ways
def test_empty_gallery_and_no_queries(way):
    empty = np.zeros((0, 24), np.float32)
    queries = unit(np.random.default_rng(6), 3)
    assert exact_search(queries, empty, 5, **way).rows.shape == (3, 0)
    assert exact_search(empty, queries, 5, **way).scores.shape == (0, 0)


@ways
def test_a_query_has_the_same_result_alone_and_among_others(way, monkeypatch):
    rng = np.random.default_rng(7)
    gallery, queries = unit(rng, 6_000), unit(rng, 70)
    together = exact_search(queries, gallery, 20, **way)
    alone = exact_search(queries[41:42], gallery, 20, **way)
    np.testing.assert_array_equal(alone.rows[0], together.rows[41])
    np.testing.assert_array_equal(alone.scores[0], together.scores[41])
    monkeypatch.setattr(exact, "QUERIES", 32)
    monkeypatch.setattr(exact, "ROWS", 512)
    assert_result(exact_search(queries, gallery, 20, **way), together)


@ways
def test_k_of_any_integer_type(way):
    rng = np.random.default_rng(12)
    gallery, queries = unit(rng, 300), unit(rng, 3)
    expected = exact_search(queries, gallery, 7, **way)
    for k in (np.int64(7), np.uint8(7)):
        assert_result(exact_search(queries, gallery, k, **way), expected)


def test_reads_maps_and_arrays_that_are_not_contiguous(tmp_path):
    rng = np.random.default_rng(8)
    gallery, queries = unit(rng, 5_000), unit(rng, 40)
    expected = expected_result(queries, gallery, 4)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert_result(exact_search(queries, mapped, 4), expected)
    strided = np.asfortranarray(gallery)
    wide = np.repeat(queries, 2, axis=1)[:, ::2]
    assert_result(exact_search(wide, strided, 4), expected)


@pytest.mark.parametrize(
    "queries, gallery, k, message",
    [
        (np.ones((1, 4), np.float16), np.ones((2, 4), np.float32), 1, "queries are float16"),
        (np.ones((1, 4), np.float32), np.ones((2, 4), np.float16), 1, "gallery are float16"),
        (np.ones(4, np.float32), np.ones((2, 4), np.float32), 1, r"shape \(4,\)"),
        (np.ones((1, 4), np.float32), np.ones((2, 5), np.float32), 1, "4 wide, the gallery 5"),
        (np.ones((1, 4), np.float32), np.ones((2, 4), np.float32), 0, "k is 0"),
        (np.full((1, 4), np.nan, np.float32), np.ones((2, 4), np.float32), 1, "query 0 is not"),
    ],
)
def test_refuses_arrays_that_it_cannot_search(queries, gallery, k, message):
    with pytest.raises(UserError, match=message):
        exact_search(queries, gallery, k)


def test_agrees_with_faiss():
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(9)
    gallery, queries = unit(rng, 20_000, 64), unit(rng, 200, 64)
    index = faiss.IndexFlatIP(64)
    index.add(gallery)
    scores, rows = index.search(queries, 10)
    result = exact_search(queries, gallery, 10)
    np.testing.assert_allclose(result.scores, scores, atol=1e-6)
    assert (result.rows == rows).mean() > 0.99
