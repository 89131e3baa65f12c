"""The closed vocabulary of the embedded benchmark, in its fixed order.

The order is the token id and so part of every checkpoint: append, never insert.

A place ("row 2", "column 3") is one token of two words. With a token each for "row"
and "2", the network would first have to learn which number belongs to which word, and
within minutes of training it does not: reading a digit at a place stayed near chance.
"""

import re

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
# Ends every question; the answer is what the network writes after it.
PROMPT_END = ":"

DIGITS = tuple("0123456789")
COLOURS = ("white", "yellow", "green", "blue", "pink", "violet")
HALVES = ("left", "right", "top", "bottom")
BAR_LETTERS = tuple("ABCD")
NO_YES = ("no", "yes")

PLACES = (
    *(f"row {i}" for i in (1, 2, 3)),
    *(f"column {i}" for i in (1, 2, 3, 4)),
)
# What one token is in a text: a place, ":", or whatever stands between blanks.
TOKEN_PATTERN = r"(?:row|column) \d+|[^\s:]+|:"

_QUESTION_WORDS = (
    *("digit", "row", "column", "marked", "of", "mark", "largest", "bar"),
    *("page", "colour", "ring", "dark", "half", "orange", "square"),
)

TOKENS = (
    *(PAD, EOS, UNKNOWN, PROMPT_END),
    *DIGITS,
    *BAR_LETTERS,
    *NO_YES,
    *HALVES,
    *COLOURS,
    *_QUESTION_WORDS,
    *PLACES,
)
TOKEN_ID = {token: i for i, token in enumerate(TOKENS)}


def ids_of(text: str) -> list[int]:
    """Returns the token ids of words and places separated by blanks.

    Raises:
      ValueError: for words outside the vocabulary; all of them are named.
    """
    words = re.findall(TOKEN_PATTERN, text)
    unknown = [word for word in words if word not in TOKEN_ID]
    if unknown:
        raise ValueError(
            f"Unknown words {unknown} in {text!r}; known are {list(TOKENS)}."
        )
    return [TOKEN_ID[word] for word in words]
