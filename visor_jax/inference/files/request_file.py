"""Requests in a file of JSON lines.

    {"id": "a7", "image": "page.png", "prompt": "digit row 2 column 3"}
    {"images": ["a.jpg", "b.jpg"], "prompt": "What changed?"}
    {"prompt": "Tell a story.", "budget": "sa1:3", "max_new_tokens": 64, "seed": 7,
     "sampling": {"temperature": 0.7, "top_p": 0.9}, "stop": ["\\n\\n"]}

What a line says of its answer (`AnswerOptions`) goes before what is said of all. A line
without an id is called by its number, one that cannot be read "line 3".
"""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from visor_jax.data.prompts.answer_options import AnswerOptions
from visor_jax.data.prompts.request import Request

_OPTIONS = tuple(field.name for field in dataclasses.fields(AnswerOptions))
_FIELDS = ("id", "image", "images", "prompt", *_OPTIONS)
# Texts and whole numbers; 1 and "1" are two.
Id = str | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestEntry:
    """One line of the input: a request, or what is wrong with the line.

    digest: tells its request from every other one; an answer keeps it.
    """

    id: Id
    digest: str
    request: Request | None = None
    error: str | None = None


def read_requests(path: Path, *, image_root: Path | None = None) -> list[RequestEntry]:
    """Returns the lines of a file of requests; empty lines are none.

    A byte order mark at the beginning is no part of the first line. The random draws
    of a request depend on the number of its line alone.

    Args:
      image_root: where relative paths of images begin; None for the file's folder.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is no text, empty, or ids are not unique.
    """
    root = path.parent if image_root is None else image_root
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}.") from error
    numbered = {number: text for number, text in enumerate(texts, 1) if text.strip()}
    if not numbered:
        raise ValueError(f"{path} holds no request.")
    parsed = {n: _parsed(text, n, root) for n, text in numbered.items()}
    counts = collections.Counter(i for i, _, _ in parsed.values() if i is not None)
    repeated = [line_id for line_id, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{path}: ids {repeated[:5]} are there more than once (a line without an "
            "id is called by its number): give every line an id of its own, or none."
        )
    return [
        RequestEntry(
            id=_free_name(number, counts) if line_id is None else line_id,
            digest=_digest(numbered[number] if request is None else request),
            request=request,
            error=error,
        )
        for number, (line_id, request, error) in parsed.items()
    ]


def _parsed(
    text: str, number: int, root: Path
) -> tuple[Id | None, Request | None, str | None]:
    """Returns a line's id, if it says one, its request, and what is wrong with it."""
    line_id = None
    try:
        fields = _fields(text, number)
        line_id = fields["id"]
        return line_id, _request(fields, number, root), None
    except (ValueError, RecursionError) as error:
        return line_id, None, f"line {number}: {error}"


def _free_name(number: int, taken: Container[Id]) -> str:
    """Returns the name of a line that cannot be read, which is no other line's."""
    name = f"line {number}"
    while name in taken:
        name += "'"
    return name


def _fields(text: str, number: int) -> dict[str, Any]:
    """Returns the fields of a line, an id among them."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError(f"{text:.40} is no JSON object.")
    given = fields.setdefault("id", number)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"id {given!r} is neither a text nor a whole number.")
    return fields


def _request(fields: dict[str, Any], number: int, root: Path) -> Request:
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
    if images is not None:
        if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
            raise ValueError(f"images {images!r} are no list of files.")
        # Absolute: the same file is the same wherever the command is started.
        images = [os.path.abspath(root / image) for image in images]
    said = {name: fields[name] for name in _OPTIONS if name in fields}
    options = AnswerOptions.of_dict(said)
    return Request(prompt, images, draw=number, options=options)


def _digest(content: Request | str) -> str:
    """Returns 16 hexadecimal digits that tell a request, or a line, from others."""
    if isinstance(content, Request):
        parts = [content.prompt, content.images]
        if said := content.options.to_dict():
            # Where nothing is said, as before there was anything to say.
            parts.append(said)
        content = json.dumps(parts, sort_keys=True)
    # Halves of characters, which JSON may hold, are no UTF-8.
    text = content.encode(errors="backslashreplace")
    return hashlib.blake2b(text, digest_size=8).hexdigest()
