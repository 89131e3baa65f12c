"""DivPrune: the patches that are farthest apart (max-min diversity).

Source: Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large
Multimodal Models", CVPR 2025, arXiv 2503.02175.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.select import likeness, one_by_one, unit

SCOPES = ("crop", "image")
FEATURES = ("projected", "tower")
SEEDS = ("isolated", "first")
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class DivPrune(CropMethod):
    """Patches added one by one, each the farthest from the nearest of those chosen.

    Distance is 1 - cosine. features: "projected", what the decoder would see; "tower",
    before. scope: whether budgets and distances are those of each crop or of the
    "image" as a whole. start: the first patch is the "isolated" one, whose nearest
    neighbour is farthest, or the "first".
    """

    features: str = "projected"
    scope: str = "crop"
    start: str = "isolated"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_choice("features", FEATURES)
        self.check_choice("scope", SCOPES)
        self.check_choice("start", SEEDS)

    @property
    def tower_reads(self) -> TowerReads:
        """Features on the side of the projector that was asked for."""
        return TowerReads(projected=self.features == "projected")

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with patches that are far apart."""
        vectors, there = unit(crops.features), crops.packing.there
        if self.scope == "image":
            vectors = vectors.reshape(len(vectors), 1, -1, vectors.shape[-1])
            there = there.reshape(len(there), 1, -1)
            budgets = budgets.sum(axis=1, keepdims=True)
        first = jnp.broadcast_to(
            jnp.arange(there.shape[2], dtype=jnp.float32), there.shape
        )
        if self.start == "isolated":
            first = nearest(vectors, there)
        keep = one_by_one(
            first,
            jnp.full(there.shape, -jnp.inf),
            lambda index: _alike(vectors, index),
            jnp.maximum,
            there,
            budgets,
            self.most_of(there.shape[2]),
        )
        return crops.replace(keep=keep.reshape(crops.keep.shape))


def _alike(
    vectors: Float[Array, "B C P E"], index: Int[Array, "B C"]
) -> Float[Array, "B C P"]:
    chosen = jnp.take_along_axis(vectors, index[..., None, None], axis=2)
    return likeness(chosen, vectors)[..., 0, :]


def nearest(
    vectors: Float[Array, "B C P E"], there: Bool[Array, "B C P"]
) -> Float[Array, "B C P"]:
    """Returns each patch's cosine to the most similar other one; blocks of rows."""
    batch, crops, patches, width = vectors.shape
    block = min(_BLOCK, patches)
    padding = -patches % block
    rows = jnp.pad(vectors, ((0, 0), (0, 0), (0, padding), (0, 0)))
    rows = jnp.moveaxis(rows.reshape(batch, crops, -1, block, width), 2, 0)
    place = jnp.arange(patches + padding).reshape(-1, block, 1)

    def of_block(block_of: tuple[Array, Array]) -> Array:
        rows, place = block_of
        others = there[:, :, None] & (jnp.arange(patches) != place)
        return jnp.where(others, likeness(rows, vectors), -jnp.inf).max(axis=-1)

    found = jnp.moveaxis(jax.lax.map(of_block, (rows, place)), 0, 2)
    return found.reshape(batch, crops, -1)[..., :patches]
