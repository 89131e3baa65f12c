"""POPE (Li et al. 2023): is there such a thing in the picture? Yes or no.

As lmms-eval's task `pope`, and by POPE's own reading of answers beside it, by category
and as the mean of the three F1, which LLaVA reports (`metrics.yes_no`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from visor_jax.evals.answered.figure import Answered, Figure, Sums, mean, ratio
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.yes_no import (
    OTHER,
    YesNoCounts,
    pope_reading,
    pope_reading_official,
)
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

Reading = Callable[[str], str]


def _read(row: cells.Row, number: int) -> Question:
    category = cells.optional(row, "category") or ""
    # The three categories are numbered alike.
    numbered = cells.optional(row, "question_id")
    return Question(
        id=cells.optional(row, "index")
        or (str(number) if numbered is None else f"{category}-{numbered}"),
        prompt=prompts.short(cells.text(row, "question").strip()),
        references=(cells.text(row, "answer").strip().lower(),),
        group=cells.optional(row, "image_source") or "",
        category=category,
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    said = pope_reading(answer)
    return said, float(said == question.references[0])


def _read_by(reading: Reading, answered: Answered) -> str:
    # An error is wrong, whatever was asked.
    return OTHER if answered.answer is None else reading(answered.answer)


def _official_score(answered: Answered) -> float:
    said = _read_by(pope_reading_official, answered)
    return float(said == answered.question.references[0])


def _counts(reading: Reading, group: Sequence[Answered]) -> dict[str, float]:
    pairs = [(_read_by(reading, a), a.question.references[0]) for a in group]
    return {name: float(n) for name, n in vars(YesNoCounts.of(pairs)).items()}


def _share(name: str, reading: Reading, part: str, *whole: str) -> Figure:
    """Returns the figure part / whole of the cells of a table; 0 if undefined."""
    return Figure(
        name=name,
        of_group=lambda group: _counts(reading, group),
        combine=lambda sums: np.nan_to_num(
            ratio(sums[part], sum(sums[each] for each in whole))
        ),
    )


def _f1(sums: Sums, of: str = "") -> np.ndarray:
    right = 2 * np.asarray(sums.get(f"{of}true_positive", 0.0))
    wrong = sums.get(f"{of}false_positive", 0.0) + sums.get(f"{of}false_negative", 0.0)
    return np.nan_to_num(ratio(right, right + wrong))


def _f1_of(name: str, reading: Reading, category: str | None = None) -> Figure:
    def of_group(group: Sequence[Answered]) -> dict[str, float]:
        return _counts(
            reading,
            [a for a in group if category is None or a.question.category == category],
        )

    return Figure(name=name, of_group=of_group, combine=_f1)


def _mean_f1(name: str, reading: Reading, categories: Sequence[str]) -> Figure:
    def of_group(group: Sequence[Answered]) -> dict[str, float]:
        found = {}
        for category in categories:
            mine = [a for a in group if a.question.category == category]
            counts = _counts(reading, mine)
            found |= {f"{category} {name}": n for name, n in counts.items()}
        return found

    def combine(sums: Sums) -> np.ndarray:
        return np.mean([_f1(sums, f"{each} ") for each in categories], axis=0)

    return Figure(name=name, of_group=of_group, combine=combine)


def _figures(categories: Sequence[str]) -> list[Figure]:
    yes = "true_positive"
    official = pope_reading_official
    figures = [
        mean("accuracy"),
        _share("precision", pope_reading, yes, yes, "false_positive"),
        _share("recall", pope_reading, yes, yes, "false_negative"),
        _f1_of("f1", pope_reading),
        _share("yes_ratio", pope_reading, "said_yes", "n"),
        mean("accuracy_official", _official_score),
        _f1_of("f1_official", official),
        _share("yes_ratio_official", official, "said_yes", "n"),
    ]
    if categories:
        figures.append(_mean_f1("f1_official_mean_of_categories", official, categories))
    for each in categories:
        is_mine = _is_of(each)
        figures += [
            mean(f"accuracy_official {each}", _official_score, where=is_mine),
            _f1_of(f"f1_official {each}", official, each),
        ]
    return figures


def _is_of(category: str) -> Callable[[Question], bool]:
    return lambda question: question.category == category


POPE = Definition(
    name="pope",
    source=Source(ids=("lmms-lab-encoder/POPE", "lmms-lab/POPE"), split="test"),
    columns=(
        *("question_id", "question", "answer", "category", "image_source", "image"),
    ),
    tsv="POPE",
    tsv_columns=("index", "question", "answer", "category", "image"),
    read=_read,
    score=_score,
    figures=_figures,
    metric="accuracy, F1",
    new_tokens=128,
    count=9000,
)
