"""What the methods that work on crops share: budgets, newlines, static lengths.

`keep` is the share of image tokens that the decoder sees, newlines included. An image
of n tokens keeps floor(keep n) at most, whatever else is in the batch:

    n = 3 crops of 4 patches, 2 newlines    14 tokens, keep 0.5: 7 at most
    newlines "rows"    2 are set aside, 5 patches in proportion: 1 1 1
    newlines "drop"    floor(keep 12) = 6 patches in proportion: 2 2 2

In place of `keep` a budget says how much stays, as between decoder layers
(`layer_stages`): average=64 tokens a layer, or llm_flops=0.3 of the dense prefill. For
each padded number of image tokens it becomes a share of them (`in_bucket`).

A patch counts if it makes a token: not in padding, and in a resized grid not between
the patches that tokens stand for. What a method itself computes counts end to end.
"""

import abc
import dataclasses
from fractions import Fraction
from typing import ClassVar, Self

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from visor_jax.flops import layer_costs
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import (
    PositionRule,
    TextLook,
    selection_flops,
)
from visor_jax.models.vision.crop_features import (
    NOTHING,
    CropFeatures,
    Packing,
    TowerReads,
)
from visor_jax.token_reduction import crop_flops, solve
from visor_jax.token_reduction.layer_stages import check_budget

NEWLINE_RULES = ("rows", "drop")
# int32 holds a share of 200,000 tokens.
_FINEST = 10_000


def fraction(share: float) -> Fraction:
    """Returns the share that a decimal number means: 0.1 is one tenth exactly."""
    return Fraction(share).limit_denominator(_FINEST)


def share_of(share: float, count: Int[Array, "*rows"]) -> Int[Array, "*rows"]:
    """Returns floor(share * count), exactly."""
    part = fraction(share)
    return count * part.numerator // part.denominator


