"""Where the CROSS layers look, as heat maps over the picture."""

import numpy as np
from matplotlib.figure import Figure

from visor_jax.analysis.cross_attention_maps import (
    cross_attention_maps,
    first_crop_map,
)
from visor_jax.budget import Budget
from visor_jax.data.images.read_image import ImageInput, read_image
from visor_jax.evals.report import style
from visor_jax.inference.visor_model import VisorModel

_SIDE = 2.1
# Of the largest weight: what is looked at can be seen through it.
_OPAQUE = 0.75


def attention_figure(
    model: VisorModel,
    image: ImageInput,
    question: str,
    budget: str | Budget | None = None,
) -> Figure:
    """Returns the picture beside one heat map per CROSS layer.

    A map shows how much the last token of the question, from which the answer's first
    token comes, looks at each patch; of a picture in several crops, in the first, which
    shows all of it. Colours go from nothing, where the picture shows through, to each
    map's largest weight.

    Raises:
      ValueError: for a picture, question or budget that `generate` would refuse, or a
        network without CROSS layers.
    """
    chosen = model.budget(budget)
    if not model.config.plan.cross_layers:
        raise ValueError(
            "This network has no CROSS layers whose look could be shown: load one "
            "with adapters (python -m visor_jax.convert --plan=visor)."
        )
    batch = model.batch(image, question)
    maps = cross_attention_maps(model.network, batch, chosen)
    side, pixels = model.config.vision.patches_per_side, np.asarray(read_image(image))
    drawing = style.figure(_SIDE * (len(maps) + 1), _SIDE + 0.55)
    panels = drawing.subplots(1, len(maps) + 1)
    titles = ["the picture", *(f"layer {layer}" for layer in maps)]
    for axes, title in zip(panels, titles, strict=True):
        axes.imshow(pixels, extent=(0, 1, 1, 0), interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    for axes, weights in zip(panels[1:], maps.values(), strict=True):
        shown = first_crop_map(weights[0], batch, 0, patches_per_side=side)
        # What is not looked at stays the picture, in grey.
        axes.images[0].set(array=pixels.mean(axis=-1), cmap="gray", clim=(-80, 255))
        opacity = _OPAQUE * np.sqrt(shown / max(shown.max(), 1e-9))
        axes.imshow(shown, extent=(0, 1, 1, 0), cmap="plasma", alpha=opacity, vmin=0)
    drawing.suptitle(
        f"“{question}” at {chosen.name}".replace("$", r"\$"), fontsize=10, y=0.99
    )
    drawing.subplots_adjust(left=0.01, right=0.99, top=0.82, bottom=0.01, wspace=0.05)
    return drawing
