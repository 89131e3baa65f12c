"""Chat messages: the forms that are read, and the pictures that they carry.

Messages are those of Hugging Face: a role and a content, which is a text or a list of
parts {"type": "text" | "image" | "video", ...}. Parts of OpenAI's interfaces say the
same and are read as theirs:

    {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}
    {"type": "input_image", "image_url": "data:..."}         {"type": "image", ...}
    {"type": "input_text" | "output_text", "text": "Why?"}   {"type": "text", ...}
    {"type": "video_url", "video_url": {"url": "..."}}       {"type": "video", ...}

How many crops an image gets follows from its size: their "detail" changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.data.images.image_source import from_base64, from_url
from visor_jax.data.images.url_fetching import Fetch
from visor_jax.runtime.arguments import shown

IMAGE, VIDEO = "<image>", "<video>"
PLACES = {"image": IMAGE, "video": VIDEO}
ROLES = ("system", "user", "assistant")

# Where a part of a message carries its image or video, besides under its own kind.
_SOURCES = ("url", "path", "base64")
_KINDS = {
    **{"text": "text", "input_text": "text", "output_text": "text"},
    **{"image": "image", "image_url": "image", "input_image": "image"},
    **{"video": "video", "video_url": "video"},
}

Message = Mapping[str, Any]


def read_messages(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages in Hugging Face's form, whichever they came in.

    Raises:
      ValueError: for messages of another form than those at the top; every message that
        is wrong is named.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(
            "A conversation is a list of messages like {'role': 'user', 'content': "
            f"'...'}}, at least one; got {shown(messages)}."
        )
    problems, found = [], []
    for i, message in enumerate(messages):
        try:
            found.append(_read(message))
        except ValueError as error:
            problems.append(f"message {i}: {error}")
    if problems:
        raise ValueError(f"Not a conversation: {'; '.join(problems)}.")
    return found


def _read(message: Any) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise ValueError(f"needs 'role' and 'content', got {shown(message)}")
    if message["role"] not in ROLES:
        raise ValueError(f"role {shown(message['role'])} is not one of {ROLES}")
    content = message["content"]
    if isinstance(content, str):
        return message
    if not isinstance(content, list | tuple):
        raise ValueError(
            f"content is a {type(content).__name__}, not a text or a list of parts"
        )
    return {**message, "content": [_read_part(part) for part in content]}


def _read_part(part: Any) -> Mapping[str, Any]:
    given = part.get("type") if isinstance(part, Mapping) else None
    kind = _KINDS.get(given) if isinstance(given, str) else None
    if kind is None:
        raise ValueError(f"part {shown(part)} has no type 'text', 'image' or 'video'")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise ValueError(f"text part {shown(part)} has no 'text'")
    if given in ("image_url", "input_image", "video_url"):
        field = f"{kind}_url"
        url = part.get(field)
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str) or not url:
            raise ValueError(
                f"part {shown(part)} has no text as its {field!r}: give the {kind} "
                "as a data URI or the path of a file"
            )
        return {"type": kind, "url": url}
    return part if given == kind else {**part, "type": kind}


def part_counts(messages: Sequence[Message]) -> dict[str, int]:
    """Returns how many parts of each kind there are, of messages that were read."""
    counts = {"text": 0, "image": 0, "video": 0}
    for message in messages:
        if not isinstance(message["content"], str):
            for part in message["content"]:
                counts[part["type"]] += 1
    return counts


def media(
    messages: Sequence[Message], kind: str, *, fetch: Fetch | None = None
) -> list[Any]:
    """Returns the images or videos that the messages carry, in the prompt's order.

    A part carries one under its own kind, "path", "url" (a file, a data URI, http) or
    "base64" (which comes back as bytes). Parts that only hold a place carry none.

    Args:
      kind: "image" or "video".
      fetch: gets what lies behind http and https; None to refuse such URLs.

    Raises:
      ValueError: for messages of another form; if some parts of that kind carry
        something and others do not; or for what is not fetched from the net.
    """
    parts = [
        part
        for message in read_messages(messages)
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == kind
    ]
    found = [source for part in parts for source in _sources(part, kind, fetch)]
    if found and len(found) != len(parts):
        raise ValueError(
            f"{len(found)} of {len(parts)} {kind} parts carry {kind}s themselves: "
            "either all do, or none and they are given beside the messages."
        )
    return found


def _sources(part: Mapping[str, Any], kind: str, fetch: Fetch | None) -> list[Any]:
    name = source_field(part, kind)
    if name is None:
        return []
    source = part[name]
    if name == "base64":
        return [from_base64(source, f"The {kind} in base64")]
    if isinstance(source, str):
        return [from_url(source, f"the {kind}", fetch)]
    return [source]


def source_field(part: Mapping[str, Any], kind: str) -> str | None:
    """Returns under which name a part carries its image or video, None if it has none.

    Raises:
      ValueError: if there are several.
    """
    names = (kind, *_SOURCES)
    given = [name for name in names if part.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f"A part of type {kind} gives several of {names}: choose one.")
    return given[0] if given else None
