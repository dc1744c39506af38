"""Intervals and differences: against slow plain references, and by coverage on simulated data."""

import numpy as np
import pytest

from sir_jax.evaluation import intervals
from sir_jax.evaluation.intervals import (
    mean_recall_interval,
    median_rank_interval,
    paired_difference,
    paired_mean_difference,
    recall_interval,
)


def correlated(rng, pictures, captions, mean, spread=2.0):
    """Return (hits, picture): each picture has a rate of its own, and 1 to `captions` captions."""
    rates = rng.beta(mean * spread, (1 - mean) * spread, pictures)
    picture = np.repeat(np.arange(pictures), rng.integers(1, captions + 1, pictures))
    return rng.random(len(picture)) < rates[picture], picture


def plain_resamples(columns, picture, resamples, statistic, seed=1):
    """Return a statistic of each resample: pictures drawn one by one, each with its queries."""
    rng, found = np.random.default_rng(seed), []
    names = np.unique(picture)
    rows_of = [np.flatnonzero(picture == name) for name in names]
    for _ in range(resamples):
        rows = np.concatenate([rows_of[j] for j in rng.integers(0, len(names), len(names))])
        found.append(statistic(*(column[rows] for column in columns)))
    return np.array(found)


def plain_bca(resampled, whole, without):
    """Return the limits of BCa from resamples, the estimate, and those without each picture."""
    normal = intervals._NORMAL
    bias = normal.inv_cdf(float((resampled < whole).mean() + (resampled == whole).mean() / 2))
    moved = without.mean() - without
    skew = (moved**3).sum() / (6 * (moved**2).sum() ** 1.5)
    places = [bias + normal.inv_cdf(q) for q in (0.025, 0.975)]
    return np.quantile(resampled, [normal.cdf(bias + z / (1 - skew * z)) for z in places])


def leave_one_out(columns, picture, statistic):
    return np.array([statistic(*(c[picture != j] for c in columns)) for j in np.unique(picture)])


@pytest.mark.parametrize("mean", [0.1, 0.6])
def test_a_recall_agrees_with_pictures_drawn_one_by_one(mean):
    rng = np.random.default_rng(0)
    hits, picture = correlated(rng, 80, 5, mean)
    plain = plain_bca(
        plain_resamples([hits], picture, 3000, np.mean),
        hits.mean(),
        leave_one_out([hits], picture, np.mean),
    )
    found = recall_interval(hits, picture)
    assert found.value == hits.mean() and found.low < found.value < found.high
    np.testing.assert_allclose([found.low, found.high], plain, atol=0.006)


def test_captions_of_one_picture_count_as_one_where_they_are_equal():
    hits = np.arange(100) % 4 == 0
    once = recall_interval(hits, np.arange(100))
    five = recall_interval(np.repeat(hits, 5), np.repeat(np.arange(100), 5))
    assert five == pytest.approx(once)
    independent = recall_interval(np.repeat(hits, 5), np.arange(500))
    assert independent.high - independent.low < 0.5 * (once.high - once.low)


def test_the_order_of_queries_and_the_names_of_pictures_do_not_matter():
    rng = np.random.default_rng(0)
    hits, picture = correlated(rng, 50, 4, 0.5)
    order = rng.permutation(len(hits))
    assert recall_interval(hits[order], 1000 - picture[order]) == recall_interval(hits, picture)
    assert recall_interval(hits, picture, seed=1) != recall_interval(hits, picture)
    assert recall_interval(hits, picture, seed=1) == recall_interval(hits, picture, seed=1)


def test_pieces_of_the_resamples_are_all_of_them(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.random(40)  # forty kinds of pictures
    whole = recall_interval(values, np.arange(40), 500)
    monkeypatch.setattr(intervals, "_PIECE", 1000)
    assert recall_interval(values, np.arange(40), 500) == whole


def test_both_directions_move_together():
    rng = np.random.default_rng(0)
    hits, picture = correlated(rng, 60, 5, 0.4)
    best = np.array([hits[picture == j].any() for j in range(60)])
    pictures = np.arange(60)

    def both(rows):
        return (hits[rows].mean() + best[np.unique(picture)].mean()) / 2

    rng, plain = np.random.default_rng(2), []
    rows_of = [np.flatnonzero(picture == j) for j in range(60)]
    for _ in range(3000):
        drawn = rng.integers(0, 60, 60)
        rows = np.concatenate([rows_of[j] for j in drawn])
        plain.append((hits[rows].mean() + best[drawn].mean()) / 2)
    found = mean_recall_interval([(hits, picture), (best, pictures)])
    assert found.value == pytest.approx(both(np.arange(len(hits))))
    low, high = np.quantile(plain, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_no_miss_at_all_is_no_proof_of_none():
    # The chance that 50 pictures all hit is 2.5 % where the truth is 0.929.
    assert recall_interval(np.ones(100), np.repeat(np.arange(50), 2)) == pytest.approx(
        (1.0, 0.025 ** (1 / 50), 1.0)
    )
    none = recall_interval(np.zeros(50), np.arange(50))
    assert none == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 50)))


