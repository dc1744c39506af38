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
from sir_jax.losses.fused_score import probability, rivals


def drawn(calibration, n: int = 20_000, seed: int = 0):
    """Return scores, their rivals, and whether each is right with the probability that is said."""
    rng = np.random.default_rng(seed)
    scores, others = rng.normal(10, 4, (2, n))
    return scores, others, rng.uniform(size=n) < probability(scores, others, calibration)


@pytest.mark.parametrize("truth", [(0.5, 0.0, -6.0), (2.0, 1.0, -12.0), (0.2, 0.2, 0.5)])
def test_the_truth_is_found_and_its_error_is_small(truth):
    scores, others, right = drawn(truth)
    found = fit_calibration(scores, others, right)
    assert found == pytest.approx(truth, rel=0.08, abs=0.08) and found[1] >= 0
    said = probability(scores, others, found)
    assert calibration_error(reliability(said, right)) < 0.012
    # At the optimum the mean of what is said is the share of right ones, as Platt counts them.
    yes, no = right.sum(), (~right).sum()
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    assert said.mean() == pytest.approx(target.mean(), abs=1e-7)
    assert (scores * (said - target)).mean() == pytest.approx(0, abs=1e-6)
    # Raw scores taken for log-odds are far off.
    raw = probability(scores, 0.0, (1.0, 0.0, 0.0))
    assert calibration_error(reliability(raw, right)) > 0.1


def test_scores_that_part_right_from_wrong_have_a_finite_fit():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = fit_calibration(scores, np.zeros(6), scores > 3)
    said = probability(scores, 0.0, found)
    assert found[:2] == pytest.approx((found[0], 0.0)) and 0 < found[0] < 20
    assert said[2] < 0.45 and said[3] > 0.55 and (np.diff(said) > 0).all()


def test_a_rival_that_would_help_is_left_out():
    scores, others, right = drawn((0.5, -0.4, -9.0))
    scale, against, _ = fit_calibration(scores, others, right)
    assert scale > 0 and against == 0.0


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3, [True, False, False]])
def test_scores_that_say_nothing_have_no_calibration(right):
    assert fit_calibration(np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array(right)) is None
    assert fit_calibration(np.ones(3), np.zeros(3), np.array([True, False, True])) is None


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        fit_calibration(np.array([1.0, np.nan]), np.zeros(2), np.array([True, False]))


def test_probabilities_lie_in_the_order_of_scores_and_know_their_rival():
    scores = np.random.default_rng(0).normal(size=(50, 7)).round(1)
    naive = [[max(np.delete(row, n)) for n in range(7)] for row in scores]
    np.testing.assert_array_equal(rivals(scores), naive)
    said = probability(scores, rivals(scores), (2.0, 1.5, -1.0))
    for row, chances in zip(scores, said, strict=True):
        order = np.argsort(row, kind="stable")
        assert (np.diff(chances[order]) >= 0).all()
    # The best results are all that a list needs: probabilities of the first three are the same.
    best = -np.sort(-scores, axis=1)
    few, all_of = (probability(x, rivals(x), (2.0, 1.5, -1.0)) for x in (best[:, :3], best))
    np.testing.assert_array_equal(few, all_of[:, :3])
    far = probability(np.array([-1e6, 0.0, 1e6]), 0.0, (1.0, 0.0, 0.0))
    assert far.tolist() == [0.0, 0.5, 1.0]


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
    truth = (0.5, 0.1, -5.0)
    scores, others, right = drawn(truth, 500)
    first, said = np.arange(500) % 5 == 0, probability(scores, others, truth)
    flat = reliability_flat(said, right, first)
    bins = read_reliability(flat)
    assert bins == reliability(said[first], right[first])
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
