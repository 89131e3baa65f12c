"""Which methods are timed, with how many tokens, and what stands in for choosing.

A method before the decoder is timed apart from the tower: what the tower gives is
given. One between layers cannot be: beside it stands the same network with as many
tokens in every layer, of which nobody has chosen any.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from visor_jax.evals.baselines.family import Family
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import (
    KEEP_ALL,
    PositionRule,
    TextLook,
    TokenReducer,
)
from visor_jax.models.vision.crop_features import CropFeatures, TowerReads, reads_of
from visor_jax.token_reduction.registry import NONE, REDUCERS, fitted, parse
from visor_jax.token_reduction.trained import own_reducer, to_train_with


@dataclasses.dataclass(frozen=True)
class FirstStay:
    """As many tokens as a method lets stay, the first ones: no choice.

    method: where. lengths: how many every layer sees.
    """

    method: TokenReducer
    lengths: tuple[int, ...]

    @property
    def position_rule(self) -> PositionRule:
        return self.method.position_rule

    @property
    def stages(self) -> tuple[int, ...]:
        return self.method.stages

    @property
    def reads_text(self) -> bool:
        return self.method.reads_text

    @property
    def reads_crops(self) -> bool:
        return self.method.reads_crops

    def image_lengths(self, image_tokens: int, num_layers: int) -> tuple[int, ...]:
        """Returns those of the method."""
        return self.lengths

    def on_crops(self, crops: CropFeatures) -> CropFeatures:
        """Returns the crops as they are; never called, since tokens are given."""
        return crops

    def on_stream(
        self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
    ) -> TokenStream:
        """Returns the first tokens."""
        shape = (len(image.hidden), self.lengths[layer])
        return image.take(jnp.broadcast_to(jnp.arange(shape[1]), shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """One method in a network. spec: of the registry. config: the network's."""

    spec: str
    config: VLMConfig
    reducer: TokenReducer

    @property
    def looks_inside(self) -> bool:
        """Whether it drops tokens between layers."""
        return any(self.reducer.stages)

    def lengths(self, image_tokens: int) -> tuple[int, ...]:
        """Returns how many image tokens every layer sees."""
        layers = self.config.plan.num_layers
        return self.reducer.image_lengths(image_tokens, layers)

    @property
    def tower_reads(self) -> TowerReads:
        """What the tower hands out for it, besides features."""
        reads = reads_of(self.reducer)
        return TowerReads(attention=reads.attention, features=reads.features)

    def unchosen(self, image_tokens: int) -> FirstStay:
        """Returns the same without a choice between layers."""
        return FirstStay(self.reducer, self.lengths(image_tokens))


def every_token(config: VLMConfig) -> Timed:
    """Returns the network that keeps all of them."""
    return Timed(spec=NONE, config=config, reducer=KEEP_ALL)


def timed_methods(
    config: VLMConfig, prompt: PromptLengths, share: float, names: Sequence[str]
) -> Iterator[Timed | tuple[str, str]]:
    """Yields the methods at a share of the tokens, or (name, why it is not timed).

    names: of the registry. What is said with its settings is taken as it is; those that
    have other settings for how much stays (M3, LDPv2, VISOR-TR) have their defaults.
    """
    for said in names:
        name, colon, _ = said.partition(":")
        tokens = max(1, round(share * prompt.image_tokens))
        try:
            if REDUCERS[name].is_trained:
                trained = to_train_with(config, said)
                found = Timed(spec=said, config=trained, reducer=own_reducer(trained))
            else:
                spec = said if colon else Family(name, config, prompt).at(tokens)
                method = fitted(parse(spec), config)
                found = Timed(spec=spec, config=config, reducer=method)
            found.lengths(prompt.image_tokens)
        except ValueError as error:
            yield name, str(error)
            continue
        if reads_of(found.reducer).side is not None:
            yield name, "it chooses nothing: its tower sees a smaller picture"
        else:
            yield found
