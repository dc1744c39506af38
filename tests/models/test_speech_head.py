"""The convolutional speech head: its values in float64, and that padding changes nothing."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_config

from sir_jax.config.check import check_config
from sir_jax.errors import UserError
from sir_jax.models import HeadSpec
from sir_jax.models.hubert import HubertOutput
from sir_jax.models.speech_head import ConvHead, place_distances

SPEC = HeadSpec(kind="conv", layers=2, taps=3, places=4, dropout=0.5, weigh_layers=True)
WIDTH, STATES = 32, 3


def encoded(states, mask) -> HubertOutput:
    return HubertOutput(tokens=states[-1], mask=mask, states=tuple(states))


@pytest.fixture(scope="module", params=[0, 24], ids=["summary", "hidden"])
def head_and_clips(request):
    rng = np.random.default_rng(0)
    spec = dataclasses.replace(SPEC, hidden=request.param)
    states = (2 * rng.normal(size=(STATES, 3, 9, WIDTH))).astype(np.float32)
    mask = np.arange(9) < np.array([[9], [4], [1]])
    head = ConvHead(spec, WIDTH, STATES)
    init = functools.partial(head.init, deterministic=True)
    shapes = jax.eval_shape(init, jax.random.key(0), encoded(states, mask))["params"]
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    return head, params, states, mask


gelu = np.vectorize(lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2))))


def normalised(x, p):
    mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def reference(params, states, valid):
    """Compute the tokens of one clip without padding, frame by frame, in float64."""
    p = jax.tree.map(np.float64, params)
    weights = np.exp(p["layer_weights"]) / np.exp(p["layer_weights"]).sum()
    x = np.einsum("ltd,l->td", states[:, :valid].astype(np.float64), weights)
    if "norm_in" in p:
        x = normalised(x, p["norm_in"])
    for name in ("layers_00", "layers_01"):
        padded = np.pad(x, ((1, 1), (0, 0)))
        rows = [padded[t : t + 3].reshape(-1) @ p[name]["kernel"] for t in range(valid)]
        x = gelu(np.array(rows) + p[name]["bias"])
    read = []
    for place in range(4):
        score = x @ p["places"]["kernel"][:, place] + p["places"]["bias"][place]
        score -= ((np.arange(valid) + 0.5) / valid * 4 - (place + 0.5)) ** 2
        share = np.exp(score - score.max())
        read.append(share / share.sum() @ x)
    read = np.concatenate(read)
    if "hidden" in p:
        read = gelu(read @ p["hidden"]["kernel"] + p["hidden"]["bias"])
    first = read @ p["summary"]["kernel"] + p["summary"]["bias"]
    out = np.concatenate([first[None], x])
    return normalised(out, p["norm"])


def test_values_and_padding(head_and_clips):
    head, params, states, mask = head_and_clips
    apply = jax.jit(lambda s, m: head.apply({"params": params}, encoded(s, m), True))
    tokens, valid = apply(states, mask)
    for row, frames in enumerate((9, 4, 1)):
        assert valid[row].sum() == 1 + frames
        expected = reference(params, states[:, row], frames)
        np.testing.assert_allclose(tokens[row, : 1 + frames], expected, atol=1e-5)
    # What stands in the padding does not matter; nor, to rounding, how long it is.
    noisy = np.where(mask[None, ..., None], states, 1e3)
    np.testing.assert_array_equal(
        np.where(valid[..., None], apply(noisy, mask)[0], 0), np.where(valid[..., None], tokens, 0)
    )
    longer = np.pad(noisy, ((0, 0), (0, 0), (0, 5), (0, 0)))
    again = apply(longer, np.pad(mask, ((0, 0), (0, 5))))[0]
    np.testing.assert_allclose(again[:, 0], tokens[:, 0], atol=1e-5)


def test_places_are_spread_over_the_valid_frames():
    mask = jnp.arange(8) < jnp.array([[8], [4]])
    nearest = jnp.argmin(place_distances(mask, 4), axis=1)
    np.testing.assert_array_equal(nearest, [[0, 2, 4, 6], [0, 1, 2, 3]])


def test_dropout_is_off_when_deterministic(head_and_clips):
    head, params, states, mask = head_and_clips
    run = [
        head.apply({"params": params}, encoded(states, mask), False, rngs={"dropout": key})[0]
        for key in jax.random.split(jax.random.key(1), 2)
    ]
    assert np.abs(run[0] - run[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"taps": 4}, "model.head.taps=4 is even; give an odd number"),
        ({"kind": "lstm"}, "model.head.kind='lstm' is none of transformer, conv"),
    ],
)
def test_wrong_heads_are_one_line(fields, line):
    cfg = tiny_config()
    cfg.model.head.update({"kind": "conv", **fields})
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    assert line in str(caught.value)
    with pytest.raises(ValueError):
        HeadSpec(**{"kind": "conv", **fields})
