"""What methods share that make one token of several neighbours, behind the projector.

They work on the tokens as the packing has made them, so that padding is in no window
and tiles are stitched before they are pooled (the authors of M3 and LDPv2 pool tile by
tile: the same, where windows divide a crop and the host has cut no margin). With g x g
patches in a crop, shares r and c of rows and columns, an image of n tokens is left with

    floor(n r c) + floor(n (r - r c) / (g + 1)) + 1

at most, and without newlines (`drop`) with floor(n r c), but one: windows, and
newlines of rows that are as wide as a crop. A row's newline stays
where windows begin; in narrower pictures the first ones, as far as there is room.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar, Self

import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.models.config import CompressorConfig, VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import PositionRule, TextLook
from visor_jax.models.vision.crop_features import CropFeatures, PackedTokens
from visor_jax.token_reduction.crop_method import NEWLINE_RULES, newlines_of
from visor_jax.token_reduction.pooled.token_grid import TokenGrid
from visor_jax.token_reduction.pooled.token_windows import TokenWindows

# From (B, W, size, D) to (B, W, D): the module of `VLMConfig.compressor`.
Compress = Callable[[Float[Array, "B W size D"]], Float[Array, "B W D"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooled(abc.ABC):
    """A method that makes one token of several; it says in `shares` of how many.

    newlines: "rows", a newline stays if windows begin in its row; "drop", none stays,
    as in networks that make none.
    grid: patches per side of a crop, None for the network's own (`fitted`).
    """

    newlines: str = "rows"
    grid: int | None = None

    position_rule: ClassVar = PositionRule.FRESH
    reads_text: ClassVar = False
    reads_crops: ClassVar = True
    stages: ClassVar = ()
    # Parameters that are the method's own.
    compressor: ClassVar[CompressorConfig | None] = None

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        if self.newlines not in NEWLINE_RULES:
            raise ValueError(
                f"newlines={self.newlines!r} is not one of {list(NEWLINE_RULES)}."
            )
        if self.grid is not None and self.grid < 1:
            raise ValueError(f"grid={self.grid} must be at least 1.")

    @property
    def side(self) -> int:
        """Patches per side of a crop."""
        if self.grid is None:
            raise ValueError(
                f"{self} depends on a crop's patches: say of which network with "
                "`fitted(config)`, or give grid."
            )
        return self.grid

    @property
    @abc.abstractmethod
    def shares(self) -> tuple[Fraction, Fraction]:
        """Windows per token: of rows, and of columns."""

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method for a network of these sizes.

        Raises:
          ValueError: if it is for crops of another size.
        """
        side = config.vision.patches_per_side
        if self.grid not in (None, side):
            raise ValueError(
                f"grid={self.grid}, but the network's crops have {side} x {side} "
                "patches: leave it out."
            )
        # Room for newlines that nobody makes would be counted as tokens.
        newlines = self.newlines if config.image_newline else "drop"
        return dataclasses.replace(self, grid=side, newlines=newlines)

    def room(self, tokens: Any) -> Any:
        """Returns how many of so many tokens may be left, an int or (B,) of them."""
        rows, columns = self.shares
        both = rows * columns
        if both == 1:
            return tokens
        ends = (rows - both) / (self.side + 1)
        left = tokens * both.numerator // both.denominator
        if self.newlines == "rows":
            left += tokens * ends.numerator // ends.denominator
        least, most = min, max
        if not isinstance(tokens, int):
            least, most = jnp.minimum, jnp.maximum
        # Of rows and of newlines a part each is rounded down.
        left = left + 1 if self.newlines == "rows" else most(left, 1)
        return least(left, tokens)

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns how many image tokens each layer sees."""
        return (self.room(image_tokens),) * num_layers

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns the crops as they are: it works on tokens."""
        return crops

    def on_tokens(
        self, tokens: PackedTokens, compress: Compress | None
    ) -> PackedTokens:
        """Returns one token for every window, and the newlines that stay.

        Raises:
          ValueError: for crops of another size than the method is for.
        """
        packing = tokens.packing
        if math.isqrt(packing.per_crop) != self.side:
            raise ValueError(
                f"{self} is for crops of {self.side} x {self.side} patches, and these "
                f"have {packing.per_crop}."
            )
        grid = TokenGrid.of(packing)
        rooms = self.room(packing.valid.sum(axis=1, dtype=jnp.int32))
        most = self.room(packing.valid.shape[1])
        windows = TokenWindows.of(grid, self.shares, rooms, most)
        values = self.values(windows, tokens.hidden, compress)
        room = rooms - windows.count
        if self.newlines == "drop":
            room = jnp.zeros_like(room)
        ends = newlines_of(packing, windows.speaks, room)
        hidden = windows.spread(tokens.hidden, values)
        return tokens.replace(hidden=hidden, keep=windows.speaks | ends)

    def values(
        self,
        windows: TokenWindows,
        hidden: Float[Array, "B V D"],
        compress: Compress | None,
    ) -> Float[Array, "B W D"]:
        """Returns what every window makes: the mean of its tokens."""
        return windows.means(hidden)[:, :, 0]

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the image as it is; never called, since there are no stages."""
        return image

    def selection_flops(
        self, config: VLMConfig, *, text_tokens: int, image_tokens: int
    ) -> int:
        """Returns the matrix products of its parameters: none where it has none."""
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquareWindows(Pooled):
    """A pooled method with the same shares of rows and columns.

    tokens: that a crop has per side, None for half of its patches, rounded up.
    """

    tokens: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens={self.tokens} must be at least 1.")

    @property
    def per_side(self) -> int:
        """Tokens per side of a crop."""
        return -(-self.side // 2) if self.tokens is None else self.tokens

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method with its number of tokens.

        Raises:
          ValueError: for more tokens than a crop has.
        """
        method = super().fitted(config)
        if method.per_side > method.side:
            raise ValueError(
                f"tokens={self.tokens}, but a crop has {method.side} patches per side."
            )
        return dataclasses.replace(method, tokens=method.per_side)

    @property
    def shares(self) -> tuple[Fraction, Fraction]:
        """The same of rows and columns."""
        share = Fraction(self.per_side, self.side)
        return share, share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compressor(Pooled):
    """A pooled method with parameters, which must have been trained with it."""

    needs_training: ClassVar = True

    def trained(self, compress: Compress | None) -> Compress:
        """Returns the module. Raises ValueError for a network that has none."""
        if compress is None:
            raise ValueError(
                f"{self} has parameters of its own, and the network has none of them: "
                "train one with --config.model.reduce=."
            )
        return compress

    def serves(self, trained: Self) -> bool:
        """Returns whether weights that were trained as `trained` are this method's."""
        return dataclasses.replace(self, newlines=trained.newlines) == trained
