"""VQAv2, TextVQA and VizWiz: ten annotators a question, scored by VQA accuracy.

Goyal et al. 2017, Singh et al. 2019, Gurari et al. 2018; as lmms-eval's tasks
`vqav2_val`, `textvqa_val` and `vizwiz_vqa_val`. TextVQA's and VizWiz's questions lose
their capitals there, but for the first letter ("IBM" becomes "ibm").
"""

from collections.abc import Callable, Sequence

from visor_jax.evals.answered.figure import Answered, Figure, Score, mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.vqa_accuracy import (
    vqa_accuracy,
    vqa_accuracy_official,
    vqa_accuracy_without_equals,
)
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

_COLUMNS = ("question_id", "question", "answers", "image")
_TSV_COLUMNS = ("index", "question", "answer", "image")
# lmms-eval sets none for two of these tasks.
_NEW_TOKENS = 64
_UNANSWERABLE = "unanswerable"


def _reader(prompt: Callable[[str], str]) -> Callable[[cells.Row, int], Question]:
    def read(row: cells.Row, number: int) -> Question:
        answers = row["answers"] if "answers" in row else row["answer"]
        return Question(
            id=cells.optional(row, "question_id", "index") or str(number),
            prompt=prompt(cells.text(row, "question")),
            references=cells.texts(answers),
            category=cells.optional(row, "category") or "",
        )

    return read


def _capitalised(question: str) -> str:
    return prompts.short(question.capitalize())


def _vizwiz_prompt(question: str) -> str:
    return prompts.short(f"{question.capitalize()}\n{prompts.UNANSWERABLE}")


def _score(question: Question, answer: str) -> tuple[str, float]:
    return answer, vqa_accuracy(answer, question.references)


def _score_vqav2(question: Question, answer: str) -> tuple[str, float]:
    return answer, vqa_accuracy(answer, question.references, parts_possessives=False)


def _scored_by(metric: Callable[[str, Sequence[str]], float]) -> Score:
    def score(answered: Answered) -> float:
        if answered.answer is None:
            return answered.score
        return metric(answered.answer, answered.question.references)

    return score


def _vqav2_figures(categories: Sequence[str]) -> list[Figure]:
    del categories
    return [
        mean("vqa_accuracy"),
        mean("vqa_accuracy_official", _scored_by(vqa_accuracy_official)),
        mean("vqa_accuracy_without_equals", _scored_by(vqa_accuracy_without_equals)),
    ]


def _vizwiz_figures(categories: Sequence[str]) -> list[Figure]:
    figures = [mean("vqa_accuracy")]
    if _UNANSWERABLE in categories:
        figures += [
            mean("answerable", where=lambda q: q.category != _UNANSWERABLE),
            mean(_UNANSWERABLE, where=lambda q: q.category == _UNANSWERABLE),
        ]
    return figures


TEXTVQA = Definition(
    name="textvqa",
    source=Source(
        ids=("lmms-lab-encoder/textvqa", "lmms-lab/textvqa"), split="validation"
    ),
    columns=_COLUMNS,
    tsv="TextVQA_VAL",
    tsv_columns=_TSV_COLUMNS,
    read=_reader(_capitalised),
    score=_score,
    figures=lambda categories: [mean("vqa_accuracy")],
    metric="VQA accuracy",
    new_tokens=_NEW_TOKENS,
    count=5000,
)
VQAV2 = Definition(
    name="vqav2",
    source=Source(ids=("lmms-lab-encoder/VQAv2", "lmms-lab/VQAv2"), split="validation"),
    columns=_COLUMNS,
    tsv="VQAv2_VAL",
    tsv_columns=_TSV_COLUMNS,
    read=_reader(prompts.short),
    score=_score_vqav2,
    figures=_vqav2_figures,
    metric="VQA accuracy",
    new_tokens=16,
    count=214354,
)
VIZWIZ = Definition(
    name="vizwiz",
    source=Source(
        ids=("lmms-lab-encoder/VizWiz-VQA", "lmms-lab/VizWiz-VQA"), split="val"
    ),
    columns=_COLUMNS,
    other_columns=("category",),
    tsv="VizWiz",
    tsv_columns=_TSV_COLUMNS,
    read=_reader(_vizwiz_prompt),
    score=_score,
    figures=_vizwiz_figures,
    metric="VQA accuracy",
    new_tokens=_NEW_TOKENS,
    count=4319,
)
