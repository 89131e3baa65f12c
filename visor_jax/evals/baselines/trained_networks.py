"""Networks that were trained with a method of token reduction, as rows."""

import dataclasses
from collections.abc import Iterator, Sequence

from visor_jax.budget import Budget
from visor_jax.evals.baselines.conditions import COMBINED, TRAINED, Condition
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.token_reduction.registry import fitted, name_of, parse
from visor_jax.token_reduction.trained import as_trained, drawn_in_training


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network that was trained with a method. budgets: that it is tried at."""

    label: str
    config: VLMConfig
    budgets: tuple[Budget, ...]

    @property
    def name(self) -> str:
        """What conditions call it: neither of the networks without a method."""
        return f"trained {self.label}"

    @property
    def reductions(self) -> tuple[str, ...]:
        """What it was trained with, the most tokens first, as texts of the registry."""
        drawn = drawn_in_training(as_trained(self.config))
        return tuple(_shortest(each.reducer, self.config) for each in drawn)

    def conditions(self) -> Iterator[Condition]:
        """Yields the network at all budgets and numbers of tokens that it knows.

        A dense one is tried with every layer alone, as it was trained.
        """
        plan = self.config.plan
        is_dense = len(plan.self_layers) == plan.num_layers
        for reduce in self.reductions:
            for budget in (Budget.all(plan),) if is_dense else self.budgets:
                yield Condition(
                    network=self.name,
                    kind=TRAINED if is_dense else COMBINED,
                    budget=budget,
                    reduce=reduce,
                    label=self.label,
                )


def _shortest(method: TokenReducer, config: VLMConfig) -> str:
    """Returns the text with the fewest settings that is this method in a network."""
    name, _, said = name_of(method).partition(":")
    kept = said.split(",") if said else []
    for setting in tuple(kept):
        fewer = [each for each in kept if each != setting]
        try:
            is_same = fitted(parse(_text(name, fewer)), config) == method
        except ValueError:
            is_same = False
        kept = fewer if is_same else kept
    return _text(name, kept)


def _text(name: str, settings: Sequence[str]) -> str:
    return f"{name}:{','.join(settings)}" if settings else name
