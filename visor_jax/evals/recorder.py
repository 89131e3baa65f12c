"""Collects answers as they come, in any order, and makes `Predictions` of them."""

import functools

import numpy as np

from visor_jax.budget import BudgetSet
from visor_jax.evals.benchmark import Benchmark, Example, PromptLengths
from visor_jax.evals.predictions import (
    COUNTED,
    CROP_SELECTION,
    LENGTHS,
    LOOKS,
    BenchmarkFacts,
    Predictions,
)
from visor_jax.flops.account import Account
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import (
    KEEP_ALL,
    TokenReducer,
)
from visor_jax.token_reduction.prompt_account import prompt_account
from visor_jax.token_reduction.registry import name_of


class Recorder:
    """The answers of one network so far, scored and with what they cost."""

    def __init__(
        self,
        config: VLMConfig,
        budgets: BudgetSet,
        benchmark: Benchmark,
        reducer: TokenReducer = KEEP_ALL,
    ) -> None:
        """Takes whose answers they are, at which budgets, and to what."""
        self._config, self._budgets = config, budgets
        self._benchmark, self._reducer = benchmark, reducer
        self._asked: list[tuple[str, str, str]] = []
        self._lengths: dict[int, PromptLengths] = {}
        # By budget and example; empty until there is an answer.
        self._answers: list[list[str]] = [[] for _ in budgets]
        self._errors: list[list[str | None]] = [[] for _ in budgets]
        self._scores: list[list[tuple[float, ...]]] = [[] for _ in budgets]
        self._metrics: tuple[str, ...] = ()
        # Confidence and steps of answers that are scored, by budget and example.
        self._looks: dict[tuple[int, int], tuple[float, int]] = {}

    def ask(self, example: Example) -> int:
        """Returns the number of an example that will be answered at every budget."""
        self._asked.append((example.id, example.task, example.cluster))
        for row in range(len(self._budgets)):
            self._answers[row].append("")
            self._errors[row].append(None)
            self._scores[row].append(())
        return len(self._asked) - 1

    def answer(
        self,
        number: int,
        example: Example,
        budget: int,
        answer: str,
        lengths: PromptLengths,
        error: str | None = None,
        confidence: float | None = None,
        steps: int = 0,
    ) -> None:
        """Scores the answer to an example; one with an error counts as wrong.

        Args:
          number: of `ask`. budget: its place in the set.
          lengths: of the prompt that its FLOPs are counted for.
          confidence: how sure the network was, where that is asked for; steps: of
            decoding the answer.
        """
        if confidence is not None:
            self._looks[budget, number] = confidence, steps
        scores = self._benchmark.score(example, answer)
        if error is not None:
            scores = dict.fromkeys(scores, 0.0)
        self._answers[budget][number] = answer
        self._errors[budget][number] = error
        self._metrics = tuple(scores)
        self._scores[budget][number] = tuple(scores.values())
        if error is None:
            self._lengths[number] = lengths
        else:
            self._lengths.setdefault(number, lengths)

    def predictions(self) -> Predictions:
        """Returns the answers, once there are all of them.

        Raises:
          ValueError: if nothing was asked, or no example could be read.
        """
        if not self._asked:
            raise ValueError(f"Benchmark {self._benchmark.name!r} asks nothing.")
        lengths = [self._lengths[number] for number in range(len(self._asked))]
        if not any(each.text_tokens for each in lengths):
            first = self._errors[0][0]
            raise ValueError(f"No example could be read; the first: {first}")
        ids, tasks, clusters = zip(*self._asked, strict=True)
        return Predictions(
            benchmark=BenchmarkFacts.of(self._benchmark),
            budgets=self._budgets.budgets,
            reducer=None if self._reducer == KEEP_ALL else name_of(self._reducer),
            ids=ids,
            example_tasks=tasks,
            example_clusters=clusters,
            answers=tuple(map(tuple, self._answers)),
            errors=tuple(map(tuple, self._errors)),
            scores={
                name: np.array([[each[i] for each in row] for row in self._scores])
                for i, name in enumerate(self._metrics)
            },
            flops=self._flops(lengths),
            lengths={
                name: np.array([getattr(each, name) for each in lengths])
                for name in LENGTHS
            },
            looks=self._looks_of(lengths),
        )

    def _looks_of(self, lengths: list[PromptLengths]) -> dict[str, np.ndarray] | None:
        """Returns the columns of `LOOKS`; NaN and 0 for what has no answer."""
        if not self._looks:
            return None
        cost_of = functools.cache(self._account)
        found = np.zeros((len(LOOKS), len(self._budgets), len(lengths)))
        found[0] = np.nan
        for (row, number), (confidence, steps) in self._looks.items():
            cost = cost_of(row, lengths[number])
            numbers = confidence, cost.decode_tokens(steps), cost.behind_trunk
            found[:, row, number] = numbers
        return dict(zip(LOOKS, found, strict=True))

    def _flops(self, lengths: list[PromptLengths]) -> dict[str, np.ndarray]:
        counted = functools.cache(self._flops_of)
        rows = [
            [counted(row, each) for each in lengths]
            for row in range(len(self._budgets))
        ]
        columns = np.moveaxis(np.array(rows, np.int64), -1, 0)
        found = dict(zip(COUNTED, columns, strict=True))
        if not found[CROP_SELECTION].any():
            del found[CROP_SELECTION]
        return found

    def _flops_of(self, budget: int, lengths: PromptLengths) -> tuple[int, ...]:
        if not lengths.text_tokens:
            return (0,) * len(COUNTED)
        cost = self._account(budget, lengths)
        dense = cost.dense()
        return (
            cost.tower.total,
            cost.projector,
            cost.llm_prefill,
            # The first token after the prompt.
            cost.decode_per_token(lengths.text_tokens + 1),
            dense.llm_prefill,
            dense.end_to_end,
            cost.crop_selection,
        )

    def _account(self, budget: int, lengths: PromptLengths) -> Account:
        return prompt_account(
            self._reducer,
            self._config,
            self._budgets.budgets[budget],
            text_tokens=lengths.text_tokens,
            image_tokens=lengths.image_tokens,
            image_slots=lengths.image_slots or 0,
            crops=lengths.crops,
        )
