"""A joint model of width 32, the production classes at toy size."""

import jax
import pytest

from sir_jax.base_config import base_config
from sir_jax.models import build_model, init_params


def tiny_config():
    c = base_config("tiny", "tiny")
    c.data.update(buckets=(1600, 3200), image_size=16, batch_size=4)
    c.model.speech.update(
        width=32, layers=1, heads=2, mlp_width=64, conv_width=(16, 16, 32),
        conv_kernel=(16, 8, 4), conv_stride=(8, 5, 4), pos_kernel=8, pos_groups=4,
    )  # fmt: skip
    c.model.image.update(image_size=16, patch=8, width=32, layers=1, heads=2, mlp_width=64)
    c.model.head.update(heads=2, mlp_width=64)
    c.model.embed_width = 32
    return c


@pytest.fixture(scope="session")
def tiny():
    """Return (cfg, model, params)."""
    cfg = tiny_config()
    model = build_model(cfg.model)
    return cfg, model, jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
