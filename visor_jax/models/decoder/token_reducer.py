"""What a token-reduction method is to the network, and the one that reduces nothing.

A method drops or merges image tokens before the projector (`on_crops`), or before some
layers of the decoder (`on_stream`); text is never dropped. It says beforehand how many
image tokens every layer will see: shapes, FLOPs, bytes and slots follow from that. The
loop over layers, not the method, gives the tokens that stay their rotary positions:

    order of image and text   0 1 2 3 | 4 5      the image tokens 1 and 2 are dropped
    KEEP                      0     3 | 4 5      everybody keeps theirs
    RENUMBER                  0     1 | 2 3      counted anew, from that layer on
    FRESH                     0     1 | 2 3      the same before layer 0, as if the
                                                 prompt were shorter; later layers KEEP
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.vision.crop_features import CropFeatures
from visor_jax.ops.masks import TokenTags, last_valid, visible
from visor_jax.ops.rope import rotary_table


class PositionRule(enum.Enum):
    """The rotary positions of what is left (see the table at the top)."""

    KEEP = "keep"
    RENUMBER = "renumber"
    FRESH = "fresh"

    def renumbers(self, layer: int) -> bool:
        """Returns whether a reduction before this layer counts positions anew."""
        if self is PositionRule.FRESH:
            return layer == 0
        return self is PositionRule.RENUMBER


@runtime_checkable
class TextLook(Protocol):
    """How text looks at the image in the layer that comes next.

    first: the tags of the image as the first layer saw it: its length is that of the
    bucket, its valid tokens are the row's own. notes: what the reducer has noted so far
    (`TakesNotes`), else None.
    """

    first: TokenTags
    notes: Any

    def __call__(self, rows: Int[Array, "B R"]) -> Float[Array, "B R V"]:
        """Returns the attention of the text tokens at these indices; float32.

        Averaged over heads; each token's softmax is over all that it sees, image and
        text, so a row adds up to less than 1.
        """
        ...

    def by_head(self, rows: Int[Array, "B R"]) -> Float[Array, "B N R V"]:
        """Returns the same of every head by itself."""
        ...

    def back(self) -> Float[Array, "B V"]:
        """Returns the share of its attention that each image token pays to text.

        Of all image tokens, so it costs what the layer's own attention to the image
        costs.
        """
        ...


class LayerLook(NamedTuple):
    """The `TextLook` of one layer, by what the layer makes of both streams."""

    weights: Callable[[Int[Array, "B R"]], Float[Array, "B R V"]]
    weights_by_head: Callable[[Int[Array, "B R"]], Float[Array, "B N R V"]]
    weights_back: Callable[[], Float[Array, "B V"]]
    first: TokenTags
    notes: Any

    def __call__(self, rows: Int[Array, "B R"]) -> Float[Array, "B R V"]:
        """Returns the attention of these tokens. See `TextLook`."""
        return self.weights(rows)

    def by_head(self, rows: Int[Array, "B R"]) -> Float[Array, "B N R V"]:
        """Returns it head by head. See `TextLook`."""
        return self.weights_by_head(rows)

    def back(self) -> Float[Array, "B V"]:
        """Returns what image tokens pay to text. See `TextLook`."""
        return self.weights_back()


@runtime_checkable
class TokenReducer(Protocol):
    """A method; hashable, since it is a static part of the network's programs.

    position_rule: see `PositionRule`. reads_text: whether what stays depends on the
    question; then rows hold one question each, and nobody shares an image's K/V.
    reads_crops: whether `on_crops` does anything. stages: the layers before which
    `on_stream` is called, ascending.
    """

    position_rule: PositionRule
    reads_text: bool
    reads_crops: bool
    stages: tuple[int, ...]

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns how many image tokens each layer sees, of V = `image_tokens`.

        The first number is also what `on_crops` leaves (all V, if it drops nothing).
        """
        ...

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns the crops with `keep` False where patches go, or other features.

        Called if `reads_crops`. Newlines stay unless `keep_newlines` says otherwise. A
        method that reads more than features has `tower_reads` (`crop_features`).
        """
        ...

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the image stream that this layer and those behind it see.

        Its length must be that of `image_lengths`. What stays comes from
        `TokenStream.take`; merged tokens are written at their target's index.
        """
        ...


