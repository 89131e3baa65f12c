"""What methods that drop image tokens between decoder layers have in common.

A method has stages, and one knob for how much it keeps. Its own settings say how many
tokens stay; a budget says it instead, as a number that can be compared between methods:

    average=192       image tokens that a layer sees, in the mean over all layers
    llm_flops=0.3     share of the FLOPs of the dense network's prefill, the method's
                      own work included, for a prompt of `TEXT_TOKENS` text tokens and
                      every SELF layer on

For each padded number of image tokens (the bucket's) the knob is found on the host, so
that an image that fills the bucket meets the budget; smaller ones in that bucket are
reduced by the same settings (`in_bucket`), and so are never above it.
"""

import abc
import dataclasses
import functools
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Array, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import CropFeatures
from visor_jax.ops.masks import TokenTags
from visor_jax.token_reduction import solve
from visor_jax.token_reduction.kept_tokens import by_tokens


class LayerStages(abc.ABC):
    """Lengths, counts and budgets; a method adds its fields, scores and stages.

    A method is a frozen dataclass with the fields `average`, `llm_flops` and `network`
    (the sizes that a budget is solved for, see `fitted`).
    """

    reads_text: ClassVar = True
    reads_crops: ClassVar = False

    stages: tuple[int, ...]
    average: float | None
    llm_flops: float | None
    network: VLMConfig | None

    @abc.abstractmethod
    def counts(self, image_tokens: int, knob: float | None) -> tuple[int, ...]:
        """Returns how many image tokens are left after each stage.

        knob: None for what the method's own settings say.
        """

    @abc.abstractmethod
    def most(self, image_tokens: int) -> float:
        """Returns the knob at which nothing is dropped."""

    @abc.abstractmethod
    def at_knob(self, knob: float) -> Self:
        """Returns the method whose own settings are those of the knob."""

    def in_bucket(self, image_tokens: int) -> Self:
        """Returns the method with the settings that meet its budget in a bucket.

        Raises:
          ValueError: as `knob`.
        """
        knob = self.knob(image_tokens)
        if knob is None:
            return self
        plain = dataclasses.replace(self, average=None, llm_flops=None, network=None)
        return plain.at_knob(knob)

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method for a network of these sizes.

        Raises:
          ValueError: if a stage is not among its layers.
        """
        depth = config.plan.num_layers
        if max(self.stages) >= depth:
            raise ValueError(
                f"It drops tokens before layer {max(self.stages)}, but the network's "
                f"{depth} layers are 0 to {depth - 1}."
            )
        if self.average is None and self.llm_flops is None:
            return self
        return dataclasses.replace(self, network=config)

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns how many image tokens each layer sees."""
        return self.lengths_at(image_tokens, num_layers, self.knob(image_tokens))

    def lengths_at(
        self, image_tokens: int, num_layers: int, knob: float | None
    ) -> tuple[int, ...]:
        """Returns the same for any position of the knob."""
        left = (image_tokens, *self.counts(image_tokens, knob))
        passed = np.searchsorted(self.stages, np.arange(num_layers), side="right")
        return tuple(left[each] for each in passed)

    def knob(self, image_tokens: int) -> float | None:
        """Returns the knob that meets the budget in a bucket; None without a budget.

        Raises:
          ValueError: if no position of it does, or if the method was not `fitted`.
        """
        if self.average is None and self.llm_flops is None:
            return None
        return solve.knob(self, image_tokens)

    def table(self, image_tokens: int, stage: int) -> tuple[int, ...]:
        """Returns what a stage leaves of 0, 1, ... valid tokens in this bucket."""
        return _table(self, image_tokens, self.knob(image_tokens), stage)

    def length(self, first: TokenTags, stage: int) -> int:
        """Returns the static length of the image after a stage."""
        return self.table(first.valid.shape[1], stage)[-1]

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns the crops as they are; never called."""
        return crops

    def selection_flops(
        self, config: VLMConfig, *, text_tokens: int, image_tokens: int
    ) -> int:
        """Returns the matrix products of looking and choosing, for one prompt."""
        return self.flops_of(config, text_tokens, image_tokens, self.knob(image_tokens))

    @abc.abstractmethod
    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the same for any position of the knob."""


class PlacedStages(LayerStages):
    """Stages at layers that a network's depth decides, where nobody names them.

    layers: a field of the method, None for the published ones at the same height.
    published, depth: those layers, and how many their network has. places: what shares
    of a depth they are called.
    """

    published: ClassVar[tuple[int, ...]]
    depth: ClassVar[int]
    places: ClassVar[str]

    layers: tuple[int, ...] | None

    @property
    def placed(self) -> tuple[int, ...]:
        """The layers. Raises ValueError while nobody has said of which network."""
        if self.layers is None:
            raise ValueError(
                f"{self} stands at {self.places} of a depth: say of which network with "
                "`fitted(config)`, or give layers."
            )
        return self.layers

    def fitted(self, config: VLMConfig) -> Self:
        """Returns the method with its layers. Errors as in `LayerStages.fitted`."""
        if self.layers is not None:
            return super().fitted(config)
        layers = _scaled(self.published, self.depth, config.plan.num_layers)
        return dataclasses.replace(self, layers=layers).fitted(config)


@functools.lru_cache(4096)
def _table(
    method: LayerStages, image_tokens: int, knob: float | None, stage: int
) -> tuple[int, ...]:
    return tuple(
        method.counts(tokens, knob)[stage] for tokens in range(image_tokens + 1)
    )


def check_budget(method: solve.Tunable, **own: object) -> None:
    """Raises ValueError for two budgets, an impossible one, or one beside settings.

    own: settings that say how much is kept, None where they are left to the method.
    """
    given = [name for name, value in own.items() if value is not None]
    given += [
        name for name in ("average", "llm_flops") if getattr(method, name) is not None
    ]
    budgets = [name for name in given if name not in own]
    if budgets and len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} each say how many tokens stay: give one of them."
        )
    if method.average is not None and not method.average > 0:
        raise ValueError(f"average={method.average} must be above 0 tokens.")
    if method.llm_flops is not None and not 0 < method.llm_flops <= 1:
        raise ValueError(
            f"llm_flops={method.llm_flops} must be a share, above 0 and at most 1."
        )


def check_ascending(name: str, layers: tuple[int, ...], least: int) -> None:
    """Raises ValueError unless these are ascending layers from `least` on."""
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < least:
        raise ValueError(
            f"{name}={'+'.join(map(str, layers))} must be ascending layers, the first "
            f"at least {least}."
        )


def check_shares(name: str, shares: tuple[float, ...]) -> None:
    """Raises ValueError unless these are descending shares above 0 and up to 1."""
    fine = all(0 < share <= 1 for share in shares)
    if not shares or not fine or list(shares) != sorted(shares, reverse=True):
        raise ValueError(
            f"{name}={'+'.join(map(str, shares))} must be shares above 0 and at most "
            "1, none larger than the one before it."
        )


def _scaled(layers: tuple[int, ...], of: int, depth: int) -> tuple[int, ...]:
    """Returns layers of a network of `of` layers at the same height of another."""
    return tuple(round(layer * depth / of) for layer in layers)


def counts_of_rows(
    method: LayerStages, first: TokenTags, stage: int
) -> Int[Array, "B"]:
    """Returns how many tokens each row is left with after a stage."""
    return by_tokens(method.table(first.valid.shape[1], stage), first)
