"""Controls: what a method must beat. They look at no image."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.select import evenly_spaced, top


@dataclasses.dataclass(frozen=True)
class Random(CropMethod):
    """Random patches of every crop.

    seed: with it and the image's pixels alone the choice is made: the same in every
    batch, at every place in it.
    """

    seed: int = 0

    @property
    def tower_reads(self) -> TowerReads:
        """The image's own number."""
        return TowerReads(digest=True)

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with random patches."""
        count, patches = crops.keep.shape[1:]

        def of_crop(digest: Array, crop: Array) -> Array:
            key = jax.random.fold_in(jax.random.key(self.seed), digest)
            return jax.random.uniform(jax.random.fold_in(key, crop), (patches,))

        of_image = jax.vmap(of_crop, in_axes=(None, 0))
        scores = jax.vmap(of_image, in_axes=(0, None))(crops.digest, jnp.arange(count))
        return crops.replace(keep=top(scores, crops.packing.there, budgets))


@dataclasses.dataclass(frozen=True)
class Uniform(CropMethod):
    """Every n-th patch of every crop, row by row; n need not be whole."""

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with evenly spaced patches."""
        return crops.replace(keep=evenly_spaced(crops.packing.there, budgets))


@dataclasses.dataclass(frozen=True)
class BaseView(CropMethod):
    """The first crops alone, as if the image had been cut into fewer tiles.

    Crop 0, the whole image, then tile after tile, each with all of its patches, as far
    as the budget goes; the last one is left off in the middle.
    """

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the first patches of the first crops."""
        there = crops.packing.there
        places = jnp.cumsum(there.reshape(len(there), -1), axis=1).reshape(there.shape)
        total = budgets.sum(axis=1)[:, None, None]
        return crops.replace(keep=there & (places <= total))
