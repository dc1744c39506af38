"""The noisy view of a picture in the objective: which noise it has, and what it is used for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_helpers import STILL, made, views_and_ids
from tiny_models import tiny_config

from sir_jax.losses.denoising import add_noise, draw_alike, draw_noise
from sir_jax.models import build_model
from sir_jax.objective.denoising import DenoisingTask
from sir_jax.objective.total import Objective

NEGATIVES = {
    "loss.cmd.weight": 0.5,
    "loss.cmd.negative_weight": 0.7,
    "model.image_head": "pool",
    "data.groups": 3,
    "loss.cmd.source": "group",
    **STILL,
}


def objective(**fields):
    """Return the loss and its metrics as a function of (views, params); and model and inputs."""
    cfg, model, state = made(**NEGATIVES | fields)
    views, ids = views_and_ids(model)
    keys = jax.random.split(jax.random.key(5), 3)

    def run(views, params):
        loss, aux = Objective(model, cfg).loss_of_views(views, params, None, ids, 0, keys)
        return loss, aux.metrics

    return run, model, views, ids, state.params


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


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_a_noisy_picture_is_a_negative_of_its_own_clip():
    run, model, views, ids, params = objective()
    by_head = jax.jit(
        jax.value_and_grad(lambda head: run(views, params | {"image_head": head}), has_aux=True)
    )
    (loss, metrics), grads = by_head(params["image_head"])

    @jax.jit
    def noisy_views(key):
        # The same noise that is rebuilt: the group's, by the key of images.
        key = jax.random.split(jax.random.fold_in(jax.random.split(key, 3)[2], 1))[0]
        noisy, changed = [], []
        for g, one in enumerate(jax.random.split(key, 2)):
            at = slice(3 * g, 3 * g + 3)
            noise = draw_noise(one, views.image.mask[at], ids[at], 0.3)
            noisy.append(add_noise(views.image.tokens[at], noise))
            changed.append(noise.replaced.any(axis=1))
        tokens = jnp.concatenate(noisy), views.image.mask
        embed = model.apply({"params": params}, *tokens, method="embed_tokens")
        return embed, jnp.concatenate(changed)

    embed, changed = jax.device_get(noisy_views(jax.random.key(5)))
    assert 0 < changed.sum() < 6
    z_s, z_i, z_n = (np.float64(x) for x in (views.speech.embed, views.image.embed, embed))
    tau, same = float(params["temperature"]), ids[:, None] == ids[None, :]
    targets = np.float64(same / same.sum(axis=1, keepdims=True))
    own = np.where(changed, (z_s * z_n).sum(axis=1) / tau + np.log(0.7), -1e30)
    s2i = log_softmax(np.concatenate([z_s @ z_i.T / tau, own[:, None]], axis=1))[:, :6]
    i2s = log_softmax(z_i @ z_s.T / tau)
    expected = -0.5 * ((targets * s2i).sum(axis=1) + (targets * i2s).sum(axis=1)).mean()
    assert float(metrics["sic"]) == pytest.approx(expected, rel=1e-5)
    nearer = ((z_s * z_i).sum(axis=1) > (z_s * z_n).sum(axis=1))[changed].mean()
    assert float(metrics["s2i_above_noisy"]) == pytest.approx(nearer)
    assert float(loss) == pytest.approx(float(metrics["sic"] + 0.5 * metrics["cmd"]), rel=1e-6)
    # Clean pictures were embedded before: here the head learns from noisy ones alone.
    assert np.abs(grads["queries"]).max() > 0


@pytest.mark.parametrize("off", [{"loss.cmd.negative_weight": 0.0}, {"loss.cmd.weight": 0.0}])
def test_without_a_weight_no_noisy_picture_is_embedded(off, monkeypatch):
    run, _, views, _, params = objective(**off)
    monkeypatch.setattr(DenoisingTask, "embeds", None)
    _, metrics = jax.eval_shape(run, views, params)
    assert "s2i_above_noisy" not in metrics
