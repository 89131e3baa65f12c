"""Asks questions one a row, many rows at once: for what goes by the question.

A method that reads the question has to see it alone, without its answer, so packed rows
are not for it. All answers are written by the network itself.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from visor_jax.budget import Budget, BudgetSet
from visor_jax.data.prompts.stop_tokens import cut_at_end
from visor_jax.evals import timing
from visor_jax.evals.benchmark import Benchmark, Example, PromptLengths
from visor_jax.evals.harness import Progress
from visor_jax.evals.predictions import Predictions
from visor_jax.evals.recorder import Recorder
from visor_jax.inference.generation.finite import check_written
from visor_jax.inference.generation.generate import generate
from visor_jax.inference.loading.network import Network

ROWS = 64


def answered(
    network: Network,
    benchmark: Benchmark,
    budget: Budget,
    prompt: PromptLengths,
    *,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> Predictions:
    """Returns the network's answers to all examples at one budget.

    Args:
      prompt: lengths that FLOPs are counted for. rows: of a batch.
      progress: called with (answers so far, of how many).

    Raises:
      ValueError: for a question that is no prompt or does not fit into the context.
    """
    budgets = BudgetSet(network.config.plan, (budget,))
    recorder = Recorder(network.config, budgets, benchmark, network.reducer)
    done = 0
    for part in _parts(benchmark.examples(), rows):
        # Always as many rows, so that one program serves: the last one fills up.
        filled = [*part, *[part[-1]] * (rows - len(part))]
        texts = _texts(network, budget, filled, benchmark.new_tokens)
        for example, text in zip(part, texts, strict=False):
            number = recorder.ask(example)
            recorder.answer(number, example, 0, text, prompt)
        done += len(part)
        if progress is not None:
            progress(done, len(benchmark))
    return recorder.predictions()


def _parts(examples: Iterable[Example], rows: int) -> Iterator[list[Example]]:
    """Yields the examples, at most so many at a time."""
    left = iter(examples)
    while part := list(itertools.islice(left, rows)):
        yield part


def _texts(
    network: Network, budget: Budget, asked: list[Example], new_tokens: int | None
) -> list[str]:
    """Returns the answers to a batch, one after the other."""
    processor = network.processor
    written = generate(
        network.vlm,
        network.params,
        timing.padded(network, [each.request for each in asked]),
        budget,
        max_new_tokens=new_tokens or processor.new_tokens,
        eos_id=processor.eos_ids,
        pad_id=processor.pad_id,
    )
    tokens = np.asarray(written)
    check_written(tokens, network.params)
    own = cut_at_end(tokens, processor.eos_ids)
    return [processor.text_before(each, ()) for each in own]
