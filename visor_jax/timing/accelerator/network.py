"""The networks that are measured: the only file here that knows how `VLM` is called.

Parameters are random, made on the device. A prompt is one image, then text.
"""

import concurrent.futures
import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.layer_plan import LayerPlan, StaticGate
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.variants import llava_ov_0p5b, llava_ov_7b, mini
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import MaskForm, TokenTags

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A network, and the lengths of a prompt."""

    name: str
    config: VLMConfig
    crops: int
    image_tokens: int
    text_tokens: int

    @property
    def lengths(self) -> dict[str, int]:
        """The lengths that `flops.account` takes."""
        return {"image_tokens": self.image_tokens, "text_tokens": self.text_tokens}


def size(name: str, *, tiny: bool = False) -> Size:
    """Returns "0.5B" or "7B" with a page of 31 crops.

    tiny: three layers of mini in its place, which take a page of the benchmark.
    """
    if tiny:
        config = mini().replace(
            plan=LayerPlan.build(3, cross=(0, 2), self_=(1,)), reading_layers=()
        )
        return Size(name=name, config=config, crops=1, image_tokens=144, text_tokens=8)
    config = {"0.5B": llava_ov_0p5b, "7B": llava_ov_7b}[name]()
    return Size(name=name, config=config, crops=31, image_tokens=7353, text_tokens=64)


def random_params(config: VLMConfig, dtype: str | None = None) -> Params:
    """Returns parameters of the network: normal kernels, ones as scales.

    dtype: None for that of the activations, as a loaded network has them.
    """
    return random_leaves(parameter_shapes(config), dtype or config.compute_dtype)


def random_leaves(shapes: Params, dtype: str) -> Params:
    """Returns the same of some of a network's parameters, by their shapes."""
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    # Every shape is a program; they are compiled side by side.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = pool.map(
            lambda item: _parameter(item[0], item[1].shape, dtype), flat.items()
        )
        found = dict(zip(flat, made, strict=True))
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _parameter(path: str, shape: tuple[int, ...], dtype: str) -> Array:
    if path.endswith("scale"):
        return jnp.ones(shape, dtype)
    # This generator compiles fast.
    key = jax.random.key(zlib.crc32(path.encode()), impl="rbg")
    return _normal(key, shape, dtype)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def _normal(key: Array, shape: tuple[int, ...], dtype: str) -> Array:
    return (0.02 * jax.random.normal(key, shape)).astype(dtype)


def params_of_dense(params: Params) -> Params:
    """Returns those of the network with every layer SELF: all but the adapters."""
    flat = flax.traverse_util.flatten_dict(params)
    kept = {path: leaf for path, leaf in flat.items() if "cross_attention" not in path}
    return flax.traverse_util.unflatten_dict(kept)


@flax.struct.dataclass
class Prompts:
    """Image tokens as the projector makes them, and text behind them; all valid."""

    image: Float[Array, "B V D"]
    image_tags: TokenTags
    tokens: Int[Array, "B T"]
    text_tags: TokenTags


def prompts(of: Size, *, rows: int) -> Prompts:
    """Returns random prompts of one length."""
    decoder, image, text = of.config.decoder, of.image_tokens, of.text_tokens
    key = jax.random.key(0)
    shape = (rows, image, decoder.width)
    return Prompts(
        image=jax.random.normal(key, shape, of.config.compute_dtype),
        image_tags=_tags(rows, 0, image, MaskForm.WHOLE),
        tokens=jax.random.randint(key, (rows, text), 0, decoder.vocab_size),
        text_tags=_tags(rows, image, text, MaskForm.CAUSAL),
    )


def _tags(
    rows: int, first: int | Array, count: int, form: MaskForm = MaskForm.TAGS
) -> TokenTags:
    """Returns the tags of tokens one after the other, seen by all that come later."""
    order = jnp.broadcast_to(first + jnp.arange(count, dtype=jnp.int32), (rows, count))
    return TokenTags(
        order=order,
        segments=jnp.zeros_like(order),
        valid=jnp.ones_like(order, bool),
        form=form,
    )


