"""The closed vocabulary of the embedded benchmark, in its fixed order.

The order is the token id and so part of every checkpoint: append, never insert.

A place ("row 2", "column 3") is one token of two words. With a token each for "row"
and "2", the network would first have to learn which number belongs to which word, and
within minutes of training it does not: reading a digit at a place stayed near chance.
"""

from visor_jax.data.pages.vocabulary import EOS, PAD, PROMPT_END, UNKNOWN, Vocabulary

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
WORDS = Vocabulary(TOKENS, TOKEN_PATTERN)
TOKEN_ID = WORDS.ids
ids_of = WORDS.ids_of
