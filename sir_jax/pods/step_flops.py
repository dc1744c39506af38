"""Count the operations of a traced program: matrix products and convolutions.

XLA's own count would count a loop's body once, and would include work that the compiler repeats.
"""

import math

from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Return the floating-point operations of one call, over all devices.

    A multiplication and an addition are two operations. Of the branches of a condition the most
    expensive one counts; the body of a loop of unknown length counts once. A kernel counts as what
    it says of itself.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> count_flops(jax.make_jaxpr(jnp.matmul)(jnp.ones((3, 4)), jnp.ones((4, 5))))
      120
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_equation_flops(eqn) for eqn in jaxpr.eqns)


def _equation_flops(eqn) -> int:
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
    inner = [count_flops(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
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
