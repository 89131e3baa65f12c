"""Messages through a checkpoint's own template, and which of its text was given.

A template is a program: it may trim, test or cut what it gets. So it runs twice, the
second time with marks around all texts (in private characters that nothing else has):

    <|im_start|>user\\nWhy?<|im_end|>           what counts
    <|im_start|>user\\n[Why?]<|im_end|>         what was given stands between marks

If both are the same but for the marks, they say what was given; blanks at the ends stay
outside, so that trimming finds them. If not, the template has looked at a text's very
ends or length, and what was given is known no more than as a whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from visor_jax.data.prompts.messages import Message
from visor_jax.data.prompts.piece import Piece

_PRIVATE = range(0xF0000, 0xFFFFE)
# What templates compare with words of their own.
_NAMES = ("role", "type")


class Turn(Protocol):
    """A message with a list of parts, and the pieces of its texts."""

    message: Message
    texts: list[list[Piece]]


def render(turns: Sequence[Turn], template: str, generation: bool) -> list[Piece]:
    """Returns the pieces of the prompt. Raises ValueError as `chat_template.render`."""
    messages = [dict(turn.message) for turn in turns]
    text = _rendered(messages, template, generation)
    given = _texts_of(messages)
    opening, closing = _marks("".join([template, text, *given]))
    marked = _Marker(opening, closing).marked(turns)
    try:
        pieces = _taken_apart(_rendered(marked, template, generation), opening, closing)
    except ValueError:
        pieces = []
    if "".join(piece.text for piece in pieces) == text:
        return pieces
    return [Piece(text, given=tuple(given))]


def _rendered(messages: list[Message], template: str, generation: bool) -> str:
    """Renders as transformers does, in a sandbox."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        (text,), _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=generation
        )
    except Exception as error:  # Templates raise what they like.
        raise ValueError(
            "The checkpoint's chat template cannot render these messages: "
            f"{error!s:.200}."
        ) from error
    return text


def _texts_of(value: Any, name: str = "") -> list[str]:
    """Returns all texts in messages, whatever they are called."""
    if isinstance(value, str):
        return [] if name in _NAMES else [value]
    if isinstance(value, Mapping):
        return [t for key, each in value.items() for t in _texts_of(each, key)]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _texts_of(each)]
    return []


def _marks(text: str) -> tuple[str, str]:
    """Returns two characters that stand nowhere in the text."""
    used = set(text)
    free = (chr(code) for code in _PRIVATE if chr(code) not in used)
    return next(free), next(free)


class _Marker:
    """Puts marks around what was given."""

    def __init__(self, opening: str, closing: str) -> None:
        self._opening, self._closing = opening, closing

    def marked(self, turns: Sequence[Turn]) -> list[Message]:
        """Returns the messages with all texts marked; places in them are not."""
        messages = []
        for turn in turns:
            texts = iter(turn.texts)
            content = [
                self._marked(part)
                if part["type"] != "text"
                else self._marked(part) | {"text": self._joined(next(texts))}
                for part in turn.message["content"]
            ]
            messages.append(self._marked(turn.message) | {"content": content})
        return messages

    def _joined(self, pieces: Sequence[Piece]) -> str:
        return "".join(
            self._text(piece.text) if piece.given else piece.text for piece in pieces
        )

    def _marked(self, value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            return value if name in _NAMES else self._text(value)
        if isinstance(value, Mapping):
            return {key: self._marked(each, key) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(each) for each in value]
        return value

    def _text(self, text: str) -> str:
        words = text.strip()
        if not words:
            return text
        before, _, after = text.partition(words)
        return f"{before}{self._opening}{words}{self._closing}{after}"


def _taken_apart(text: str, opening: str, closing: str) -> list[Piece]:
    """Returns the pieces of a marked text. Raises ValueError for unpaired marks."""
    pieces, first = [], True
    for part in text.split(opening):
        words, mark, rest = part.partition(closing)
        if (mark == "") is not first or closing in rest:
            raise ValueError("The marks are not in pairs.")
        if first:
            words, rest, first = "", part, False
        pieces += [Piece(words, given=True), Piece(rest)]
    return [piece for piece in pieces if piece.text]
