"""What the tower of the embedded benchmark is asked: coarse things only.

Colours, brightness and where there is ink, from one vector per page (the mean token)
and per patch. It never sees which digit is where; reading is left to the decoder.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from visor_jax.models.config import VisionConfig
from visor_jax.models.vision.siglip import VisionTower

# Outputs of the throw-away heads: classes of each attribute of the page.
PAGE_CLASSES = {"colour": 6, "dark_half": 4, "ring": 2, "squares": 2}
PATCH_TARGETS = ("luminance", "ink", "saturated")


class PageTower(nn.Module):
    """The tower with linear heads for the page and for each patch."""

    config: VisionConfig

    def setup(self) -> None:
        self.vision_tower = VisionTower(self.config, jnp.dtype("float32"))
        self.page_heads = {name: nn.Dense(n) for name, n in PAGE_CLASSES.items()}
        self.patch_head = nn.Dense(len(PATCH_TARGETS))

    def __call__(self, batch: Any) -> Float[Array, ""]:
        """Returns the summed mean losses of a `TowerBatch`.

        Classes of the page, targets of its patches.
        """
        features = self.vision_tower(batch.pixels[:, 0])
        page, patches = features.mean(axis=1), self.patch_head(features)
        total = jnp.zeros(())
        for name, head in self.page_heads.items():
            labels = getattr(batch, name).astype(jnp.int32)
            losses = optax.softmax_cross_entropy_with_integer_labels(head(page), labels)
            total += losses.mean()
        total += jnp.mean(jnp.square(patches[..., 0] - batch.luminance)) * 10
        for i, name in enumerate(PATCH_TARGETS[1:], 1):
            labels = getattr(batch, name).astype(jnp.float32)
            total += optax.sigmoid_binary_cross_entropy(patches[..., i], labels).mean()
        return total
