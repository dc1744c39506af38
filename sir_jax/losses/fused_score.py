"""The score that re-ranked results are ordered by."""


def fused_score(similarity, temperature: float, log_odds, weight: float = 1.0):
    """Return how well speech and picture belong together, by embedding and matching head at once.

    Both terms are log-odds up to a constant: similarity / temperature as the contrastive softmax
    was trained to weigh similarities; the other as the matching head was trained. A weak head so
    cannot undo what the embedding knows.

    Args:
      similarity: inner product of unit vectors; a number or an array of NumPy or JAX, any shape.
      temperature: that training divided similarities by.
      log_odds: that the pair matches, of the same shape.
      weight: of `log_odds`.

    Returns:
      Scores to compare within one query, the higher the better, in that shape.

    Example:
      >>> fused_score(0.3, 0.1, 2.0)
      5.0
    """
    return similarity / temperature + weight * log_odds
