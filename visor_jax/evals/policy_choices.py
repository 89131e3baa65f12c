"""What a policy chooses for the examples of a benchmark."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from visor_jax.evals.benchmark import Benchmark, PackedBatch
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.report.policy_rows import PolicyChoices
from visor_jax.inference.loading.network import Network
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.policy.choose import choose
from visor_jax.policy.network import Policy, prompt_logits
from visor_jax.policy.packed_answers import PackedAnswers
from visor_jax.token_reduction.registry import name_of

Params = Any
# Of the random policy's draws.
_SEED = 0


def questions_of_policies(
    benchmark: Benchmark, reducer: TokenReducer = KEEP_ALL
) -> Iterator[PackedBatch]:
    """Returns the packed questions on which policies are tried.

    Raises:
      ValueError: if the benchmark has none, or if the network's reducer goes by the
        question: it cannot choose for several questions in a row.
    """
    check_reads_no_text(reducer)
    packed = benchmark.packed()
    if packed is None:
        raise ValueError(
            f"Policies are tried on packed questions only so far, and {benchmark.name} "
            "has none: leave the policies' checkpoints out."
        )
    return packed


def check_reads_no_text(reducer: TokenReducer) -> None:
    """Raises ValueError for a reducer that chooses image tokens by one question."""
    if reducer.reads_text:
        raise ValueError(
            "Policies are tried on rows of several questions so far, but "
            f"{name_of(reducer)} chooses image tokens by one question: leave the "
            "policies' checkpoints out, or reduce by a method that reads no text."
        )


def policy_logits(
    network: Network, benchmark: Benchmark
) -> Float[np.ndarray, "n budgets"]:
    """Returns the logits of the network's policy for every example.

    Raises:
      ValueError: as `questions_of_policies`.
    """
    policy, parts = network.policy, []
    for asked in questions_of_policies(benchmark, network.reducer):
        rows, length = asked.batch.tokens.shape
        found = prompt_logits(
            network.params,
            policy.params,
            jax.device_put(asked.batch),
            # All places, so that there is one program; those of no question are left.
            np.tile(np.arange(length), (rows, 1)),
            model=network.vlm,
            config=policy.config,
        )
        # The routing token is the prompt's last, where the answer's first is predicted.
        parts.append(np.asarray(found)[PackedAnswers.of(asked.batch).routing_tokens()])
    return np.concatenate(parts)


def policy_choices(
    label: str,
    logits: Float[np.ndarray, "n budgets"],
    policy: Policy,
    predictions: Predictions,
    preferences: Sequence[float],
) -> PolicyChoices:
    """Returns what the policy chooses at each preference, and chance and the oracle.

    Args:
      predictions: at all budgets, in class order.
      preferences: see `policy.choose`; "random" shuffles the choices at the first.
    """
    costs = np.array(policy.costs)
    choices = {
        "auto" if not p else f"auto, cost {p:g}": choose(logits, costs, p)
        for p in preferences
    }
    choices["random"] = _random(next(iter(choices.values())), predictions)
    choices["oracle"] = oracle_choice(predictions.main_scores.T == 1, costs)
    return PolicyChoices(label=label, choices=choices)


def oracle_choice(
    correct: Bool[np.ndarray, "n budgets"], costs: Float[np.ndarray, "budgets"]
) -> Int[np.ndarray, "n"]:
    """Returns the class of the cheapest right budget, of the cheapest if none is."""
    price = np.where(correct, costs, np.inf)
    return np.where(correct.any(axis=1), price.argmin(axis=1), costs.argmin())


def _random(
    chosen: Int[np.ndarray, "n"], predictions: Predictions
) -> Int[np.ndarray, "n"]:
    """Returns the choices shuffled within each group of tasks: exactly their cost."""
    rng, drawn = np.random.default_rng(_SEED), np.zeros_like(chosen)
    tasks = np.array(predictions.example_tasks)
    for names in predictions.groups.values():
        mine = np.isin(tasks, names)
        drawn[mine] = rng.permutation(chosen[mine])
    return drawn
