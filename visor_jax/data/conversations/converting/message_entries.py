"""Entries whose conversation is messages of parts, as those of LLaVA's form.

    {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
        {"type": "text", "text": "Why?"}]}, {"role": "assistant", "content": "So."}]}

is {"image": [bytes], "conversations": [{"role": "user", "content": "<image>\\nWhy?"},
...]}: places first, then the texts, as the chat template of the training has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from visor_jax.data.prompts.messages import PLACES, Message, media, read_messages


def conversation_of(entry: Mapping[str, Any]) -> Any:
    """Returns what an entry has as its turns, "conversations" before "messages"."""
    said = entry.get("conversations")
    return entry.get("messages") if said is None else said


def has_parts(entry: Mapping[str, Any]) -> bool:
    """Returns whether a turn of the entry is a list of parts."""
    said = conversation_of(entry)
    return isinstance(said, list) and any(
        isinstance(turn, Mapping) and isinstance(turn.get("content"), list)
        for turn in said
    )


def without_parts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry in LLaVA's form.

    Raises:
      ValueError: for messages of another form, images both in them and beside them, or
        a video.
    """
    messages = read_messages(_without_nulls(conversation_of(entry)))
    if media(messages, "video"):
        raise ValueError("a video is in the messages")
    changed = {**entry, "conversations": [_turn(each) for each in messages]}
    carried = media(messages, "image")
    beside = entry.get("image") is not None or entry.get("images") is not None
    if carried and beside:
        raise ValueError("images are in the messages and beside them")
    if carried:
        changed |= {"image": carried, "images": None}
    return changed


def _without_nulls(messages: Any) -> Any:
    """Returns messages without the fields that a table fills with null.

    Of rows that differ in their fields, parquet files have the same for all.
    """
    if isinstance(messages, Mapping):
        return {k: _without_nulls(v) for k, v in messages.items() if v is not None}
    if isinstance(messages, list):
        return [_without_nulls(each) for each in messages]
    return messages


def _turn(message: Message) -> Message:
    content = message["content"]
    return (
        message
        if isinstance(content, str)
        else {**message, "content": _joined(content)}
    )


def _joined(parts: Sequence[Mapping[str, Any]]) -> str:
    kinds = [part["type"] for part in parts]
    places = [token for kind, token in PLACES.items() for k in kinds if k == kind]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n".join([*([" ".join(places)] if places else []), *texts])
