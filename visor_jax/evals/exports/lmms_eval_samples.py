"""Predictions as the lines that `lmms-eval --log_samples` writes.

    {"doc_id": 7, "target": "['1998']", "filtered_resps": "1998", "token_counts":
     [{"input_tokens": 812, "output_tokens": 4}], "doc_hash": "...", "anls": 1.0,
     "input": "What year?\\nAnswer the ...", "score": 1.0}

A line a document, by its number in the split. What lmms-eval has of an answer under a
metric's name is the same here, whether that is its score or what it is added up from;
`score` is ours, and lmms-eval's --baseline reads it. MathVista, which lmms-eval leaves
to GPT, has `accuracy_rules`. `doc_hash` is of nothing, as there.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.evals.answered import lines as predictions
from visor_jax.evals.answered.figure import Answered
from visor_jax.evals.answered.lines import Line
from visor_jax.evals.benchmarks.mme import PERCEPTION
from visor_jax.evals.tables.cells import Row
from visor_jax.evals.tables.definition import Definition
from visor_jax.evals.tables.find_table import find_table

# Names of the tasks there, by benchmark.
TASKS = {
    **{name: f"{name}_val" for name in ("docvqa", "infovqa", "textvqa", "vqav2")},
    **{"vizwiz": "vizwiz_vqa_val", "mmmu": "mmmu_val", "seed": "seedbench"},
    **{"scienceqa": "scienceqa_img", "mmbench": "mmbench_en_dev_static"},
    "mathvista": "mathvista_testmini_format",
}
# Of a document that is None, which is what lmms-eval 0.7.3 makes it of.
_DOC_HASH = hashlib.sha256(b"null").hexdigest()
_OPTIONS = "ABCDE"
# Their references are a list, however many there are.
_LISTED = ("docvqa", "infovqa", "ocrbench")
# Pictures, and what only belongs to them.
_HEAVY = ("image", "decoded_image", *(f"image_{n}" for n in range(1, 8)))


def file_name(definition: Definition) -> str:
    """Returns the end of the name that lmms-eval gives such a file."""
    return f"samples_{TASKS.get(definition.name, definition.name)}.jsonl"


def content(definition: Definition, lines: Sequence[Line], data: Path) -> bytes:
    """Returns the lines of these predictions, in the order of the documents.

    Args:
      data: folder with the files that they were asked from.

    Raises:
      ValueError: if these are not there, or predictions are of no row of them.
    """
    left = {line["id"]: line for line in lines}
    found = []
    for number, row, question_id in _rows(definition, data):
        if question_id in left:
            found.append(sample(definition, left.pop(question_id), row, number))
    if left:
        raise ValueError(
            f"{definition.name}: {len(left)} of {len(lines)} predictions are of no row "
            f"in {data} ({next(iter(left))!r} is one): give the --data that was asked."
        )
    texts = (json.dumps(each, ensure_ascii=False) + "\n" for each in found)
    return "".join(texts).encode(errors="backslashreplace")


def sample(definition: Definition, line: Line, row: Row, number: int) -> Line:
    """Returns lmms-eval's line of a prediction about the document of this number."""
    answered = predictions.answered_of(line, definition)
    said = answered.answer or ""
    filtered = answered.parsed or "" if definition.name == "ai2d" else said
    counts = None
    if answered.answer is not None:
        read = line["text_tokens"] + line["image_tokens"]
        counts = {"input_tokens": read, "output_tokens": line["new_tokens"]}
    is_scored = not math.isnan(answered.score)
    of_metrics = _METRICS.get(definition.name, _exact_match)
    return {
        "doc_id": number,
        "target": _target(definition, answered),
        **({} if filtered == said else {"resps": [said]}),
        "filtered_resps": filtered,
        "token_counts": [counts],
        "doc_hash": _DOC_HASH,
        **(of_metrics(answered, row) if is_scored else {}),
        "input": line["prompt"],
        "score": answered.score if is_scored else None,
    }


