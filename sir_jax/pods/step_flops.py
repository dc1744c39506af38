"""Count the operations of a program as JAX traces it: matrix products and convolutions.

XLA's own count leaves out how often a loop runs; and it is of the compiled program, in which work
may have been repeated that nobody asked for.
"""

import math

from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Return the floating-point operations of one call, over all devices.

    A multiplication and an addition are two. Of the branches of a condition the dearest counts; a
    loop of unknown length counts once.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_of_equation(eqn) for eqn in jaxpr.eqns)


def _of_equation(eqn) -> int:
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
    inner = [count_flops(found) for value in params.values() for found in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(value) -> list:
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        return [value]
    if isinstance(value, (tuple, list)):
        return [found for entry in value for found in _jaxprs(entry)]
    return []
