"""Scores as probabilities: fitted on a validation split, and how far they can be relied on.

The probability that a result is right is a logistic function of its fused score (temperature
scaling with a bias, Platt's) and of the best other score of its query: scores of one query are
worth more than those of another, and the first result's lead over the second tells which. Results
lie in the order of their probabilities.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sir_jax.errors import UserError
from sir_jax.losses.fused_score import probability

BINS = 10
_STEPS, _ENOUGH = 100, 1e-10


def fit_calibration(
    scores: np.ndarray, others: np.ndarray, right: np.ndarray
) -> tuple[float, float, float] | None:
    """Fit scale, against and bias by maximum likelihood, in float64.

    Targets are Platt's, (n + 1) / (n + 2) for n right ones and 1 / (n + 2) for n wrong ones: scores
    that part right from wrong exactly would have no finite fit.

    Args:
      scores: float[n], fused scores of results.
      others: float[n], the best other score of each one's query, see `rivals`.
      right: bool[n], whether each is right.

    Returns:
      (scale, against, bias), or None where scores do not tell right from wrong: all of one kind, or
      higher for the wrong ones.

    Raises:
      ValueError: a score is not finite.
    """
    columns = [np.asarray(x, np.float64).ravel() for x in (scores, others)]
    right = np.asarray(right, bool).ravel()
    if not all(np.isfinite(x).all() for x in columns):
        raise ValueError("scores hold a value that is not finite")
    yes, no = int(right.sum()), int((~right).sum())
    if not yes or not no or not columns[0].std():
        return None
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    if columns[1].std():
        scale, against, bias = _fit_columns(columns, target)
        if scale > 0 and against <= 0:
            return scale, -against, bias
    # A better rival cannot make a result more probable: then it says nothing.
    scale, bias = _fit_columns(columns[:1], target)
    return (scale, 0.0, bias) if scale > 0 else None


def _fit_columns(columns: list[np.ndarray], target: np.ndarray) -> list[float]:
    """Return the slope of each column, and the bias, of the logits that fit the targets best."""
    x = np.stack(columns)
    centre, spread = x.mean(axis=1), x.std(axis=1)
    z = np.concatenate([(x - centre[:, None]) / spread[:, None], np.ones((1, x.shape[1]))])
    *slopes, offset = _minimise(z, target)
    slopes = np.array(slopes) / spread
    return [*map(float, slopes), float(offset - slopes @ centre)]


def _minimise(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Minimise the cross-entropy of the logits theta x, x being [d, n], by Newton's method."""

    def loss_of(theta):
        logits = theta @ x
        return (np.logaddexp(0.0, logits) - target * logits).sum()

    theta = np.zeros(len(x))
    loss = loss_of(theta)
    for _ in range(_STEPS):
        p = probability(theta @ x, 0.0, (1.0, 0.0, 0.0))
        gradient = x @ (p - target)
        curvature = (x * (p * (1 - p))) @ x.T + 1e-9 * np.eye(len(x))
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        # The loss is convex: some part of the step lowers it, until rounding is all that is left.
        while (new := loss_of(theta - size * step)) > loss and size > 1e-10:
            size /= 2
        if loss - new <= _ENOUGH * max(1.0, abs(loss)):
            return theta - size * step if new < loss else theta
        theta, loss = theta - size * step, new
    return theta


class Bin(NamedTuple):
    """Results whose probability lies in one range."""

    count: int
    said: float  # mean probability; 0 in an empty bin
    right: float  # share of right ones; 0 in an empty bin


def reliability(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Sort results into equal ranges of probability, from 0 to 1.

    Args:
      probabilities: float[n], what was said of each result.
      right: bool[n], whether it is right.
      bins: number of ranges; 1 belongs to the last one.

    Example:
      >>> reliability(np.array([0.1, 0.3, 0.8]), np.array([False, True, True]), 2)
      [Bin(count=2, said=0.2, right=0.5), Bin(count=1, said=0.8, right=1.0)]
    """
    probabilities = np.asarray(probabilities, np.float64).ravel()
    right = np.asarray(right, bool).ravel()
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(number, minlength=bins)
    sums = (np.bincount(number, x, bins) for x in (probabilities, right.astype(float)))
    said, share = (total / np.maximum(counts, 1) for total in sums)
    return [Bin(int(n), float(p), float(r)) for n, p, r in zip(counts, said, share, strict=True)]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean of |said - right|, weighted by counts.

    Example:
      >>> round(calibration_error([Bin(2, 0.2, 0.5), Bin(2, 0.8, 1.0)]), 6)
      0.25
    """
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.said - one.right) for one in bins) / total if total else 0.0


def reliability_flat(
    probabilities: np.ndarray, right: np.ndarray, first: np.ndarray
) -> dict[str, float]:
    """Return how far probabilities can be relied on, as numbers by name.

    Args:
      probabilities: float[n], what was said of each result in the lists.
      right: bool[n], whether it is right.
      first: bool[n], whether it came first in its list; what people look at.

    Returns:
      `calibration_error` of all results, `calibration_error_first` of the first ones; and of the
      latter's bins `reliability_N_count`, `.._said` and `.._right`.
    """
    everything, bins = (reliability(probabilities[x], right[x]) for x in (slice(None), first))
    flat = {
        "calibration_error": calibration_error(everything),
        "calibration_error_first": calibration_error(bins),
    }
    return flat | {
        f"reliability_{n}_{name}": float(value)
        for n, one in enumerate(bins)
        for name, value in one._asdict().items()
    }


def read_reliability(flat: Mapping[str, float]) -> list[Bin]:
    """Return the bins that `reliability_flat` wrote; none where it wrote none."""
    bins = []
    while f"reliability_{len(bins)}_count" in flat:
        at = f"reliability_{len(bins)}_"
        bins.append(Bin(int(flat[f"{at}count"]), flat[f"{at}said"], flat[f"{at}right"]))
    return bins


def draw_reliability(models: Mapping[str, Sequence[Bin]]):
    """Draw the reliability diagram: the share of right results over what was said of them.

    Args:
      models: bins by the name of their model. Empty bins are left out.

    Returns:
      A matplotlib figure; a perfectly calibrated model lies on the diagonal.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the figure needs matplotlib; pip install 'sir_jax[notebooks]'") from None
    figure = Figure(figsize=(4.2, 4.2))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    axis.plot([0, 100], [0, 100], color="0.7", linewidth=1, zorder=0)
    for name, bins in models.items():
        filled = [one for one in bins if one.count]
        label = f"{name}: error {calibration_error(bins):.1%}"
        said, right = ([100 * getattr(one, side) for one in filled] for side in ("said", "right"))
        axis.plot(said, right, marker="o", markersize=4, label=label)
        for x, y, one in zip(said, right, filled, strict=True):
            axis.annotate(
                str(one.count), (x, y), fontsize=6, textcoords="offset points", xytext=(4, -8)
            )
    axis.set(xlabel="said to be right, %", ylabel="right, %", xlim=(-3, 103), ylim=(-3, 103))
    axis.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
