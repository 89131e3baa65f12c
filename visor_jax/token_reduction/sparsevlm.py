"""SparseVLM (v1.5): words that rate image tokens; what goes is merged, not lost.

Zhang et al., ICML 2025 (arXiv 2410.04417), with the fixed numbers of its later code,
which make every shape static. Once, on the embeddings: the words behind the image to
which image tokens are alike on average become raters. After some layers, with that
layer's own attention: the tokens that raters look at most stay. Of the others the
better 30 % are clustered, and each cluster's mean is put behind what stays: an image
token from then on. From there on rotary positions are counted anew.

Every word's attention is written down at each of these layers, T x (V + T) numbers a
head: with long texts this takes time and memory, in the original as well.

Left out: the noise of 1e-6 on densities, which is there to break ties (here the lower
index goes first). The variant "+" is in `sparsevlm_plus`.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.flops.account import look_flops
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import PositionRule, TextLook
from visor_jax.ops.masks import HIDDEN, TokenTags, last_valid
from visor_jax.token_reduction.clusters import cluster_flops, cluster_means
from visor_jax.token_reduction.kept_tokens import by_tokens, taken
from visor_jax.token_reduction.layer_stages import (
    PlacedStages,
    check_ascending,
    check_budget,
)
from visor_jax.token_reduction.select import top

# Published for 576 tokens, called 192; 303+110+36 is called 128, 66+30+17 is called 64.
_KEEP = (300, 200, 110)
_LAYERS, _DEPTH = (2, 6, 15), 32
_RECYCLED, _PER_CLUSTER = 0.3, 10


class Step(NamedTuple):
    """What one stage does to so many tokens: numbers of tokens."""

    kept: int
    recycled: int
    clusters: int


@flax.struct.dataclass
class Ratings:
    """raters: (B, T) which words rate. scores: (B, V) what they have rated last."""

    raters: Bool[Array, "B T"]
    scores: Float[Array, "B V"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseVLM(PlacedStages):
    """Keeps `keep` tokens after each of the layers, and clusters of the others.

    layers: None for 2, 6 and 15 of 32, scaled to the network's depth. keep: one number
    for each layer, None for 300+200+110, or for what the budget says: then they are in
    this proportion. At least one token goes at every stage. average, llm_flops,
    network: see `layer_stages`; averages count merged tokens.
    """

    position_rule: ClassVar = PositionRule.RENUMBER
    published: ClassVar = _LAYERS
    depth: ClassVar = _DEPTH
    places: ClassVar = "shares"
    published_keep: ClassVar = _KEEP

    layers: tuple[int, ...] | None = None
    keep: tuple[int, ...] | None = None
    average: float | None = None
    llm_flops: float | None = None
    network: VLMConfig | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.layers is not None:
            check_ascending("layers", self.layers, 0)
        keep = self.published_keep if self.keep is None else self.keep
        if not keep or min(keep) < 1:
            raise ValueError(f"keep={'+'.join(map(str, keep))}: each at least 1.")
        check_budget(self, keep=self.keep)
        layers = _LAYERS if self.layers is None else self.layers
        if len(layers) != len(keep):
            raise ValueError(
                f"layers={layers} and keep={keep} must be as many: one number for each "
                "layer."
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """The layers before which tokens go."""
        return tuple(layer + 1 for layer in self.placed)

    @property
    def noted(self) -> tuple[int, ...]:
        """Where words become raters, and the layers whose attention rates."""
        return tuple(sorted({0, *self.placed}))

    def steps(self, image_tokens: int, knob: float | None) -> tuple[Step, ...]:
        """Returns what each stage does; the knob is a factor on `keep`."""
        found, left = [], image_tokens
        for keep in self._kept(knob):
            step = self.step(left, keep)
            found.append(step)
            left = step.kept + step.clusters
        return tuple(found)

    def counts(self, image_tokens: int, knob: float | None) -> tuple[int, ...]:
        """Returns how many tokens are left after each stage, merged ones included."""
        steps = self.steps(image_tokens, knob)
        return tuple(step.kept + step.clusters for step in steps)

    def at_knob(self, knob: float) -> Self:
        """Returns the method that keeps so many times its numbers."""
        return dataclasses.replace(self, keep=self._kept(knob))

    def step(self, tokens: int, keep: int) -> Step:
        """Returns what a stage that is to keep so many does to so many tokens."""
        kept = max(0, min(keep, tokens - 1))
        gone = tokens - kept
        if not gone:
            return Step(0, 0, 0)
        recycled = int(_RECYCLED * gone) + 1
        return Step(kept, recycled, int(recycled / _PER_CLUSTER) + 1)

    def _kept(self, knob: float | None) -> tuple[int, ...]:
        keep = self.published_keep if self.keep is None else self.keep
        if knob is None:
            return keep
        return tuple(max(1, round(each * knob)) for each in keep)

    def most(self, image_tokens: int) -> float:
        """Returns the factor at which one token goes and comes back as a cluster."""
        return max(1.0, image_tokens / min(self.keep or self.published_keep))

    def note(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> Ratings:
        """Returns the raters, and what they think of each token in this layer."""
        raters = _raters(text, image) if layer == 0 else look.notes.raters
        if layer not in self.placed:
            return Ratings(raters)
        weights = self.weights(text, image, raters, look)
        total = jnp.where(raters[..., None], weights, 0).sum(axis=1)
        scores = total / jnp.maximum(raters.sum(axis=1), 1)[:, None]
        return Ratings(raters, jax.lax.stop_gradient(scores))

    def weights(
        self,
        text: TokenStream,
        image: TokenStream,
        raters: Bool[Array, "B T"],
        look: TextLook,
    ) -> Float[Array, "B T V"]:
        """Returns what every word thinks of every token; raters alone count."""
        every = jnp.arange(text.length, dtype=jnp.int32)
        return look(jnp.broadcast_to(every, raters.shape))

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the best tokens, and behind them means of what goes."""
        rows, most = self.steps_of_rows(self.stages.index(layer), look.first)
        scores, valid = look.notes.scores, image.tags.valid
        best = top(scores, valid, rows.kept)
        again = top(scores, valid & ~best, rows.recycled)
        kept, _ = taken(image, best, most.kept)
        recycled, there = taken(image, again, most.recycled)
        means = cluster_means(recycled.hidden, there, rows.clusters, most.clusters)
        merged = image.take(jnp.zeros((*means.shape[:2],), jnp.int32))
        merged = merged.with_hidden(means.astype(image.hidden.dtype))
        kept, merged = _in_order(image.tags, kept, merged, rows)
        both = kept.concat(merged)
        # Still tokens of the image, one behind the other.
        return both.replace(tags=both.tags.replace(form=image.tags.form))

    def flops_of(
        self, config: VLMConfig, text_tokens: int, image_tokens: int, knob: float | None
    ) -> int:
        """Returns the FLOPs of likeness, of every word's attention, and of clusters."""
        width, left = config.decoder.width, image_tokens
        total = 2 * image_tokens * width * text_tokens
        for step in self.steps(image_tokens, knob):
            total += look_flops(
                config.decoder,
                rows=text_tokens,
                text_tokens=text_tokens,
                image_tokens=left,
            )
            total += cluster_flops(step.recycled, step.clusters, width)
            left = step.kept + step.clusters
        return total

    def steps_of_rows(self, stage: int, first: TokenTags) -> tuple[Any, Step]:
        """Returns the step of each row as arrays, and that of the whole bucket."""
        bucket = first.valid.shape[1]
        knob = self.knob(bucket)
        table = [self.steps(tokens, knob)[stage] for tokens in range(bucket + 1)]
        rows = (by_tokens(numbers, first) for numbers in zip(*table, strict=True))
        return Step(*rows), table[-1]


