"""easy-VQA (Zhou 2019): the colour or shape of the one thing in a small picture.

Not a task of lmms-eval: the question and its sentence for short answers, exact match.
"dev" are training pictures that no network is trained on; a policy is, so that it is
chosen elsewhere. `data.easy_vqa` has the files.
"""

from visor_jax.evals.answered.figure import by_category, mean
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics.exact_match import exact_match
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Source
from visor_jax.evals.tables.question import Question

_COLUMNS = ("index", "image_id", "category", "question", "answer", "image")


def _read(row: cells.Row, number: int) -> Question:
    return Question(
        id=cells.optional(row, "index") or str(number),
        prompt=prompts.short(cells.text(row, "question")),
        references=(cells.text(row, "answer"),),
        group=cells.text(row, "image_id"),
        category=cells.text(row, "category"),
    )


def _score(question: Question, answer: str) -> tuple[str, float]:
    return answer, exact_match(answer, question.references)


def _definition(name: str, split: str, count: int, tsv: str) -> Definition:
    return Definition(
        name=name,
        source=Source(ids=("vzhou842/easy-VQA",), split=split),
        made_by="python -m visor_jax.convert.easy_vqa --out=FOLDER",
        columns=_COLUMNS,
        tsv=tsv,
        tsv_columns=_COLUMNS,
        read=_read,
        score=_score,
        figures=lambda categories: [mean("exact_match"), *by_category(categories)],
        metric="exact match",
        new_tokens=4,
        count=count,
    )


EASY_VQA = _definition("easy_vqa", "test", 9673, "EasyVQA_TEST")
EASY_VQA_DEV = _definition("easy_vqa_dev", "dev", 1945, "EasyVQA_DEV")
