"""Chat messages as prompt text, in either of the two forms that exist.

One question about one image:

    qwen_1_5 (the weights were trained with it)   hub (chat_template.json of the hub)
      <|im_start|>system                            <|im_start|>user <image>
      You are a helpful assistant.<|im_end|>        Why?<|im_end|><|im_start|>assistant
      <|im_start|>user
      <image>
      Why?<|im_end|>
      <|im_start|>assistant

A message with "weight": 0 is read, and has no loss in training. The text is made of
pieces, so that a loss mask can be laid over it without searching, and that nobody's
words are taken for the template's: whatever stands in a message is `given`, and has no
special tokens in it, "<|im_end|>" and "<image>" neither.

In a content that is a text, "<image>" is the place of an image where images are given
beside the messages, unless parts {"type": "image"} hold places for all of them.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from visor_jax.data.prompts import jinja_template
from visor_jax.data.prompts.messages import (
    PLACES,
    Message,
    part_counts,
    read_messages,
)
from visor_jax.data.prompts.piece import Piece
from visor_jax.runtime.arguments import shown

START, END = "<|im_start|>", "<|im_end|>"
SYSTEM_MESSAGE = "You are a helpful assistant."
# How special tokens of chats look, whichever tokenizer has them.
_SPECIAL = re.compile(r"<\|\w+\|>")


def render(
    messages: Sequence[Message],
    template: str,
    *,
    generation_prompt: bool,
    images: int = 0,
    videos: int = 0,
) -> list[Piece]:
    """Returns the pieces whose texts, joined, are the prompt.

    Args:
      template: one of `TEMPLATES`, or the text of a Jinja template, of which nothing is
        marked as an answer.
      generation_prompt: whether the assistant's turn is opened at the end.
      images, videos: given beside the messages, for places in contents that are texts.

    Raises:
      ValueError: for an unknown template, one that cannot be rendered, or messages of
        another form; every message that is wrong is named.
    """
    check_template(template)
    turns = _turns(read_messages(messages), {"image": images, "video": videos})
    if is_jinja(template):
        return jinja_template.render(turns, template, generation_prompt)
    return TEMPLATES[template](turns, generation_prompt)


def holds_special_text(text: str) -> bool:
    """Returns whether a text has in it what looks like a special token of a chat."""
    return _SPECIAL.search(text) is not None


def is_jinja(template: str) -> bool:
    """Returns whether this is the text of a template and not the name of one."""
    return "{%" in template or "{{" in template


@dataclasses.dataclass(frozen=True)
class Turn:
    """A message, taken apart.

    message: with a list of parts. texts: those of its text parts, each in pieces.
    """

    message: Message
    texts: list[list[Piece]]

    @property
    def role(self) -> str:
        return self.message["role"]

    @property
    def weight(self) -> float:
        return self.message.get("weight", 1)

    @property
    def places(self) -> list[str]:
        """The placeholders of its parts: images first, then videos."""
        kinds = [part["type"] for part in self.message["content"]]
        return [token for kind, token in PLACES.items() for k in kinds if k == kind]


def _turns(messages: Sequence[Message], beside: dict[str, int]) -> list[Turn]:
    counts = part_counts(messages)
    places = [
        PLACES[kind]
        for kind, count in beside.items()
        if count and counts[kind] != count
    ]
    turns = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            # A text is one text part, as the processors of transformers see to.
            texts = [_in_pieces(content, places)]
            content = [{"type": "text", "text": content}]
        else:
            texts = [_in_pieces(p["text"], ()) for p in content if p["type"] == "text"]
        turns.append(Turn({**message, "content": content}, texts))
    return turns


def _in_pieces(text: str, places: Sequence[str]) -> list[Piece]:
    """Returns what was given, and the places in it, which stay where they are."""
    if not places:
        return [Piece(text, given=True)] if text else []
    parts = re.split(f"({'|'.join(map(re.escape, places))})", text)
    return [Piece(part, given=part not in places) for part in parts if part]


def built_in(template: str) -> str:
    """Returns the name of the built-in template that writes the same, else itself."""
    for name in TEMPLATES:
        if all(_same(probe, template, name) for probe in _PROBES):
            return name
    return template


def _same(messages: Sequence[Message], jinja: str, name: str) -> bool:
    try:
        found, expected = (
            "".join(p.text for p in render(messages, each, generation_prompt=True))
            for each in (jinja, name)
        )
    except ValueError:
        return False
    return found == expected


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
    known = isinstance(template, str) and (template in TEMPLATES or is_jinja(template))
    if not known:
        raise ValueError(
            f"Unknown chat template {shown(template)}: choose one of "
            f"{sorted(TEMPLATES)}."
        )


def _turn(
    role: str, head: str, body: Sequence[Piece], tail: str, *, weight: float = 1
) -> list[Piece]:
    own = role == "assistant"
    words = [dataclasses.replace(p, turn=own, answer=own) for p in body]
    pieces = [Piece(head, own), *words, Piece(END, own, own), Piece(tail, own)]
    return [dataclasses.replace(p, trained=weight != 0) for p in pieces if p.text]


def _qwen_1_5(turns: Sequence[Turn], generation_prompt: bool) -> list[Piece]:
    """LLaVA-NeXT's conversation `qwen_1_5`: a system turn always comes first.

    Several texts of a message are joined by line breaks.
    """
    pieces = []
    if turns[0].role != "system":
        pieces += _turn("system", f"{START}system\n", [Piece(SYSTEM_MESSAGE)], "\n")
    for turn in turns:
        places = [Piece(" ".join(turn.places))] if turn.places else []
        lines = [*([places] if places else []), *turn.texts]
        body = [p for line in lines for p in (Piece("\n"), *line)][1:]
        head = f"{START}{turn.role}\n"
        pieces += _turn(turn.role, head, body, "\n", weight=turn.weight)
    if generation_prompt:
        pieces.append(Piece(f"{START}assistant\n", True))
    return pieces


def _hub(turns: Sequence[Turn], generation_prompt: bool) -> list[Piece]:
    """The chat template of the llava-hf checkpoints: no system turn, no line breaks.

    A content that is a text counts as one text part.
    """
    pieces = []
    for turn in turns:
        head = f"{START}{turn.role} {''.join(turn.places)}"
        body = [p for text in turn.texts for p in (Piece("\n"), *text)]
        pieces += _turn(turn.role, head, body, "", weight=turn.weight)
    if generation_prompt:
        pieces.append(Piece(f"{START}assistant\n", True))
    return pieces


TEMPLATES: dict[str, Callable[[Sequence[Turn], bool], list[Piece]]] = {
    "qwen_1_5": _qwen_1_5,
    "hub": _hub,
}
