"""Counts the FLOPs of a traced program from its own operations, knowing no formula.

The independent witness for `visor_jax.flops`: it sees shapes and dimension numbers of
`dot_general` and `conv_general_dilated`, and nothing of the network.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable[..., Any], *inputs: Any) -> int:
    """Returns the matmul and convolution FLOPs of `function` traced on these inputs.

    1 multiply-add = 2 FLOPs. The inputs may be abstract; nothing is computed.

    Raises:
      NotImplementedError: for work that shapes alone do not tell: a loop of unknown
        length, branches of different cost, dilation of a convolution's input.
    """
    return count_jaxpr_flops(jax.make_jaxpr(function)(*inputs).jaxpr)


def count_jaxpr_flops(jaxpr: core.Jaxpr) -> int:
    """Returns what `count_flops` does, of a program that has been traced."""
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_general(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [count_jaxpr_flops(jaxpr) for jaxpr in _inner_jaxprs(equation)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        if len(set(inner)) > 1:
            raise NotImplementedError(f"Branches cost {inner}: use static gates.")
        return inner[0]
    if name in ("while", "pallas_call") and any(inner):
        raise NotImplementedError(f"{name} hides how often its body runs.")
    return sum(inner)


def _inner_jaxprs(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot_general(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * inner


def _convolution(equation: core.JaxprEqn) -> int:
    params = equation.params
    if set(params["lhs_dilation"]) != {1}:
        raise NotImplementedError("A dilated input is mostly zeros: not counted.")
    kernel = equation.invars[1].aval.shape
    # rhs_spec is (output features, input features of one group, taps...).
    _, *per_output = params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel[axis] for axis in per_output)
    return 2 * math.prod(equation.outvars[0].aval.shape) * taps


def as_one_operation(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `ops.depthwise_conv` as the convolution that the account counts.

    The network writes it as shifted multiply-adds, which no walk can tell from others.
    """
    return jax.lax.conv_general_dilated(
        x,
        jax.numpy.expand_dims(kernel.astype(x.dtype), 1),
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1],
    )