def _raters(text: TokenStream, image: TokenStream) -> Bool[Array, "B T"]:
    """Returns the words that are more alike to the image than the mean of words.

    Only words behind the image count. Where all are as much alike, it is the first of
    them; where there is none, the last word of all.
    """
    shown = image.tags.valid
    last = jnp.max(jnp.where(shown, image.tags.order, -1), axis=1, keepdims=True)
    words = text.tags.valid & (text.tags.order > last)
    alike = jnp.einsum(
        "bvd,btd->bvt",
        image.hidden,
        text.hidden,
        preferred_element_type=jnp.float32,
    )
    alike = jax.nn.softmax(jnp.where(words[:, None, :], alike, HIDDEN), axis=2)
    alike = jnp.where(words[:, None, :] & shown[..., None], alike, 0)
    mean = alike.sum(axis=1) / jnp.maximum(shown.sum(axis=1), 1)[:, None]
    middle = mean.sum(axis=1) / jnp.maximum(words.sum(axis=1), 1)
    raters = words & (mean > middle[:, None])
    places = jnp.arange(text.length)
    first = places == jnp.argmax(words, axis=1)[:, None]
    final = places == last_valid(text.tags)[:, None]
    fallback = jnp.where(words.any(axis=1, keepdims=True), first, final)
    return jnp.where(raters.any(axis=1, keepdims=True), raters, fallback)


def _in_order(
    before: TokenTags, kept: TokenStream, merged: TokenStream, rows: Any
) -> tuple[TokenStream, TokenStream]:
    """Returns both with orders and validity: merged tokens follow all that is kept.

    They take the last orders that the image had; what is kept makes room for them, and
    goes back no further than that:

        image   10 11 12 13 14        kept 11 14, one merged
        orders  11 13 | 14
    """
    there = jnp.argsort(~before.valid, axis=1, stable=True)
    orders = jnp.take_along_axis(before.order, there, axis=1)
    count = before.valid.sum(axis=1, dtype=jnp.int32)[:, None]

    def at(indices: Int[Array, "B R"]) -> Int[Array, "B R"]:
        return jnp.take_along_axis(orders, jnp.clip(indices, 0), axis=1, mode="clip")

    numbers = jnp.arange(kept.length)
    latest = at(count - (rows.kept + rows.clusters)[:, None] + numbers)
    order = jnp.minimum(kept.tags.order, latest)
    kept = kept.replace(tags=kept.tags.replace(order=order))
    numbers = jnp.arange(merged.length)
    tags = merged.tags.replace(
        order=at(count - rows.clusters[:, None] + numbers),
        segments=jnp.zeros_like(merged.tags.segments),
        valid=numbers < rows.clusters[:, None],
    )
    return kept, merged.replace(tags=tags)
