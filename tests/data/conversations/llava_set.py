"""Draws a data set in LLaVA's format: JSON, PNG and JPEG, some entries broken.

    python -m tests.data.conversations.llava_set DIR 20000

Entry i is a pure function of (seed, i). The questions can be learned: the colour of a
picture, or a word that the text itself contains.
"""

import collections
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
# Height and width: wide, tall, square, small, and one that has too many tiles.
SIZES = ((60, 90), (120, 50), (80, 80), (20, 24), (240, 300))
# Of thumbnails, for measurements.
LARGE = ((240, 320), (320, 240), (224, 224), (384, 512))
_BLOCK = 8
# Of every BROKEN_EVERY entries one is broken, each time in the next of these ways.
BROKEN_EVERY = 50
BREAKS = (
    *("video", "no conversation", "wrong alternation", "empty conversation"),
    *("image places", "missing image", "broken image", "not an object"),
    *("image outside", "turn weight"),
)


def entries(
    count: int,
    *,
    seed: int = 0,
    broken: bool = True,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Iterator[tuple[Any, dict[str, bytes], str | None]]:
    """Yields (entry, {file: content}, what is wrong with it) of a data set.

    Args:
      sizes: (height, width) of pictures.
    """
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        entry, files = _entry(number, rng, sizes)
        wrong = None
        if broken and number % BROKEN_EVERY == BROKEN_EVERY - 1:
            wrong = BREAKS[number // BROKEN_EVERY % len(BREAKS)]
            entry, files = _break(wrong, entry, files, number)
        yield entry, files, wrong


def write_set(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    broken: bool = True,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> collections.Counter[str]:
    """Returns how many entries are wrong in which way, after writing the data set.

    The folder then holds train.json and images/.
    """
    wrong: collections.Counter[str] = collections.Counter()
    listed = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for entry, files, why in entries(count, seed=seed, broken=broken, sizes=sizes):
        listed.append(entry)
        for name, content in files.items():
            (folder / "images" / name).write_bytes(content)
        if why is not None:
            wrong[why] += 1
    (folder / "train.json").write_text(json.dumps(listed))
    return wrong


def _entry(
    number: int, rng: np.random.Generator, sizes: Sequence[tuple[int, int]]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    # Of ten entries six have one picture, two have two, two have none.
    pictures = (1, 1, 1, 2, 0, 1, 1, 2, 0, 1)[number % 10]
    names = [str(c) for c in rng.choice(list(COLOURS), size=max(pictures, 1))]
    files = {
        f"{number:06d}_{i}.{('png', 'jpg')[(number + i) % 2]}": _picture(
            COLOURS[names[i]], (number + i) % 2, rng, sizes
        )
        for i in range(pictures)
    }
    if pictures:
        question = "<image>\n" * pictures + "What colour is it?"
    else:
        question = f"Say {names[0]}."
    turns = [("human", question), ("gpt", " and ".join(names))]
    if number % 3 == 0:
        turns += [("human", "Sure?"), ("gpt", "Yes.")]
    entry: dict[str, Any] = {
        "id": f"sample-{number}",
        "data_source": "drawn",
        "conversations": [{"from": role, "value": text} for role, text in turns],
    }
    if pictures:
        entry["image"] = list(files) if pictures > 1 else next(iter(files))
    return entry, files


def _picture(
    colour: tuple[int, int, int],
    jpeg: int,
    rng: np.random.Generator,
    sizes: Sequence[tuple[int, int]],
) -> bytes:
    height, width = sizes[rng.integers(len(sizes))]
    # In blocks, so that a PNG is as large as a picture's and not as noise's.
    noise = rng.integers(-25, 25, (-(-height // _BLOCK), -(-width // _BLOCK), 1))
    noise = noise.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[:height, :width]
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, "JPEG" if jpeg else "PNG")
    return content.getvalue()


def _break(
    wrong: str, entry: dict[str, Any], files: dict[str, bytes], number: int
) -> tuple[Any, dict[str, bytes]]:
    name = f"broken_{number:06d}.png"
    # Always about one picture, so that nothing else is wrong.
    entry = {
        **entry,
        "image": name,
        "conversations": [
            {"from": "human", "value": "<image>\nWhy?"},
            {"from": "gpt", "value": "So."},
        ],
    }
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "PNG")
    whole = {name: content.getvalue()}
    turns = entry["conversations"]
    if wrong == "video":
        del entry["image"]
        return entry | {"video": "a.mp4"}, {}
    if wrong == "no conversation":
        return entry | {"conversations": []}, whole
    if wrong == "wrong alternation":
        return entry | {"conversations": [turns[0], turns[0], turns[1]]}, whole
    if wrong == "empty conversation":
        return entry | {"conversations": [turns[0], turns[1] | {"value": " "}]}, whole
    if wrong == "image places":
        return entry | {"conversations": [turns[0] | {"value": "Why?"}, turns[1]]}, (
            whole
        )
    if wrong == "image outside":
        return entry | {"image": f"../images/../{name}"}, whole
    if wrong == "turn weight":
        return entry | {"conversations": [turns[0], turns[1] | {"weight": 0.5}]}, whole
    if wrong == "missing image":
        return entry, {}
    if wrong == "broken image":
        return entry, {name: whole[name][: len(whole[name]) // 2]}
    return f"entry {number} is a text", {}


if __name__ == "__main__":
    print(dict(write_set(Path(sys.argv[1]), int(sys.argv[2]), sizes=LARGE)))
