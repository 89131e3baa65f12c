"""VISOR-TR: neighbours along a row become one token, by a mean or learned packing.

The operator of the paper's VISOR-TR [2x] and [4x] is not known; these two are this
project's.
"""

import dataclasses
from fractions import Fraction

from jaxtyping import Array, Float

from visor_jax.models.config import CompressorConfig, VLMConfig
from visor_jax.token_reduction.pooled.pooled import Compress, Compressor, Pooled
from visor_jax.token_reduction.pooled.token_windows import TokenWindows


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPooling(Pooled):
    """The mean of `factor` tokens that follow each other in a row.

    factor: 2 or 4 in the paper. A row of w tokens becomes floor(w / factor), so that no
    token is left over: 27 become 13, one of which is the mean of three. newlines, grid:
    see `pooled`.

    Source: the idea of VISOR-TR; the operator is our own.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        if self.factor < 1:
            raise ValueError(f"factor={self.factor} must be at least 1.")

    @property
    def shares(self) -> tuple[Fraction, Fraction]:
        """Every row, and one column of `factor`."""
        return Fraction(1), Fraction(1, self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPacking(RowPooling, Compressor):
    """`factor` tokens of a row side by side, and a linear layer to one of their width.

    Of a window of more than `factor` tokens, neighbours are averaged until they are so
    many. The layer begins as the mean. factor, newlines, grid: see `visor_tr`.

    Source: the idea of VISOR-TR; the operator is our own.
    """

    @property
    def compressor(self) -> CompressorConfig:
        """A linear layer over as many slots as the factor says."""
        return CompressorConfig(kind="packing", size=self.factor)

    def values(
        self,
        windows: TokenWindows,
        hidden: Float[Array, "B V D"],
        compress: Compress | None,
    ) -> Array:
        """Returns what the layer makes of every window."""
        compress = self.trained(compress)
        return compress(windows.means(hidden, self.factor).astype(hidden.dtype))

    def selection_flops(
        self, config: VLMConfig, *, text_tokens: int, image_tokens: int
    ) -> int:
        """Returns the matrix product of the layer, for as many windows as may be."""
        width = config.decoder.width
        return 2 * self.room(image_tokens) * self.factor * width * width
