"""A folder in the form of the package easy-vqa, with few pictures."""

import json
from pathlib import Path

from PIL import Image

COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200)}
# Of training pictures the last one is for choosing.
TRAIN, TEST = (0, 1, 3799, 3800), (0, 1)


def questions(image: int) -> list[tuple[str, str, int]]:
    colour = list(COLOURS)[image % 2]
    return [
        ("what color is the shape?", colour, image),
        ("what shape is present?", "rectangle", image),
        ("is there a red shape?", "yes" if colour == "red" else "no", image),
        ("is there not a red shape?", "no" if colour == "red" else "yes", image),
    ]


def write(folder: Path) -> Path:
    """Returns the folder after writing both splits."""
    for split, images in (("train", TRAIN), ("test", TEST)):
        place = folder / split / "images"
        place.mkdir(parents=True)
        for image in images:
            picture = Image.new("RGB", (64, 64), (image % 200, 90, 90))
            picture.paste(list(COLOURS.values())[image % 2], (8, 8, 30, 40))
            picture.save(place / f"{image}.png")
        asked = [question for image in images for question in questions(image)]
        (folder / split / "questions.json").write_text(json.dumps(asked))
    return folder
