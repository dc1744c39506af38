"""Probabilities: fits of drawn scores, what has none, and the diagram of their errors."""

import numpy as np
import pytest

from sir_jax.evaluation.score.calibration import (
    Bin,
    calibration_error,
    draw_reliability,
    fit_calibration,
    read_reliability,
    reliability,
    reliability_flat,
)
from sir_jax.losses.fused_score import probability


def drawn(scale: float, bias: float, n: int = 20_000, seed: int = 0):
    """Return scores, and whether each is right with the probability that scale and bias say."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(10, 4, n)
    return scores, rng.uniform(size=n) < probability(scores, scale, bias)


@pytest.mark.parametrize(("scale", "bias"), [(0.5, -6.0), (2.0, -25.0), (0.05, 0.0)])
def test_the_truth_is_found_and_its_error_is_small(scale, bias):
    scores, right = drawn(scale, bias)
    found = fit_calibration(scores, right)
    assert found == pytest.approx((scale, bias), rel=0.08, abs=0.08)
    said = probability(scores, *found)
    assert calibration_error(reliability(said, right)) < 0.012
    # At the optimum the mean of what is said is the share of right ones, as Platt counts them.
    yes, no = right.sum(), (~right).sum()
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    assert said.mean() == pytest.approx(target.mean(), abs=1e-9)
    assert (scores * (said - target)).mean() == pytest.approx(0, abs=1e-7)
    # Raw scores taken for log-odds are far off.
    assert calibration_error(reliability(probability(scores, 1.0, 0.0), right)) > 0.1


def test_scores_that_part_right_from_wrong_have_a_finite_fit():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    scale, bias = fit_calibration(scores, scores > 3)
    said = probability(scores, scale, bias)
    assert 0 < scale < 20 and said[2] < 0.45 and said[3] > 0.55 and (np.diff(said) > 0).all()


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3, [True, False, False]])
def test_scores_that_say_nothing_have_no_calibration(right):
    assert fit_calibration(np.array([1.0, 2.0, 3.0]), np.array(right)) is None
    assert fit_calibration(np.ones(3), np.array([True, False, True])) is None


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        fit_calibration(np.array([1.0, np.nan]), np.array([True, False]))


def test_bins_and_their_error_by_hand():
    said = np.array([0.0, 0.05, 0.1, 0.95, 1.0])
    right = np.array([False, True, False, True, False])
    bins = reliability(said, right)
    assert bins[0] == Bin(2, 0.025, 0.5) and bins[1] == Bin(1, 0.1, 0.0)
    assert bins[9].count == 2 and bins[9].said == pytest.approx(0.975) and bins[9].right == 0.5
    assert bins[5] == Bin(0, 0.0, 0.0)
    assert calibration_error(bins) == pytest.approx((2 * 0.475 + 0.1 + 2 * 0.475) / 5)
    assert calibration_error([]) == 0.0


def test_numbers_come_back_as_the_bins_of_first_results():
    scores, right = drawn(0.5, -6.0, 500)
    first = np.arange(500) % 5 == 0
    flat = reliability_flat(probability(scores, 0.5, -6.0), right, first)
    bins = read_reliability(flat)
    assert bins == reliability(probability(scores, 0.5, -6.0)[first], right[first])
    assert flat["calibration_error_first"] == pytest.approx(calibration_error(bins))
    assert read_reliability({}) == []


def test_the_diagram_has_a_line_a_model_and_the_diagonal():
    bins = [Bin(0, 0.0, 0.0), Bin(4, 0.3, 0.25), Bin(6, 0.8, 0.9)]
    (axis,) = draw_reliability({"a": bins, "b": bins[1:]}).axes
    diagonal, a, b = axis.lines
    assert list(a.get_xdata()) == pytest.approx([30, 80]) and list(b.get_ydata()) == [25, 90]
    assert list(diagonal.get_ydata()) == [0, 100]
    assert [text.get_text() for text in axis.texts] == ["4", "6", "4", "6"]
    assert axis.get_legend().get_texts()[0].get_text() == "a: error 8.0%"


def test_a_probability_never_overflows():
    assert probability(np.array([-1e6, 0.0, 1e6]), 1.0, 0.0).tolist() == [0.0, 0.5, 1.0]
