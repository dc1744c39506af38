"""The config that is learnt by: of the small pair, or of a shipped retriever that goes on."""

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from sir_jax.config.augment_fields import augment_like
from sir_jax.config.check import check_config
from sir_jax.config.presets import base_config, small_pair
from sir_jax.inference import release
from sir_jax.learning.setup import starting_point, with_sizes
from sir_jax.models import build_model, init_params
from sir_jax.pretrained import load
from sir_jax.runtime.trees import leaf_paths

SIZES = {"batch_size": 24, "buckets": [16_000, 24_000], "steps": 300, "voices": 12}


def abstract_params(cfg):
    model = build_model(cfg.model)
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def test_the_small_pair_hears_as_it_came_and_learns_to_see():
    c = with_sizes(starting_point("spoken_captions/x", ""), SIZES, step=0.5, cores=3)
    check_config(c)
    assert c.optim.freeze == ("speech",) and c.init.speech == "package:voices/speech"
    assert (c.data.batch_size, c.data.buckets, c.data.image_fit) == (24, (16_000, 24_000), "squash")
    assert (c.train.steps, c.train.eval_every, c.train.checkpoint_every) == (300, 300, 120)
    assert c.optim.warmup_steps == 30 and c.train.num_threads == 3
    assert c.data.augment.noise.probability == 0.5
    few = with_sizes(c, SIZES | {"steps": 4}, step=0.5, cores=1)
    assert (few.optim.warmup_steps, few.train.checkpoint_every) == (0, 4)


@pytest.mark.parametrize("name", release.shipped())
def test_a_shipped_retriever_goes_on(name):
    c = with_sizes(starting_point("spoken_captions/x", name), SIZES, step=0.5, cores=2)
    check_config(c)
    found = release.find(name)
    assert (
        c.init.model == name and not c.init.speech and c.data.image_fit == found.cfg.data.image_fit
    )
    params = abstract_params(c)
    taken = leaf_paths(release.start_from(c, params))
    stored = leaf_paths(found.params)
    assert taken.keys() == leaf_paths(params).keys() and taken.keys() <= stored.keys()
    assert all(np.array_equal(taken[path], stored[path]) for path in taken)


def test_a_release_with_the_encoder_that_hears_people_goes_on(tmp_path):
    """What `learn` and configs/small.py make: its last bucket is another than the one learnt by."""
    made = small_pair("spoken_captions/x")
    untaught = abstract_params(made)
    leaves = {k: np.zeros(leaf.shape, np.float32) for k, leaf in leaf_paths(untaught).items()}
    heard = leaf_paths(load(made.init.speech)[1])
    leaves |= {f"speech/{path}": value for path, value in heard.items()}
    folder = tmp_path / "release"
    params = unflatten_dict(leaves, sep="/")
    release.write_release(folder, made, params, "x", "float32", {}, "{fingerprint}")

    c = with_sizes(starting_point("spoken_captions/y", str(folder)), SIZES, step=0.5, cores=2)
    check_config(c)
    assert (c.model.speech.width, c.model.head.heads) == (192, 12)
    assert c.data.image_fit == made.data.image_fit and c.data.buckets == (16_000, 24_000)
    assert c.init.model == str(folder) and c.optim.freeze == ("speech",)
    augment = augment_like(base_config("small", "tiny"), "people").data.augment
    assert c.data.augment.to_dict() == augment.to_dict()
    taken = leaf_paths(release.start_from(c, untaught))
    assert all(np.array_equal(taken[f"speech/{path}"], value) for path, value in heard.items())
