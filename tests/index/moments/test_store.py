"""Windows of long recordings: their best scores, their best stretches, and their files."""

import numpy as np
import pytest

from sir_jax.errors import UserError
from sir_jax.index.moments import store
from sir_jax.index.moments.store import Moments, joined, read_moments, write_moments

COUNTS = (3, 1, 4)


@pytest.fixture
def moments():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(sum(COUNTS), 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = np.concatenate([2.0 * np.arange(n) for n in COUNTS])
    spans = np.stack([starts, starts + 4], 1).astype(np.float32)
    return Moments(("a", "b", "c"), COUNTS, (0, 7, 2), vectors, spans)


@pytest.mark.parametrize("piece", [1, 4, 100])
def test_a_recording_is_as_good_as_its_best_window(moments, monkeypatch, piece):
    monkeypatch.setattr(store, "_PIECE", piece)
    z = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    scores = z.astype(np.float64) @ moments.vectors.T
    expected = [[s[:3].max(), s[3], s[4:].max()] for s in scores]
    np.testing.assert_array_equal(moments.best(z), np.array(expected, np.float32))


def test_of_moments_that_overlap_the_better_one_is_told(moments):
    z = np.zeros(5, np.float32)
    z[0] = 1
    moments.vectors[4:, 0] = [0.5, 0.9, 0.7, 0.4]  # at 0, 2, 4 and 6 s, each of four seconds
    assert [m[:2] for m in moments.of("c", z, 3)] == [(2.0, 6.0), (6.0, 10.0)]
    assert [round(m.score, 3) for m in moments.of("c", z, 3)] == [0.9, 0.4]
    assert len(moments.of("c", z, 1)) == 1 and moments.of("unknown", z, 3) == []


@pytest.fixture
def long():
    """Return forty stretches of four seconds, every other one a phrase of one second in it."""
    scores = 0.1 * np.tile([1.0, 0.5, -0.5, -1.0], 10).astype(np.float32)
    starts = 4.0 * (np.arange(40) // 2) + np.arange(40) % 2
    spans = np.stack([starts, starts + np.where(np.arange(40) % 2, 1, 4)], 1).astype(np.float32)
    return Moments(("a",), (40,), (0,), scores[:, None].copy(), spans)


def test_a_moment_is_clear_if_it_stands_out_of_the_recording(long):
    z = np.ones(1, np.float32)
    # Scores are -0.1, -0.05, 0.05, 0.1: the median is 0, half lie within 0.075 of it.
    spread = 0.075 / 0.6745
    long.vectors[8, 0] = 4 * spread + 0.001
    long.vectors[20, 0] = 4 * spread - 0.001
    (only,) = long.of("a", z, 3)
    assert only.clear and (only.start, only.end) == (16, 20)
    long.vectors[8, 0] = 0.1
    (best,) = long.of("a", z, 3)  # none is clear: the best is told, and that it is not
    assert not best.clear and best.start == 40
    long.vectors[8, 0] = 4 * spread + 0.001
    assert long.of("a", z, 3, typical=4 * spread)[0].clear
    # It stands out, and is less like the query than true pairs are.
    assert not long.of("a", z, 3, typical=4 * spread + 0.002)[0].clear
    few = Moments(("a",), (19,), (0,), long.vectors[:19], long.spans[:19])
    assert len(few.of("a", z, 3)) == 3 and all(moment.clear for moment in few.of("a", z, 3))


def test_a_phrase_inside_that_is_nearly_as_good_tells_where(long):
    # With two scores changed, most lie 0.1 from the median.
    z, spread = np.ones(1, np.float32), 0.1 / 0.6745
    long.vectors[8, 0] = 0.9
    for inside, span in ((0.9 - 0.4 * spread, (17, 18)), (0.9 - 0.6 * spread, (16, 20))):
        long.vectors[9, 0] = inside
        (best,) = long.of("a", z, 3)
        assert (best.start, best.end) == span and best.score == np.float32(0.9)


def test_means_are_unit_vectors_and_windows_that_cancel_have_a_stand_in(moments):
    mean = moments.vectors[:3].sum(0)
    np.testing.assert_allclose(moments.means()[0], mean / np.linalg.norm(mean), atol=1e-6)
    moments.vectors[5] = -moments.vectors[4]
    moments.vectors[7] = -moments.vectors[6]
    np.testing.assert_array_equal(moments.means()[2], moments.vectors[4])


def test_some_and_joined(moments):
    part = moments.taken(["c", "other", "a"])
    assert (part.ids, part.counts, part.silent) == (["c", "a"], [4, 3], [2, 0])
    np.testing.assert_array_equal(part.vectors, moments.vectors[[4, 5, 6, 7, 0, 1, 2]])
    assert moments.taken(["other"]) is None and moments.taken("abc") is moments
    both = joined([None, part, moments.taken(["b"])])
    assert both.ids == ["c", "a", "b"] and both.starts.tolist() == [0, 4, 7, 8]
    np.testing.assert_array_equal(both.taken("abc").spans, moments.spans)
    assert joined([None, part]) is part and joined([]) is None


def test_files(moments, tmp_path):
    entry = write_moments(tmp_path / "r-1", moments)
    assert sorted(store.files_of(entry)) == sorted(path.name for path in tmp_path.iterdir())
    again = read_moments(tmp_path, entry, 5)
    for name in ("ids", "counts", "silent", "vectors", "spans"):
        np.testing.assert_array_equal(getattr(again, name), getattr(moments, name))
    assert write_moments(tmp_path / "x", None) is read_moments(tmp_path, None, 5) is None
    with pytest.raises(ValueError, match="ids and counts that do not fit"):
        read_moments(tmp_path, entry | {"counts": [8]}, 5)
    with pytest.raises(ValueError, match="no file name"):
        read_moments(tmp_path, entry | {"spans": {"file": "../x", "checksum": ""}}, 5)
    path = tmp_path / entry["spans"]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(UserError, match=r"r-1-spans\.safetensors is damaged"):
        read_moments(tmp_path, entry, 5)
