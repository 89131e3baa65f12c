"""The pictures of a request in a file: where they lie, and whether they are the same.

Paths are relative to one folder, that of the input unless told, be they in "image",
"images", "video", "videos" or in the parts of messages.
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visor_jax.data.images.image_source import from_url
from visor_jax.data.prompts.messages import Message, read_messages, source_field

_CHUNK_BYTES = 1 << 20


def absolute(source: str, root: Path) -> str:
    """Returns the path of a file, absolute; data URIs and URLs as they are."""
    try:
        path = from_url(source, "the image")
    except ValueError:
        # It is said when the request is read, as of any other.
        return source
    if isinstance(path, bytes):
        return source
    # The same file is the same wherever the command is started.
    return os.path.abspath(root / path)


def absolute_video(video: str | list[str], root: Path) -> str | list[str]:
    """Returns a video, a file or the list of its frames, with absolute paths."""
    if isinstance(video, str):
        return absolute(video, root)
    return [absolute(frame, root) for frame in video]


def with_absolute_parts(prompt: Any, root: Path) -> Any:
    """Returns a prompt in whose messages all paths are absolute."""
    if isinstance(prompt, str):
        return prompt
    try:
        return [_absolute_message(m, root) for m in read_messages(prompt)]
    except ValueError:
        return prompt  # As above.


def _absolute_message(message: Message, root: Path) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": [_absolute_part(part, root) for part in content]}


def _absolute_part(part: Mapping[str, Any], root: Path) -> Mapping[str, Any]:
    name = None if part["type"] == "text" else source_field(part, part["type"])
    if name in (None, "base64"):
        return part
    source = part[name]
    if isinstance(source, str):
        return {**part, name: absolute(source, root)}
    if isinstance(source, list):  # The frames of a video.
        frames = [absolute(f, root) if isinstance(f, str) else f for f in source]
        return {**part, name: frames}
    return part


def files_of(
    prompt: Any,
    images: Sequence[str] | None,
    videos: Sequence[str | list[str]] | None = None,
) -> tuple[str, ...]:
    """Returns the paths of all pictures, after `absolute` and `with_absolute_parts`."""
    found = list(images or ())
    for video in videos or ():
        found += [video] if isinstance(video, str) else video
    for message in () if isinstance(prompt, str) else prompt:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in ("image", "video"):
                for name in ("image", "video", "url", "path"):
                    value = part.get(name)
                    found += value if isinstance(value, list) else [value]
    return tuple(f for f in found if isinstance(f, str) and os.path.isabs(f))


def digest_of(files: Sequence[str]) -> str | None:
    """Returns 16 hexadecimal digits of the files' contents.

    None if there are none, or one cannot be read. Reads each file once as long as it
    stays as it is.
    """
    if not files:
        return None
    whole = hashlib.blake2b(digest_size=8)
    try:
        for file in files:
            state = os.stat(file)
            whole.update(_content_digest(file, state.st_size, state.st_mtime_ns))
    except (OSError, ValueError):
        return None
    return whole.hexdigest()


@functools.lru_cache(maxsize=2**16)
def _content_digest(file: str, size: int, changed: int) -> bytes:
    del size, changed
    if not os.path.isfile(file):
        raise OSError  # A pipe could wait for ever.
    found = hashlib.blake2b(digest_size=16)
    with open(file, "rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.digest()
