"""From vision features to decoder width: linear, exact GELU, linear.

And, where a network has it, a convolution over what that makes of neighbouring patches.
With SELF layers off nothing else brings them together behind the tower: text then reads
every patch as it came.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.vision.siglip import places_of
from visor_jax.ops.linear import Dense
from visor_jax.ops.patch_convolution import patch_convolution

_KERNEL = "convolution_kernel"
# The convolution among a network's parameters, by their paths.
CONVOLUTION_PATTERN = rf"(^|/){_KERNEL}$"


class Projector(nn.Module):
    """LLaVA's MLP projector, applied to every patch on its own.

    grid: patches per side if a learned row and column embedding is added to the result
      (networks whose decoder must learn from scratch where a patch lies), else None.
    convolution: side of one that is added at the end, within each crop; None for none.
      It begins as zero, so that a network that gets one starts as it was.
    """

    width: int
    dtype: jnp.dtype
    init_std: float
    grid: int | None = None
    convolution: int | None = None

    def setup(self) -> None:
        self.linear_1 = Dense(self.width, self.init_std, dtype=self.dtype)
        self.linear_2 = Dense(self.width, self.init_std, dtype=self.dtype)
        if self.convolution is not None:
            shape = (self.convolution, self.convolution, self.width, self.width)
            self.convolution_kernel = self.param(
                _KERNEL, nn.initializers.zeros, shape, jnp.float32
            )
        if self.grid is not None:
            init, shape = nn.initializers.normal(0.5), (self.grid, self.width)
            self.row_embedding = self.param("row_embedding", init, shape, jnp.float32)
            self.column_embedding = self.param(
                "column_embedding", init, shape, jnp.float32
            )

    def __call__(
        self,
        features: Float[Array, "B C P E"],
        unmerged: Float[Array, "B C P E"] | None = None,
    ) -> Float[Array, "B C P D"]:
        """Returns the projected patches.

        Args:
          unmerged: the features before some took in others (token reduction), None if
            none did. The convolution is of these: what goes into one patch must not
            smear into those around it.
        """
        projected = self._each(features)
        if self.convolution is not None:
            seen = projected if unmerged is None else self._each(unmerged)
            projected += patch_convolution(seen, self.convolution_kernel)
        return projected

    def _each(self, features: Float[Array, "B C P E"]) -> Float[Array, "B C P D"]:
        """Returns every patch on its own, projected."""
        projected = self.linear_2(nn.gelu(self.linear_1(features), approximate=False))
        if self.grid is None:
            return projected
        place = self.row_embedding[:, None] + self.column_embedding[None]
        place = places_of(place.reshape(-1, self.width), projected.shape[2])
        return projected + place.astype(self.dtype)
