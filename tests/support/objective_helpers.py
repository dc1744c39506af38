"""The objective on a tiny model: each term's fields, and a state with nothing at zero."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict
from tiny_models import filled, tiny_config

from sir_jax.losses.queue import Queue
from sir_jax.models import Encoded, build_model
from sir_jax.objective.gradient import loss_and_grads
from sir_jax.objective.switches import frozen_patterns, fusion_tasks
from sir_jax.objective.total import Objective, loss_fn
from sir_jax.objective.views import Views
from sir_jax.runtime.trees import leaf_paths, split_tree
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import init_state

TERMS = {
    "sic": {"loss.sic.weight": 1.0},
    "queue": {"loss.sic.queue": 20, "loss.sic.alpha": 0.4, "loss.sic.alpha_ramp": 2},
    "sim": {"loss.sim.weight": 0.7},
    "cmd": {"loss.cmd.weight": 0.5, "loss.cmd.direction": "both"},
}
EVERYTHING = {name: value for fields in TERMS.values() for name, value in fields.items()}
POOL = {"model.match.queries": 2, "model.match.hidden": 8, "model.match.width": 6}
STILL = {"model.speech.dropout": 0.0, "model.head.dropout": 0.0, "model.fusion.dropout": 0.0}


def made(**fields):
    """Return (cfg, model, state) with small random values everywhere, the queue half filled."""
    cfg = tiny_config(**fields)
    model = build_model(cfg.model, fusion_tasks(cfg.loss, cfg.model.match.kind))
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    state = filled(jax.eval_shape(init, jax.random.key(0)))
    if state.queue is not None:
        rng = np.random.default_rng(5)
        size, width = state.queue.speech.shape
        rows = [
            x / np.linalg.norm(x, axis=1, keepdims=True)
            for x in rng.normal(size=(2, size, width)).astype(np.float32)
        ]
        ids = rng.integers(0, 6, size).astype(np.int32)
        state = state.replace(queue=Queue(*rows, ids, np.int32(size // 2), np.int32(size // 2)))
    return cfg, model, state


def views_and_ids(model, rows: int = 6, seed: int = 0):
    """Return views of random tokens and embeddings, and ids of which two are equal."""
    rng = np.random.default_rng(seed)

    def encoded(length: int) -> Encoded:
        z = rng.normal(size=(rows, model.embed_width))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        tokens = rng.normal(size=(rows, length, 32))
        return Encoded(jnp.float32(tokens), jnp.ones((rows, length), bool), jnp.float32(z))

    return Views(encoded(5), encoded(4), None, None), jnp.array([0, 1, 2, 3, 3, 4])[:rows]


COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)


def assert_queue_stays(program: str, rows: int = 1009) -> list[str]:
    """See that no collective moves the queue; return the collectives.

    Args:
      program: compiled, as text.
      rows: of the queue, a number that no other size of the program has.
    """
    lines = [line for line in program.splitlines() if COLLECTIVE.search(line)]
    # What is of the batch is exchanged, and the queue is in the program.
    assert lines and f"[{rows},16]" in program
    assert [line for line in lines if re.search(rf"[\[,]{rows}[\],]", line)] == []
    return lines


def gradient(cfg, model, state, batch, count: int = 1):
    """Return (loss, aux, gradient by path) by GradCache in `count` microbatches."""
    cfg = cfg.copy_and_resolve_references()
    cfg.train.grad_cache = count
    trainable, frozen = split_tree(state.params, frozen_patterns(cfg))
    run = jax.jit(functools.partial(loss_and_grads, Objective(model, cfg)))
    loss, aux, grads = run(trainable, frozen, state, batch, jax.random.key(1))
    return loss, aux, leaf_paths(grads)


def loss_of(cfg, model, state, batch, key=1, **changes):
    """Return (loss, aux); arrays of the state can be replaced by name.

    The program is the same for all calls with one config: it is traced and compiled once.
    """
    arrays = {"params": state.params, "ema": state.ema_params, "queue": state.queue, "step": 0}
    return _jit_loss(FrozenConfigDict(cfg), model)(arrays | changes, batch, jax.random.key(key))


@functools.lru_cache
def _jit_loss(cfg, model):
    def run(arrays, batch, key):
        inputs = [arrays[name] for name in ("params", "ema", "queue")]
        return loss_fn(*inputs, batch, arrays["step"], key, model=model, cfg=cfg)

    return jax.jit(run)
