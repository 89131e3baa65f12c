"""The model's programs on abstract inputs: shapes only, nothing is allocated or run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests import passes
from visor_jax.batch import Batch
from visor_jax.layer_plan import StaticGate
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM, begin_batch
from visor_jax.ops.masks import TokenTags


def abstract_batch(
    config: VLMConfig, *, batch: int, crops: int, image_tokens: int, text_tokens: int
) -> Batch:
    """Returns a `Batch` of `jax.ShapeDtypeStruct`."""
    side = config.vision.image_size
    image, text = (batch, image_tokens), (batch, text_tokens)

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    return Batch(
        pixels=array((batch, crops, side, side, 3), jnp.float32),
        image_token_index=array(image, jnp.int32),
        image_positions=array(image, jnp.int32),
        image_mask=array(image, jnp.bool_),
        tokens=array(text, jnp.int32),
        text_positions=array(text, jnp.int32),
        text_segments=array(text, jnp.int32),
        text_mask=array(text, jnp.bool_),
        targets=array(text, jnp.int32),
        loss_mask=array(text, jnp.bool_),
    )


def abstract_params(config: VLMConfig, inputs: Batch) -> Any:
    """Returns the shapes of the model's parameters."""
    model = VLM(config)
    gates = (True,) * len(config.plan.self_layers)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    init = jax.eval_shape(lambda k, b: model.init(k, b, gates), key, inputs)
    return init["params"]


def forward(
    config: VLMConfig, gates: tuple[StaticGate, ...]
) -> Callable[[Any, Batch], Any]:
    """Returns the plain forward pass: (params, batch) to logits."""
    model = VLM(config)
    return lambda params, b: model.apply({"params": params}, b, gates).logits


def prefill(
    config: VLMConfig, gates: tuple[StaticGate, ...]
) -> Callable[[Any, Batch], Any]:
    """Returns the prefill: (params, batch) to (logits, cache)."""
    model = VLM(config)
    return lambda params, b: model.apply(
        {"params": params}, b, gates, method=passes.prefill
    )


def decode(config: VLMConfig, gates: tuple[StaticGate, ...]) -> Callable[..., Any]:
    """Returns one step of decoding: (params, tokens, tags, cache) to logits."""
    model = VLM(config)
    return lambda params, tokens, tags, cache: model.apply(
        {"params": params}, tokens, tags, cache, gates, method=VLM.decode
    )[0]


def abstract_cache(
    config: VLMConfig,
    gates: tuple[StaticGate, ...],
    params: Any,
    inputs: Batch,
    extra: int,
) -> Any:
    """Returns the shapes of a prefilled cache with room for `extra` more tokens."""
    capacity = inputs.tokens.shape[1] + extra

    def cache(params: Any, inputs: Batch) -> Any:
        return prefill(config, gates)(params, inputs)[1].with_capacity(capacity)

    return jax.eval_shape(cache, params, inputs)


def one_token(batch: int) -> tuple[Any, TokenTags]:
    """Returns one abstract token per sample and its tags."""
    number = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    valid = jax.ShapeDtypeStruct((batch, 1), jnp.bool_)
    return number, TokenTags(number, number, valid)


def with_image_at_hand(
    config: VLMConfig, gates: tuple[StaticGate, ...]
) -> Callable[..., Any]:
    """Returns the forward pass of text: (params, batch, image K/V) to logits.

    The image is encoded, but goes through no layer.
    """
    model = VLM(config)

    def run(module: VLM, inputs: Batch, images: Any) -> Any:
        begun = begin_batch(module, inputs, remember=True)
        done, _ = module.run(begun, gates, image_keys=images)
        return module.logits(done.text)

    return lambda params, b, images: model.apply(
        {"params": params}, b, images, method=run
    )
