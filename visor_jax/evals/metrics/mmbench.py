"""MMBench (Liu et al. 2023): a reading of the answer, and circles of rotated options.

A question stands there in as many rows as it has options, rotated from row to row; it
is right only if the network is right in all of them. Readings are those that lmms-eval
makes without a judge; what they leave unread goes to the extractor
(`option_letter.extracted_letter`), as in its task `mmbench_en_dev_static`, and not to
GPT or to chance.
"""

from collections.abc import Iterable, Sequence

from visor_jax.evals.metrics.option_letter import extracted_letter

_LETTERS = "ABCDE"
# What may stand about a letter among the words, in the order of trying.
_FORMS = (
    *("{}.", "{},", "{}:", "{})", "{}).", "({})", "({})."),
    *(":{}", ":{},", ":{}.", ":{})", ":{})."),
)


def option_reading(answer: str, options: Sequence[str]) -> str | None:
    """Returns the letter that the answer surely means; None if it is not sure.

    The one letter among its words, bare ("A" among more than three words may be an
    article) or with signs about it; else that of the one option whose text it holds.
    """
    words = answer.split()
    bare = [letter for letter in _LETTERS if letter in words]
    if len(bare) == 1 and not ("A" in words and len(words) > 3):
        return bare[0]
    for form in _FORMS:
        found = [letter for letter in _LETTERS if form.format(letter) in words]
        if len(found) == 1:
            return found[0]
    said = answer.lower()
    named = [
        letter
        for letter, text in zip(_LETTERS, options, strict=False)
        if text.lower() in said
    ]
    return named[0] if len(named) == 1 else None


def static_reading(answer: str, options: Sequence[str]) -> str | None:
    """Returns `option_reading`, or the extractor's letter where there is none.

    The extractor knows the letters of options alone.
    """
    letters = _LETTERS[: len(options)]
    return option_reading(answer, options) or extracted_letter(answer, letters)


def circle_is_right(rows: Iterable[bool]) -> float:
    """Returns 1.0 if the answers to all rows of a question are right, else 0.0."""
    return float(all(rows))
