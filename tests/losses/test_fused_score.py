"""The score of re-ranked results against expected numbers."""

import jax.numpy as jnp
import numpy as np

from sir_jax.losses.fused_score import fused_score


def test_expected_numbers_of_either_library():
    similarity, log_odds = np.array([0.2, 0.1, -0.1]), np.array([-3.0, 1.0, 6.0])
    expected = [1.0, 3.0, 4.0]
    np.testing.assert_allclose(fused_score(similarity, 0.05, log_odds), expected)
    np.testing.assert_allclose(
        fused_score(*map(jnp.asarray, (similarity, 0.05, log_odds))), expected
    )
    # The weight is of the matching head: without it, the order is the embedding's.
    half = fused_score(similarity, 0.05, log_odds, weight=0.5)
    np.testing.assert_allclose(half, [2.5, 2.5, 1.0])
    assert list(np.argsort(-fused_score(similarity, 0.05, log_odds, 0.0))) == [0, 1, 2]
