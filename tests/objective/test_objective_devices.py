"""The objective on eight devices: the same update as on one, and the traffic between them."""

import functools
import re

import jax
import numpy as np
import pytest
from objective_helpers import EVERYTHING, assert_queue_stays, made
from training_helpers import synthetic_batch

from sir_jax.runtime import sharding
from sir_jax.runtime.trees import leaf_paths
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.step import train_step


@functools.cache
def compiled_step(devices: int, mining: str = "global"):
    """Compile the train step with every term on; return (cfg, state, batch, program)."""
    cfg, model, state = made(
        **{
            **EVERYTHING,
            "data.batch_size": 16,
            "loss.sic.queue": 1009,
            "mesh.data": devices,
            "loss.sim.mining": mining,
            "loss.cmd.source": mining,
            "data.groups": 2 if mining == "shard" else 0,
            "loss.sim.list_weight": 0.5 if mining == "shard" else 0.0,
            "loss.sim.teach_weight": 0.5 if mining == "shard" else 0.0,
            "train.log_every": 1,
        }
    )
    mesh = sharding.make_mesh(cfg.mesh)
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    shardings = sharding.tree_shardings(state, mesh)
    batch = synthetic_batch(cfg)
    rows = {name: sharding.batch_sharding(mesh) for name in batch}
    step = jax.jit(
        functools.partial(train_step, model=model, tx=tx, cfg=cfg, shards=devices),
        in_shardings=(shardings, rows),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    return cfg, state, batch, step.lower(state, batch).compile()


# The queue under global mining is looked for in test_objective.py, at each change.
@pytest.mark.release
@pytest.mark.parametrize("mining", ["global", "shard"])
def test_no_collective_of_eight_devices_moves_the_queue(mining):
    _, _, _, step = compiled_step(8, mining)
    lines = assert_queue_stays(step.as_text())
    # The batch's embeddings are gathered.
    assert any("all-gather" in line and "[16,16]" in line for line in lines)
    # Mining within a shard moves no token either; tokens are 20 frames or 5 patches of width 32.
    moved = [line for line in lines if re.search(r",(20|5),32\]", line)]
    assert bool(moved) == (mining == "global")
    # Groups add the embeddings in bytes, for the host.
    bytes_of = [line for line in lines if "all-gather" in line and "s8[16,16]" in line]
    assert bool(bytes_of) == (mining == "shard")


# The losses of steps on a mesh are compared in training/test_loop.py, at each change.
@pytest.mark.release
def test_update_on_eight_devices_is_that_of_one():
    by_devices = {}
    for devices in (1, 8):
        _, state, batch, step = compiled_step(devices)
        after, metrics = step(state, batch)
        by_devices[devices] = leaf_paths(
            jax.device_get((after.params, after.ema_params, after.queue, metrics))
        )
    # Equal accuracies mean that the same negatives were drawn.
    assert by_devices[1]["3/train/sim_accuracy"] == by_devices[8]["3/train/sim_accuracy"]
    for path, leaf in by_devices[1].items():
        np.testing.assert_allclose(by_devices[8][path], leaf, atol=1e-5, rtol=1e-5, err_msg=path)
