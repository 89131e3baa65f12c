"""Asks one network in one condition, and counts what a prompt costs there."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from visor_jax.budget import BudgetSet
from visor_jax.evals import timing
from visor_jax.evals.baselines.conditions import Condition
from visor_jax.evals.baselines.kept_tokens import kept_tokens
from visor_jax.evals.baselines.one_by_one import answered
from visor_jax.evals.baselines.outcome import Outcome, columns, file_of
from visor_jax.evals.benchmark import Benchmark, Example, PromptLengths, clusters_of
from visor_jax.evals.harness import Progress, predict
from visor_jax.flops.cache_bytes import cache_bytes
from visor_jax.inference.loading.network import Network
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.token_reduction.prompt_account import prompt_account
from visor_jax.token_reduction.registry import fitted, parse

# Images that the sheet shows.
SHOWN_IMAGES = 3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A trained network that conditions are about. seed: of its training."""

    network: Network
    seed: int

    def at(self, condition: Condition) -> Network:
        """Returns the network with what drops its tokens in this condition."""
        reducer = fitted(parse(condition.reduce), self.network.config)
        return dataclasses.replace(self.network, reducer=reducer)


def file_of_outcome(
    folder: Path, subject: Subject, condition: Condition, benchmark: Benchmark
) -> Path:
    """Returns where the outcome of a condition lies, whether it is there or not."""
    identity = {
        "network": subject.network.fingerprint,
        "budget": condition.budget.name,
        "reduce": condition.reduce,
        "shown": condition.shown,
        "benchmark": [benchmark.name, benchmark.identity()],
    }
    return file_of(folder, condition.name, subject.seed, identity)


def measured(
    subject: Subject,
    condition: Condition,
    benchmark: Benchmark,
    prompt: PromptLengths,
    progress: Progress | None = None,
) -> Outcome:
    """Returns what the network answers in this condition, and what that costs.

    Args:
      prompt: lengths that FLOPs are counted for.
      progress: called with (answers so far, of how many).
    """
    network = subject.at(condition)
    budget = condition.budget
    if network.reducer.reads_text:
        found = answered(network, benchmark, budget, prompt, progress=progress)
    else:
        budgets = BudgetSet(network.config.plan, (budget,))
        found = predict(network, benchmark, budgets, progress=progress)
    shown = [each for about in shown_examples(benchmark) for each in about]
    kept = None
    if condition.shown and network.reducer != KEEP_ALL:
        kept = tuple(_kept(network, condition, benchmark))
    return Outcome(
        name=condition.name,
        seed=subject.seed,
        **columns(found, 0, [each.id for each in shown]),
        kept=kept,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """What one prompt takes.

    flops: by name; those of the dense network begin with "dense_". image_lengths: image
    tokens that each layer sees. cache_bytes: of its keys and values.
    """

    flops: Mapping[str, float]
    image_lengths: tuple[int, ...]
    cache_bytes: float


def costs(network: Network, condition: Condition, prompt: PromptLengths) -> Costs:
    """Returns what a prompt of these lengths takes in a condition."""
    counted = prompt_account(
        network.reducer,
        network.config,
        condition.budget,
        text_tokens=prompt.text_tokens,
        image_tokens=prompt.image_tokens,
        image_slots=0,
        crops=prompt.crops,
    )
    dense = counted.dense()
    held = cache_bytes(
        network.config,
        condition.budget,
        text_slots=prompt.text_tokens,
        image_tokens=prompt.image_tokens,
        image_lengths=counted.image_lengths,
    )
    return Costs(
        flops={
            "tower": counted.tower.total,
            "projector": counted.projector,
            "llm_prefill": counted.llm_prefill,
            "end_to_end": counted.end_to_end,
            "decode_per_token": counted.decode_per_token(prompt.text_tokens + 1),
            "dense_llm_prefill": dense.llm_prefill,
            "dense_end_to_end": dense.end_to_end,
        },
        image_lengths=counted.image_lengths,
        cache_bytes=held.total,
    )


def shown_examples(benchmark: Benchmark) -> list[list[Example]]:
    """Returns the questions about the images that the sheet shows."""
    return clusters_of(benchmark, SHOWN_IMAGES)


def asked_of(benchmark: Benchmark, about: Sequence[Example]) -> Example:
    """Returns the question for which the sheet shows what stays: the first hard one.

    The first of the last group, if there are groups.
    """
    *_, last = benchmark.groups.values() or [()]
    return next((each for each in about if each.task in last), about[0])


def _kept(
    network: Network, condition: Condition, benchmark: Benchmark
) -> list[tuple[int, ...]]:
    requests = [
        asked_of(benchmark, about).request for about in shown_examples(benchmark)
    ]
    batch = jax.device_put(timing.padded(network, requests))
    return kept_tokens(network.vlm, network.params, batch, condition.budget)
