"""How much a layer's work on the image changes what is said next (ShortV).

The divergence of the next token's distribution behind the prompt, in nats, when the
image is frozen in one layer alone: it gets neither queries nor MLP there, and text
still reads its keys and values (2504.00502: the layer's contribution).
Both directions are measured; beside it the same where text does not see the image in
the layer. A layer that does not refine the image contributes 0 by construction.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from visor_jax.analysis.ablation import next_log_probs
from visor_jax.analysis.figures import drawing
from visor_jax.analysis.means import means_by_kind
from visor_jax.analysis.study import Prompts, Study, refining, seeing

# KL(changed || full), KL(full || changed), and the first where text does not see.
FROZEN, BACK, UNSEEN = "frozen", "frozen_full_changed", "unseen"


def content(study: Study) -> dict[str, Any]:
    """Returns every divergence by kind, a number a layer, and layers by the first."""
    examples, parts = [], []
    for prompts in study.batches():
        parts.append(contributions_of(study, prompts))
        examples += prompts.examples
    means = {
        name: means_by_kind(
            np.concatenate([part[name] for part in parts]),
            examples,
            study.benchmark.groups,
        )
        for name in (FROZEN, BACK, UNSEEN)
    }
    values, layers = means[FROZEN]["all"]["mean"], refining(study.ways)
    return {
        "layers": list(study.ways),
        "replaceable_first": sorted(layers, key=lambda layer: values[layer]),
        **means,
    }


def contributions_of(
    study: Study, prompts: Prompts
) -> dict[str, Float[np.ndarray, "n L"]]:
    """Returns the divergences of every example's prompt, in nats."""
    ways, count = study.ways, len(prompts.examples)
    full = next_log_probs(study, prompts)
    found = {name: np.zeros((count, len(ways))) for name in (FROZEN, BACK, UNSEEN)}
    for layer in refining(ways):
        changed = next_log_probs(study, prompts, frozen=(layer,))
        found[FROZEN][:, layer] = divergence(changed, full)[:count]
        found[BACK][:, layer] = divergence(full, changed)[:count]
    for layer in seeing(ways):
        changed = next_log_probs(study, prompts, unseen=(layer,))
        found[UNSEEN][:, layer] = divergence(changed, full)[:count]
    return found


def divergence(
    p: Float[np.ndarray, "B W"], q: Float[np.ndarray, "B W"]
) -> Float[np.ndarray, "B"]:
    """Returns KL(p || q) of log probabilities, in nats."""
    p, q = p.astype(np.float64), q.astype(np.float64)
    return np.sum(np.exp(p) * (p - q), axis=-1)


def draw(contents: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns both divergences below each other, a column a benchmark."""
    rows = [
        ("KL, image frozen\nin the layer, nats", FROZEN),
        ("KL, image unseen\nin the layer, nats", UNSEEN),
    ]
    return drawing.lines_by_layer(
        "Layer contribution", contents, rows, marks=True, log=True
    )
