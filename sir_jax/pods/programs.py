"""The programs that a run of a config makes: train step, embedding and matching, not yet compiled.

They are the very functions that training and evaluation call, lowered for a mesh of described
devices.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sir_jax.evaluation.embed import jit_encode
from sir_jax.evaluation.passes import BUDGET, MULTIPLE, jit_score
from sir_jax.models import SpeechImageModel, build_model
from sir_jax.training import sharding
from sir_jax.training.config import check_batch, check_config
from sir_jax.training.objective import fusion_tasks
from sir_jax.training.optimizer import make_optimizer
from sir_jax.training.state import TrainState, init_state, state_shardings
from sir_jax.training.step import batch_shapes, jit_train_step

NAMES = ("train", "embed", "match")


class Plan(NamedTuple):
    """A config on a mesh."""

    cfg: object
    mesh: Mesh
    model: SpeechImageModel
    tx: object
    state: TrainState  # shapes
    shardings: TrainState


class Program(NamedTuple):
    """One function with the shapes it is to be compiled for."""

    name: str
    jitted: object
    args: tuple

    def lower(self):
        """Return the lowered program, ready to be compiled."""
        return self.jitted.lower(*self.args)

    def jaxpr(self):
        """Return the program as JAX traces it, before any compiler."""
        return self.jitted.trace(*self.args).jaxpr


def plan(cfg, mesh: Mesh) -> Plan:
    """Build the model of a config and lay its state on a mesh.

    Raises:
      UserError: on a config that no run can use, or that does not fit the mesh.
    """
    check_config(cfg)
    check_batch(cfg, mesh)
    model = build_model(cfg.model, fusion_tasks(cfg.loss))
    tx = make_optimizer(cfg.optim, cfg.train.steps)
    init = functools.partial(init_state, model=model, tx=tx, cfg=cfg)
    state = jax.eval_shape(init, jax.random.key(0))
    sharding.check_rules(state.params)
    return Plan(cfg, mesh, model, tx, state, state_shardings(state, mesh, cfg))


def train_program(found: Plan, samples: int) -> Program:
    """Return the train step of one length bucket."""
    batch = batch_shapes(found.cfg, samples)
    jitted = jit_train_step(
        found.cfg, found.mesh, found.shardings, tuple(batch), found.model, found.tx
    )
    return Program("train", jitted, (found.state, batch))


def embed_programs(found: Plan, samples: int) -> list[Program]:
    """Return the encoding of a batch of clips of one bucket, and of a batch of pictures."""
    b, size = found.cfg.data.batch_size, found.cfg.data.image_size
    rows, whole = sharding.batch_sharding(found.mesh), sharding.replicated(found.mesh)
    params = _placed(found)

    def described(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    inputs = {
        "encode_speech": (described((b, samples), np.float32), described((b,), np.int32)),
        "encode_image": (described((b, size, size, 3), np.float32),),
    }
    return [
        Program(name.replace("encode", "embed"), jit_encode(found.model, name, False, whole),
                (params, *args))
        for name, args in inputs.items()
    ]  # fmt: skip


def match_program(found: Plan, samples: int) -> Program:
    """Return a fusion pass over a batch of pairs gathered from chunks of tokens."""
    speech, image = jax.eval_shape(
        functools.partial(found.model.apply, deterministic=True),
        {"params": found.state.params},
        *(batch_shapes(found.cfg, samples)[name] for name in ("wave", "lengths", "pixels")),
    )[:2]
    rows, whole = sharding.batch_sharding(found.mesh), sharding.replicated(found.mesh)

    def chunk(tokens):
        length, width = tokens.shape[1:]
        length = -(-length // MULTIPLE) * MULTIPLE if tokens is speech.tokens else length
        count = max(1, BUDGET // 2 // (length * width * tokens.dtype.itemsize))
        return (
            jax.ShapeDtypeStruct((count, length, width), tokens.dtype, sharding=whole),
            jax.ShapeDtypeStruct((count, length), jnp.bool_, sharding=whole),
        )

    places = jax.ShapeDtypeStruct((found.cfg.data.batch_size,), np.int32, sharding=rows)
    args = _placed(found), chunk(speech.tokens), chunk(image.tokens), places, places
    return Program("match", jit_score(found.model, rows, whole), args)


def chosen(found: Plan, wanted: Sequence[str], samples: int) -> list[Program]:
    """Return the programs of `NAMES` that are wanted; without matching there is no match step."""
    out = [train_program(found, samples)] if "train" in wanted else []
    if "embed" in wanted:
        out += embed_programs(found, samples)
    if "match" in wanted and "match" in found.model.tasks:
        out.append(match_program(found, samples))
    return out


def _placed(found: Plan) -> dict:
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        found.state.params, found.shardings.params,
    )  # fmt: skip
