"""Which crops of its pages a training step looks at: the base view is always there.

How many is drawn for the step, which ones for every page of it, from the run's seed,
the step and the row alone. There are three numbers of crops, and so few programs:

    base alone      1 crop     36 tokens     the same program for pages of both sizes
    base + 2        3 crops   120 tokens     the same
    all             5 or 10 crops

Runs may have phases in which every step looks at the base view alone, at the base view
and two tiles ("few"), or at all. In a phase of few, rows ask only about what they see:
an answer is found sooner among the 108 patches of three crops than among those of all.
"""

import numpy as np

BASE, FEW, ALL, ANY = CROPS_OF_STEPS = ("base", "few", "all", "any")
_FEW_CROPS = 3
# Apart from each other and from the draw of pages and questions.
_COUNT, _WHICH = 1, 2


def drawn_count(seed: int, step: int, crops: int, phase: str = ANY) -> int:
    """Returns how many of a page's crops a step looks at.

    phase: one of `CROPS_OF_STEPS`.
    """
    if phase != ANY:
        return {BASE: 1, FEW: min(_FEW_CROPS, crops), ALL: crops}[phase]
    counts = [count for count in (1, _FEW_CROPS) if count < crops] + [crops]
    return int(np.random.default_rng([seed, step, _COUNT]).choice(counts))


def drawn_crops(
    seed: int, step: int, row: int, *, count: int, crops: int
) -> tuple[int, ...]:
    """Returns which of a page's crops a row looks at, ascending, 0 among them."""
    rng = np.random.default_rng([seed, step, row, _WHICH])
    tiles = rng.choice(crops - 1, count - 1, replace=False) + 1
    return (0, *sorted(tiles.tolist()))