def _rows(definition: Definition, data: Path) -> Iterator[tuple[int, Row, str]]:
    """Yields (number, row, id) of every question; rows without their pictures."""
    table = find_table(definition, data)
    # Of ScienceQA the picture says whether a row is asked.
    read = [name for name in table.columns if name not in _HEAVY[1:]]
    for number, row in enumerate(table.rows(read)):
        question = definition.read(row, number)
        if question is not None:
            yield number, row, question.id


def _target(definition: Definition, answered: Answered) -> str:
    references = answered.question.references
    if definition.name in _LISTED or len(references) > 1:
        return str(list(references))
    return references[0] if references else ""


def _exact_match(answered: Answered, row: Row) -> dict[str, Any]:
    del row
    return {"exact_match": answered.score}


def _anls(answered: Answered, row: Row) -> dict[str, Any]:
    del row
    return {"anls": answered.score}


def _chartqa(answered: Answered, row: Row) -> dict[str, Any]:
    del row
    half = "human" if answered.question.category == "human_test" else "augmented"
    score = answered.score
    return {"relaxed_overall": score, f"relaxed_{half}_split": score}


def _ocrbench(answered: Answered, row: Row) -> dict[str, Any]:
    found = {
        "question_type": answered.question.category,
        "score": int(answered.score),
        "prediction": (answered.answer or "").strip(),
        "ground_truth": row["answer"],
    }
    return {"ocrbench_accuracy": found}


def _pope(answered: Answered, row: Row) -> dict[str, Any]:
    found = {
        "question_id": row.get("question_id", answered.question.id),
        "score": answered.score,
        "prediction": (answered.answer or "").lower().strip(),
        "ground_truth": answered.question.references[0],
    }
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    return {f"pope_{name}": found for name in names}


def _mme(answered: Answered, row: Row) -> dict[str, Any]:
    category = answered.question.category
    kind = "perception" if category in PERCEPTION else "cognition"
    found = {
        "question_id": row.get("question_id", answered.question.group),
        "category": category,
        "score": answered.score,
    }
    return {f"mme_{kind}_score": found}


def _mmbench(answered: Answered, row: Row) -> dict[str, Any]:
    names = ("hint", "source", "split", "category", "L2-category")
    found = {
        **{name: row.get(name) for name in ("index", "question", "answer")},
        "prediction": (answered.answer or "").strip(),
        **{name: row.get(name) for name in names},
        **{letter: row.get(letter, "nan") for letter in _OPTIONS},
    }
    return {"gpt_eval_score": found}


def _mmstar(answered: Answered, row: Row) -> dict[str, Any]:
    found = {
        "question_id": row["index"],
        "l2_category": answered.question.category,
        "score": answered.score,
    }
    category = row.get("category")
    return {**({} if category is None else {category: found}), "average": found}


def _seed(answered: Answered, row: Row) -> dict[str, Any]:
    found = {
        "pred": (answered.answer or "").strip()[:1],
        "answer": row["answer"],
        "question_id": row.get("question_id", answered.question.id),
    }
    return {"seed_image": found, "seed_all": found}


def _mmmu(answered: Answered, row: Row) -> dict[str, Any]:
    question, parsed = answered.question, answered.parsed
    is_open = question.kind == "open"
    found = {
        "id": row.get("id", question.id),
        "subdomain": question.category,
        "question_type": question.kind,
        "answer": row["answer"],
        "parsed_pred": [json.loads(parsed or "[]") if is_open else parsed],
    }
    return {"mmmu_acc": found}


def _mathvista(answered: Answered, row: Row) -> dict[str, Any]:
    del row
    return {"accuracy_rules": answered.score}


_METRICS: Mapping[str, Callable[[Answered, Row], dict[str, Any]]] = {
    **{"docvqa": _anls, "infovqa": _anls, "chartqa": _chartqa, "pope": _pope},
    **{"ocrbench": _ocrbench, "mme": _mme, "mmbench": _mmbench, "mmstar": _mmstar},
    **{"seed": _seed, "mmmu": _mmmu, "mathvista": _mathvista},
}