def tower(of: Size) -> Callable[[Params, Array], Array]:
    """Returns (params, pixels (B, C, h, w, 3)) -> image tokens (B, V, D)."""
    model = VLM(of.config)

    def run(params: Params, pixels: Array) -> Array:
        index = jnp.arange(of.image_tokens, dtype=jnp.int32)
        index = jnp.broadcast_to(index, (pixels.shape[0], of.image_tokens))
        arguments = (pixels, index)
        return model.apply(
            {"params": params}, *arguments, method=VLM.encode_image
        ).hidden

    return run


def pixels(of: Size, *, rows: int) -> Array:
    """Returns random crops."""
    side = of.config.vision.image_size
    shape = (rows, of.crops, side, side, 3)
    return jax.random.normal(jax.random.key(1), shape, "float32")


def prefill(
    config: VLMConfig, gates: tuple[StaticGate, ...]
) -> Callable[[Params, Prompts], tuple[Array, KVCache]]:
    """Returns (params, prompts) -> last logits (B, 1, W) and cache; decoder alone."""

    def run(params: Params, given: Prompts) -> tuple[Array, KVCache]:
        image = ImageTokens(given.image)
        return VLM(config).apply(
            {"params": params}, image, given, gates, method=read_prompts
        )

    return run


def read_prompts(
    model: VLM, image: ImageTokens, given: Prompts, gates: tuple[StaticGate, ...]
) -> tuple[Array, KVCache]:
    """Returns last logits (B, 1, W) and cache; inside `apply`.

    image: in place of the prompts' own, which may be more.
    """
    begun = model.begin(
        *(given.tokens, given.text_tags, image, given.image_tags), remember=True
    )
    done, _ = model.run(begun, gates)
    last = jnp.full((given.tokens.shape[0], 1), given.tokens.shape[1] - 1)
    return model.logits(done.text, last), done.cache()


def filled_cache(
    of: Size,
    config: VLMConfig,
    gates: tuple[StaticGate, ...],
    *,
    rows: int,
    new_tokens: int,
) -> KVCache:
    """Returns a cache after prompts, with room for tokens; its K/V are zeros."""
    slots = of.text_tokens + new_tokens
    text = _tags(rows, of.image_tokens, slots)
    cache = KVCache.empty(
        config,
        gates,
        KEEP_ALL,
        rows=rows,
        text_slots=slots,
        image_tokens=of.image_tokens,
    )
    return cache.replace(
        text=text.replace(valid=text.order < of.image_tokens + of.text_tokens),
        image=_tags(rows, 0, of.image_tokens, MaskForm.WHOLE),
        length=jnp.int32(of.text_tokens),
    )


def decode(
    config: VLMConfig, gates: tuple[StaticGate, ...], steps: int
) -> Callable[[Params, KVCache], tuple[Array, KVCache]]:
    """Returns (params, cache) -> the last of `steps` greedy tokens, the cache again.

    The cache that comes back can be given in again, donated: its new tokens are written
    over.
    """
    model = VLM(config)

    def run(params: Params, cache: KVCache) -> tuple[Array, KVCache]:
        begin = cache.length
        rows = cache.text.valid.shape[0]
        first = cache.image.valid.shape[1] + begin

        def step(index: Array, state: tuple[Array, KVCache]) -> tuple[Array, KVCache]:
            token, cache = state
            new = (token, _tags(rows, first + index, 1), cache, gates)
            logits, cache = model.apply({"params": params}, *new, method=VLM.decode)
            return logits.argmax(-1).astype(jnp.int32), cache

        start = (jnp.zeros((rows, 1), jnp.int32), cache)
        token, cache = jax.lax.fori_loop(0, steps, step, start)
        return token, cache.replace(length=begin)

    return run


def training_batch(of: Size, *, rows: int) -> Batch:
    """Returns a random batch of one question a row, every text token supervised."""
    given = prompts(of, rows=rows)
    index = jnp.arange(of.image_tokens, dtype=jnp.int32)
    return Batch(
        pixels=pixels(of, rows=rows),
        image_token_index=jnp.broadcast_to(index, (rows, of.image_tokens)),
        image_positions=given.image_tags.order,
        image_mask=given.image_tags.valid,
        tokens=given.tokens,
        text_positions=given.text_tags.order,
        text_segments=given.text_tags.segments,
        text_mask=given.text_tags.valid,
        targets=given.tokens,
        loss_mask=given.text_tags.valid,
    )
