"""The production classes at width 32, and parameters that cost no compilation."""

import jax
import numpy as np

from sir_jax.config.presets import base_config
from sir_jax.models import init_params
from sir_jax.runtime.trees import map_with_path


def tiny_config(**fields):
    """Return a config of the production model at width 32; fields are given by dotted name."""
    c = base_config("tiny", "tiny")
    c.data.corpus = "spoken_scenes/in-memory"
    c.data.batch_size = 8
    c.data.buckets = (3_200, 6_400)
    c.data.image_size = 16
    # Few operations: compiling, not running, is what the tests wait for. The head alone has
    # dropout, whose random numbers are half of a program's operations.
    c.model.speech.update(
        width=32,
        layers=1,
        heads=2,
        mlp_width=64,
        conv_width=(8, 32),
        conv_kernel=(40, 8),
        conv_stride=(20, 8),
        pos_kernel=8,
        pos_groups=2,
        dropout=0.0,
    )
    c.model.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.model.head.update(layers=1, heads=2, mlp_width=64)
    c.model.fusion.update(layers=1, width=32, heads=2, mlp_width=64, dropout=0.0)
    c.model.embed_width = 16
    c.optim.update(learning_rate=1e-3, warmup_steps=2)
    c.train.update(steps=6, log_every=1, eval_every=0, checkpoint_every=0, num_threads=1)
    c.mesh.update(data=1, fsdp=1, tensor=1)
    c.update_from_flattened_dict(fields)
    return c


def filled(tree, seed: int = 0):
    """Return NumPy arrays of a tree's shapes: small random floats, as training leaves them."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path.endswith("temperature"):
            return np.full(leaf.shape, 0.07, leaf.dtype)
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if path.startswith("opt_state"):
            return np.abs(rng.normal(0.0, 1e-3, leaf.shape)).astype(leaf.dtype)
        one = 1.0 if path.endswith(("scale", "/g")) else 0.0
        return (one + rng.normal(0.0, 0.1, leaf.shape)).astype(leaf.dtype)

    return map_with_path(fill, tree)


def random_params(model, seed: int = 0) -> dict:
    """Return a model's parameters, made by NumPy: to compile their initialisation takes seconds."""
    return filled(jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0)), seed)
