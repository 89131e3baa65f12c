"""A prefill in parts: the image alone, the trunk, and what a budget runs behind it.

An image is encoded once for all prompts about it, a prompt goes through the trunk once
whatever its budget will be, and behind the trunk an image's keys and values may be at
hand from an earlier prompt. Each function runs inside a program, for rows of one shape.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.decoder import DecoderState
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

Params = Any
# Keys and values of one image in some layers, None where a layer has none; of one row.
ImageKeys = tuple[KeyValues | None, ...]


@flax.struct.dataclass
class EncodedImage:
    """What every prompt about an image begins with.

    tokens: of one row. keys: of the layers that run alike at every budget, where they
    depend on no position.
    """

    tokens: ImageTokens
    keys: ImageKeys


def encode_images(
    model: VLM,
    params: Params,
    pixels: Float[Array, "B C h w 3"],
    index: Int[Array, "B V *corners"],
    weights: Float[Array, "B V *corners"] | None,
    mask: Bool[Array, "B V"],
    places: Int[Array, "B V"] | None = None,
) -> EncodedImage:
    """Returns images as every prompt about them finds them, a row each.

    places: see `Batch.image_places`.
    """

    def encode(module: VLM) -> EncodedImage:
        tokens = module.encode_image(pixels, index, weights, mask, places)
        # Keys that depend on the image's place are made where it has one.
        nowhere = jnp.zeros(mask.shape, jnp.int32)
        tags = TokenTags(nowhere, nowhere, mask)
        return EncodedImage(tokens, module.image_keys(tokens, tags))

    return model.apply({"params": params}, method=encode)


def prefill_trunk(
    model: VLM,
    params: Params,
    tokens: Int[Array, "B T"],
    text: TokenTags,
    image: TokenTags,
    images: Sequence[EncodedImage],
) -> DecoderState:
    """Returns rows after the layers that all budgets share; an image for each row."""
    encoded = jax.tree.map(lambda *rows: jnp.concatenate(rows), *images)

    def run(module: VLM) -> DecoderState:
        begun = module.begin(tokens, text, encoded.tokens, image, remember=True)
        stop = module.config.plan.trunk_length
        return module.run(begun, None, stop=stop, image_keys=encoded.keys)[0]

    return model.apply({"params": params}, method=run)


def prefill_rest(
    model: VLM,
    params: Params,
    trunk: DecoderState,
    gates: tuple[StaticGate, ...],
    rows: Int[Array, "X"],
    indices: Int[Array, "X"],
    image_keys: ImageKeys | None = None,
) -> tuple[Float[Array, "X W"], KVCache]:
    """Returns the logits at X tokens, and the cache of all rows.

    Args:
      rows, indices: of each token whose logits are wanted.
      image_keys: of all rows in the layers behind the trunk, where they are at hand:
        then only text goes through these layers.
    """

    def run(module: VLM) -> tuple[Array, KVCache]:
        start = module.config.plan.trunk_length
        done, _ = module.run(trunk, gates, start=start, image_keys=image_keys)
        return module.logits(done.text, indices, rows), done.cache().split()

    return model.apply({"params": params}, method=run)


def one_by_one(arrays: Any, count: int) -> tuple[Any, ...]:
    """Returns the first `count` rows of all arrays, each as a tree of its own."""
    return tuple(
        jax.tree.map(lambda x, i=i: x[i : i + 1], arrays) for i in range(count)
    )
