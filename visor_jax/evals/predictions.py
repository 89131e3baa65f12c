"""What a network answered to a benchmark's questions: all that a report needs to know.

On disk a line of JSON for each question and budget, and beside it, in a file of
settings, what all lines have in common:

    pages.jsonl          {"id": "test-0-ring", "task": "ring", "cluster": "test-0",
                          "budget": "sa1:3", "answer": "yes", "error": null,
                          "scores": {"exact_match": 1.0}, "flops": {...}, ...}
    pages.settings.json  {"benchmark": "pages", "split": "test", "groups": {...}, ...}
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from visor_jax.budget import Budget
from visor_jax.evals.benchmark import Benchmark
from visor_jax.evals.statistics import Score, ScoreTable, scores_by_name
from visor_jax.runtime import atomic_write

# Of one prompt: before the LLM, in its prefill, for the first token after it, and in
# the prefill of the dense network of this size, which no budget changes.
FLOPS = ("tower", "projector", "llm_prefill", "decode_per_token", "dense_llm_prefill")
# A method's own work before the LLM, where it drops tokens there; and what dense takes
# in all, with its own tower and projector, which older files do not say.
CROP_SELECTION, DENSE_END_TO_END = "crop_selection", "dense_end_to_end"
COUNTED = (*FLOPS, DENSE_END_TO_END, CROP_SELECTION)
LENGTHS = ("text_tokens", "image_tokens", "crops")
# Of answers that were scored: how sure the network was, the FLOPs of writing them, and
# those of the prefill behind the trunk, which is what looking again takes.
LOOKS = ("confidence", "decode", "behind_trunk")
# Where a benchmark has no groups, all of its tasks are one.
ALL = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkFacts:
    """What a report says of a benchmark; the fields are those of `Benchmark`."""

    name: str
    split: str
    cluster_name: str
    groups: Mapping[str, tuple[str, ...]]
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, benchmark: Benchmark) -> "BenchmarkFacts":
        """Returns those of a benchmark."""
        return cls(
            name=benchmark.name,
            split=benchmark.split,
            cluster_name=benchmark.cluster_name,
            groups=dict(benchmark.groups),
            identity=benchmark.identity(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The answers of one network to n examples at each of its budgets.

    ids, examples' tasks and clusters: (n,), in the order of asking. answers, errors:
    (budgets, n); what is wrong with an example that has no answer. scores: by metric;
    the first is the one that accuracies are means of. flops: by `COUNTED`, without what
    there is none of. lengths: by `LENGTHS`, of the prompts that the FLOPs are counted
    for. reducer: the name of what dropped image tokens (`token_reduction.registry`);
    None if nothing did. looks: by `LOOKS` where the answers were scored, else None.
    """

    benchmark: BenchmarkFacts
    budgets: tuple[Budget, ...]
    ids: tuple[str, ...]
    example_tasks: tuple[str, ...]
    example_clusters: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    errors: tuple[tuple[str | None, ...], ...]
    scores: Mapping[str, Float[np.ndarray, "budgets n"]]
    flops: Mapping[str, Int[np.ndarray, "budgets n"]]
    lengths: Mapping[str, Int[np.ndarray, "n"]]
    reducer: str | None = None
    looks: Mapping[str, Float[np.ndarray, "budgets n"]] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order in which they first appear."""
        return tuple(dict.fromkeys(self.example_tasks))

    @property
    def num_clusters(self) -> int:
        return len(set(self.example_clusters))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """{group: its tasks} as far as they were asked; one of all where none is."""
        asked = set(self.example_tasks)
        groups = {
            group: tuple(task for task in tasks if task in asked)
            for group, tasks in self.benchmark.groups.items()
        }
        return {g: tasks for g, tasks in groups.items() if tasks} or {ALL: self.tasks}

    @property
    def asks_every_task_once(self) -> bool:
        """Whether every cluster is asked every task, and none of them twice."""
        pairs = set(zip(self.example_clusters, self.example_tasks, strict=True))
        return len(pairs) == len(self.ids) == self.num_clusters * len(self.tasks)

    @property
    def main_scores(self) -> Float[np.ndarray, "budgets n"]:
        """The scores of the first metric."""
        return next(iter(self.scores.values()))

    def at(self, budgets: Iterable[Budget]) -> "Predictions":
        """Returns the answers at some of the budgets, in their order."""
        budgets = tuple(budgets)
        rows = [self.budgets.index(budget) for budget in budgets]
        return dataclasses.replace(
            self,
            budgets=budgets,
            answers=tuple(self.answers[row] for row in rows),
            errors=tuple(self.errors[row] for row in rows),
            scores={name: each[rows] for name, each in self.scores.items()},
            flops={name: each[rows] for name, each in self.flops.items()},
            looks=self.looks and {k: each[rows] for k, each in self.looks.items()},
        )

    def of_examples(self, chosen: Int[np.ndarray, "m"]) -> "Predictions":
        """Returns the answers to some of the examples, in their order."""

        def of_rows(rows: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
            return tuple(tuple(row[i] for i in chosen) for row in rows)

        ids, tasks, clusters = of_rows(
            (self.ids, self.example_tasks, self.example_clusters)
        )
        columns = {"scores": self.scores, "flops": self.flops}
        if self.looks is not None:
            columns["looks"] = self.looks
        return dataclasses.replace(
            self,
            ids=ids,
            example_tasks=tasks,
            example_clusters=clusters,
            answers=of_rows(self.answers),
            errors=of_rows(self.errors),
            lengths={name: each[chosen] for name, each in self.lengths.items()},
            **{
                field: {name: each[:, chosen] for name, each in values.items()}
                for field, values in columns.items()
            },
        )

    def table(self, scores: Float[np.ndarray, "n"]) -> ScoreTable:
        """Returns one score an example by cluster and task, both as they first appear.

        For statistics; `self.main_scores[k]` are those of one budget.
        """
        clusters, tasks = (
            _numbers(names) for names in (self.example_clusters, self.example_tasks)
        )
        return ScoreTable.of(scores, clusters, tasks)

    def scores_at(self, budget: Budget) -> dict[str, Score]:
        """Returns the score of every group and of every task at one budget."""
        table = self.table(self.main_scores[self.budgets.index(budget)])
        return scores_by_name([table], self.tasks, self.groups)

    def mean_flops(self, budget: Budget) -> dict[str, int | float]:
        """Returns the mean FLOPs of a prompt, whole where all prompts are alike."""
        row = self.budgets.index(budget)
        return {name: self._mean(each[row]) for name, each in self.flops.items()}

    def mean_lengths(self) -> dict[str, int | float]:
        """Returns the mean lengths of a prompt, whole where all are alike."""
        return {name: self._mean(each) for name, each in self.lengths.items()}

    def _mean(self, values: Int[np.ndarray, "n"]) -> int | float:
        # Those that could not be read cost nothing and are no measure.
        values = values[self.lengths["text_tokens"] > 0]
        if (values == values[0]).all():
            return int(values[0])
        return float(values.mean())

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yields a line of JSON values for each example and budget."""
        for row, budget in enumerate(self.budgets):
            for column, name in enumerate(self.ids):
                at = row, column
                scores = {k: _or_null(each[at]) for k, each in self.scores.items()}
                looks = {k: _or_null(x[at]) for k, x in (self.looks or {}).items()}
                yield {
                    "id": name,
                    "task": self.example_tasks[column],
                    "cluster": self.example_clusters[column],
                    "budget": budget.name,
                    "answer": self.answers[row][column],
                    "error": self.errors[row][column],
                    "scores": scores,
                    "flops": {k: int(each[at]) for k, each in self.flops.items()},
                    **{k: int(each[column]) for k, each in self.lengths.items()},
                    **({"looks": looks} if looks else {}),
                }

    def write(self, file: Path) -> None:
        """Writes the lines, and what they have in common beside them.

        The lines come last and stand for both: without them nothing was written.
        """
        settings = {
            "benchmark": self.benchmark.name,
            **dataclasses.asdict(self.benchmark),
            "budgets": {b.name: list(b.self_layers) for b in self.budgets},
        }
        del settings["name"]
        if self.reducer is not None:
            settings["reducer"] = self.reducer
        # Settings never stand beside the lines of others.
        file.unlink(missing_ok=True)
        atomic_write.write_json(_settings_file(file), settings)
        atomic_write.write_file(
            file,
            lambda stream: stream.writelines(
                json.dumps(line).encode() + b"\n" for line in self.lines()
            ),
        )

    @classmethod
    def read(cls, file: Path) -> "Predictions":
        """Returns what `write` wrote.

        Raises:
          ValueError: if the lines are not every example at every budget.
        """
        settings = json.loads(_settings_file(file).read_text())
        reducer = settings.pop("reducer", None)
        budgets = [Budget.of_name(name) for name in settings.pop("budgets")]
        groups = {g: tuple(tasks) for g, tasks in settings.pop("groups").items()}
        facts = BenchmarkFacts(
            name=settings.pop("benchmark"), groups=groups, **settings
        )
        with file.open() as stream:
            lines = [json.loads(line) for line in stream]
        by_budget = {budget.name: [] for budget in budgets}
        for line in lines:
            by_budget[line["budget"]].append(line)
        columns = list(by_budget.values())
        if any([x["id"] for x in c] != [x["id"] for x in columns[0]] for c in columns):
            raise ValueError(f"{file} lacks answers: not every budget has every line.")
        return cls(
            benchmark=facts,
            budgets=tuple(budgets),
            reducer=reducer,
            **_columns(columns),
        )


