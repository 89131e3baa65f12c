"""A line of JSON for every question: what was asked, answered, and what it cost.

    docvqa.jsonl            {"benchmark": "docvqa", "id": "49153", "prompt": "...",
                             "answer": "1998", "score": 1.0, "budget": "sa2:1,5", ...}
    docvqa.settings.json    what all lines have in common

A line holds all that scoring needs: `rescored` takes neither data nor a network.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visor_jax.evals.answered.figure import Answered
from visor_jax.evals.tables.definition import Definition
from visor_jax.evals.tables.question import Question
from visor_jax.inference.answers import Answer
from visor_jax.inference.files.answer_file import first_look_of
from visor_jax.inference.files.answer_flops import flops_of
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vlm import VLM
from visor_jax.runtime import atomic_write

Line = dict[str, Any]
_QUESTION = tuple(field.name for field in dataclasses.fields(Question))
ENDED, AT_LIMIT = "end", "limit"


def file_of(folder: Path, benchmark: str) -> Path:
    """Returns where a benchmark's lines are."""
    return folder / f"{benchmark}.jsonl"


def settings_of(file: Path) -> Path:
    """Returns where it says what all lines of a file have in common."""
    return file.with_suffix(".settings.json")


def read_settings(file: Path) -> dict[str, Any]:
    """Returns what all lines of a file have in common; {} if it does not say."""
    try:
        return dict(json.loads(settings_of(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def line_of(
    definition: Definition,
    question: Question,
    answer: Answer,
    model: VLM,
    *,
    budget: str,
    request: str,
) -> Line:
    """Returns the line of an answer, or of a request that ended in an error.

    Args:
      budget: that was asked for, "auto" too. request: its digest.
    """
    said = None if answer.error is not None else answer.text
    line = {
        "benchmark": definition.name,
        "split": definition.source.split,
        **_fields_of(question),
        "answer": said,
        **_reading(definition, question, said),
        "error": answer.error,
        "budget": budget,
        "used": None if answer.budget is None else answer.budget.name,
        "reducer": None if model.reducer == KEEP_ALL else repr(model.reducer),
        "request": request,
        **({} if answer.looked_at is None else {"looked_at": answer.looked_at}),
        **first_look_of(answer),
    }
    return line if said is None else line | _costs(answer, model, budget)


def answered_of(line: Mapping[str, Any], definition: Definition) -> Answered:
    """Returns a line's question, answer and score as they are scored now."""
    fields = {name: line[name] for name in _QUESTION}
    lists = {name: tuple(fields[name]) for name in ("references", "choices")}
    question = Question(**{**fields, **lists})
    return scored(definition, question, line["answer"])


def scored(definition: Definition, question: Question, answer: str | None) -> Answered:
    """Returns the answer with its score; None, an error, is wrong.

    Blanks about an answer never count.
    """
    parsed, score = definition.score(question, (answer or "").strip())
    if answer is None:
        # What no answer could be scored for stays so.
        parsed, score = None, score if math.isnan(score) else 0.0
    return Answered(question=question, answer=answer, parsed=parsed, score=score)


def rescored(line: Mapping[str, Any], definition: Definition) -> Line:
    """Returns the line with its reading and score as they are now."""
    answered = answered_of(line, definition)
    return {**line, **_reading(definition, answered.question, answered.answer)}


def read_lines(file: Path) -> list[Line]:
    """Returns the lines of a file; one that was only half written is none.

    Raises:
      ValueError: for a file of something else, or of two benchmarks.
      OSError: if it cannot be read.
    """
    content = file.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    found = [_line(text, f"{file}, line {n}") for n, text in enumerate(lines, 1)]
    names = sorted({line["benchmark"] for line in found})
    if len(names) != 1:
        raise ValueError(f"{file} has lines of {names or 'no benchmark'}, not of one.")
    ids = [line["id"] for line in found]
    if len(set(ids)) < len(ids):
        again = next(i for n, i in enumerate(ids) if i in ids[:n])
        raise ValueError(f"{file} answers id {again!r} more than once.")
    return found


def write_lines(file: Path, lines: Iterable[Line]) -> None:
    """Writes the lines in place of what was there, in one step."""
    texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    content = "".join(texts).encode(errors="backslashreplace")
    atomic_write.write_bytes(file, content)


def _line(text: bytes, where: str) -> Line:
    try:
        line = json.loads(text)
        lacking = {"benchmark", "answer", *_QUESTION} - set(line)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} is no line of predictions ({error}).") from error
    if lacking:
        raise ValueError(
            f"{where} is no line of predictions: it lacks {sorted(lacking)}."
        )
    return line


def _fields_of(question: Question) -> Line:
    return {name: getattr(question, name) for name in _QUESTION}


def _reading(definition: Definition, question: Question, said: str | None) -> Line:
    found = scored(definition, question, said)
    score = None if math.isnan(found.score) else found.score
    return {"parsed": found.parsed, "score": score}


def _costs(answer: Answer, model: VLM, budget: str) -> Line:
    layers = model.config.plan.num_layers
    lengths = model.reducer.image_lengths(answer.image_tokens, layers)
    flops = flops_of(answer, model)
    # Of image tokens before the LLM. A policy's choosing nobody has counted.
    selection = flops.pop("crop_selection", 0)
    ended = len(answer.tokens) <= answer.steps
    return {
        "image_tokens": answer.image_tokens,
        "image_tokens_mean": sum(lengths) / len(lengths),
        "text_tokens": answer.text_tokens,
        "new_tokens": len(answer.tokens),
        "stopped": ENDED if ended else AT_LIMIT,
        "flops": flops | {"selection": None if budget == "auto" else selection},
        "seconds": round(answer.seconds, 6),
    }
