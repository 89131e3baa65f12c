"""Many requests in a file, their answers in another: JSON lines in and out.

    {"id": "a7", "image": "page.png", "prompt": "digit row 2 column 3"}
    {"images": ["a.jpg", "b.jpg"], "prompt": "What changed?"}

become, in the order in which they are finished,

    {"id": "a7", "answer": "4", "budget": "sa1:3", "flops": {...}, "ms": 12.1, ...}
    {"id": 2, "error": "Cannot read the image 'a.jpg': there is no such file; ..."}

A line without an id is called by its number. An answer is in the file as soon as it is
known; a run that was stopped goes on with what is missing.
"""

import dataclasses
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from visor_jax.flops.account import account
from visor_jax.inference.answers import Answer
from visor_jax.inference.reader import Request
from visor_jax.models.config import VLMConfig

_FIELDS = ("id", "image", "images", "prompt")
# Texts and whole numbers; 1 and "1" are two.
Id = str | int


@dataclasses.dataclass(frozen=True)
class RequestLine:
    """One line of the input: a request, or what is wrong with the line."""

    id: Id
    request: Request | None
    error: str | None = None


def read_requests(path: Path, *, image_root: Path | None = None) -> list[RequestLine]:
    """Returns the lines of a file of requests; empty lines are none.

    Args:
      image_root: where relative paths of images begin; None for the file's folder.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is no text, empty, or ids are not unique.
    """
    root = path.parent if image_root is None else image_root
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}.") from error
    lines = [
        _request_line(text, number, root)
        for number, text in enumerate(texts, 1)
        if text.strip()
    ]
    if not lines:
        raise ValueError(f"{path} holds no request.")
    seen: set[Id] = set()
    repeated = []
    for line in lines:
        if line.id in seen:
            repeated.append(line.id)
        seen.add(line.id)
    if repeated:
        raise ValueError(f"{path}: ids {repeated[:5]} are there more than once.")
    return lines


def _request_line(text: str, number: int, root: Path) -> RequestLine:
    line_id: Id = number
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"{text:.40} is no JSON object.")
        given = fields.get("id", number)
        if isinstance(given, bool) or not isinstance(given, str | int):
            raise ValueError(f"id {given!r} is neither a text nor a whole number.")
        line_id = given
        return RequestLine(line_id, _request(fields, root))
    except (ValueError, RecursionError) as error:
        return RequestLine(line_id, None, f"line {number}: {error}")


def _request(fields: dict[str, Any], root: Path) -> Request:
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(f"unknown fields {unknown}; a request has {list(_FIELDS)}.")
    prompt = fields.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise ValueError(f"prompt {prompt!r} is neither a text nor a list of messages.")
    if "image" in fields and "images" in fields:
        raise ValueError("give image or images, not both.")
    images = fields.get("images")
    if "image" in fields:
        images = [fields["image"]]
    if images is None:
        return Request(prompt)
    if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
        raise ValueError(f"images {images!r} are no list of files.")
    return Request(prompt, [os.fspath(root / image) for image in images])


class AnswerFile:
    """Context manager that adds answers to a file, one line each, flushed at once.

    done: ids that the file has answers to. failed: how many of those are errors.
    """

    def __init__(
        self, path: Path, ids: Collection[Id], budgets: Collection[str]
    ) -> None:
        """Reads what is there; a last line that was only half written is removed.

        Args:
          ids: of all requests. budgets: names that may be in the file.

        Raises:
          ValueError: for a file of something else, of other requests or budgets.
          OSError: if it cannot be read.
        """
        self._path = path
        self.done: set[Id] = set()
        self.failed = 0
        content = path.read_bytes() if path.exists() else b""
        # Whatever has no line break at its end was being written when the run ended.
        self._kept = content.rfind(b"\n") + 1
        for number, text in enumerate(content[: self._kept].splitlines(), 1):
            self._note(number, text, ids, budgets)

    def _note(
        self, number: int, text: bytes, ids: Collection[Id], budgets: Collection[str]
    ) -> None:
        where = f"{self._path}, line {number}"
        try:
            record = json.loads(text)
            line_id = record["id"]
            known = line_id in ids
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{where} is no answer of this command: choose another output file."
            ) from error
        if not known or line_id in self.done:
            raise ValueError(
                f"{where} answers id {line_id!r}, which is not in the input or already "
                "answered: choose another output file."
            )
        budget = record.get("budget")
        if budget is not None and budget not in budgets:
            raise ValueError(
                f"{where} was answered in budget {budget!r}, now it would be "
                f"{sorted(budgets)}: choose another output file."
            )
        self.done.add(line_id)
        self.failed += "error" in record

    def __enter__(self) -> "AnswerFile":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        self._file.truncate(self._kept)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line, which survives whatever happens to the program afterwards."""
        text = json.dumps(record, ensure_ascii=False) + "\n"
        # Halves of characters, which JSON may hold, stay the escapes that they were.
        self._file.write(text.encode(errors="backslashreplace"))
        self._file.flush()
        self.done.add(record["id"])
        self.failed += "error" in record


def record_of(line_id: Id, answer: Answer, config: VLMConfig) -> dict[str, Any]:
    """Returns the line of an answer or of the request's error."""
    if answer.error is not None:
        return {"id": line_id, "error": answer.error}
    return {
        "id": line_id,
        "answer": answer.text,
        "budget": answer.budget.name,
        "flops": flops_of(answer, config),
        "ms": round(1000 * answer.seconds, 3),
        "image_reused": bool(answer.crops) and not answer.encoded,
    }


def flops_of(answer: Answer, config: VLMConfig) -> dict[str, int]:
    """Returns the FLOPs of an answer at its own lengths, by part.

    What it needs by itself, without padding; tower and projector are 0 where the image
    was at hand. Questions that were read together share more than that.
    """
    cost = account(
        config,
        answer.budget,
        text_tokens=answer.text_tokens,
        image_tokens=answer.image_tokens,
        crops=answer.crops if answer.encoded else 0,
        logit_positions=1,
    )
    contexts = range(answer.text_tokens + 1, answer.text_tokens + 1 + answer.steps)
    return {
        "tower": cost.tower.total,
        "projector": cost.projector,
        "llm_prefill": cost.llm_prefill,
        "decode": sum(cost.decode_per_token(context) for context in contexts),
    }
