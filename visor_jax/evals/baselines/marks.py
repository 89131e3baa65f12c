"""How the kinds of rows look in pictures, and what they are called."""

from visor_jax.evals.baselines.conditions import (
    AUTO,
    COMBINED,
    CONTROL,
    DENSE,
    EARLY,
    INSIDE,
    TRAINED,
    VISOR,
)
from visor_jax.evals.report import style

# Kind -> (colour, marker, size, line).
MARKS = {
    CONTROL: (style.GREY, "x", 34, ":"),
    EARLY: (style.ORANGE, "s", 22, "-"),
    INSIDE: (style.RED, "v", 30, "-"),
    TRAINED: (style.PURPLE, "^", 40, "-"),
    COMBINED: (style.GREEN, "P", 38, "-"),
    DENSE: (style.INK, "D", 56, ""),
    VISOR: (style.BLUE, "o", 52, "-"),
    AUTO: (style.BLUE, "*", 130, ""),
}
LEGEND = {
    VISOR: "VISOR, a point per budget",
    AUTO: "VISOR, a budget per question",
    COMBINED: "VISOR with a method before the decoder",
    TRAINED: "dense, trained with fewer tokens",
    EARLY: "dense, tokens dropped before the decoder",
    INSIDE: "dense, tokens dropped between its layers",
    CONTROL: "dense, controls",
    DENSE: "dense, every token",
}
