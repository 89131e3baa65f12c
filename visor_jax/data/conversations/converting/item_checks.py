"""From an entry of a LLaVA-style source to a raw sample, or the reason why not.

An entry is what the JSON files and the parquet folders have in common:

    {"id": "7", "image": "a.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhy?"},
        {"from": "gpt", "value": "Because."}]}

"image" is a file below the image folder, bytes, {"bytes": ..., "path": ...}, a list of
those, or absent. What a network could not be trained on is refused here, once, and not
in the middle of a run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.data.conversations.raw_sample import (
    Conversation,
    RawSample,
    image_digest,
)
from visor_jax.data.images.read_image import MAX_PIXELS, read_image
from visor_jax.data.prompts.messages import IMAGE, VIDEO

# Names of the roles in the sources there are.
_ROLES = {
    **{"human": "user", "user": "user"},
    **{"gpt": "assistant", "assistant": "assistant"},
    "system": "system",
}
REASONS = (
    *("not an object", "video", "no conversation", "wrong alternation"),
    *("empty conversation", "image places", "missing image", "broken image"),
)


class BadItemError(ValueError):
    """An entry that cannot be a sample; `reason` is one of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_item(item: Any, image_folder: Path | None) -> RawSample:
    """Returns the raw sample of an entry, every image of it decoded once to be sure.

    Args:
      image_folder: what the files of images are named from; None if there are none.

    Raises:
      BadItemError: for an entry that cannot be trained on.
    """
    if not isinstance(item, Mapping):
        raise BadItemError("not an object", f"{item!r:.120}")
    if item.get("video") is not None:
        raise BadItemError("video", f"{item['video']!r:.120}")
    turns = _turns(item)
    given = _image_list(item.get("image", item.get("images")))
    _check_places(turns, len(given))
    images = tuple(_image_bytes(image, image_folder) for image in given)
    return RawSample(
        conversation=Conversation(
            id=_text(item.get("id")),
            source=_text(item.get("data_source")),
            turns=turns,
            image_sizes=tuple(_size(image, len(images)) for image in images),
            image_digests=tuple(map(image_digest, images)),
        ),
        images=images,
    )


def _turns(item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns (role, text) of every turn that LLaVA trains on.

    An assistant's turn before the first of the user is left out, as LLaVA does.
    """
    said = item.get("conversations")
    if not isinstance(said, list) or not said:
        raise BadItemError("no conversation", f"conversations={said!r:.120}")
    turns = [_turn(each) for each in said]
    start = 1 if turns[0][0] in ("assistant", "system") else 0
    system = turns[:start] if turns[0][0] == "system" else []
    turns = turns[start:]
    roles = [role for role, _ in turns]
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if roles != expected or len(turns) % 2 or not turns:
        raise BadItemError("wrong alternation", f"roles {[r for r, _ in turns]}")
    if not any(text.strip() for role, text in turns if role == "assistant"):
        raise BadItemError("empty conversation", "no answer has any text")
    return (*system, *turns)


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise BadItemError("no conversation", f"turn {turn!r:.120}")
    role = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    known = isinstance(role, str) and role in _ROLES
    if not known or not isinstance(text, str):
        raise BadItemError("no conversation", f"turn {dict(turn)!r:.120}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadItemError("no conversation", f"no Unicode: {error}") from error
    return _ROLES[role], text


def _check_places(turns: tuple[tuple[str, str], ...], images: int) -> None:
    places = sum(text.count(IMAGE) for _, text in turns)
    if any(VIDEO in text for _, text in turns):
        raise BadItemError("video", f"{VIDEO} stands in the text")
    if places != images:
        raise BadItemError("image places", f"{places} places for {images} images")


def _image_list(field: Any) -> list[Any]:
    if field is None:
        return []
    return list(field) if isinstance(field, list | tuple) else [field]


def _image_bytes(image: Any, folder: Path | None) -> bytes:
    if isinstance(image, Mapping):
        content = image.get("bytes")
        image = image.get("path") if content is None else content
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image:
        raise BadItemError("missing image", f"{image!r:.120} is no file and no bytes")
    if folder is None:
        raise BadItemError("missing image", f"{image!r:.120}: no image folder is given")
    try:
        # Reading a pipe could wait for ever.
        if not (folder / image).is_file():
            raise BadItemError("missing image", f"{image!r:.120}: no such file")
        return (folder / image).read_bytes()
    except OSError as error:
        why = f"{image!r:.120}: {error.strerror}"
        raise BadItemError("missing image", why) from error


def _size(image: bytes, images: int) -> tuple[int, int]:
    try:
        height, width = read_image(image).shape[:2]
    except ValueError as error:
        raise BadItemError("broken image", str(error)) from error
    # One of several is padded to a square.
    if images > 1 and max(height, width) ** 2 > MAX_PIXELS:
        raise BadItemError(
            "broken image", f"{width} x {height}: its square is too large"
        )
    return height, width


def _text(value: Any) -> str:
    # An id that is no text in Unicode could not be written down.
    return "" if value is None else str(value).encode(errors="replace").decode()
