"""What is timed: the tower, what stands between it and the decoder, the prefill."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from visor_jax.budget import Budget
from visor_jax.data.images.patch_index import PatchIndex
from visor_jax.models.config import VisionConfig
from visor_jax.models.decoder.token_reducer import KEEP_ALL, TokenReducer
from visor_jax.models.reduced_image import reduced_image_tokens
from visor_jax.models.vision.crop_features import TowerParts, TowerReads
from visor_jax.models.vision.image_tokens import ImageTokens, gather_image_tokens
from visor_jax.models.vlm import VLM
from visor_jax.timing.accelerator import network
from visor_jax.timing.selection.methods import Timed

Params = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A `Tower` that has seen its crops already: it hands out what it made of them."""

    config: VisionConfig
    features: Float[Array, "B C P E"]
    parts: TowerParts

    def read_samples(
        self, pixels: Float[Array, "B C h w 3"], reads: TowerReads
    ) -> tuple[Float[Array, "B C P E"], TowerParts]:
        """Returns them."""
        return self.features, self.parts


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Rows of one random picture, and of what text is asked about it.

    index, weights: (V, ...) as in `Batch`, of one row.
    """

    of: network.Size
    index: Int[np.ndarray, "V *corners"]
    weights: Float[np.ndarray, "V corners"] | None
    rows: int

    @classmethod
    def make(
        cls, name: str, config: Any, patches: PatchIndex, *, text_tokens: int, rows: int
    ) -> "Pictures":
        """Returns rows of a picture whose tokens are these."""
        newline = patches.crops * config.vision.num_patches
        size = network.Size(
            name=name,
            config=config,
            crops=patches.crops,
            image_tokens=patches.count,
            text_tokens=text_tokens,
        )
        index = np.where(patches.index < 0, newline, patches.index)
        return cls(size, index, patches.weights, rows)

    def pixels(self) -> Array:
        """Returns its crops."""
        return network.pixels(self.of, rows=self.rows)

    def prompts(self) -> network.Prompts:
        """Returns the prompts."""
        return network.prompts(self.of, rows=self.rows)

    def packed(self) -> tuple[Array, Array | None]:
        """Returns index and weights of all rows."""

        def of_rows(x: np.ndarray | None) -> Array | None:
            return None if x is None else jnp.broadcast_to(x, (self.rows, *x.shape))

        return of_rows(self.index), of_rows(self.weights)


def tower(reads: TowerReads) -> Callable[..., Any]:
    """Returns what gives features and parts of pixels; inside `apply`."""

    def of_model(model: VLM, pixels: Array) -> tuple[Array, TowerParts]:
        return model.vision_tower.read_samples(pixels, reads)

    return of_model


def between(timed: Timed, pictures: Pictures) -> Callable[..., ImageTokens]:
    """Returns what makes the decoder's image tokens of what the tower gives.

    Choosing, projecting, packing; inside `apply`, of (features, parts, pixels).
    """
    reducer = timed.reducer
    layers = timed.config.plan.num_layers
    length = reducer.image_lengths(pictures.of.image_tokens, layers)[0]

    def of_model(
        model: VLM, features: Array, parts: TowerParts, pixels: Array
    ) -> ImageTokens:
        newline = model.image_newline if model.config.image_newline else None
        index, weights = pictures.packed()
        project = model.multi_modal_projector
        if not reducer.reads_crops:
            hidden = gather_image_tokens(project(features), newline, index, weights)
            return ImageTokens(hidden)
        return reduced_image_tokens(
            *(
                Given(model.config.vision, features, parts),
                project,
                newline,
                reducer,
                length,
            ),
            *(pixels, index, weights, None),
            model.token_compressor if model.config.compressor else None,
        )

    return of_model


def prefill(
    timed: Timed, reducer: TokenReducer = KEEP_ALL
) -> Callable[[Params, ImageTokens, network.Prompts], Any]:
    """Returns (params, image tokens, prompts) -> last logits and cache.

    reducer: what drops tokens between layers.
    """
    plan = timed.config.plan
    gates = Budget.all(plan).gates(plan)
    model = VLM(timed.config, reducer)

    def run(params: Params, image: ImageTokens, given: network.Prompts) -> Any:
        what = (image, given, gates)
        return model.apply({"params": params}, *what, method=network.read_prompts)

    return run


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Returns a call of the compiled program on these arguments."""
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: program(*arguments)


def applied(timed: Timed, method: Callable[..., Any]) -> Callable[..., Any]:
    """Returns (params, ...) -> what the method returns inside `apply`."""
    model = VLM(timed.config, timed.reducer)

    def run(params: Params, *arguments: Any) -> Any:
        return model.apply({"params": params}, *arguments, method=method)

    return run
