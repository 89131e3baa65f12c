"""easy-VQA (Zhou 2019): one coloured shape on a small picture, and questions on it.

The package `easy-vqa` has them as files; nothing of it is run. 4,000 + 1,000 pictures
of 64 pixels, none twice, 38,575 + 9,673 questions, 107 of them distinct, 13 answers:

    data/train/questions.json    [["what color is the shape?", "blue", 0], ...]
    data/train/images/0.png      and the same below data/test
"""

import collections
import dataclasses
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from visor_jax.runtime.arguments import shown

TRAIN, DEV, TEST = "train", "dev", "test"
YES_NO, NEGATED, COLOUR, SHAPE = "yes_no", "negated", "colour", "shape"
KINDS = (YES_NO, NEGATED, COLOUR, SHAPE)
SHAPES = ("circle", "rectangle", "triangle")
# Of the training pictures: from this number on they are for choosing, and for what is
# trained behind a network; not for networks.
FIRST_OF_DEV = 3800
_FOLDER_OF = {TRAIN: TRAIN, DEV: TRAIN, TEST: TEST}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EasyQuestion:
    """One question. id: file, line. image: its picture's number. kind: of `KINDS`."""

    id: str
    text: str
    answer: str
    image: int
    kind: str


def package_data() -> Path:
    """Returns the data folder of the installed package.

    Raises:
      ValueError: if it is not installed.
    """
    found = importlib.util.find_spec("easy_vqa")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            "The package easy-vqa is not installed: pip install -e '.[easy-vqa]'."
        )
    return Path(found.submodule_search_locations[0]) / "data"


def kind_of(question: str, answer: str) -> str:
    """Returns what kind of question it is."""
    if answer in ("yes", "no"):
        words = f" {question} "
        return NEGATED if " not " in words or " no " in words else YES_NO
    return SHAPE if answer in SHAPES else COLOUR


def read_split(data: Path, split: str) -> list[EasyQuestion]:
    """Returns the questions of a split, in the order of the file.

    "train" and "dev" part the training pictures, so that nothing is chosen on the test.

    Raises:
      ValueError: for files of another form. OSError: if they are not there.
    """
    folder = _FOLDER_OF[split]
    file = data / folder / "questions.json"
    try:
        entries = json.loads(file.read_text())
        found = [_question(folder, n, *entry) for n, entry in enumerate(entries)]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} has no questions of easy-vqa: {error}.") from error
    if split == TEST:
        return found
    return [each for each in found if (each.image >= FIRST_OF_DEV) is (split == DEV)]


def _question(
    folder: str, number: int, text: str, answer: str, image: int
) -> EasyQuestion:
    return EasyQuestion(
        id=f"{folder}-{number}",
        text=text,
        answer=answer,
        image=int(image),
        kind=kind_of(text, answer),
    )


def picture_of(data: Path, split: str, image: int) -> Path:
    """Returns the file of a picture. Raises ValueError if it is not there."""
    file = data / _FOLDER_OF[split] / "images" / f"{image}.png"
    if not file.is_file():
        raise ValueError(f"{shown(str(file))} is not there: install easy-vqa again.")
    return file


def blind_answers(train: Iterable[EasyQuestion]) -> dict[str, str]:
    """Returns {question: what most training answers to it are}; of equals the first.

    What answers by counting alone, without a look at any picture.
    """
    counts: dict[str, collections.Counter[str]] = {}
    for each in train:
        counts.setdefault(each.text, collections.Counter())[each.answer] += 1
    return {text: count.most_common(1)[0][0] for text, count in counts.items()}


def accuracy_by_kind(
    answers: Mapping[str, str], asked: Sequence[EasyQuestion]
) -> dict[str, float]:
    """Returns {"all" and kinds: share of right answers}, answers by question.

    A question without an answer is wrong; kinds that are not asked are left out.
    """
    right = [answers.get(each.text) == each.answer for each in asked]
    found = {"all": sum(right) / max(len(right), 1)}
    for kind in KINDS:
        mine = [r for r, each in zip(right, asked, strict=True) if each.kind == kind]
        if mine:
            found[kind] = sum(mine) / len(mine)
    return found
