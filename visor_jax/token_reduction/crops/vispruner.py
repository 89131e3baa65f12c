"""VisPruner: important patches, and diverse ones of the rest.

Source: Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for
Effective Token Pruning in VLMs", ICCV 2025, arXiv 2412.01818v2.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads
from visor_jax.token_reduction import crop_flops
from visor_jax.token_reduction.crop_method import CropMethod, share_of
from visor_jax.token_reduction.received_attention import received_attention
from visor_jax.token_reduction.select import likeness, ranks, unit


@dataclasses.dataclass(frozen=True)
class VisPruner(CropMethod):
    """The patches that receive most attention, then rounds that drop the most alike.

    important: share of what stays that attention chooses. layer: of the attention.
    removed_each: how many a round drops at most. A round splits the list of the rest
    into its even and odd places and drops those even ones that are most like some odd
    one. The authors' lists are of even length; of an odd one the even places are one
    more, and a round drops no more than there are.

    Source: ICCV 2025, arXiv 2412.01818v2.
    """

    important: float = 0.5
    removed_each: int = 8
    layer: int = -1

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        self.check_share("important")
        self.check_positive("removed_each")

    @property
    def tower_reads(self) -> TowerReads:
        """One layer's attention."""
        return TowerReads(attention=(self.layer,))

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the FLOPs of scores, and of the likeness of all pairs."""
        patches, width = config.vision.num_patches, config.vision.width
        alike = crop_flops.pairs(ones=patches, others=patches, width=width)
        return crop_flops.received(config.vision, crops=crops) + crops * alike

    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with important and diverse patches."""
        scores = received_attention(crops.tower.attention[self.layer])
        there = crops.packing.there
        place = ranks(scores, there)
        important = share_of(self.important, budgets)
        diverse = budgets - important
        order = jnp.argsort(place, axis=-1)
        left = there.sum(axis=-1) - important

        # Rounds need the likeness of all pairs: of one crop at a time.
        def of_crop(crop: tuple[Array, ...]) -> Array:
            features, order, *counts = crop
            return jax.vmap(_diverse_of, in_axes=(0, 0, 0, 0, 0, None))(
                features, order, *counts, self.removed_each
            )

        arrays = (crops.features, order, important, left, diverse)
        by_crop = jax.tree.map(lambda x: x.swapaxes(0, 1), arrays)
        chosen = jax.lax.map(of_crop, by_crop).swapaxes(0, 1)
        keep = there & ((place < important[..., None]) | chosen)
        return crops.replace(keep=keep)


def _diverse_of(
    features: Float[Array, "P E"],
    order: Int[Array, "P"],
    skipped: Int[Array, ""],
    left: Int[Array, ""],
    count: Int[Array, ""],
    removed_each: int,
) -> Bool[Array, "P"]:
    """Returns the `count` that stay of the list order[skipped:skipped + left]."""
    vectors = unit(features)
    remaining, left, _ = diverse_rounds(
        likeness(vectors, vectors), jnp.roll(order, -skipped), left, count, removed_each
    )
    stays = (jnp.arange(len(remaining)) < left) & (count > 0)
    index = jnp.where(stays, remaining, len(features))
    return jnp.zeros(len(features), bool).at[index].set(True, mode="drop")


def diverse_rounds(
    alike: Float[Array, "P P"],
    order: Int[Array, "P"],
    left: Int[Array, ""],
    count: Int[Array, ""],
    removed_each: int,
) -> tuple[Int[Array, "n"], Int[Array, ""], Int[Array, ""]]:
    """Returns the list after all rounds, its length, and the number of rounds.

    Args:
      order: the list, of which the first `left` exist. count: how many are to stay;
        for 0 there is no round.
    """
    remaining = jnp.pad(order, (0, len(order) % 2))
    half = len(remaining) // 2
    places = jnp.arange(half)

    def unfinished(state: tuple[Array, ...]) -> Array:
        return (state[1] > count) & (count > 0)

    def round_of(state: tuple[Array, ...]) -> tuple[Array, ...]:
        remaining, left, rounds = state
        even, odd = remaining[0::2], remaining[1::2]
        evens, odds = (left + 1) // 2, left // 2
        pairs = jnp.where(places < odds, alike[even][:, odd], -jnp.inf)
        nearest = jnp.where(places < evens, pairs.max(axis=1), -jnp.inf)
        even = even[jnp.argsort(-nearest, stable=True)]
        removed = jnp.minimum(jnp.minimum(removed_each, left - count), evens)
        survivors = evens - removed
        at = jnp.arange(2 * half)
        remaining = jnp.where(
            at < survivors,
            even[jnp.clip(at + removed, 0, half - 1)],
            odd[jnp.clip(at - survivors, 0, half - 1)],
        )
        return remaining, left - removed, rounds + 1

    start = (remaining, left, jnp.zeros_like(left))
    return jax.lax.while_loop(unfinished, round_of, start)