def _columns(lines: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns the fields of `Predictions` that (budgets, n) lines hold."""
    first = lines[0]
    flops = [name for name in COUNTED if name in first[0]["flops"]]
    looks = LOOKS if "looks" in first[0] else ()

    def texts(name: str) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(line[name] for line in row) for row in lines)

    def numbers(name: str, key: str, dtype: type) -> np.ndarray:
        return np.array([[line[name][key] for line in row] for row in lines], dtype)

    return {
        "ids": tuple(line["id"] for line in first),
        "example_tasks": tuple(line["task"] for line in first),
        "example_clusters": tuple(line["cluster"] for line in first),
        "answers": texts("answer"),
        "errors": texts("error"),
        # None becomes NaN.
        "scores": {k: numbers("scores", k, float) for k in first[0]["scores"]},
        "flops": {k: numbers("flops", k, np.int64) for k in flops},
        "lengths": {k: np.array([line[k] for line in first]) for k in LENGTHS},
        "looks": {k: numbers("looks", k, float) for k in looks} or None,
    }


def _numbers(names: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Returns the number of each name, counted as they first appear."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names])


def _or_null(score: float) -> float | None:
    return None if math.isnan(score) else float(score)


def _settings_file(file: Path) -> Path:
    return file.with_suffix(".settings.json")
