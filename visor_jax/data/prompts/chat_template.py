"""Chat messages as prompt text, in either of the two forms that exist.

Messages are those of Hugging Face: a role and a content, which is a text or a list of
parts {"type": "text" | "image" | "video", ...}. One question about one image:

    qwen_1_5 (the weights were trained with it)   hub (chat_template.json of the hub)
      <|im_start|>system                            <|im_start|>user <image>
      You are a helpful assistant.<|im_end|>        Why?<|im_end|><|im_start|>assistant
      <|im_start|>user
      <image>
      Why?<|im_end|>
      <|im_start|>assistant

A message with "weight": 0 is read, and has no loss in training. The text is made of
pieces, so that a loss mask can be laid over it without searching.
"""

import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

IMAGE, VIDEO = "<image>", "<video>"
START, END = "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")
SYSTEM_MESSAGE = "You are a helpful assistant."

# Where a part of a message carries its image or video, besides under its own kind.
_SOURCES = ("url", "path", "base64")

Message = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of prompt text.

    turn: whether it belongs to an assistant's turn. answer: whether it is what the
      assistant itself writes there, the token that ends the turn included. trained:
      whether anything in it may have a loss.
    """

    text: str
    turn: bool = False
    answer: bool = False
    trained: bool = True


def render(
    messages: Sequence[Message], template: str, *, generation_prompt: bool
) -> list[Piece]:
    """Returns the pieces whose texts, joined, are the prompt.

    Args:
      template: one of `TEMPLATES`, or the text of a Jinja template (one piece then, of
        which nothing is marked as an answer).
      generation_prompt: whether the assistant's turn is opened at the end.

    Raises:
      ValueError: for an unknown template, one that cannot be rendered, or messages of
        another form; every message that is wrong is named.
    """
    check_template(template)
    check_messages(messages)
    if is_jinja(template):
        return [Piece(_rendered(messages, template, generation_prompt))]
    return TEMPLATES[template](messages, generation_prompt)


def is_jinja(template: str) -> bool:
    """Returns whether this is the text of a template and not the name of one."""
    return "{%" in template or "{{" in template


def _rendered(messages: Sequence[Message], template: str, generation: bool) -> str:
    """Renders as transformers does, in a sandbox."""
    from transformers.utils.chat_template_utils import render_jinja_template

    # A text is one text part, as the processors of transformers see to.
    as_parts = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else dict(message)
        for message in messages
    ]
    try:
        (text,), _ = render_jinja_template(
            [as_parts], chat_template=template, add_generation_prompt=generation
        )
    except Exception as error:  # Templates raise what they like.
        raise ValueError(
            f"The checkpoint's chat template cannot render these messages: {error}."
        ) from error
    return text


def built_in(template: str) -> str:
    """Returns the name of the built-in template that writes the same, else itself."""
    for name in TEMPLATES:
        if all(_same(probe, template, name) for probe in _PROBES):
            return name
    return template


def _same(messages: Sequence[Message], jinja: str, name: str) -> bool:
    try:
        found = _rendered(messages, jinja, True)
    except ValueError:
        return False
    return found == "".join(piece.text for piece in TEMPLATES[name](messages, True))


def _parts_of(*texts: str, images: int = 0, videos: int = 0) -> list[Message]:
    kinds = ["image"] * images + ["video"] * videos
    return [{"type": kind} for kind in kinds] + [
        {"type": "text", "text": text} for text in texts
    ]


# Conversations on which two templates that differ anywhere should differ.
_PROBES: tuple[list[Message], ...] = (
    [{"role": "user", "content": _parts_of("a", images=1)}],
    [{"role": "user", "content": _parts_of("a", "b", images=2, videos=1)}],
    [
        {"role": "system", "content": _parts_of("s")},
        {"role": "user", "content": _parts_of("a", images=1)},
        {"role": "assistant", "content": _parts_of("b")},
        {"role": "user", "content": _parts_of("c")},
    ],
)


def check_template(template: str) -> None:
    """Raises ValueError unless this is a template's name or a Jinja template."""
    if template not in TEMPLATES and not is_jinja(template):
        raise ValueError(
            f"Unknown chat template {template!r}: choose one of {sorted(TEMPLATES)}."
        )


