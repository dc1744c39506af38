"""The weight of the matching head in the fused score, fitted on a validation split."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sir_jax.evaluation.score.lists import reranked_ranks
from sir_jax.losses.fused_score import fused_score

# What is tried: none, and from 1/64 to 16 in steps of 9 %. R@1 does not tell closer ones apart.
WEIGHTS = (0.0, *(2.0 ** (step / 8) for step in range(-48, 33)))


class Candidates(NamedTuple):
    """The candidates of one direction's queries."""

    ranks: np.ndarray  # int[Q], the coarse rank of each query, kept by those without a right one
    similarity: np.ndarray  # float[Q, k]
    log_odds: np.ndarray  # float[Q, k], that each candidate matches
    right: np.ndarray  # bool[Q, k]


class Fit(NamedTuple):
    """A weight, and what it reaches on the queries that it was fitted on."""

    weight: float
    r1: float  # mean R@1 of the directions
    mrr: float  # mean reciprocal rank, likewise


def measure_weight(sides: Sequence[Candidates], temperature: float, weight: float) -> Fit:
    """Rank the candidates of each direction by the fused score of one weight."""
    r1, mrr = [], []
    for side in sides:
        scores = fused_score(side.similarity.astype(np.float64), temperature, side.log_odds, weight)
        ranks = reranked_ranks(side.ranks, scores, side.right)
        r1.append((ranks == 1).mean())
        mrr.append((1.0 / ranks).mean())
    return Fit(float(weight), float(np.mean(r1)), float(np.mean(mrr)))


def fit_weight(
    sides: Sequence[Candidates],
    temperature: float,
    weights: Sequence[float] = WEIGHTS,
    cautious: bool = False,
) -> Fit:
    """Find the weight with the highest mean R@1, of equals by the mean reciprocal rank.

    Of weights that are equal in both, the lowest is taken. As 0 is tried, a fitted score does not
    rank the validation split worse than the embedding does.

    Args:
      sides: the directions, each with at least one query.
      temperature: that similarities are divided by.
      weights: that are tried.
      cautious: take the lowest weight whose R@1 is at most one standard error below the highest
        one (the rule of Breiman et al., 1984): what is asked later may be less like what the match
        has learnt than this split is. The error is that of the direction with fewer queries.

    Raises:
      ValueError: a score is not finite.

    Example:
      >>> similarity, log_odds = np.array([[0.3, 0.2]]), np.array([[0.0, 4.0]])
      >>> side = Candidates(np.array([2]), similarity, log_odds, np.array([[False, True]]))
      >>> fit_weight([side], 0.1, (0.0, 0.125, 0.5, 1.0))
      Fit(weight=0.5, r1=1.0, mrr=1.0)
    """
    fits = [measure_weight(sides, temperature, weight) for weight in sorted(weights)]
    best = max(fits, key=lambda fit: (fit.r1, fit.mrr, -fit.weight))
    if not cautious:
        return best
    queries = min(len(side.ranks) for side in sides)
    least = best.r1 - math.sqrt(best.r1 * (1 - best.r1) / queries)
    return next(fit for fit in fits if fit.r1 >= least)
