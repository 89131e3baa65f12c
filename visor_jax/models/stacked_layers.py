"""Layers of one shape as one: their parameters under a leading axis, for `lax.scan`.

A compiler takes as long as there are layer bodies. Where the same body runs many times
over, it is compiled once and told to repeat itself. Parameters stay a layer apart, in
files and in the training state; the stack is made inside the program.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from visor_jax.ops.attention import current_platform

# A kernel is used in the type that a layer computes in, and only there.
_USED_IN_COMPUTE_DTYPE = "kernel"


def is_scanned(setting: str) -> bool:
    """Returns what `VLMConfig.scan_layers` says for the platform in context."""
    return setting == "on" or (setting == "auto" and current_platform() != "cpu")


def stacked(
    layers: Sequence[nn.Module], dtype: jnp.dtype
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a module of no parameters and the variables of all layers for it.

    Args:
      layers: bound modules of equal configuration.
      dtype: that the layers compute in: the stack of kernels is of this type, as each
        of them would be cast on its own.

    Returns:
      Module, variables whose arrays have a leading axis, one entry per layer. The
      module is applied to a slice of them.
    """
    parted = [layer.unbind() for layer in layers]

    def stack(path: Any, *leaves: jax.Array) -> jax.Array:
        if path[-1].key == _USED_IN_COMPUTE_DTYPE:
            leaves = tuple(leaf.astype(dtype) for leaf in leaves)
        return jnp.stack(leaves)

    variables = jax.tree.map_with_path(stack, *(v for _, v in parted))
    return parted[0][0], variables