def check_messages(messages: Sequence[Message]) -> None:
    """Raises ValueError unless these are messages of the form at the top."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(
            "A conversation is a list of messages like {'role': 'user', 'content': "
            f"'...'}}, at least one; got {messages!r:.80}."
        )
    problems = []
    for i, message in enumerate(messages):
        problem = _problem_of(message)
        if problem:
            problems.append(f"message {i}: {problem}")
    if problems:
        raise ValueError(f"Not a conversation: {'; '.join(problems)}.")


def _problem_of(message: Any) -> str | None:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        return f"needs 'role' and 'content', got {message!r:.80}"
    if message["role"] not in ROLES:
        return f"role {message['role']!r} is not one of {ROLES}"
    content = message["content"]
    if isinstance(content, str):
        return None
    if not isinstance(content, list | tuple):
        return f"content is a {type(content).__name__}, not a text or a list of parts"
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "image", "video"):
            return f"part {part!r:.80} has no type 'text', 'image' or 'video'"
        if kind == "text" and not isinstance(part.get("text"), str):
            return f"text part {part!r:.80} has no 'text'"
    return None


def media(messages: Sequence[Message], kind: str) -> list[Any]:
    """Returns the images or videos that the messages carry, in the prompt's order.

    A part carries one under its own kind, "path", "url" (of a file) or "base64" (which
    comes back as bytes). Parts that only hold a place carry none.

    Args:
      kind: "image" or "video".

    Raises:
      ValueError: if some parts of that kind carry something and others do not, or for
        what would have to be fetched from the net.
    """
    check_messages(messages)
    parts = [
        part
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == kind
    ]
    found = [source for part in parts for source in _sources(part, kind)]
    if found and len(found) != len(parts):
        raise ValueError(
            f"{len(found)} of {len(parts)} {kind} parts carry {kind}s themselves: "
            "either all do, or none and they are given beside the messages."
        )
    return found


def _sources(part: Mapping[str, Any], kind: str) -> list[Any]:
    names = (kind, *_SOURCES)
    given = {name: part[name] for name in names if part.get(name) is not None}
    if len(given) > 1:
        raise ValueError(f"A part of type {kind} gives several of {names}: choose one.")
    for name, source in given.items():
        if name == "base64":
            return [_from_base64(source, kind)]
        if isinstance(source, str):
            return [_local(source, kind)]
        return [source]
    return []


def _from_base64(text: Any, kind: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"The {kind} in base64 cannot be decoded: {error}.") from error


def _local(source: str, kind: str) -> str | bytes:
    if source.startswith(("http://", "https://")):
        raise ValueError(f"The {kind} {source!r:.80} is on the net: download it first.")
    if source.startswith("data:"):
        return _from_base64(source.partition(",")[2], kind)
    return source.removeprefix("file://")


def _parts(message: Message) -> tuple[list[str], list[str]]:
    """Returns the placeholders (images first, then videos) and texts of a message."""
    content = message["content"]
    if isinstance(content, str):
        # Its placeholders, if any, stand where its author put them.
        return [], [content]
    kinds = [part["type"] for part in content]
    places = [IMAGE] * kinds.count("image") + [VIDEO] * kinds.count("video")
    return places, [part["text"] for part in content if part["type"] == "text"]


def _turn(
    role: str, head: str, body: str, tail: str, *, weight: float = 1
) -> list[Piece]:
    own, trained = role == "assistant", weight != 0
    pieces = [
        Piece(head, own, trained=trained),
        Piece(body + END, own, own, trained),
        Piece(tail, own, trained=trained),
    ]
    return [piece for piece in pieces if piece.text]


def _qwen_1_5(messages: Sequence[Message], generation_prompt: bool) -> list[Piece]:
    """LLaVA-NeXT's conversation `qwen_1_5`: a system turn always comes first.

    Several texts of a message are joined by line breaks.
    """
    pieces = []
    if messages[0]["role"] != "system":
        pieces += _turn("system", f"{START}system\n", SYSTEM_MESSAGE, "\n")
    for message in messages:
        places, texts = _parts(message)
        body = "\n".join([*([" ".join(places)] if places else []), *texts])
        head = f"{START}{message['role']}\n"
        weight = message.get("weight", 1)
        pieces += _turn(message["role"], head, body, "\n", weight=weight)
    if generation_prompt:
        pieces.append(Piece(f"{START}assistant\n", True))
    return pieces


def _hub(messages: Sequence[Message], generation_prompt: bool) -> list[Piece]:
    """The chat template of the llava-hf checkpoints: no system turn, no line breaks.

    A content that is a text counts as one text part.
    """
    pieces = []
    for message in messages:
        places, texts = _parts(message)
        head = f"{START}{message['role']} {''.join(places)}"
        body = "".join(f"\n{text}" for text in texts)
        weight = message.get("weight", 1)
        pieces += _turn(message["role"], head, body, "", weight=weight)
    if generation_prompt:
        pieces.append(Piece(f"{START}assistant\n", True))
    return pieces


TEMPLATES: dict[str, Callable[[Sequence[Message], bool], list[Piece]]] = {
    "qwen_1_5": _qwen_1_5,
    "hub": _hub,
}
