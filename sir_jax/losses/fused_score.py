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


def probability(score, scale: float, bias: float):
    """Return the calibrated probability of scores, 1 / (1 + exp(-(scale * score + bias))).

    Args:
      score: from `fused_score`.
      scale: fitted on a validation split, above 0: a higher score is never less probable.
      bias: fitted likewise.

    Example:
      >>> probability(3.0, 2.0, -6.0)
      0.5
    """
    # Of two forms the one whose exponential cannot overflow.
    x = np.asarray(scale * np.asarray(score, np.float64) + bias)
    small = np.exp(-np.abs(x))
    out = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return out if out.ndim else float(out)


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
