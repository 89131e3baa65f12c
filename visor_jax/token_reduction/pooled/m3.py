"""M3: one network for nested scales of pooled tokens.

Source: Cai et al., "Matryoshka Multimodal Models", ICLR 2025, arXiv 2405.17430.
"""

import dataclasses
from fractions import Fraction
from typing import ClassVar, Self

from visor_jax.models.config import VLMConfig
from visor_jax.token_reduction.pooled.pooled import Pooled


@dataclasses.dataclass(frozen=True, kw_only=True)
class M3(Pooled):
    """The means of even windows, `tokens` x `tokens` of them in a crop.

    tokens: per side of a crop, one of `scales`; None for all patches. scales: those
    that the network is trained at, one of which is drawn for every step (the authors
    take the mean of all losses in every step); None for the chain of largest divisors,
    24+12+6+3+1 as the authors have it, and 27+9+3+1. newlines, grid: see `pooled`.

    Source: ICLR 2025, arXiv 2405.17430.
    """

    tokens: int | None = None
    scales: tuple[int, ...] | None = None

    needs_training: ClassVar = True

    def __post_init__(self) -> None:
        """Raises ValueError for settings that mean nothing."""
        super().__post_init__()
        scales = self.scales
        descending = tuple(sorted({each for each in scales or () if each > 0}))[::-1]
        if scales is not None and (not scales or scales != descending):
            raise ValueError(
                f"scales={'+'.join(map(str, scales))} must be descending numbers of "
                "tokens per side, each at least 1."
            )
        if scales is not None and self.tokens not in (None, *scales):
            raise ValueError(
                f"tokens={self.tokens} is not one of scales="
                f"{'+'.join(map(str, scales))}."
            )

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method with its scales.

        Raises:
          ValueError: for more tokens than a crop has.
        """
        method = super().fitted(config)
        scales = chain(method.side) if self.scales is None else self.scales
        if scales[0] > method.side:
            raise ValueError(
                f"scales begin with {scales[0]}, but a crop has {method.side} patches "
                "per side."
            )
        tokens = scales[0] if self.tokens is None else self.tokens
        return dataclasses.replace(method, tokens=tokens, scales=scales)

    @property
    def shares(self) -> tuple[Fraction, Fraction]:
        """The same of rows and columns."""
        share = Fraction(1 if self.tokens is None else Fraction(self.tokens, self.side))
        return share, share

    def drawn(self) -> tuple[Self, ...]:
        """Returns the methods of which a training step takes one."""
        scales = (self.tokens,) if self.scales is None else self.scales
        return tuple(dataclasses.replace(self, tokens=each) for each in scales)

    def serves(self, trained: "M3") -> bool:
        """Returns whether weights that were trained as `trained` know this scale."""
        return self.tokens in (trained.scales or ())


def chain(side: int) -> tuple[int, ...]:
    """Returns a number, its largest proper divisor, and so on, down to 1."""
    found = [side]
    while found[-1] > 1:
        last = found[-1]
        found.append(max(each for each in range(1, last) if last % each == 0))
    return tuple(found)
