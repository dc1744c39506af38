"""The search benchmark: a small run, and its comparison of results."""

import json

import numpy as np
import pytest

from sir_jax.benchmarks import search
from sir_jax.benchmarks.timing import Times
from sir_jax.errors import UserError
from sir_jax.index.engines.exact import SearchResult, exact_search

pytest.importorskip("faiss")


def test_small_run(tmp_path, capsys):
    out = tmp_path / "out.json"
    argv = [
        "--gallery=3000",
        "--queries=40",
        "--width=32",
        "-k",
        "4",
        "--rounds=1",
        "--numpy",
        "--fine=16",
    ]
    assert search.main([*argv, f"--json={out}"]) == 0
    printed = capsys.readouterr().out
    assert "40 queries over 3,000 x 32, k=4" in printed and "faiss, threshold 1" in printed
    assert "in vectors of 48: 1 MB of gallery beside 0 MB" in printed
    content = json.loads(out.read_text())
    assert set(content["times"]) == {
        "ours",
        "ours, fine",
        "faiss",
        "faiss, threshold 1",
        "numpy",
    }
    assert all(took["median"] > 0 for took in content["times"].values())


def test_compare_counts_near_ties_and_refuses_other_differences():
    gallery, queries = search.unit_vectors(500, 32, 0), search.unit_vectors(3, 32, 1)
    gallery[7] = gallery[400]
    queries[1] = gallery[7]
    ours = exact_search(queries, gallery, 3)
    assert ours.rows[1, :2].tolist() == [7, 400]
    rows = ours.rows.copy()
    rows[1, :2] = [400, 7]
    assert search.compare("other", ours, ours, queries, gallery) == 0
    assert search.compare("other", ours, SearchResult(rows, ours.scores), queries, gallery) == 2
    rows[2, 1] = (rows[2, 1] + 1) % 500
    with pytest.raises(UserError, match="other: query 2 found other rows"):
        search.compare("other", ours, SearchResult(rows, ours.scores), queries, gallery)
    scores = ours.scores.copy()
    scores[0, 2] = np.nan
    with pytest.raises(UserError, match="query 0 found other"):
        search.compare("other", ours, SearchResult(ours.rows, scores), queries, gallery)


def test_numpy_search_agrees():
    gallery, queries = search.unit_vectors(40_000, 8, 0), search.unit_vectors(5, 8, 1)
    theirs = search.numpy_search(queries, gallery, 6)
    ours = exact_search(queries, gallery, 6)
    assert search.compare("numpy", ours, theirs, queries, gallery) <= 2


def test_table_of_times_and_ratios():
    times = {"ours": Times(2.0, 1.0), "faiss": Times(5.0, 4.0)}
    ours, faiss = search.format_table(times, 4e9).splitlines()[1:]
    assert ours.split() == ["ours", "2.000", "1.000", "2"]
    assert faiss.split() == ["faiss", "5.000", "4.000", "1", "2.50", "4.00"]


@pytest.mark.parametrize("option", ["--gallery=0", "--rounds=0", "--gallery=5", "--fine=-1"])
def test_refuses_numbers_out_of_range(option):
    with pytest.raises(UserError, match="must be at least|more than --gallery"):
        search.main([option])
