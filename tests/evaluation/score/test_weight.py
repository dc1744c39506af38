"""The fitted weight, compared with one that loops over queries and sorts their candidates."""

import numpy as np
import pytest

from sir_jax.evaluation.score.weight import WEIGHTS, Candidates, fit_weight, measure_weight


def slow_fit(sides, temperature, weights):
    """Return (weight, R@1, MRR) by sorting every query's candidates, wrong ones first."""
    best = None
    for weight in sorted(weights):
        r1, mrr = [], []
        for side in sides:
            ranks = []
            for rank, coarse, odds, right in zip(*side, strict=True):
                if right.any():
                    score = [
                        s / temperature + weight * m for s, m in zip(coarse, odds, strict=True)
                    ]
                    order = sorted(range(len(score)), key=lambda j, x=score, r=right: (-x[j], r[j]))
                    rank = 1 + next(n for n, j in enumerate(order) if right[j])
                ranks.append(rank)
            r1.append(np.mean([rank == 1 for rank in ranks]))
            mrr.append(np.mean([1 / rank for rank in ranks]))
        found = float(weight), float(np.mean(r1)), float(np.mean(mrr))
        if best is None or found[1:] > best[1:]:
            best = found
    return best


def random_side(seed: int, queries: int = 60, k: int = 8, quality: float = 2.0) -> Candidates:
    """Return lists whose log-odds tell right from wrong the better the higher `quality` is."""
    rng = np.random.default_rng(seed)
    right = np.zeros((queries, k), bool)
    right[np.arange(queries), rng.integers(0, k, queries)] = True
    right[::7] = False  # whose right item is not in the list
    right[::5, 3] = True  # which have two
    similarity = np.sort(rng.normal(0.5, 0.05, (queries, k)), axis=1)[:, ::-1].round(2)
    log_odds = (rng.normal(0, 1.5, (queries, k)) + quality * right).round(1)
    ranks = np.where(right.any(axis=1), 1 + right.argmax(axis=1), k + rng.integers(1, 9, queries))
    return Candidates(ranks, similarity, log_odds, right)


@pytest.mark.parametrize("quality", [-2.0, 0.0, 1.0, 3.0])
def test_the_weight_is_that_of_a_slow_search(quality):
    sides = [random_side(1, quality=quality), random_side(2, 45, 5, quality)]
    assert tuple(fit_weight(sides, 0.07)) == pytest.approx(
        slow_fit(sides, 0.07, WEIGHTS), abs=1e-15
    )
    assert tuple(fit_weight(sides, 0.07, (0.5, 0.0, 2.0))) == pytest.approx(
        slow_fit(sides, 0.07, (0.0, 0.5, 2.0)), abs=1e-15
    )


def test_a_head_that_misleads_gets_hardly_any_weight_and_a_fit_never_loses():
    bad = [random_side(3, quality=-4.0)]
    assert fit_weight(bad, 0.02).weight <= 1 / 32
    for quality in (-1.0, 0.0, 2.0):
        sides = [random_side(4, quality=quality), random_side(5, quality=quality)]
        best = fit_weight(sides, 0.07)
        for weight in (0.0, 1.0):
            assert best.r1 >= measure_weight(sides, 0.07, weight).r1
    assert best.weight > 0.1 and best.r1 > measure_weight(sides, 0.07, 0.0).r1 + 0.1


def test_of_equal_weights_the_lowest_is_taken():
    right = np.array([[True, False]])
    side = Candidates(np.array([1]), np.array([[0.9, 0.1]]), np.array([[1.0, 0.0]]), right)
    assert fit_weight([side], 0.1) == (0.0, 1.0, 1.0)


def test_a_cautious_weight_is_the_lowest_that_the_split_does_not_tell_from_the_best():
    sides = [random_side(4, 90), random_side(5, 40)]
    best, cautious = fit_weight(sides, 0.07), fit_weight(sides, 0.07, cautious=True)
    error = (best.r1 * (1 - best.r1) / 40) ** 0.5
    assert 0 < cautious.weight < best.weight and cautious.r1 >= best.r1 - error
    lower = [weight for weight in WEIGHTS if weight < cautious.weight]
    assert all(measure_weight(sides, 0.07, weight).r1 < best.r1 - error for weight in lower)
    assert cautious == measure_weight(sides, 0.07, cautious.weight)
