"""Runs of the training loop that compile and initialise once for all of them, or not at all."""

import contextlib
import json

import jax
import jax.numpy as jnp
import pytest
from tiny_models import filled

from sir_jax.config.compare import to_json
from sir_jax.training.setup import Setup
from sir_jax.training.step import bucket_length


@contextlib.contextmanager
def shared_programs(init: bool = True):
    """Let runs of one config share what they begin with: compiled steps, and the first state.

    Every run would make the same ones again, which takes longer than its six steps.

    Args:
      init: False has the first state filled by NumPy, which compiles nothing.
    """
    compile_anew, create_anew, made = Setup.compile_steps, Setup.create_state, {}

    def once(make, setup):
        cfg = to_json(setup.cfg)
        for name in ("eval_every", "checkpoint_every"):  # neither program nor state knows them
            del cfg["train"][name]
        if make is state_on_host:
            del cfg["data"], cfg["train"], cfg["eval"]
        key = make.__name__, json.dumps(cfg)
        if key not in made:
            made[key] = make(setup)
        return made[key]

    def state_on_host(setup):
        # The first update donates the arrays on the devices.
        return jax.device_get(create_anew(setup))

    def compile_steps(setup):
        return once(compile_anew, setup)

    def create_state(setup):
        if not init:
            return _filled_state(setup)
        return jax.device_put(once(state_on_host, setup), setup.shardings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setup, "compile_steps", compile_steps)
        patch.setattr(Setup, "create_state", create_state)
        yield


def _filled_state(setup):
    return jax.device_put(filled(setup.abstract, setup.cfg.seed), setup.shardings)


@contextlib.contextmanager
def filled_states():
    """Let runs begin at a state filled by NumPy: to compile its initialisation takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setup, "create_state", _filled_state)
        yield


@contextlib.contextmanager
def untrained():
    """Let runs go through the loop and learn nothing: random parameters, and steps that count.

    For what comes before and after training: to compile its programs takes most of such a test.
    """

    def compile_steps(setup):
        @jax.jit
        def step(state, batch):
            one = jnp.ones(())
            return state.replace(step=state.step + 1), {"train/loss": one, "train/finite": one}

        shapes = map(setup.batch_shapes, setup.cfg.data.buckets)
        return {bucket_length(batch): step for batch in shapes}

    with filled_states(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setup, "compile_steps", compile_steps)
        yield
