"""The config that is learnt by: of the small pair, or of a shipped retriever that goes on."""

import jax
import numpy as np
import pytest

from sir_jax.config.check import check_config
from sir_jax.inference import release
from sir_jax.learning.setup import starting_point, with_sizes
from sir_jax.models import build_model, init_params
from sir_jax.runtime.trees import leaf_paths

SIZES = {"batch_size": 24, "buckets": [16_000, 24_000], "steps": 300, "voices": 12}


def abstract_params(cfg):
    model = build_model(cfg.model)
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def test_the_small_pair_hears_and_sees_as_it_came():
    c = with_sizes(starting_point("spoken_captions/x", ""), SIZES, step=0.5, cores=3)
    check_config(c)
    assert c.optim.freeze == ("speech", "image") and c.init.speech == "package:voices/speech"
    assert (c.model.head.kind, c.model.image_head) == ("conv", "mlp")
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
    # As from the encoders: the release's own last bucket does not count.
    assert c.data.buckets == (16_000, 24_000) and c.data.augment.noise.probability == 0.5
    params = abstract_params(c)
    taken = leaf_paths(release.start_from(c, params))
    stored = leaf_paths(found.params)
    assert taken.keys() == leaf_paths(params).keys() and taken.keys() <= stored.keys()
    assert all(np.array_equal(taken[path], stored[path]) for path in taken)
