"""Asks a network every question of a benchmark at every budget.

Packed questions are answered by one pass over their rows, right answers included
(`evals.packed_answers`); others by the engine, which reads an image once for all
budgets and questions about it. A token reducer that goes by the question has to see one
question alone, without its answer: then all are asked by the engine.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.data.prompts.request import Request
from visor_jax.data.prompts.stop_tokens import NOT_FINITE
from visor_jax.evals.benchmark import (
    Benchmark,
    Example,
    PackedBatch,
    PromptLengths,
)
from visor_jax.evals.packed_answers import known_tokens
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.recorder import Recorder
from visor_jax.inference.engine.engine import Engine
from visor_jax.inference.generation.finite import marked, why_not_finite
from visor_jax.inference.loading.network import Network
from visor_jax.inference.routing.router import HostRouter
from visor_jax.layer_plan import StaticGate
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM
from visor_jax.policy.packed_answers import PackedAnswers
from visor_jax.sharding.programs import mesh_jit

Params = Any
# Called with (answers so far, of how many).
Progress = Callable[[int, int], None]


def predict(
    network: Network,
    benchmark: Benchmark,
    budgets: BudgetSet | None = None,
    *,
    scored: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Returns the network's answers to all examples at every budget.

    Args:
      budgets: any of the network's plan; None for those that it was trained for.
      scored: whether to say how sure the network was of each (`Predictions.looks`).
        Then all are written by the network itself: what would follow a wrong token is
        not known of packed ones, and so is not how sure it is of the end.
      progress: called now and then with (answers so far, of how many).

    Raises:
      ValueError: if the budgets are of another plan than the network, or if the
        benchmark has no example that can be read.
    """
    budgets = network.budgets if budgets is None else budgets
    check_plan(network.config, budgets)
    recorder = Recorder(network.config, budgets, benchmark, network.reducer)
    packed = None if scored or network.reducer.reads_text else benchmark.packed()
    if packed is None:
        answered = _generate(network, benchmark, budgets, recorder, scored)
    else:
        answered = _read_packed(network, packed, budgets, recorder)
    done, total = 0, len(benchmark) * len(budgets)
    for count in answered:
        done += count
        if progress is not None:
            progress(done, total)
    return recorder.predictions()


def check_plan(config: VLMConfig, budgets: BudgetSet) -> None:
    """Raises ValueError unless the budgets were made for the network's plan."""
    if budgets.plan != config.plan:
        raise ValueError(
            f"The budgets are of a plan with SELF layers {budgets.plan.self_layers} of "
            f"{budgets.plan.num_layers}, the model has {config.plan.self_layers} "
            f"of {config.plan.num_layers}."
        )


@mesh_jit(static_argnames=("model", "gates"))
def next_tokens(
    model: VLM, params: Params, batch: Batch, gates: tuple[StaticGate, ...]
) -> Int[Array, "B T"]:
    """Returns the most likely next token at every place, int32, or `NOT_FINITE`.

    The gates are Python bools: one program per budget, without what is off. Networks of
    the same configuration (other seeds) share the programs.
    """
    logits = model.apply({"params": params}, batch, gates).logits
    return marked(jnp.argmax(logits, axis=-1).astype(jnp.int32), logits)[0]


def _read_packed(
    network: Network,
    packed: Iterable[PackedBatch],
    budgets: BudgetSet,
    recorder: Recorder,
) -> Iterator[int]:
    """Records the answers of all rows; yields how many after every pass."""
    model, processor = network.vlm, network.processor
    gates = [budget.gates(budgets.plan) for budget in budgets]

    @functools.cache
    def read(tokens: tuple[int, ...]) -> tuple[str, str | None]:
        """Returns the answer, and what is wrong with it."""
        if NOT_FINITE in tokens:
            return "", why_not_finite(network.params)
        # A wrong token counts, whatever it is: none is skipped.
        text = processor.tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text, None

    for asked in packed:
        answers = PackedAnswers.of(asked.batch)
        numbers = [recorder.ask(example) for example in asked.examples]
        batch = jax.device_put(asked.batch)
        for row, gate in enumerate(gates):
            predicted = np.asarray(next_tokens(model, network.params, batch, gate))
            found = known_tokens(answers, predicted, processor.eos_ids)
            for number, example, tokens in zip(
                numbers, asked.examples, found, strict=True
            ):
                text, error = read(tokens)
                recorder.answer(number, example, row, text, asked.lengths, error)
            yield len(numbers)


@dataclasses.dataclass(frozen=True)
class _RequestAtBudget(Request):
    """A request that says at which budget of the set it is asked."""

    budget: int = 0


def _generate(
    network: Network,
    benchmark: Benchmark,
    budgets: BudgetSet,
    recorder: Recorder,
    scored: bool,
) -> Iterator[int]:
    """Records the answers as the engine finishes them; yields 1 after each."""
    processor = network.processor
    if benchmark.new_tokens is not None:
        processor = dataclasses.replace(processor, new_tokens=benchmark.new_tokens)
    # By the number of the answer that is waited for.
    asked: dict[int, Example] = {}
    numbers = itertools.count()

    def requests() -> Iterator[_RequestAtBudget]:
        for example in benchmark.examples():
            recorder.ask(example)
            for row in range(len(budgets)):
                asked[next(numbers)] = example
                yield _RequestAtBudget(**vars(example.request), budget=row)

    router = HostRouter(budgets.budgets, lambda request: request.budget)
    engine = Engine(network.vlm, network.params, processor, router, scored=scored)
    for answer in engine.answers(requests()):
        example = asked.pop(answer.number)
        # Requests are numbered as they are drawn: budgets in turn.
        number, row = divmod(answer.number, len(budgets))
        lengths = PromptLengths(
            text_tokens=answer.text_tokens,
            image_tokens=answer.image_tokens,
            crops=answer.crops,
            image_slots=answer.image_slots or None,
        )
        recorder.answer(
            number,
            example,
            row,
            answer.text,
            lengths,
            answer.error,
            answer.confidence,
            answer.steps,
        )
        yield 1
