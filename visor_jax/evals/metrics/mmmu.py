"""MMMU (Yue et al. 2024): options read by the last letter, open answers by their tail.

As lmms-eval 0.7.3 reads them, but for an answer without any option: there it draws one
by chance, which no two runs agree on. Here it is wrong, and counted as unread
(`expected_by_chance` says what chance would have given).

    "The answer is (C) since (A) fails"    A    the last one in brackets
    "x = 3.456" for 3.46                   1    numbers are rounded to two places
    "The result is blue whale" for whale   1    a reference within the tail counts
"""

import re
from collections.abc import Callable, Iterable, Sequence

_SIGNS_AT_ENDS = ",.!?;:'"
_MANY_WORDS = 5
_INDICATORS = (
    *("could be ", "so ", "is ", "thus ", "therefore "),
    *("final ", "answer ", "result "),
)
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
# A text, or a number that was read from it.
Part = str | float


def choice_reading(answer: str, options: Sequence[str]) -> str | None:
    """Returns the letter of the option that the answer names last; None for none."""
    for sign in _SIGNS_AT_ENDS:
        answer = answer.strip(sign)
    text = f" {answer} "
    letters = [chr(ord("A") + n) for n in range(len(options))]
    # How a letter is noticed, and how the last of several is then looked for: with
    # "A." the places are those of " A ", which it has none of, so the first is taken.
    for noticed, placed in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if noticed.format(letter) in text]
        if found:
            return _last(found, lambda x, form=placed: text.rfind(form.format(x)))
    if len(text.split()) <= _MANY_WORDS:
        return None
    said, texts = text.lower(), dict(zip(letters, options, strict=True))
    found = [letter for letter in letters if texts[letter].lower() in said]
    return _last(found, lambda x: said.rfind(texts[x].lower())) if found else None


def expected_by_chance(letter: str | None, right: str, options: Sequence[str]) -> float:
    """Returns the score of a reading, and of none that of an option drawn by chance."""
    if letter is None:
        return 1 / len(options) if options else 0.0
    return float(letter == right)


def open_reading(answer: str) -> list[Part]:
    """Returns the texts and numbers that an open answer may mean, without repetition.

    Of every line the shortest tail behind a word that announces a result, and the
    numbers in it; the whole answer where nothing is announced.
    """
    text = answer.strip().strip(".").lower()
    # Full stops before capitals were meant to part sentences too: lower-casing leaves
    # none of these.
    tails = _announced(text.split("\n")) or [text]
    numbers = [n for tail in tails for form in _NUMBERS for n in form.findall(tail)]
    return list(dict.fromkeys(part for t in (*tails, *numbers) for part in _parts(t)))


def open_score(answer: str, references: Iterable[str]) -> float:
    """Returns 1.0 if a reference lies within a text of the reading or is its number."""
    right = [part for reference in references for part in _parts(reference)]
    return float(any(_fits(said, right) for said in open_reading(answer)))


def _last(letters: Sequence[str], place: Callable[[str], int]) -> str:
    return max(letters, key=place)


def _fits(said: Part, right: Sequence[Part]) -> bool:
    if isinstance(said, float):
        return said in right
    return any(isinstance(each, str) and each in said for each in right)


def _announced(lines: Sequence[str]) -> list[str]:
    """Returns the tails of the lines that announce something."""
    found = []
    for number, line in enumerate(lines, 1):
        # The last one may be an equation.
        signs = (*_INDICATORS, "=") if number == len(lines) else _INDICATORS
        shortest = ""
        for tail in (line.split(s)[-1].strip() for s in signs if s in line):
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in tuple(_SIGNS_AT_ENDS):
            found.append(shortest)
    return found


def _parts(text: str) -> list[Part]:
    """Returns the number that a text is, or the text in lower case.

    Of a single character two: it has to stand beside a blank.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
