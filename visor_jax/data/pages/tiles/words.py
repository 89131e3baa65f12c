"""The closed vocabulary of the tiled pages, in its fixed order.

A place of the page is one token of one or two words, as the places of the digit pages
are (`visor_jax.data.pages.words` says why).
"""

from visor_jax.data.pages.vocabulary import EOS, PAD, PROMPT_END, UNKNOWN, Vocabulary

DIGITS = tuple("0123456789")
# The first four are those of pages of 2 x 2 tiles.
COLOURS = (
    *("red", "yellow", "green", "blue"),
    *("navy", "cyan", "violet", "pink", "olive"),
)
SHAPES = ("none", "ring", "cross", "bar")
SIDES = ("left", "right")
# By the row of tiles (first, between, last) and the column of tiles.
PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
CORNERS = (PLACES[0][0], PLACES[0][-1], PLACES[-1][0], PLACES[-1][-1])

_QUESTION_WORDS = (
    *("colour", "where", "shape", "tiles"),
    *("digit", "largest", "marked"),
)

WORDS = Vocabulary(
    (
        *(PAD, EOS, UNKNOWN, PROMPT_END),
        *DIGITS,
        *COLOURS,
        *SHAPES,
        *(place for row in PLACES for place in row),
        *_QUESTION_WORDS,
    ),
    r"(?:top|bottom) (?:left|right)|[^\s:]+|:",
)