def test_a_median_rank_agrees_with_pictures_drawn_one_by_one():
    rng = np.random.default_rng(0)
    _, picture = correlated(rng, 60, 4, 0.5)
    ranks = rng.geometric(0.05, len(picture)) + rng.geometric(0.1, 60)[picture]
    plain = plain_resamples([ranks], picture, 2000, np.median)
    found = median_rank_interval(ranks, picture)
    assert found.value == np.median(ranks)
    low, high = np.quantile(plain, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.01)
    # Half of the ranks on either side: the limits are ranks that occur.
    assert median_rank_interval(np.array([1, 9] * 20), np.arange(40)) == (5.0, 1.0, 9.0)


def test_a_paired_difference_agrees_with_plain_loops():
    rng = np.random.default_rng(0)
    a, picture = correlated(rng, 70, 5, 0.5)
    b = np.where(rng.random(len(a)) < 0.2, rng.random(len(a)) < 0.3, a)
    found = paired_difference(a, b, picture)
    gain = a.astype(float) - b
    resampled = plain_resamples([gain], picture, 3000, np.mean)
    limits = plain_bca(resampled, gain.mean(), leave_one_out([gain], picture, np.mean))
    assert found.value == pytest.approx(gain.mean())
    np.testing.assert_allclose([found.low, found.high], limits, atol=0.006)

    rng, far = np.random.default_rng(3), 0
    for _ in range(4000):
        swap = rng.integers(0, 2, 70).astype(bool)[picture]
        far += abs(np.where(swap, -gain, gain).sum()) >= abs(gain.sum())
    assert found.p_value == pytest.approx(far / 4000, abs=0.02)
    assert 0.0 < found.p_value < 0.5
    other = paired_difference(b, a, picture)
    assert other.value == -found.value and other.p_value == pytest.approx(found.p_value)


def test_the_p_value_of_few_pictures_is_that_of_all_their_swaps():
    # Four gains of 1 among four pictures: two of the 16 swaps are as far from 0.
    found = paired_difference(np.ones(4), np.zeros(4), np.arange(4), resamples=40_000)
    assert found.value == 1.0 and found.p_value == pytest.approx(2 / 16, abs=0.006)
    same = paired_difference(np.ones(4), np.ones(4), np.arange(4))
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_the_mean_of_two_differences():
    rng = np.random.default_rng(0)
    a, picture = correlated(rng, 50, 3, 0.5)
    b = rng.random(len(a)) < 0.5
    one = paired_difference(a, b, picture)
    assert paired_mean_difference([(a, b, picture)] * 2) == pytest.approx(one)
    opposite = paired_mean_difference([(a, b, picture), (b, a, picture)])
    assert opposite.value == pytest.approx(0.0) and opposite.p_value == 1.0


def share_that_holds(truth, made):
    return np.mean([one.low <= truth <= one.high for one in made])


@pytest.mark.parametrize(("pictures", "mean", "spread"), [(100, 0.5, 0.5), (300, 0.93, 1.0)])
def test_95_percent_intervals_hold_the_truth_so_often(pictures, mean, spread):
    rng = np.random.default_rng(7)
    made, naive = [], []
    for _ in range(1000):
        hits, picture = correlated(rng, pictures, 3, mean, spread)
        made.append(recall_interval(hits, picture, resamples=300))
        value = hits.mean()
        half = 1.96 * np.sqrt(value * (1 - value) / len(hits))
        naive.append(intervals.Interval(value, value - half, value + half))
    assert 0.93 <= share_that_holds(mean, made) <= 0.97
    # Captions taken as independent claim too much: the correlation is really there.
    assert share_that_holds(mean, naive) < share_that_holds(mean, made) - 0.04


def test_95_percent_intervals_of_differences_hold_the_truth_and_tests_keep_their_level():
    rng = np.random.default_rng(6)
    made = {0.0: [], 0.08: []}
    for gain, found in made.items():
        for _ in range(700):
            rates = rng.beta(1, 1, 120) * 0.9
            picture = np.repeat(np.arange(120), 3)
            a = rng.random(360) < rates[picture] + gain
            b = rng.random(360) < rates[picture]
            found.append(paired_difference(a, b, picture, resamples=300))
        assert 0.93 <= share_that_holds(gain, found) <= 0.97
    assert np.mean([one.p_value <= 0.05 for one in made[0.0]]) == pytest.approx(0.05, abs=0.025)
    assert np.mean([one.p_value <= 0.05 for one in made[0.08]]) > 0.5


def test_medians_hold_the_truth():
    rng, made = np.random.default_rng(7), []
    for _ in range(120):
        level = rng.normal(size=80)
        picture = np.repeat(np.arange(80), 3)
        # The median of exp(normal) is 1, so that half of the ranks are at most 21.
        ranks = np.ceil(20.5 * np.exp(level[picture] * 0.7 + rng.normal(size=240)))
        made.append(median_rank_interval(ranks, picture, resamples=300))
    assert 0.92 <= share_that_holds(21.0, made) <= 0.985


@pytest.mark.parametrize(
    ("hits", "picture"), [(np.ones(3), np.arange(2)), (np.ones(0), np.ones(0))]
)
def test_what_does_not_fit_is_refused(hits, picture):
    with pytest.raises(ValueError, match="one each for every query"):
        recall_interval(hits, picture)
    with pytest.raises(ValueError, match=r"A has \(3,\) queries, B \(2,\)"):
        paired_difference(np.ones(3), np.ones(2), np.arange(3))
