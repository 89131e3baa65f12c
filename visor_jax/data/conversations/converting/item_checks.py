"""From an entry of a LLaVA-style source to a raw sample, or the reason why not.

An entry is what the JSON files and the parquet folders have in common:

    {"id": "7", "image": "a.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhy?"},
        {"from": "gpt", "value": "Because."}]}

"image" is a file below the image folder, bytes, a data URI, {"bytes": ..., "path":
...}, a list of those, or absent; null is absent. A file that lies elsewhere, by its
name or through a link, is refused: whoever wrote the entries would choose what of this
machine becomes data. The conversation may be "messages", with images in their parts
(`message_entries`). A turn may say "weight": 0 or "train": false, as formats of
fine-tuning do: it is read and not trained. What a network could not be trained on is
refused here, once, and not in the middle of a run.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visor_jax.data.conversations.converting.message_entries import (
    conversation_of,
    has_parts,
    without_parts,
)
from visor_jax.data.conversations.converting.sources import BrokenLine
from visor_jax.data.conversations.raw_sample import (
    Conversation,
    RawSample,
    image_digest,
)
from visor_jax.data.images.image_source import from_url
from visor_jax.data.images.read_image import MAX_PIXELS, read_image
from visor_jax.data.prompts.messages import IMAGE, VIDEO
from visor_jax.runtime.arguments import shown

# Names of the roles in the sources there are.
_ROLES = {
    **{"human": "user", "user": "user"},
    **{"gpt": "assistant", "assistant": "assistant"},
    "system": "system",
}
REASONS = (
    *("broken JSON", "not an object", "video", "no conversation", "wrong alternation"),
    *("empty conversation", "image places", "missing image", "broken image"),
    *("image outside", "turn weight"),
)


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What files of images are named from.

    allow_outside: whether a name or a link may lead out of it.
    """

    path: Path
    allow_outside: bool = False


class BadItemError(ValueError):
    """An entry that cannot be a sample; `reason` is one of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_item(item: Any, image_folder: ImageFolder | None) -> RawSample:
    """Returns the raw sample of an entry, every image of it decoded once to be sure.

    Args:
      image_folder: None if no entry names a file.

    Raises:
      BadItemError: for an entry that cannot be trained on.
    """
    if isinstance(item, BrokenLine):
        raise BadItemError("broken JSON", f"{item.why}: {shown(item.text.strip())}")
    if not isinstance(item, Mapping):
        raise BadItemError("not an object", shown(item))
    if item.get("video") is not None:
        raise BadItemError("video", shown(item["video"]))
    if has_parts(item):
        try:
            item = without_parts(item)
        except ValueError as error:
            raise BadItemError("no conversation", str(error)) from error
    turns = _turns(item)
    image = item.get("image")
    given = _image_list(item.get("images") if image is None else image)
    _check_places(turns, len(given))
    images = tuple(_image_bytes(image, image_folder) for image in given)
    return RawSample(
        conversation=Conversation(
            id=_text(item.get("id")),
            source=_text(item.get("data_source")),
            turns=tuple((turn.role, turn.text) for turn in turns),
            untrained=tuple(i for i, turn in enumerate(turns) if not turn.trained),
            image_sizes=tuple(_size(image, len(images)) for image in images),
            image_digests=tuple(map(image_digest, images)),
        ),
        images=images,
    )


@dataclasses.dataclass(frozen=True)
class _Turn:
    role: str
    text: str
    trained: bool


def _turns(item: Mapping[str, Any]) -> tuple[_Turn, ...]:
    """Returns every turn that LLaVA reads.

    An assistant's turn before the first of the user is left out, as LLaVA does.
    """
    said = conversation_of(item)
    if not isinstance(said, list) or not said:
        raise BadItemError("no conversation", f"conversations={shown(said)}")
    turns = [_turn(each) for each in said]
    start = 1 if turns[0].role in ("assistant", "system") else 0
    system = turns[:start] if turns[0].role == "system" else []
    turns = turns[start:]
    roles = [turn.role for turn in turns]
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if roles != expected or len(turns) % 2 or not turns:
        raise BadItemError("wrong alternation", f"roles {roles}")
    answers = [turn for turn in turns if turn.role == "assistant"]
    if not any(turn.text.strip() for turn in answers):
        raise BadItemError("empty conversation", "no answer has any text")
    if not any(turn.text.strip() for turn in answers if turn.trained):
        raise BadItemError("turn weight", "no answer is to be trained")
    return (*system, *turns)


def _turn(turn: Any) -> _Turn:
    if not isinstance(turn, Mapping):
        raise BadItemError("no conversation", f"turn {shown(turn)}")
    role = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    known = isinstance(role, str) and role in _ROLES
    if not known or not isinstance(text, str):
        raise BadItemError("no conversation", f"turn {shown(dict(turn))}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadItemError("no conversation", f"no Unicode: {error}") from error
    return _Turn(_ROLES[role], text, _trained(turn))


def _trained(turn: Mapping[str, Any]) -> bool:
    """Returns whether a turn has a loss, as far as it says so itself.

    "weight" is that of OpenAI's and Mistral's chat formats, where it is 0 or 1, "train"
    that of Axolotl's. Parquet fills what a turn does not say with null.
    """
    weight, train = turn.get("weight"), turn.get("train")
    if weight is not None and weight not in (0, 1):
        raise BadItemError(
            "turn weight", f"weight={weight!r:.40}: a turn is trained (1) or not (0)"
        )
    if train is not None and not isinstance(train, bool):
        raise BadItemError("turn weight", f"train={train!r:.40} is not true or false")
    return weight != 0 and train is not False


def _check_places(turns: tuple[_Turn, ...], images: int) -> None:
    places = sum(turn.text.count(IMAGE) for turn in turns)
    if any(VIDEO in turn.text for turn in turns):
        raise BadItemError("video", f"{VIDEO} stands in the text")
    if places != images:
        raise BadItemError("image places", f"{places} places for {images} images")


def _image_list(field: Any) -> list[Any]:
    if field is None:
        return []
    return list(field) if isinstance(field, list | tuple) else [field]


def _image_bytes(image: Any, folder: ImageFolder | None) -> bytes:
    if isinstance(image, Mapping):
        content = image.get("bytes")
        image = image.get("path") if content is None else content
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str) or not image:
        raise BadItemError("missing image", f"{shown(image)} is no file and no bytes")
    try:
        image = from_url(image, "the image")
    except ValueError as error:
        raise BadItemError("missing image", str(error)) from error
    if isinstance(image, bytes):
        return image
    if folder is None:
        raise BadItemError("missing image", f"{shown(image)}: no image folder is given")
    try:
        file = _inside(image, folder)
        # Reading a pipe could wait for ever.
        if not file.is_file():
            raise BadItemError("missing image", f"{shown(image)}: no such file")
        return file.read_bytes()
    except (OSError, RuntimeError) as error:
        # Links in a circle are a RuntimeError to some versions of Python.
        why = f"{shown(image)}: {getattr(error, 'strerror', None) or error}"
        raise BadItemError("missing image", why) from error


def _inside(image: str, folder: ImageFolder) -> Path:
    """Returns the file that is read, all links resolved; a new link changes nothing."""
    try:
        file = (folder.path / image).resolve()
    except ValueError as error:
        raise BadItemError("missing image", f"{shown(image)}: {error}") from error
    if not folder.allow_outside and not file.is_relative_to(folder.path.resolve()):
        raise BadItemError(
            "image outside",
            f"{shown(image)} is {file}, which is not below {folder.path}: "
            "--allow_outside reads such files all the same",
        )
    return file


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
