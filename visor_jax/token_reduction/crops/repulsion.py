"""Repulsion sampling, after the first stage of STS: patches as charges that repel.

The idea is that of Wang, Zhang, Han and Zhang, "When Attention Collapses: Stage-Aware
Visual Token Pruning from Structure to Semantics", arXiv 2606.03569v1: minimal potential
energy keeps what covers the picture. Its formulas were not at hand: the energy below is
this project's own, so numbers are not to be compared with that paper's.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod
from visor_jax.token_reduction.diversity import FEATURES, alike, over_pairs
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import likeness, one_by_one, unit


@dataclasses.dataclass(frozen=True)
class Repulsion(CropMethod):
    """Patches added one by one, each where the energy with those chosen is least.

    Two patches have the energy

        by_place exp(-distance^2 / (2 reach^2)) + by_content exp((cosine - 1) / heat)

    reach: in patches. heat: of the cosine's scale. field: how much a patch gains by the
    attention that it receives in layer `layer`, relative to the crop's mean; 0 for none
    of it, and then attention is not read. The first patch has the least energy with all
    others. features: "projected" or "tower".

    Source: an idea of arXiv 2606.03569v1, with formulas of our own.
    """

    by_place: float = 0.5
    by_content: float = 0.5
    reach: float = 2.0
    heat: float = 0.1
    field: float = 0.0
    layer: int = -1
    features: str = "projected"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_choice("features", FEATURES)
        for name in ("reach", "heat"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"Repulsion: {name}={getattr(self, name)} must be above 0."
                )
        for name in ("by_place", "by_content", "field"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"Repulsion: {name}={getattr(self, name)} must not be negative."
                )

    @property
    def tower_reads(self) -> TowerReads:
        """Features of the side that was asked for; attention if there is a field."""
        return TowerReads(
            attention=(self.layer,) if self.field else (),
            projected=self.features == "projected",
        )

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of energies: of all pairs at first, then of each choice."""
        patches, width = config.vision.num_patches, self.compared_width(config)
        greedy = crop_flops.greedy(
            chosen=self.most_of(patches), patches=patches, width=width
        )
        first = crop_flops.all_pairs(patches=patches, width=width)
        scores = crop_flops.received(config.vision, crops=crops) if self.field else 0
        return scores + crops * (first + greedy)

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with the patches of least energy."""
        vectors, there = unit(crops.features), crops.packing.there
        start = jnp.zeros(there.shape, jnp.float32)
        if self.field:
            scores = received_attention(crops.tower.attention[self.layer])
            start -= self.field * there.shape[2] * scores

        def energy_of(index: Int[Array, "B C"]) -> Float[Array, "B C P"]:
            return self.energy(index[..., None], alike(vectors, index))

        with_all = over_pairs(
            lambda rows: self.energy(
                rows[:, None], likeness(vectors[:, :, rows], vectors)
            ),
            lambda pairs: pairs.sum(axis=-1),
            there,
            0.0,
        )
        keep = one_by_one(
            *(start + with_all, start, energy_of, jnp.add),
            *(there, budgets, self.most_of(there.shape[2])),
        )
        return crops.replace(keep=keep)

    def energy(
        self, index: Int[Array, "*rows 1"], cosine: Float[Array, "*pairs P"]
    ) -> Float[Array, "*pairs P"]:
        """Returns the energies of patches at these indices with all of their crop."""
        side = math.isqrt(cosine.shape[-1])
        place = jnp.arange(cosine.shape[-1])
        down, across = place // side - index // side, place % side - index % side
        square = jnp.square(down) + jnp.square(across)
        near = jnp.exp(-square.astype(jnp.float32) / (2 * self.reach**2))
        return self.by_place * near + self.by_content * jnp.exp(
            (cosine - 1) / self.heat
        )
