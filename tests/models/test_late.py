"""Late interaction: its log-odds in float64, padding, ties, and whose parameters there are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_params, tiny_config

from sir_jax.models import Encoded, build_model, tasks_of_params
from sir_jax.runtime.sharding import match_rule
from sir_jax.runtime.trees import leaf_paths

LENGTHS = np.array([7, 3, 2, 5])  # valid tokens of speech, of which the first is no frame


def late_model(*tasks: str, **fields):
    cfg = tiny_config(**{"model.match.kind": "late", "model.match.width": 6, **fields})
    return build_model(cfg.model, ("match", *tasks))


@pytest.fixture(scope="module")
def made():
    model = late_model()
    return model, random_params(model)


@pytest.fixture(scope="module")
def pair():
    """Return tokens and mask of four clips and of four pictures, which have padding, too."""
    rng = np.random.default_rng(0)
    speech, image = ((3 * rng.normal(size=(4, n, 32))).astype(np.float32) for n in (7, 5))
    return speech, np.arange(7) < LENGTHS[:, None], image, np.arange(5) < [[5], [4], [1], [5]]


@functools.cache
def compiled(model):
    def logits(params, speech, mask, image, image_mask):
        both = Encoded(speech, mask, None), Encoded(image, image_mask, None)
        return model.apply({"params": params}, *both, method="match")

    return jax.jit(logits)


@functools.cache
def slopes(model):
    """Return the gradient of the sum of all log-odds by parameters, speech and image."""
    total = lambda *given: compiled(model)(*given)[:, 1].sum()  # noqa: E731
    return jax.jit(jax.grad(total, (0, 1, 3)))


def reference(late, speech, mask, image, image_mask) -> float:
    """Compute one pair's log-odds frame by frame, in float64."""
    late = jax.tree.map(np.float64, late)

    def projected(token, name):
        x = np.float64(token) @ late[name]["kernel"]
        return x / np.sqrt((x * x).sum())

    pieces = [projected(token, "image_in") for token in image[image_mask]]
    frames = [projected(token, "speech_in") for token in speech[1:][mask[1:]]]
    best = [max(float(frame @ piece) for piece in pieces) for frame in frames]
    return np.exp(late["scale"]) * np.mean(best) + late["bias"]


def test_values_and_padding(made, pair):
    model, params = made
    logits = compiled(model)(params, *pair)
    expected = [reference(params["late"], *one) for one in zip(*pair, strict=True)]
    assert np.ptp(expected) > 0.3
    np.testing.assert_array_equal(logits[:, 0], 0)
    np.testing.assert_allclose(logits[:, 1], expected, rtol=2e-6)
    # What stands in the padding of either side, and how long it is, does not matter.
    speech, mask, image, image_mask = pair
    more = [
        np.pad(x, ((0, 0), (0, 4), *[(0, 0)] * (x.ndim - 2)))
        for x in (
            np.where(mask[..., None], speech, 1e3),
            mask,
            np.where(image_mask[..., None], image, 1e3),
            image_mask,
        )
    ]
    np.testing.assert_allclose(compiled(model)(params, *more)[:, 1], logits[:, 1], rtol=1e-6)


def test_gradients_leave_padding_and_the_first_token_alone(made, pair):
    model, params = made
    speech, mask, image, image_mask = pair
    speech = np.where(mask[..., None], speech, 0)  # as padding may be: a zero has no direction
    of_params, by_speech, by_image = slopes(model)(params, speech, mask, image, image_mask)
    counted = mask & (np.arange(7) > 0)
    assert np.isfinite(by_speech).all() and np.isfinite(by_image).all()
    assert not np.any(by_speech[~counted]) and not np.any(by_image[~image_mask])
    assert np.abs(by_speech[counted]).max(axis=-1).min() > 1e-4
    for path, leaf in leaf_paths(of_params["late"]).items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-3, path
    # A step of scale and bias against the reference.
    one = params["late"]
    for name in ("scale", "bias"):
        up, down = (
            sum(reference(one | {name: one[name] + s}, *each) for each in zip(*pair, strict=True))
            for s in (1e-3, -1e-3)
        )
        assert float(of_params["late"][name]) == pytest.approx((up - down) / 2e-3, rel=1e-4)


def test_tokens_that_tie_share_the_gradient_of_one(made, pair):
    model, params = made
    speech, mask, image, _ = pair
    image = np.repeat(image[:, :1], 5, axis=1)  # of one colour
    one, all_ = (np.tile(np.arange(5) < count, (4, 1)) for count in (1, 5))
    of_one, of_all = (slopes(model)(params, speech, mask, image, m)[2] for m in (one, all_))
    assert np.abs(of_one[:, 0]).max() > 1e-3
    np.testing.assert_allclose(
        of_all, np.repeat(of_one[:, :1] / 5, 5, axis=1), rtol=1e-4, atol=1e-7
    )


def test_a_clip_without_a_frame_has_the_bias(made, pair):
    model, params = made
    speech, mask, image, image_mask = pair
    odds = compiled(model)(params, speech, mask & (np.arange(7) == 0), image, image_mask)[:, 1]
    np.testing.assert_array_equal(odds, np.repeat(params["late"]["bias"], 4))


def test_the_fusion_encoder_is_there_for_denoising_alone(made):
    model, params = made
    assert params["late"].keys() == {"speech_in", "image_in", "scale", "bias"}
    assert params["late"]["speech_in"]["kernel"].shape == (32, 6)
    assert {"fusion", "match_head"}.isdisjoint(params) and model.fused_tasks == ()
    assert tasks_of_params(params) == model.tasks == ("match",)
    found = match_rule("params/late/speech_in/kernel"), match_rule("late/image_in/kernel")
    assert None not in found and found[0] == found[1]
    both = late_model("denoise_image")
    assert both.fused_tasks == ("denoise_image",)
    names = random_params(both).keys()
    assert {"fusion", "denoise_image", "late"} <= names and "match_head" not in names


def test_frames_take_the_place_of_the_heads_tokens(made, pair):
    model, params = late_model(**{"model.match.frames": True}), made[1]
    wave = jax.ShapeDtypeStruct((2, 4_000), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    encode = functools.partial(model.apply, method="encode_speech")
    encoded = jax.eval_shape(encode, {"params": params}, *wave)
    assert encoded.frames.shape == encoded.tokens.shape
    speech, mask, image, image_mask = pair
    tokens = speech[::-1]
    both = Encoded(tokens, mask, None, speech), Encoded(image, image_mask, None)
    assert model.matched(both[0]) is speech and model.matched(both[1]) is image
    logits = jax.jit(functools.partial(model.apply, method="match"))({"params": params}, *both)
    np.testing.assert_allclose(logits, compiled(made[0])(params, *pair), rtol=1e-6)
    # The fusion encoder reads what the head made, whatever the pooled match beside it reads.
    beside = build_model(
        tiny_config(**{"model.match.kind": "both", "model.match.frames": True}).model,
        ("match", "pool"),
    )
    assert beside.matched(both[0]) is tokens
