"""The noisy view of a picture in the objective: which noise it has, and what it is used for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from objective_helpers import views_and_ids
from tiny_models import tiny_config

from sir_jax.losses.denoising import add_noise, draw_alike
from sir_jax.models import build_model
from sir_jax.objective.denoising import DenoisingTask


def test_noise_of_tokens_that_are_alike_comes_from_the_group():
    cfg = tiny_config(**{"loss.cmd.pattern": "alike", "loss.cmd.ratio": 0.6})
    model = build_model(cfg.model)
    views, ids = views_and_ids(model)
    key = jax.random.key(2)
    of = functools.partial(DenoisingTask.of, views, ids, "image", model=model)
    task = jax.jit(lambda key: of(key, cmd=cfg.loss.cmd, groups=2).noisy.tokens)(key)
    draw = jax.jit(draw_alike, static_argnums=(4, 5))
    for g, one in enumerate(jax.random.split(key, 2)):
        at = slice(3 * g, 3 * g + 3)
        tokens = views.image.tokens[at]
        noise = draw(one, tokens, views.image.mask[at], ids[at], 0.6, 1)
        assert list(noise.replaced.sum(axis=1)) == [2, 2, 2]  # of three tokens and CLS
        np.testing.assert_array_equal(task[at], jnp.asarray(add_noise(tokens, noise)))
