"""Test-wide settings, made before JAX starts its backend."""

import gc
import os

import jax
import pytest
from absl import flags

pytest_plugins = ("retriever_fixtures", "split_fixtures", "training_fixtures")

# The programs that tests start inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
# Eight virtual devices, so that every mesh from 1 to 8 runs on one CPU.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Grain's worker processes read absl flags, which no absl app has parsed here.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Let go of compiled programs after each file: of all files together they take many GB."""
    yield
    jax.clear_caches()
    gc.collect()
