"""AI2D, ScienceQA, SEED, MMStar and RealWorldQA: options with letters.

Kembhavi et al. 2016, Lu et al. 2022, Li et al. 2023, Chen et al. 2024, xAI 2024; as
lmms-eval's tasks `ai2d`, `scienceqa_img`, `seedbench` (images alone), `mmstar` and
`realworldqa`. Each finds the letter by a rule of its own (`metrics.option_letter`).
"""

from collections.abc import Callable, Sequence

from visor_jax.evals.answered.figure import Figure, by_category, mean, mean_of_means
from visor_jax.evals.benchmarks import prompts
from visor_jax.evals.metrics import option_letter
from visor_jax.evals.tables import cells
from visor_jax.evals.tables.definition import Definition, Scoring, Source
from visor_jax.evals.tables.question import Question

_TSV_COLUMNS = ("index", "question", "A", "B", "answer", "image")
_LETTERS = tuple("ABCDEFGHIJ")
_NEW_TOKENS = 64
# lmms-eval cuts MME's sentence out of MMStar's questions, too.
_CUT_OUT = " Please answer yes or no."


def _ids(name: str) -> tuple[str, str]:
    return f"lmms-lab-encoder/{name}", f"lmms-lab/{name}"


def _asked(
    row: cells.Row, number: int, prompt: str, choices: Sequence[str]
) -> Question:
    return Question(
        id=cells.optional(row, "question_id", "index") or str(number),
        prompt=prompt,
        references=(cells.letter(row["answer"], len(choices)),),
        choices=tuple(choices),
    )


def _read_ai2d(row: cells.Row, number: int) -> Question:
    choices = cells.options(row, "options")
    question = cells.text(row, "question")
    return _asked(row, number, prompts.choice(question, choices), choices)


def _read_scienceqa(row: cells.Row, number: int) -> Question | None:
    if not cells.pictures(row, "image"):
        return None
    choices, hint = cells.options(row, "choices"), cells.optional(row, "hint")
    context = "" if hint is None else f"Context: {hint}\n"
    question = f"{context}{cells.text(row, 'question')}"
    return _asked(row, number, prompts.choice(question, choices), choices)


def _read_seed(row: cells.Row, number: int) -> Question | None:
    if row.get("data_type", "image") != "image":
        return None
    choices = cells.lettered([row.get(f"choice_{each}") for each in "abcd"])
    choices = choices or cells.options(row)
    question = cells.text(row, "question")
    return _asked(row, number, prompts.choice(question, choices), choices)


def _read_mmstar(row: cells.Row, number: int) -> Question:
    choices = cells.options(row)
    question = cells.text(row, "question").strip().replace(_CUT_OUT, "")
    if choices:  # VLMEvalKit has them in columns, the hub in the question.
        listed = zip(_LETTERS, choices, strict=False)
        said = ", ".join(f"{letter}: {text}" for letter, text in listed)
        question = f"{question}\nOptions: {said}"
    return Question(
        id=cells.optional(row, "index") or str(number),
        prompt=f"{question}\n{prompts.LETTER.removesuffix('.')}",
        references=(cells.letter(row["answer"], len(choices) or 4),),
        category=cells.text(row, "l2_category", "l2-category"),
    )


def _read_realworldqa(row: cells.Row, number: int) -> Question:
    if cells.options(row):
        raise ValueError(
            "its options are in columns, and what stands between them in a prompt is "
            "not known: take the hub's files."
        )
    return Question(
        id=cells.optional(row, "index") or str(number),
        prompt=cells.text(row, "question").strip(),
        references=(cells.text(row, "answer"),),
    )


def _by_letter(read: Callable[[str], str | None]) -> Scoring:
    def score(question: Question, answer: str) -> tuple[str | None, float]:
        letter = read(answer)
        return letter, float(letter == question.references[0])

    return score


def _one_of_four(answer: str) -> str | None:
    return option_letter.extracted_letter(answer, option_letter.FOUR)


def _score_ai2d(question: Question, answer: str) -> tuple[str, float]:
    letter = question.references[0]
    return option_letter.ai2d_answer(answer), option_letter.ai2d_score(answer, letter)


def _score_realworldqa(question: Question, answer: str) -> tuple[str | None, float]:
    right = question.references[0]
    parsed = answer
    if option_letter.is_letter(right):
        parsed = option_letter.extracted_letter(answer, option_letter.FOUR)
    return parsed, option_letter.realworldqa_score(answer, right)


def _accuracy(categories: Sequence[str]) -> list[Figure]:
    del categories
    return [mean("accuracy")]


def _mmstar_figures(categories: Sequence[str]) -> list[Figure]:
    average = mean_of_means("average", categories)
    return [average, mean("accuracy"), *by_category(categories)]


AI2D = Definition(
    name="ai2d",
    source=Source(ids=_ids("ai2d"), split="test"),
    columns=("question", "options", "answer", "image"),
    tsv="AI2D_TEST",
    tsv_columns=_TSV_COLUMNS,
    read=_read_ai2d,
    score=_score_ai2d,
    figures=_accuracy,
    metric="letter, exact match",
    new_tokens=16,
    count=3088,
)
SCIENCEQA = Definition(
    name="scienceqa",
    source=Source(ids=_ids("ScienceQA"), config="ScienceQA-IMG", split="test"),
    columns=("question", "choices", "answer", "hint", "image"),
    tsv="ScienceQA_TEST",
    tsv_columns=_TSV_COLUMNS,
    read=_read_scienceqa,
    score=_by_letter(option_letter.scienceqa_letter),
    figures=_accuracy,
    metric="letter",
    new_tokens=16,
    count=2017,
)
SEED = Definition(
    name="seed",
    source=Source(ids=_ids("SEED-Bench"), split="test"),
    columns=(
        *("question_id", "question", "answer", "data_type", "image"),
        *("choice_a", "choice_b", "choice_c", "choice_d"),
    ),
    tsv="SEEDBench_IMG",
    tsv_columns=_TSV_COLUMNS,
    read=_read_seed,
    score=_by_letter(option_letter.first_character),
    figures=_accuracy,
    metric="first character",
    new_tokens=_NEW_TOKENS,
    count=14233,
)
MMSTAR = Definition(
    name="mmstar",
    source=Source(ids=("Lin-Chen/MMStar",), split="val"),
    columns=("index", "question", "answer", "l2_category", "image"),
    tsv="MMStar",
    tsv_columns=_TSV_COLUMNS,
    read=_read_mmstar,
    score=_by_letter(_one_of_four),
    figures=_mmstar_figures,
    metric="letter, mean of 18 means",
    new_tokens=_NEW_TOKENS,
    count=1500,
)
REALWORLDQA = Definition(
    name="realworldqa",
    source=Source(ids=_ids("RealWorldQA"), split="test"),
    columns=("question", "answer", "image"),
    tsv="RealWorldQA",
    tsv_columns=("index", "question", "answer", "image"),
    read=_read_realworldqa,
    score=_score_realworldqa,
    figures=_accuracy,
    metric="letter or text",
    new_tokens=16,
    count=765,
)
