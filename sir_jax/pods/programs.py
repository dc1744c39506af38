"""The programs of a run: train step, both encoders and matching, lowered but not compiled.

They are the functions that training and evaluation call, lowered for a mesh of described devices.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sir_jax.inference.embed import jit_encode
from sir_jax.inference.matching import BUDGET, MULTIPLE, jit_score
from sir_jax.runtime import sharding
from sir_jax.training.setup import Setup
from sir_jax.training.step import batch_shapes

NAMES = ("train", "embed", "match")


class Program(NamedTuple):
    """A jitted function with the shapes of its arguments."""

    name: str
    jitted: object
    args: tuple

    def lower(self):
        """Return the lowered program, ready to be compiled."""
        return self.jitted.lower(*self.args)

    def jaxpr(self):
        """Return the traced program."""
        return self.jitted.trace(*self.args).jaxpr


def train_program(setup: Setup, samples: int) -> Program:
    """Return the train step of one length bucket."""
    return Program("train", setup.jit_step(), (setup.abstract, setup.batch_shapes(samples)))


def embed_programs(setup: Setup, samples: int) -> list[Program]:
    """Return the programs that encode a batch of clips of one bucket and a batch of pictures."""
    b, size = setup.cfg.data.batch_size, setup.cfg.data.image_size
    rows, whole = sharding.batch_sharding(setup.mesh), sharding.replicated(setup.mesh)
    params = _sharded_params(setup)

    def batch(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    inputs = {
        "encode_speech": (batch((b, samples), np.float32), batch((b,), np.int32)),
        "encode_image": (batch((b, size, size, 3), np.float32),),
    }
    return [
        Program(
            name.replace("encode", "embed"),
            jit_encode(setup.model, name, False, whole),
            (params, *args),
        )
        for name, args in inputs.items()
    ]


def match_program(setup: Setup, samples: int) -> Program:
    """Return a fusion pass over a batch of pairs from chunks of tokens, see `jit_score`."""
    speech, image = jax.eval_shape(
        functools.partial(setup.model.apply, deterministic=True),
        {"params": setup.abstract.params},
        *(batch_shapes(setup.cfg, samples)[name] for name in ("wave", "lengths", "pixels")),
    )[:2]
    rows, whole = sharding.batch_sharding(setup.mesh), sharding.replicated(setup.mesh)

    def chunk(tokens):
        length, width = tokens.shape[1:]
        length = -(-length // MULTIPLE) * MULTIPLE if tokens is speech.tokens else length
        count = max(1, BUDGET // 2 // (length * width * tokens.dtype.itemsize))
        return (
            jax.ShapeDtypeStruct((count, length, width), tokens.dtype, sharding=whole),
            jax.ShapeDtypeStruct((count, length), jnp.bool_, sharding=whole),
        )

    indices = jax.ShapeDtypeStruct((setup.cfg.data.batch_size,), np.int32, sharding=rows)
    args = _sharded_params(setup), chunk(speech.tokens), chunk(image.tokens), indices, indices
    return Program("match", jit_score(setup.model, rows, whole), args)


def select_programs(setup: Setup, names: Sequence[str], samples: int) -> list[Program]:
    """Return the programs of some `NAMES`; 'match' gives none if the model has no matching head."""
    out = [train_program(setup, samples)] if "train" in names else []
    if "embed" in names:
        out += embed_programs(setup, samples)
    if "match" in names and "match" in setup.model.tasks:
        out.append(match_program(setup, samples))
    return out


def _sharded_params(setup: Setup) -> dict:
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        setup.abstract.params,
        setup.shardings.params,
    )
