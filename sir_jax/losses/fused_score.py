"""The one score that results are ordered by, and what it says to people.

`evaluate`, `Index.search`, the page and the ablations all rank by `fused_score`.
"""

import numpy as np


def fused_score(similarity, temperature: float, log_odds, weight: float = 1.0):
    """Return how well speech and picture belong together, by embedding and matching head at once.

    Both terms are log-odds up to a constant: similarity / temperature as the contrastive softmax
    was trained to weigh similarities; the other as the matching head was trained. A head whose
    negatives are drawn by the similarities learns to discount them, so it cannot rank alone.

    Args:
      similarity: inner product of unit vectors; a number or an array of NumPy or JAX, any shape.
      temperature: that training divided similarities by.
      log_odds: that the pair matches, of the same shape.
      weight: of `log_odds`: 1 in theory; fitted on a validation split in practice, since a head
        that is not at its best wants less. 0 leaves the order of the embedding.

    Returns:
      Scores to compare within one query, the higher the better, in that shape.

    Example:
      >>> fused_score(0.3, 0.1, 2.0)
      5.0
    """
    return similarity / temperature + weight * log_odds


def rivals(scores: np.ndarray) -> np.ndarray:
    """Return for each result of a query the best score of the others.

    Args:
      scores: float[..., k], of the results of a query along the last axis, k at least 2.

    Example:
      >>> rivals(np.array([3.0, 5.0, 4.0])).tolist()
      [5.0, 4.0, 5.0]
    """
    scores = np.asarray(scores, np.float64)
    best = scores.argmax(axis=-1)[..., None]
    top = np.partition(scores, -2, axis=-1)
    is_best = np.arange(scores.shape[-1]) == best
    return np.where(is_best, top[..., -2:-1], top[..., -1:])


def probability(score, rival, calibration: tuple[float, float, float]) -> np.ndarray:
    """Return the calibrated probability of results, float64 in the shape of `score`.

    It is 1 / (1 + exp(-(scale * score - against * rival + bias))). What a score is worth depends on
    the query, and how far it stands above the best other one tells most of that.

    Args:
      score: from `fused_score`.
      rival: from `rivals`.
      calibration: scale, above 0, against, at least 0, and bias, fitted on a validation split: a
        result with a higher score than another of its query is never less probable.

    Example:
      >>> float(probability(3.0, 1.0, (2.0, 1.0, -5.0)))
      0.5
    """
    scale, against, bias = calibration
    x = scale * np.asarray(score, np.float64) - against * np.asarray(rival, np.float64) + bias
    # Of two forms the one whose exponential cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def joint_temperature(temperature: float, pooled_weight: float) -> float:
    """Return by what the product of two `joint_rows` is divided to be the score of both.

    Args:
      temperature: that similarities are divided by.
      pooled_weight: by which cosines of pooled vectors are multiplied.

    Example:
      >>> joint_temperature(0.1, 10.0)
      0.05
    """
    return 1.0 / (1.0 / temperature + pooled_weight)


def joint_rows(
    rows: np.ndarray, width: int, temperature: float, pooled_weight: float
) -> np.ndarray:
    """Make one unit vector of an embedding and a pooled vector, for a whole gallery at once.

    The product of two such vectors is a weighted mean of both cosines, and with z for embeddings, p
    for pooled vectors and T for `joint_temperature`, product / T is the score
    z_s z_i / temperature + pooled_weight p_s p_i.

    Args:
      rows: float64[n, E + F]: an embedding, then a pooled vector; both of unit norm, or means of
        such.
      width: E. Without a pooled vector (F is 0) or with weight 0 the embedding alone counts.
      temperature: that similarities are divided by.
      pooled_weight: by which cosines of pooled vectors are multiplied, at least 0.

    Returns:
      float32[n, E + F] or float32[n, E], unit norm; a zero vector stays zero.

    Example:
      >>> z = joint_rows(np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]), 2, 0.5, 6.0)
      >>> float((z[0] @ z[1]).round(6)), joint_temperature(0.5, 6.0)  # 1 / 0.5 + 6 * 0 = 2
      (0.25, 0.125)
    """
    if rows.shape[1] == width or not pooled_weight:
        return _unit_rows(rows[:, :width])
    factors = np.full(rows.shape[1], pooled_weight**0.5)
    factors[:width] = temperature**-0.5
    return _unit_rows(rows * factors)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # The vectors of a clip's windows may cancel each other; the clip's vector is then zero.
    return (rows / np.maximum(norms, 1e-12)).astype(np.float32)
