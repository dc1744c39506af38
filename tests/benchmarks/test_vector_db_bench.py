"""The benchmark of vector databases: a small run, its vectors and its refusals."""

import json

import numpy as np
import pytest

from sir_jax.benchmarks import vector_db
from sir_jax.errors import UserError


def test_an_exact_index_has_full_recall_and_every_figure_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vector_db, "DATABASES", {"milvus": vector_db.Milvus})
    out = tmp_path / "figures.json"
    options = ["--rows=300", "--width=16", "--queries=7", "-k=5", "--batch=128", f"--json={out}"]
    assert vector_db.main(options) == 0
    flat, hnsw = json.loads(out.read_text())
    assert (flat["database"], flat["index"], flat["recall@5"]) == ("milvus", "FLAT", 1.0)
    assert hnsw["index"] == "HNSW" and hnsw["recall@5"] > 0.9
    assert all(flat[name] > 0 for name in ("rows/s", "ms/query", "ms batched", "disk MB"))
    printed = capsys.readouterr().out
    assert "300 x 16, 7 queries, k=5" in printed and "milvus: pymilvus" in printed


def test_vectors_are_of_unit_length_and_the_same_for_a_seed():
    a, b = (vector_db.make_vectors(50, 64, seed=1) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-6)
    # Most of their variance lies in a subspace of few dimensions.
    spread = np.linalg.svd(vector_db.make_vectors(500, 64, seed=1), compute_uv=False) ** 2
    assert spread[: vector_db._RANK].sum() > 0.98 * spread.sum()


def test_no_database_and_a_bad_option_are_mistakes(monkeypatch):
    with pytest.raises(UserError, match="--rows is 0; give 1 or more"):
        vector_db.main(["--rows=0"])
    monkeypatch.setattr(vector_db, "_installed", dict)
    with pytest.raises(UserError, match=r"is installed; pip install 'sir_jax\[vectordb\]'"):
        vector_db.main([])
