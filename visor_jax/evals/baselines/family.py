"""A method at any number of tokens: which text of the registry that is.

before the decoder       keep, a share of the image's tokens
between its layers       average, tokens that a layer sees in the mean
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

from visor_jax.budget import Budget
from visor_jax.evals.benchmark import PromptLengths
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vision.crop_features import reads_of
from visor_jax.token_reduction.prompt_account import prompt_account
from visor_jax.token_reduction.registry import BEFORE, REDUCERS, fitted, parse

# The depth of the towers that the authors' layers belong to.
_TOWER_DEPTH = 24
# `keep` is written with so many digits, rounded up.
_DIGITS = 4


class ImpossibleError(ValueError):
    """A method leaves no number of tokens that was asked for."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A method in a network, at any number of tokens."""

    name: str
    config: VLMConfig
    prompt: PromptLengths

    def at(self, tokens: int) -> str:
        """Returns the method that leaves so many tokens, in the mean over layers.

        Raises:
          ValueError: if it cannot, with what it said of its authors' layers.
        """
        first: ValueError | None = None
        for spec in self._specs(tokens):
            try:
                spec, method = self._fitted(spec)
                layers = self.config.plan.num_layers
                method.image_lengths(self.prompt.image_tokens, layers)
                return spec
            except ValueError as error:
                first = first or error
        raise first

    def most_that(self, fits: Callable[[str], bool]) -> str | None:
        """Returns the method with the most tokens that fits; None if none does.

        More tokens never fit better.

        Raises:
          ImpossibleError: if no number of tokens that was tried is possible, as `at`.
        """
        best, low, high = None, 1, self.prompt.image_tokens
        impossible: ValueError | None = None
        was_tried = False
        while low <= high:
            middle = (low + high) // 2
            try:
                spec = self.at(middle)
                was_tried = True
            except ValueError as error:
                spec, impossible = None, error
            if spec is None or fits(spec):
                best, low = spec or best, middle + 1
            else:
                high = middle - 1
        if impossible is not None and not was_tried:
            raise ImpossibleError(str(impossible)) from impossible
        return best

    def _specs(self, tokens: int) -> Iterator[str]:
        entry, name = REDUCERS[self.name], self.name
        settings = {setting.name for setting in entry.settings}
        if "keep" in settings and entry.where == BEFORE:
            scale = 10**_DIGITS
            keep = math.ceil(scale * tokens / self.prompt.image_tokens) / scale
            yield f"{name}:keep={keep:g}"
        elif "average" in settings:
            yield f"{name}:average={tokens}"
            if "layer" in settings:
                yield f"{name}:layer=1,average={tokens}"
            elif "layers" in settings:
                yield f"{name}:layers=1+2+3,average={tokens}"
                yield f"{name}:layers=0+1+2,average={tokens}"
        elif "tokens" in settings:
            # Of a crop, per side.
            sides = range(self.config.vision.patches_per_side, 0, -1)
            yield self._first_within(tokens, (f"{name}:tokens={n}" for n in sides))
        elif "factor" in settings:
            factors = range(1, self.prompt.image_tokens + 1)
            yield self._first_within(tokens, (f"{name}:factor={n}" for n in factors))
        else:
            yield name

    def _first_within(self, tokens: int, specs: Iterator[str]) -> str:
        """Returns the first method that leaves no more than so many tokens.

        Raises:
          ValueError: if none does.
        """
        for spec in specs:
            if self._left(spec) <= tokens:
                return spec
        raise ValueError(f"{self.name} cannot leave as few as {tokens} tokens.")

    def _left(self, spec: str) -> int:
        """Returns how many image tokens the first layer sees."""
        layers = self.config.plan.num_layers
        method = fitted(parse(spec), self.config)
        return method.image_lengths(self.prompt.image_tokens, layers)[0]

    def _fitted(self, spec: str) -> tuple[str, TokenReducer]:
        """Returns the method with layers that the tower has."""
        method, depth = parse(spec), self.config.vision.num_layers
        named = [s for s in REDUCERS[self.name].settings if s.name.endswith("layer")]
        # What a method reads may be known once it is fitted alone.
        reads = reads_of(method).attention if named else ()
        beyond = [layer for layer in reads if layer >= depth]
        for setting in named:
            layer = getattr(method, setting.name)
            if layer in beyond:
                place = min(depth - 1, round(layer * depth / _TOWER_DEPTH))
                comma = "," if ":" in spec else ":"
                spec += f"{comma}{setting.name}={place}"
        return spec, fitted(parse(spec), self.config)


def llm_flops(
    config: VLMConfig, budget: Budget, spec: str, prompt: PromptLengths
) -> int:
    """Returns the LLM prefill FLOPs of a prompt, choosing between layers included."""
    return prompt_account(
        fitted(parse(spec), config),
        config,
        budget,
        text_tokens=prompt.text_tokens,
        image_tokens=prompt.image_tokens,
        image_slots=0,
        crops=prompt.crops,
    ).llm_prefill
