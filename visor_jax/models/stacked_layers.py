"""Layers of one shape as one: their parameters under a leading axis, for `lax.scan`.

A compiler takes as long as there are layer bodies. Where the same body runs many times
over, it is compiled once and told to repeat itself. Parameters are a layer apart in
files and wherever they have names; a training state that is scanned has them stacked
already (`training.layer_stacks`), under the name of the first layer.
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
      layers: bound modules of equal configuration, each with its parameters; or the
        first one with those of all of them, and the others with none.
      dtype: that the layers compute in: the stack of kernels is of this type, as each
        of them would be cast on its own.

    Returns:
      Module, variables whose arrays have a leading axis, one entry per layer. The
      module is applied to a slice of them.
    """
    (module, first), *others = [layer.unbind() for layer in layers]

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key == _USED_IN_COMPUTE_DTYPE else leaf

    parted = [
        jax.tree.map_with_path(cast, variables)
        for variables in (first, *(variables for _, variables in others))
    ]
    if others and not any(parted[1:]):
        return module, parted[0]
    return module, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parted)
