"""Requests in a file of JSON lines.

    {"id": "a7", "image": "page.png", "prompt": "digit row 2 column 3"}
    {"images": ["a.jpg", "b.jpg"], "prompt": "What changed?"}
    {"video": "clip.mp4", "prompt": "What happens?"}
    {"messages": [{"role": "user", "content": [
        {"type": "image", "path": "a.jpg"}, {"type": "text", "text": "Why?"}]}]}
    {"prompt": "Tell a story.", "budget": "sa1:3", "max_new_tokens": 64, "seed": 7,
     "sampling": {"temperature": 0.7, "top_p": 0.9}, "stop": ["\\n\\n"]}
    {"image": "page.png", "prompt": "ring", "budget": "auto", "cost": 2.0}

(each on one line). Messages may stand under "prompt" too, in every form that
`data.prompts.messages` reads; null is as if a field were not there. What a line says of
its answer (`AnswerOptions`) goes before what is said of all. A line without an id is
called by its number, one that cannot be read "line 3".
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
from visor_jax.inference.files.picture_files import (
    absolute,
    absolute_video,
    files_of,
    with_absolute_parts,
)
from visor_jax.runtime.arguments import shown

_OPTIONS = tuple(field.name for field in dataclasses.fields(AnswerOptions))
_MEDIA = ("image", "images", "video", "videos")
_FIELDS = ("id", *_MEDIA, "prompt", "messages", *_OPTIONS)
# Texts and whole numbers; 1 and "1" are two.
Id = str | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestEntry:
    """One line of the input: a request, or what is wrong with the line.

    digest: tells its request from every other one; an answer keeps it. pictures: the
    files of its images and videos.
    """

    id: Id
    digest: str
    request: Request | None = None
    error: str | None = None
    pictures: tuple[str, ...] = ()


def read_requests(path: Path, *, image_root: Path | None = None) -> list[RequestEntry]:
    """Returns the lines of a file of requests; empty lines are none.

    A byte order mark at the beginning is no part of the first line. The random draws
    of a request depend on the number of its line alone.

    Args:
      image_root: where relative paths of images begin, in messages too; None for the
        file's folder.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is no text, empty, or ids are not unique.
    """
    root = path.parent if image_root is None else image_root
    try:
        # A carriage return is a blank of JSON, and ends a line only beside a line feed.
        texts = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}.") from error
    numbered = {number: text for number, text in enumerate(texts, 1) if text.strip()}
    if not numbered:
        raise ValueError(f"{path} holds no request.")
    parsed = {n: _parsed(text, n, root) for n, text in numbered.items()}
    ids = (line.id for line in parsed.values())
    counts = collections.Counter(i for i in ids if i is not None)
    repeated = [line_id for line_id, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{path}: ids {repeated[:5]} are there more than once (a line without an "
            "id is called by its number): give every line an id of its own, or none."
        )
    return [
        line
        if line.id is not None
        else dataclasses.replace(line, id=_free_name(number, counts))
        for number, line in parsed.items()
    ]


def _parsed(text: str, number: int, root: Path) -> RequestEntry:
    """Returns a line, without an id where it cannot be read so far."""
    line_id = None
    try:
        fields = _fields(text, number)
        line_id = fields["id"]
        return _entry(fields, number, root)
    except (ValueError, RecursionError) as error:
        why = f"line {number}: {str(error) or type(error).__name__}"
        return RequestEntry(id=line_id, digest=_digest(text), error=why)


def _free_name(number: int, taken: Container[Id]) -> str:
    """Returns the name of a line that cannot be read, which is no other line's."""
    name = f"line {number}"
    while name in taken:
        name += "'"
    return name


def _fields(text: str, number: int) -> dict[str, Any]:
    """Returns the fields of a line, an id among them."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"broken JSON ({error.msg}, column {error.colno}): {shown(text.strip())}."
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(f'{shown(fields)} is no JSON object: write {{"prompt": ...}}.')
    given = fields.setdefault("id", number)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"id {shown(given)} is neither a text nor a whole number.")
    return fields


def _entry(fields: dict[str, Any], number: int, root: Path) -> RequestEntry:
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(
            f"unknown fields {shown(unknown)}; a request has {list(_FIELDS)}."
        )
    given = {name: value for name, value in fields.items() if value is not None}
    for one, other in (_MEDIA[:2], _MEDIA[2:], ("prompt", "messages")):
        if one in given and other in given:
            raise ValueError(f"give {one} or {other}, not both.")
    prompt = given.get("prompt", given.get("messages"))
    if not isinstance(prompt, str | list) or not prompt:
        raise ValueError(
            f"prompt {shown(prompt)} is neither a text nor a list of messages."
        )
    images = [given["image"]] if "image" in given else given.get("images")
    if images is not None and not _is_list_of_texts(images):
        raise ValueError(f"images {shown(images)} are no list of files.")
    videos = [given["video"]] if "video" in given else given.get("videos")
    if videos is not None and not _is_list_of_videos(videos):
        raise ValueError(
            f"videos {shown(videos)} are no list of files, or of lists of their frames."
        )
    # What answers were called by before paths in messages were those of the file.
    named = images and [os.path.abspath(root / image) for image in images]
    images = images and [absolute(image, root) for image in images]
    videos = videos and [absolute_video(video, root) for video in videos]
    asked = with_absolute_parts(prompt, root)
    said = {name: given[name] for name in _OPTIONS if name in given}
    options = AnswerOptions.of_dict(said)
    # Where nothing is said of the answer, as before there was anything to say.
    parts = [prompt, named, *([options.to_dict()] if said else [])]
    parts += [{"videos": videos}] if videos else []
    return RequestEntry(
        id=fields["id"],
        digest=_digest(json.dumps(parts, sort_keys=True)),
        request=Request(asked, images, videos, draw=number, options=options),
        pictures=files_of(asked, images, videos),
    )


def _digest(content: str) -> str:
    """Returns 16 hexadecimal digits that tell a request, or a line, from others."""
    # Halves of characters, which JSON may hold, are no UTF-8.
    text = content.encode(errors="backslashreplace")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_list_of_videos(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, str) or (each and _is_list_of_texts(each)) for each in value
    )
