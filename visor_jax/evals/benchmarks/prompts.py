"""The sentences that prompts end with, to the byte; every benchmark has its own mix."""

import string
from collections.abc import Sequence

SHORT = "Answer the question using a single word or phrase."
SINGLE_WORD = "Answer the question with a single word."
LETTER = "Answer with the option's letter from the given choices directly."
UNANSWERABLE = (
    "When the provided information is insufficient, respond with 'Unanswerable'."
)


def short(question: str) -> str:
    """Returns the question and, on a line of its own, that the answer be short."""
    return f"{question}\n{SHORT}"


def lines_of_options(options: Sequence[str]) -> str:
    """Returns a line "A. text" for every option."""
    lettered = zip(string.ascii_uppercase, options, strict=False)
    return "\n".join(f"{letter}. {text}" for letter, text in lettered)


def choice(question: str, options: Sequence[str]) -> str:
    """Returns question, options, and that the answer be a letter, line by line."""
    return f"{question}\n{lines_of_options(options)}\n{LETTER}"
