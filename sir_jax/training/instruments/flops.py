"""Count the operations of a traced program: matrix products and convolutions.

XLA's own count would count a loop's body once, and would include work that the compiler repeats.
"""

import math
from collections.abc import Callable, Iterable

from jax.extend.core import ClosedJaxpr, Jaxpr

from sir_jax.training.instruments.peaks import peak_flops
from sir_jax.training.setup import prepare
from sir_jax.training.step import bucket_length

Branch = Callable[[Iterable[int]], int]


def step_flops(setup, samples: int) -> int:
    """Return the operations that one update has to make, over all devices.

    They are those of the model, whatever way it is run: nothing that `model.remat` or
    `train.grad_cache` computes twice counts, nor what is computed for the log alone, nor padding of
    a convolution's groups; attention's backward pass counts its logits again, as every flash kernel
    does.

    Args:
      setup: a `training.setup.Setup`.
      samples: length bucket.
    """
    cfg = setup.cfg.copy_and_resolve_references()
    cfg.model.update(remat="none", attention="xla")
    cfg.train.grad_cache = 1
    plain = prepare(cfg, setup.mesh)
    traced = plain.jit_step().trace(plain.abstract, plain.batch_shapes(samples))
    return count_flops(traced.jaxpr, min)


def seconds_at_peak(setup) -> dict[int, float]:
    """Return how long an update takes at the devices' peak, by the `bucket_length` of its batch.

    Its share of an update's time is the utilisation of model operations (MFU).

    Args:
      setup: a `training.setup.Setup`.

    Returns:
      Nothing where the devices' peak is not known; see `peaks`.
    """
    peak = peak_flops(setup.mesh.devices.flat[0].device_kind)
    if peak is None:
        return {}
    return {
        bucket_length(setup.batch_shapes(samples)): step_flops(setup, samples)
        / (peak * setup.mesh.size)
        for samples in setup.cfg.data.buckets
    }


def count_flops(jaxpr: ClosedJaxpr | Jaxpr, branch: Branch = max) -> int:
    """Return the floating-point operations of one call, over all devices.

    A multiplication and an addition are two operations. The body of a loop of unknown length counts
    once. A kernel counts as what it says of itself.

    Args:
      jaxpr: the traced program.
      branch: which of the branches of a condition counts: `max` or `min`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> count_flops(jax.make_jaxpr(jnp.matmul)(jnp.ones((3, 4)), jnp.ones((4, 5))))
      120
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_equation_flops(eqn, branch) for eqn in jaxpr.eqns)


def _equation_flops(eqn, branch: Branch) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        kernel = eqn.invars[1].aval.shape
        out_features = kernel[numbers.rhs_spec[0]]
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_features
    if name == "pallas_call":
        return params["cost_estimate"].flops
    inner = [count_flops(j, branch) for value in params.values() for j in _jaxprs(value)]
    if name == "cond":
        return branch(inner)
    if name == "shard_map":
        return sum(inner) * params["mesh"].size
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(value) -> list:
    """Return the programs in a parameter of an equation, which may be a nested sequence."""
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        return [value]
    if isinstance(value, (tuple, list)):
        return [jaxpr for entry in value for jaxpr in _jaxprs(entry)]
    return []
