"""What the answers are worth when layers do without the image, or leave it alone.

One layer, or all from it on (`analysis.ablation`): frozen (the image is not updated),
unseen (text does not see it), or both. No layer gives the full score. Scores are those
of the benchmark, of greedy answers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from visor_jax.analysis.ablation import answers
from visor_jax.analysis.figures import drawing
from visor_jax.analysis.means import scores_by_kind
from visor_jax.analysis.study import Prompts, Study, refining, seeing

MODES = ("frozen", "unseen", "both")
SPANS = ("one", "from")
# Layers that are frozen, layers that do not see.
Choice = tuple[frozenset[int], frozenset[int]]


def content(study: Study) -> dict[str, Any]:
    """Returns the scores by kind, of {span: {mode: a number a layer}}, and full."""
    wanted = choices(study.ways)
    distinct = list(dict.fromkeys([choice_of(study.ways), *wanted.values()]))
    examples, parts = [], []
    for prompts in study.batches(room=study.new_tokens):
        parts.append(scores_of(study, prompts, distinct))
        examples += prompts.examples
    scores = np.concatenate(parts)
    groups, column = study.benchmark.groups, {c: i for i, c in enumerate(distinct)}
    layers = range(len(study.ways))
    return {
        "layers": list(study.ways),
        "full": scores_by_kind(scores[:, :1], examples, groups),
        **{
            span: {
                mode: scores_by_kind(
                    scores[:, [column[wanted[span, mode, i]] for i in layers]],
                    examples,
                    groups,
                )
                for mode in MODES
            }
            for span in SPANS
        },
    }


def choices(ways: tuple[str, ...]) -> dict[tuple[str, str, int], Choice]:
    """Returns {(span, mode, layer): what is to be dropped}; what changes nothing isn't.

    So equal choices are asked once: a layer that never sees the image drops nothing.
    """
    found = {}
    for span in SPANS:
        for layer in range(len(ways)):
            layers = range(layer, layer + 1 if span == "one" else len(ways))
            for mode in MODES:
                frozen = () if mode == "unseen" else layers
                unseen = () if mode == "frozen" else layers
                found[span, mode, layer] = choice_of(ways, frozen, unseen)
    return found


def choice_of(ways: tuple[str, ...], frozen: Any = (), unseen: Any = ()) -> Choice:
    """Returns these layers without those where nothing is to be dropped."""
    return (
        frozenset(frozen) & frozenset(refining(ways)),
        frozenset(unseen) & frozenset(seeing(ways)),
    )


def scores_of(
    study: Study, prompts: Prompts, chosen: list[Choice]
) -> Float[np.ndarray, "n choices"]:
    """Returns the score of every example's answer at every choice of layers."""

    def scores(frozen: frozenset[int], unseen: frozenset[int]) -> list[float]:
        said = answers(study, prompts, frozen=frozen, unseen=unseen)
        return [
            next(iter(study.benchmark.score(example, text).values()))
            for example, text in zip(prompts.examples, said, strict=True)
        ]

    return np.array([scores(*choice) for choice in chosen], float).T


def draw(contents: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns the scores of both spans below each other, a column a benchmark."""
    return drawing.drops_by_layer("Score when layers drop the image", contents, SPANS)
