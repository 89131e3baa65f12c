"""A question of every known benchmark by its number, as files would hold it.

Rows of the hub and of VLMEvalKit's table, and beside them what is to come of them: the
prompt, written out from the benchmarks' description, and a right answer. Two questions
share a picture; their rows stand ten apart.
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

from PIL import Image

SHORT = "\nAnswer the question using a single word or phrase."
NO_WORD = (
    "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A question in both forms; `table` is None where VLMEvalKit's says too little."""

    hub: dict[str, Any]
    table: dict[str, str] | None
    prompt: str
    right: str


@functools.cache
def picture(number: int) -> bytes:
    """Returns a small PNG that no other number has."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 255 - number)).save(content, "PNG")
    return content.getvalue()


def picture_of(number: int) -> int:
    return number % 10


def image_cell(number: int) -> dict[str, Any]:
    return {"bytes": picture(picture_of(number)), "path": None}


def _document(n: int) -> Row:
    question, answers = f"What Is number {n}? ", [f"it is {n}", f"Number {n}"]
    return Row(
        {"questionId": str(n), "question": question, "answers": answers, "docId": 7},
        {"question": question, "answer": repr(answers)},
        f"What Is number {n}? {SHORT}",
        f"NUMBER  {n}",
    )


def _chartqa(n: int) -> Row:
    half = ("human", "augmented")[n % 2]
    question = f"How many in {2000 + n}?"
    return Row(
        {"type": f"{half}_test", "question": question, "answer": str(100 + n)},
        {"split": f"test_{half}", "question": question, "answer": str(100 + n)},
        f"How many in {2000 + n}?\nAnswer the question with a single word.",
        str(103 + n),
    )


def _ocrbench(n: int) -> Row:
    kinds = (
        ("IIIT5K", "Regular Text Recognition"),
        ("HME100k", "Handwritten Mathematical Expression Recognition"),
    )
    dataset, kind = kinds[n % 2]
    answers = [f"W {n}"]
    return Row(
        {
            **{"dataset": dataset, "question": f" what is written {n}? "},
            **{"question_type": kind, "answer": answers},
        },
        {
            **{"question": f" what is written {n}? "},
            **{"category": kind, "answer": repr(answers)},
        },
        f"what is written {n}?",
        f"it says W {n}.",
    )


def _ten(n: int) -> list[str]:
    return [f"Sort {n}"] * 6 + ["other"] * 4


def _textvqa(n: int) -> Row:
    return Row(
        {"question_id": n, "question": f"is IBM here {n}", "answers": _ten(n)},
        {"question": f"is IBM here {n}", "answer": repr(_ten(n))},
        f"Is ibm here {n}{SHORT}",
        f"sort {n}",
    )


def _vqav2(n: int) -> Row:
    records = [{"answer": a, "answer_id": i + 1} for i, a in enumerate(_ten(n))]
    return Row(
        {"question_id": n, "question": f"Is IBM here {n}?", "answers": records},
        {"question": f"Is IBM here {n}?", "answer": repr(_ten(n))},
        f"Is IBM here {n}?{SHORT}",
        f"The sort {n}.",
    )


def _vizwiz(n: int) -> Row:
    category = ("other", "unanswerable")[n % 2]
    question, prompt = f"what Is this {n}", f"What is this {n}{NO_WORD}{SHORT}"
    return Row(
        {
            **{"question_id": f"VizWiz_{n}.jpg", "question": question},
            **{"answers": _ten(n), "category": category},
        },
        {"question": question, "answer": repr(_ten(n)), "category": category},
        prompt,
        f"sort {n}",
    )


def _gqa(n: int) -> Row:
    return Row(
        {
            **{"id": f"20{n}", "imageId": f"n{picture_of(n)}"},
            **{"question": f"Who is it, {n}?", "answer": f"boy{n}"},
        },
        {"question": f"Who is it, {n}?", "answer": f"boy{n}"},
        f"Who is it, {n}?{SHORT}",
        f"Boy{n}.",
    )


def _pope(n: int) -> Row:
    category = ("adversarial", "popular", "random")[n % 3]
    # Numbered alike in every category.
    return Row(
        {
            **{"question_id": str(n // 3), "question": f"Is there a {n}? "},
            **{"answer": ("yes", "no")[n % 2], "category": category},
            **{"image_source": f"COCO_{picture_of(n)}"},
        },
        {
            **{"question": f"Is there a {n}? ", "category": category},
            **{"answer": ("Yes", "No")[n % 2]},
        },
        f"Is there a {n}?{SHORT}",
        ("Yes", "no")[n % 2],
    )


def _mme(n: int) -> Row:
    category = ("existence", "code_reasoning")[picture_of(n) % 2]
    question = f"Is this {n}? Please answer yes or no."
    both = {"question": question, "category": category}
    return Row(
        {
            **{"question_id": f"{picture_of(n)}.png", **both},
            **{"answer": ("Yes", "No")[n // 10]},
        },
        {**both, "answer": ("Yes", "No")[n // 10]},
        f"Is this {n}?{SHORT}",
        ("Yes.", "No.")[n // 10],
    )


def _easy_vqa(n: int) -> Row:
    cells = {
        **{"index": f"test-{n}", "image_id": picture_of(n)},
        **{"category": ("colour", "shape")[n % 2], "question": f"what is {n}?"},
        "answer": f"thing {n}",
    }
    table = {name: str(cell) for name, cell in cells.items()}
    return Row(cells, table, f"what is {n}?{SHORT}", f"Thing {n}.")


MAKERS: dict[str, Callable[[int], Row]] = {
    **{"docvqa": _document, "infovqa": _document, "chartqa": _chartqa},
    **{"ocrbench": _ocrbench, "textvqa": _textvqa, "vqav2": _vqav2},
    **{"vizwiz": _vizwiz, "gqa": _gqa, "pope": _pope, "mme": _mme},
    **{"easy_vqa": _easy_vqa, "easy_vqa_dev": _easy_vqa},
}
