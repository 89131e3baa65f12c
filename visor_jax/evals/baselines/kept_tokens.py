"""Which of an image's tokens are still there behind the last layer.

Methods say it in their own ways, or not at all where they choose between layers. What
stays is copied bit for bit, so it is found again by its hidden state: a token that no
one of those before equals was merged of several.
"""

import copy
from typing import Any

import jax
import numpy as np

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import TextLook, TokenReducer
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM, image_tags, text_tags

Params = Any
# Image streams before and behind a stage.
Passed = list[tuple[TokenStream, TokenStream]]


def kept_tokens(
    model: VLM, params: Params, batch: Batch, budget: Budget
) -> list[tuple[int, ...]]:
    """Returns the indices of each row's image tokens that no stage drops, ascending.

    Args:
      batch: one prompt per row. budget: of the model's plan.
    """

    @jax.jit
    def read(params: Params, batch: Batch) -> tuple[ImageTokens, Passed]:
        passed: Passed = []
        watched = VLM(model.config, _watched(model.reducer, passed))

        def run(module: VLM) -> ImageTokens:
            image = module.encode_image(
                batch.pixels,
                batch.image_token_index,
                batch.image_token_weights,
                batch.image_mask,
                batch.image_places,
            )
            text, tags = text_tags(batch), image_tags(batch)
            begun = module.begin(batch.tokens, text, image, tags)
            if model.reducer.stages:
                module.run(begun, budget.gates(model.config.plan))
            return image

        image = watched.apply({"params": params}, method=run)
        return image, passed

    image, passed = read(params, batch)
    numbers = np.broadcast_to(np.arange(image.hidden.shape[1]), image.hidden.shape[:2])
    valid = np.asarray(image_tags(batch).valid)
    if image.kept is not None:
        numbers, valid = np.asarray(image.kept), np.asarray(image.there)
    numbers = np.where(valid, numbers, -1)
    for before, behind in passed:
        numbers = _followed(numbers, before, behind)
    return [tuple(sorted(set(row[row >= 0].tolist()))) for row in numbers]


def _watched(method: TokenReducer, passed: Passed) -> TokenReducer:
    """Returns the method, which also writes down what passes its stages."""

    class Watched(type(method)):
        def on_stream(
            self, layer: int, text: TokenStream, image: TokenStream, look: TextLook
        ) -> TokenStream:
            behind = super().on_stream(layer, text, image, look)
            passed.append((image, behind))
            return behind

    # The same settings, with other behaviour: nothing is checked anew.
    watched = copy.copy(method)
    object.__setattr__(watched, "__class__", Watched)
    return watched


def _followed(
    numbers: np.ndarray, before: TokenStream, behind: TokenStream
) -> np.ndarray:
    """Returns the numbers of the tokens behind a stage; -1 for what is none of them."""
    old, new = np.asarray(before.hidden), np.asarray(behind.hidden)
    there = np.asarray(before.tags.valid)
    same = (new[:, :, None] == old[:, None]).all(axis=-1) & there[:, None]
    found = np.take_along_axis(numbers, same.argmax(axis=2), axis=1)
    stays = same.any(axis=2) & np.asarray(behind.tags.valid)
    return np.where(stays, found, -1)
