"""Letters of options: five rules by which benchmarks find one in an answer.

All are lmms-eval's. They differ in what they take for a letter:

    answer      AI2D    ScienceQA   SEED   extractor
    "B"         B       B           B      B
    "b"         b       B           B      (none)
    "B. dog"    B       B           B      B
    "(B)"       text    (none)      (none) B
    "Because"   text    (none)      B      B        though nobody chose it

AI2D compares what is left by exact match. The extractor is for MMStar, RealWorldQA and
MMBench; MMMU has one of its own (`mmmu`).
"""

import re
from collections.abc import Sequence

from visor_jax.evals.metrics.exact_match import exact_match

LETTERS = "ABCDEFGH"
# Of benchmarks whose questions have no more.
FOUR = "ABCD"
_LEADING = re.compile(r"\s*([A-Z])\.")
_SIGNS_AT_ENDS = ",.!?;:'\""
_NOUNS = ("answer", "correct answer", "best answer", "correct option", "best option")
_NOUNS += ("choice", "correct choice")
# What comes before an answer. The longer ones count by themselves, since the place of a
# short one may be an earlier one.
_PHRASES = (
    *(f"{the}{noun} is" for noun in _NOUNS for the in ("the ", "")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
# By how sure a place is. {} is the letter.
_PLACES = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}
_START, _END, _PHRASE, _ANY = 10, 9, 7, 0


def ai2d_answer(answer: str) -> str:
    """Returns the capital letter and full stop that the answer begins with, or all."""
    answer = answer.strip()
    leading = _LEADING.match(answer)
    return leading[1] if leading else answer


def ai2d_score(answer: str, letter: str) -> float:
    """Returns 1.0 if the answer, or the letter that it begins with, is the letter."""
    return exact_match(ai2d_answer(answer), [letter])


def scienceqa_letter(answer: str) -> str | None:
    """Returns a letter alone, or a capital one with a full stop; None for none."""
    answer = answer.strip()
    if len(answer) == 1 and answer.upper().isalpha():
        return answer.upper()
    leading = re.match(r"([A-Z])\.", answer)
    return leading[1] if leading else None


def first_character(answer: str) -> str | None:
    """Returns the answer's first character as a capital: SEED's rule; None for none."""
    answer = answer.strip()
    return answer[0].upper() if answer else None


def extracted_letter(answer: str, letters: Sequence[str] = LETTERS) -> str | None:
    """Returns the letter whose place in the answer is the surest; None for none.

    First and last letters of an answer (no letter adjoins) go before what follows a
    phrase such as "answer is", that before "(A)", "A.", "A:", "A)" and "A ". A letter
    anywhere counts if there is nothing else. Of equal places the last is taken.
    """
    text = answer.strip()
    for sign in _SIGNS_AT_ENDS:
        text = text.strip(sign)
    padded, bare = f" {text} ", text.strip()
    found: list[tuple[int, int, str]] = []
    for letter in letters:
        for form, surety in _PLACES.items():
            place = padded.rfind(form.format(letter))
            found.append((surety, place, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((_END, len(padded), letter))
        for begin in _ends_of_phrases(padded):
            found.append((_PHRASE, padded.find(letter, begin), letter))
    found = [each for each in found if each[1] >= 0]
    if not found:
        found = [(_ANY, padded.rfind(each), each) for each in letters if each in padded]
    # Of two at one place lmms-eval keeps the one that comes first in the alphabet.
    return max(found, key=lambda each: each[:2])[2] if found else None


def realworldqa_score(answer: str, reference: str) -> float:
    """Returns 1.0 if letter (where the reference is one of A to D) or text is right.

    Full stops behind the answer do not count; behind the reference they do.
    """
    reference = reference.strip()
    if is_letter(reference):
        return float(extracted_letter(answer, FOUR) == reference.upper())
    return float(answer.lower().strip().rstrip(".") == reference.lower())


def is_letter(reference: str) -> bool:
    """Returns whether RealWorldQA's reference is the letter of an option."""
    return reference.strip().upper() in tuple(FOUR)


def _ends_of_phrases(text: str) -> list[int]:
    lowered = text.lower()
    if len(lowered) != len(text):
        # Some letters are two in lower case ("İ"): places would be others'.
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    places = ((lowered.find(phrase), phrase) for phrase in _PHRASES)
    return [place + len(phrase) for place, phrase in places if place >= 0]
