"""LDPv2: pooled tokens, each with a learned look at those around it.

Source: Chu et al., "MobileVLM V2: Faster and Stronger Baseline for Vision Language
Model", arXiv 2402.03766. Its linear layers are the projector that the network has.
"""

import dataclasses

from jaxtyping import Array, Float

from visor_jax.models.config import CompressorConfig, VLMConfig
from visor_jax.token_reduction.pooled.pooled import Compress, Compressor, SquareWindows
from visor_jax.token_reduction.pooled.token_windows import AROUND, TokenWindows


@dataclasses.dataclass(frozen=True, kw_only=True)
class LDPv2(SquareWindows, Compressor):
    """The means of even windows, plus a depthwise 3 x 3 convolution of them, with bias.

    tokens: per side of a crop, None for half of the patches, rounded up (12 of 24 as
    the authors have it, 14 of 27). Tiles are stitched before: the convolution goes
    across their borders, and sees zeros beyond those of the picture. newlines, grid:
    see `pooled`.

    Source: arXiv 2402.03766.
    """

    @property
    def compressor(self) -> CompressorConfig:
        """A depthwise convolution."""
        return CompressorConfig(kind="depthwise", size=len(AROUND))

    def values(
        self,
        windows: TokenWindows,
        hidden: Float[Array, "B V D"],
        compress: Compress | None,
    ) -> Array:
        """Returns the convolved means."""
        compress = self.trained(compress)
        means = super().values(windows, hidden, compress).astype(hidden.dtype)
        return compress(windows.around(means))

    def selection_flops(
        self, config: VLMConfig, *, text_tokens: int, image_tokens: int
    ) -> int:
        """Returns the FLOPs of the convolution, for all windows there is room for."""
        size = self.compressor.size
        return 2 * self.room(image_tokens) * size * config.decoder.width
