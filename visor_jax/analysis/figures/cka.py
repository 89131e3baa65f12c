"""How alike the image's states before the layers are: `analysis.cka`, image by image.

The states that stand before layer l, for every l, and those behind the last one. Layers
that leave the image as it is have its state before them again, which is 1 alike. Where
the image comes before the question, its states do not depend on the question: kinds of
questions about the same images have the same similarity.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from visor_jax.analysis.cka import linear_cka
from visor_jax.analysis.figures import drawing
from visor_jax.analysis.means import means_by_kind
from visor_jax.analysis.study import Prompts, Study
from visor_jax.layer_plan import StaticGate
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags
from visor_jax.sharding.programs import mesh_jit


def content(study: Study) -> dict[str, Any]:
    """Returns the matrix of every two states by kind, rows one after the other."""
    examples, parts = [], []
    for prompts in study.batches():
        parts.append(similarity_of(study, prompts))
        examples += prompts.examples
    found = np.concatenate(parts)
    flat = found.reshape(len(found), -1)
    means = means_by_kind(flat, examples, study.benchmark.groups)
    states = found.shape[-1]
    return {
        "layers": list(study.ways),
        "states": states,
        "least": {
            kind: min((v for v in each["mean"] if v is not None), default=None)
            for kind, each in means.items()
        },
        "cka": means,
    }


def similarity_of(study: Study, prompts: Prompts) -> Float[np.ndarray, "n S S"]:
    """Returns every example's similarity of the image before and behind all layers.

    S is one more than there are layers.
    """
    ways = study.ways
    changing = tuple(i for i, way in enumerate(ways) if way == "self")
    found = _similarities(
        study.network.params,
        prompts.tokens,
        prompts.text,
        prompts.image_tokens,
        prompts.image,
        model=study.network.vlm,
        gates=study.gates,
        changing=changing,
    )
    # Of every state, which of those that differ it is.
    place = np.searchsorted(changing, np.arange(len(ways) + 1), side="left")
    found = np.asarray(found, np.float64)[: len(prompts.examples)]
    return found[:, place[:, None], place[None, :]]


@mesh_jit(static_argnames=("model", "gates", "changing"))
def _similarities(
    params: Any,
    tokens: Int[Array, "B T"],
    text: TokenTags,
    image_tokens: ImageTokens,
    image: TokenTags,
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
    changing: tuple[int, ...],
) -> Float[Array, "B S S"]:
    def run(module: VLM) -> list[Array]:
        begun = module.begin(tokens, text, image_tokens, image)
        _, after = module.run(begun, gates, capture=changing)
        return [begun.image.hidden, *(after[layer].hidden for layer in changing)]

    states = model.apply({"params": params}, method=run)
    return linear_cka(states, image.valid)


def draw(contents: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns a matrix a benchmark, of all its images, the least beside its name."""
    panels = {}
    for name, each in contents.items():
        mean = each["cka"]["all"]["mean"]
        values = np.array([np.nan if v is None else v for v in mean], float)
        panels[name] = values.reshape(each["states"], each["states"])
    return drawing.matrices(
        "CKA of image states",
        panels,
        names={name: [*each["layers"], "end"] for name, each in contents.items()},
    )
