"""The same as `made_up_rows` of benchmarks whose questions have options."""

from collections.abc import Callable

from tests.evals.benchmarks.made_up_rows import SHORT, Row, image_cell, picture_of

LETTER = "\nAnswer with the option's letter from the given choices directly."


def _options(number: int) -> list[str]:
    return [f"thing {number}{word}" for word in ("x", "y", "z", "w")]


def _lines(number: int) -> str:
    a, b, c, d = _options(number)
    return f"A. {a}\nB. {b}\nC. {c}\nD. {d}"


def _columns(number: int) -> dict[str, str]:
    return dict(zip("ABCD", _options(number), strict=True))


def _letter(number: int, count: int = 4) -> str:
    return "ABCDEFGH"[number % count]


def _scienceqa(n: int) -> Row:
    hint = "" if n % 3 else f"Look at {n}."
    before = "" if n % 3 else f"Context: Look at {n}.\n"
    return Row(
        {
            **{"question": f"Which one {n}?", "choices": _options(n)},
            **{"answer": n % 4, "hint": hint},
        },
        {
            **{"question": f"Which one {n}?", **_columns(n)},
            **{"answer": _letter(n), "hint": hint},
        },
        f"{before}Which one {n}?\n{_lines(n)}{LETTER}",
        f"{_letter(n)}. the one",
    )


def _mmbench(n: int) -> Row:
    # Ten questions, each in two rotations.
    index, hint = picture_of(n) + 1_000_000 * (n // 10), "nan" if n % 3 else f"H{n}"
    said = "" if n % 3 else f"H{n} "
    three = _options(n)[:3]
    both = {
        **{"question": f"Which {n}?", "hint": hint, "answer": _letter(n, 3)},
        **{"A": three[0], "B": three[1], "C": three[2], "D": "nan"},
    }
    lines = f"A. {three[0]}\nB. {three[1]}\nC. {three[2]}"
    return Row(
        {"index": str(index), "L2-category": f"k{picture_of(n) % 3}", **both},
        {"index": str(index), "l2-category": f"k{picture_of(n) % 3}", **both},
        f"{said}Which {n}? There are several options:\n{lines}\n{LETTER}",
        three[n % 3].upper(),
    )


def _ai2d(n: int) -> Row:
    return Row(
        {"question": f"What is {n}?", "options": _options(n), "answer": str(n % 4)},
        {"question": f"What is {n}?", **_columns(n), "answer": _letter(n)},
        f"What is {n}?\n{_lines(n)}{LETTER}",
        f"{_letter(n)}. that",
    )


def _realworldqa(n: int) -> Row:
    right = ("C", "2")[n % 2]
    both = {"question": f" What now, {n}?\n\nA. a\nB. b\nC. c ", "answer": right}
    return Row(both, both, f"What now, {n}?\n\nA. a\nB. b\nC. c", ("(C)", "2.")[n % 2])


def _mmstar(n: int) -> Row:
    a, b, c, d = _options(n)
    category = f"kind {n % 5}"
    return Row(
        {
            **{"index": n, "answer": _letter(n), "l2_category": category},
            "question": f"Which {n}?\nOptions: A: {a}, B: {b}, C: {c}, D: {d}",
        },
        {
            **{"question": f"Which {n}?", **_columns(n)},
            **{"answer": _letter(n), "l2_category": category},
        },
        f"Which {n}?\nOptions: A: {a}, B: {b}, C: {c}, D: {d}{LETTER.rstrip('.')}",
        f"The answer is {_letter(n)}.",
    )


def _seed(n: int) -> Row:
    choices = {f"choice_{k}": t for k, t in zip("abcd", _options(n), strict=True)}
    return Row(
        {
            **{"question_id": str(n), "question": f"Which {n}?", **choices},
            **{"answer": _letter(n), "data_type": "image", "image": [image_cell(n)]},
        },
        {"question": f"Which {n}?", **_columns(n), "answer": _letter(n)},
        f"Which {n}?\n{_lines(n)}{LETTER}",
        f"{_letter(n).lower()}. perhaps",
    )


def _mmmu(n: int) -> Row:
    is_choice = n % 4 != 0
    question = f"See <image 1> and say {n}."
    pictures = {f"image_{k}": None for k in range(2, 8)} | {"image_1": image_cell(n)}
    choices = _options(n) if is_choice else []
    hub = {
        **{"id": f"validation_Art_{n}", "question": question, **pictures},
        **{"options": repr(choices), "answer": _letter(n) if is_choice else "12"},
        "question_type": "multiple-choice" if is_choice else "open",
    }
    columns = _columns(n) if is_choice else dict.fromkeys("ABCD", "")
    table = {
        **{"id": f"validation_Art_{n}", "question": question, **columns},
        **{"answer": hub["answer"], "split": "validation"},
        "question_type": hub["question_type"],
    }
    tail = f"\n{_lines(n)}\n{LETTER}" if is_choice else f"\n{SHORT}"
    right = f"({_letter(n)})" if is_choice else "The answer is 12."
    return Row(hub, table, f"{question}{tail}", right)


# Of the data set's queries, which VLMEvalKit's table has as questions.
_HINTS = (
    "Please answer the question and provide the correct option letter, e.g., A, B, C, "
    "D, at the end.",
    "Please answer the question requiring an integer answer and provide the final "
    "value, e.g., 1, 2, 3, at the end.",
    "Please answer the question requiring a floating-point number with one decimal "
    "place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.",
    "Please answer the question requiring a floating-point number with two decimal "
    "places and provide the final value, e.g., 1.23, 1.34, 1.45, at the end.",
    "Please answer the question requiring a Python list as an answer and provide the "
    "final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
)


def _mathvista(n: int) -> Row:
    kinds = [
        ("multi_choice", "text", None, _options(n), _options(n)[1], "B"),
        ("free_form", "integer", None, None, "14", "about 14.7"),
        ("free_form", "float", 1.0, None, "1.2", "it is 1.23"),
        ("free_form", "float", 2.0, None, "1.25", "1.25"),
        ("free_form", "list", None, None, "[1, 2]", "[1, 2]"),
    ]
    sentences = [
        LETTER[1:],
        "Answer the question using a single integer number.",
        "Answer the question using a single floating-point number with one decimal "
        "place.",
        "Answer the question using a single floating-point number with two decimal "
        "places.",
        "Answer the question using a Python list.",
    ]
    question_type, answer_type, precision, choices, answer, right = kinds[n % 5]
    unit = "m" if n % 2 else None
    hub = {
        **{"pid": str(n), "question": f"How far {n}?", "decoded_image": image_cell(n)},
        **{"choices": choices, "unit": unit, "precision": precision},
        **{"question_type": question_type, "answer_type": answer_type},
        "answer": answer,
    }
    lines = f"\n{_lines(n)}" if choices else ""
    said = " (Unit: m)" if n % 2 else ""
    query = f"Hint: {_HINTS[n % 5]}\nQuestion: How far {n}?{said}"
    if choices:
        query += "\nChoices:\n" + "\n".join(f"(A) {each}" for each in choices)
    table = {
        **{"question": query, "question_type": question_type, "answer": answer},
        **{"answer_type": answer_type, "choices": repr(choices or [])},
    }
    return Row(hub, table, f"How far {n}?{said}{lines}\n{sentences[n % 5]}", right)


MAKERS: dict[str, Callable[[int], Row]] = {
    **{"scienceqa": _scienceqa, "mmbench": _mmbench, "ai2d": _ai2d, "seed": _seed},
    **{"mmstar": _mmstar, "realworldqa": _realworldqa, "mmmu": _mmmu},
    "mathvista": _mathvista,
}