@dataclasses.dataclass(frozen=True)
class CropMethod(abc.ABC):
    """A method that drops patches before the projector; it says in `select` which.

    keep: share of an image's tokens that stays, above 0 and up to 1. newlines: "rows",
    a newline stays if its row keeps a token; "drop", none stays. average, llm_flops:
    budgets in place of `keep`; network: see `layer_stages`.
    """

    keep: float = 0.25
    newlines: str = "rows"
    average: float | None = None
    llm_flops: float | None = None
    network: VLMConfig | None = dataclasses.field(default=None, repr=False)

    position_rule: ClassVar = PositionRule.FRESH
    reads_text: ClassVar = False
    reads_crops: ClassVar = True
    stages: ClassVar = ()

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        if not 0 < self.keep <= 1 or fraction(self.keep) == 0:
            raise ValueError(
                f"{type(self).__name__}: keep={self.keep} must be a share of the "
                f"tokens, from 1 / {_FINEST} to 1."
            )
        self.check_choice("newlines", NEWLINE_RULES)
        default = type(self).__dataclass_fields__["keep"].default
        check_budget(self, keep=None if self.keep == default else self.keep)

    def check_choice(self, name: str, known: tuple[str, ...]) -> None:
        """Raises ValueError if a setting is none of the known ones."""
        if getattr(self, name) not in known:
            raise ValueError(
                f"{type(self).__name__}: {name}={getattr(self, name)!r} is not one of "
                f"{list(known)}."
            )

    def check_share(self, *names: str) -> None:
        """Raises ValueError if a setting is no share from 0 to 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{type(self).__name__}: {name}={getattr(self, name)} must be a "
                    "share from 0 to 1."
                )

    def check_positive(self, *names: str) -> None:
        """Raises ValueError if a setting is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{type(self).__name__}: {name}={getattr(self, name)} must be at "
                    "least 1."
                )

    @property
    def tower_reads(self) -> TowerReads:
        """What it reads besides features."""
        return NOTHING

    def most_of(self, count: int) -> int:
        """Returns how many of `count` tokens, or patches, may stay at most."""
        return int(fraction(self.keep) * count)

    def crop_flops(self, config: VLMConfig, *, crops: int) -> int:
        """Returns the FLOPs of reading the tower once more, and of choosing.

        Where features are merged before a projector with a convolution, its linear
        layers are applied to both (`Projector`).
        """
        depth = config.vision.num_layers
        layers = len({layer % depth for layer in self.tower_reads.attention})
        read = crop_flops.query_key(config.vision, layers=layers, crops=crops)
        merges = self.merges(config.vision.num_patches)
        if merges and config.projector_convolution is not None:
            read += layer_costs.projector(config.vision, config.decoder, crops=crops)
        return read + (self.choice_flops(config, crops) if crops else 0)

    def merges(self, patches: int) -> bool:
        """Returns whether patches take in others before the projector."""
        return False

    def choice_flops(self, config: VLMConfig, crops: int) -> int:
        """Returns the matrix products of `select`, for one image of so many crops."""
        return 0

    def compared_width(self, config: VLMConfig) -> int:
        """Returns the width of the features that `select` is given."""
        projected = self.tower_reads.projected
        return config.decoder.width if projected else config.vision.width

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns floor(keep V) for every layer."""
        return (self.in_bucket(image_tokens).most_of(image_tokens),) * num_layers

    def in_bucket(self, image_tokens: int) -> Self:
        """Returns the method with the share that meets its budget in a bucket.

        Raises:
          ValueError: if no share does, or if the method was not `fitted`.
        """
        if self.average is None and self.llm_flops is None:
            return self
        return self.at_knob(solve.knob(self, image_tokens), image_tokens)

    def at_knob(self, knob: float, image_tokens: int) -> Self:
        """Returns the method that keeps this share of so many tokens, one at least."""
        kept = max(1, int(knob * image_tokens))
        share = kept / max(image_tokens, kept)
        plain = {"average": None, "llm_flops": None, "network": None}
        return dataclasses.replace(self, keep=share, **plain)

    def lengths_at(
        self, image_tokens: int, num_layers: int, knob: float
    ) -> tuple[int, ...]:
        """Returns what each layer sees at any share."""
        return self.at_knob(knob, image_tokens).image_lengths(image_tokens, num_layers)

    def most(self, image_tokens: int) -> float:
        """Returns the share of everything."""
        return 1.0

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float
    ) -> int:
        """Returns the FLOPs of choosing between decoder layers, at any share."""
        return selection_flops(
            self.at_knob(knob, image_tokens),
            config,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
        )

    def budgets(self, packing: Packing) -> tuple[Int[Array, "B C"], Int[Array, "B"]]:
        """Returns how many patches of each crop stay, and newlines of each image."""
        patches = packing.there.sum(axis=2, dtype=jnp.int32)
        whole = patches.sum(axis=1)
        if self.newlines == "drop":
            room, total = jnp.zeros_like(whole), share_of(self.keep, whole)
        else:
            ends = packing.is_newline.sum(axis=1, dtype=jnp.int32)
            total = share_of(self.keep, whole + ends)
            # Never more than half of what stays, unless the patches need no more.
            room = jnp.minimum(ends, jnp.maximum(total // 2, total - whole))
            total = jnp.minimum(total - room, share_of(self.keep, whole))
        each = total[:, None] * patches // jnp.maximum(whole, 1)[:, None]
        return each, room

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns what `select` keeps, with the newlines that go with it."""
        method = self.in_bucket(crops.packing.patch.shape[1])
        budgets, room = method.budgets(crops.packing)
        found = method.select(crops, budgets)
        return found.replace(keep_newlines=kept_newlines(found, room))

    @abc.abstractmethod
    def select(self, crops: CropFeatures, budgets: Int[Array, "B C"]) -> CropFeatures:
        """Returns the crops with at most this many patches of each in `keep`."""

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the image as it is; never called, since there are no stages."""
        return image


def kept_newlines(crops: CropFeatures, room: Int[Array, "B"]) -> Bool[Array, "B V"]:
    """Returns the newlines of rows that keep a token, the first `room` of them."""
    return newlines_of(crops.packing, crops.packing.of_tokens(crops.keep), room)


def newlines_of(
    packing: Packing, kept: Bool[Array, "B V"], room: Int[Array, "B"]
) -> Bool[Array, "B V"]:
    """Returns the same of tokens that are kept."""
    is_newline = packing.is_newline
    of_base = packing.has_base[:, None] & (packing.patch < packing.per_crop)
    kept = kept & ~of_base
    count = jnp.cumsum(kept, axis=1)
    # Of each place, the count at the newline before it: counts never fall.
    before = jnp.maximum.accumulate(jnp.where(is_newline, count, 0), axis=1)
    before = jnp.pad(before, ((0, 0), (1, 0)))[:, :-1]
    ends = is_newline & (count > before)
    return ends & (jnp.cumsum(ends, axis=1) <= room[:, None])
