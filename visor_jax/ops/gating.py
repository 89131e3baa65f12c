"""The one place that knows the two forms of a gate.

A Python bool specialises the program: the branch that is not taken does not exist in it
(inference, FLOPs, evaluation). A traced bool becomes a `lax.cond`, so that one program
serves every budget and still skips the work (universal training). Never `vmap` over a
gate: the conditional would turn into a select and both branches would run. Samples with
different budgets are grouped on the host instead.

A gate may have a middle position, READ. Traced, it is then a number of the levels in
`visor_jax.budget`, and a `lax.switch` of three branches.

While a policy trains there is a third form: one number in 0..1 per sample, which blends
off and on, so that a loss has a gradient with respect to the choice. Both run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from visor_jax.layer_plan import READ, Middle, StaticGate

Gate = StaticGate | Bool[Array, ""] | Int[Array, ""] | Float[Array, "B"]
Gates = (
    Sequence[StaticGate]
    | Bool[np.ndarray, "S"]
    | Bool[Array, "S"]
    | Int[Array, "S"]
    | Float[Array, "B S"]
)


def gated(
    gate: Gate,
    on: Callable[..., Any],
    off: Callable[..., Any],
    module: nn.Module,
    *operands: Any,
    read: Callable[..., Any] | None = None,
) -> Any:
    """Returns `on(module, *operands)` if the gate is on, else `off(...)`.

    read: what runs in the middle position; needed where a gate may have it.

    All branches must return the same structure of arrays. While parameters are being
    created the branch that is on runs, because it touches all of them. A blending gate
    needs a leading axis of samples in every float array.
    """
    if gate is READ:
        return read(module, *operands)
    if isinstance(gate, bool):
        return (on if gate else off)(module, *operands)
    if module.is_initializing():
        return on(module, *operands)
    if gate.ndim == 1:
        return _blended(gate, on(module, *operands), off(module, *operands))
    if gate.dtype != jnp.bool_:
        return nn.switch(gate, (off, read, on), module, *operands)
    return nn.cond(gate, on, off, module, *operands)


def _blended(gate: Float[Array, "B"], on: Any, off: Any) -> Any:
    """Returns off + gate * (on - off) of every float array; the others are alike."""

    def blend(on: Array, off: Array) -> Array:
        if not jnp.issubdtype(off.dtype, jnp.floating):
            return off
        weight = gate.astype(off.dtype).reshape(-1, *[1] * (off.ndim - 1))
        return off + weight * (on - off)

    return jax.tree.map(blend, on, off)


def updated_if(
    needed: Bool[Array, ""], update: Callable[[Any], Any], state: Any
) -> Any:
    """Returns `update(state)` where it is needed, else the state as it was.

    For work that the values of a running program spare; the gates of layers are
    `gated`. Not under `vmap`, for the same reason.
    """
    return jax.lax.cond(needed, update, lambda state: state, state)


def one_of(
    index: Int[Array, ""], ways: Sequence[Callable[..., Any]], *operands: Any
) -> Any:
    """Returns what one of several functions makes of the operands; the others rest.

    They must return alike. For what is drawn anew in every step of a program; the gates
    of layers are `gated`. Not under `vmap`, for the same reason.
    """
    return jax.lax.switch(index, list(ways), *operands)


def is_static(gates: Any) -> bool:
    """Returns whether the gates are known now (else: one traced (S,) array)."""
    return not isinstance(gates, jax.Array)


def as_sequence(gates: Any, count: int) -> tuple[Gate, ...]:
    """Returns `Gates`, checked, one per SELF layer.

    They are Python bools or READ, traced scalars, or (B,) numbers that blend.

    Raises:
      ValueError: for another count, shape or dtype; per-sample bools are among these.
    """
    if not is_static(gates):
        if jnp.issubdtype(gates.dtype, jnp.floating) and gates.shape[1:] == (count,):
            return tuple(gates[:, i] for i in range(count))
        known = gates.dtype == jnp.bool_ or jnp.issubdtype(gates.dtype, jnp.integer)
        if gates.shape != (count,) or not known:
            raise ValueError(
                f"Traced gates must be bool ({count},), one per SELF layer; got "
                f"{gates.dtype} {gates.shape}. Per-sample gates are not supported: "
                "group the samples by budget."
            )
        return tuple(gates[i] for i in range(count))
    positions = bool | np.bool_ | Middle
    if len(gates) != count or not all(isinstance(g, positions) for g in gates):
        raise ValueError(
            f"Static gates must be {count} bools, one per SELF layer; got {gates!r}. "
            "Per-sample gates are not supported: group the samples by budget."
        )
    return tuple(g if g is READ else bool(g) for g in gates)
