"""What a fit tells of true pairs."""

from types import SimpleNamespace

import numpy as np

from sir_jax.evaluation.score.fit import true_similarities


def test_each_caption_is_compared_with_its_own_image():
    images = np.float32([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]])
    speech = np.float32([[0, 0.8, 0.6], [0.6, 0, 0.8], [1, 0, 0], [0, 0, 1]])
    ids = np.array([4, 9, 2, 9]), np.array([2, 4, 9])
    found = true_similarities(SimpleNamespace(vectors=(speech, images), ids=ids))
    np.testing.assert_allclose(found, [0.8, 1.0, 1.0, 0.8], atol=1e-6)