@runtime_checkable
class TakesNotes(Protocol):
    """A reducer that looks before one layer and drops before another.

    noted: the layers before which `note` is called, ascending; behind `on_stream`,
    where both are. What it returns goes with the batch to the next of either, as
    `look.notes`: arrays whose first axis is the row, or None.
    """

    noted: tuple[int, ...]

    def note(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> Any:
        """Returns what is to be known of both streams from here on."""
        ...


@runtime_checkable
class CountsItsWork(Protocol):
    """A reducer whose own matrix products belong to a prompt's FLOPs."""

    def selection_flops(
        self, config: VLMConfig, *, text_tokens: int, image_tokens: int
    ) -> int:
        """Returns those of one prompt, counted as `visor_jax.flops` counts."""
        ...


@runtime_checkable
class CountsCropWork(Protocol):
    """A reducer whose own matrix products before the decoder are counted."""

    def crop_flops(self, config: VLMConfig, *, crops: int) -> int:
        """Returns those of an image of so many crops, as `visor_jax.flops` counts."""
        ...


@dataclasses.dataclass(frozen=True)
class KeepAll:
    """The method that keeps every token: VISOR's own way."""

    position_rule: ClassVar = PositionRule.KEEP
    reads_text: ClassVar = False
    reads_crops: ClassVar = False
    stages: ClassVar = ()

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns V for every layer."""
        return (image_tokens,) * num_layers

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns the crops as they are."""
        return crops

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the image as it is; never called, since there are no stages."""
        return image


KEEP_ALL = KeepAll()


def selection_flops(
    reducer: TokenReducer, config: VLMConfig, *, text_tokens: int, image_tokens: int
) -> int:
    """Returns what a reducer's own work costs in one prompt; 0 if it counts none."""
    if not isinstance(reducer, CountsItsWork):
        return 0
    return reducer.selection_flops(
        config, text_tokens=text_tokens, image_tokens=image_tokens
    )


def crop_flops(reducer: TokenReducer, config: VLMConfig, *, crops: int) -> int:
    """Returns what a reducer's own work on crops costs; 0 if it counts none."""
    if not crops or not isinstance(reducer, CountsCropWork):
        return 0
    return reducer.crop_flops(config, crops=crops)


def in_bucket(reducer: TokenReducer, image_tokens: int) -> TokenReducer:
    """Returns what the reducer amounts to where images are padded to this length.

    Itself, unless its settings are found for each bucket (`LayerStages.in_bucket`).
    """
    resolve = getattr(reducer, "in_bucket", None)
    return reducer if resolve is None else resolve(image_tokens)


def is_reduced(reducer: TokenReducer, layer: int) -> bool:
    """Returns whether this layer sees another image stream than the first one."""
    return any(0 < stage <= layer for stage in reducer.stages)


def is_shifted(reducer: TokenReducer, layer: int) -> bool:
    """Returns whether rotary positions differ from the tokens' order in this layer."""
    rule = reducer.position_rule
    if reducer.reads_crops and rule.renumbers(0):
        return True
    return any(stage <= layer and rule.renumbers(stage) for stage in reducer.stages)


def renumbered(
    text: TokenStream, image: TokenStream, *, head_dim: int, rope_theta: float
) -> tuple[TokenStream, TokenStream, Int[Array, "B"]]:
    """Returns both streams at new rotary positions, and how far text's end has come.

    A token's position is the number of tokens before it that it may see: what its order
    would be if what was dropped had never been there. Segments that are packed in a row
    are counted apart; all of them begin behind the images, so that text comes nearer by
    the same distance in each, which is what new tokens have to know of the row.
    """
    both = image.tags.concat(text.tags)

    def placed(stream: TokenStream) -> tuple[TokenStream, Int[Array, "B T"]]:
        positions = jnp.sum(visible(stream.tags, both), axis=-1, dtype=jnp.int32) - 1
        rotary = rotary_table(positions, head_dim, rope_theta)
        return stream.replace(rotary=rotary), positions

    (text, positions), (image, _) = placed(text), placed(image)
    last = last_valid(text.tags)[:, None]
    shift = jnp.take_along_axis(text.tags.order - positions, last, axis=1)[:, 0]
    return text, image, shift
