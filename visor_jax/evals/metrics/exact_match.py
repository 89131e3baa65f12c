"""Exact match: an answer is right if it says the reference, whatever its case and dots.

The rule is `exact_match` of lmms-eval with `ignore_case` and `ignore_punctuation`, as
its task GQA (Hudson and Manning 2019) asks for it. Its details count:

    answer     reference   score
    "Yes."     "yes"       1      case and ASCII punctuation do not matter
    "the car"  "car"       0      articles do
    "T-shirt"  "tshirt"    1      punctuation goes without leaving a blank
    "T-shirt"  "t shirt"   0      blanks do
    "two"      "2"         0      numbers are not read
"""

import string
from collections.abc import Iterable

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, references: Iterable[str]) -> float:
    """Returns 1.0 if the answer equals one of the references, 0.0 otherwise.

    Compared are lower-cased texts without the ASCII punctuation. Blanks around the
    answer do not count, those within do.
    """
    said = _normalised(answer.strip())
    return float(any(said == _normalised(reference) for reference in references))


def _normalised(text: str) -> str:
    return text.lower().translate(_WITHOUT_PUNCTUATION)
