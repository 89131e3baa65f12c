"""A second look at an image for the price of the difference, equal to one look at all.

    first look    tower on its crops -> keys of the layers that read unrefined tokens,
                  answer
    second look   tower on the missing crops; keys of the new tokens and of the seam
                  (`look_difference`), written among those of the first; the text once
                  more; layers that refine the image, from the first of them, on all

Up to the first SELF layer that is on, the image is what the projector made of it,
whatever else is looked at, and `order` is as if all crops were there: what CROSS and
READ layers know of a token stays right when tiles come later. Where another budget is
on, so does what both looks see unrefined.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.inference.generation.look_difference import LookDifference
from visor_jax.inference.generation.prefill import Prefilled, PromptEnds
from visor_jax.layer_plan import LayerPlan, StaticGate
from visor_jax.models.decoder.kv_cache import KeyValues, KVCache
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.vision.image_tokens import ImageTokens, gather_image_tokens
from visor_jax.models.vlm import VLM, image_tags, text_tags
from visor_jax.sharding.programs import mesh_jit

Params = Any
Gates = tuple[StaticGate, ...]


@flax.struct.dataclass
class SeenImage:
    """What a first look leaves for a second one.

    patches: (B, C, P, D) projected, of its crops. keys: of the image in the layers that
    saw it as the projector made it, None for others.
    """

    patches: Float[Array, "B C P D"]
    keys: tuple[KeyValues | None, ...]


def first_look(
    model: VLM, params: Params, batch: Batch, budget: Budget, *, spare: int = 0
) -> tuple[Prefilled, SeenImage]:
    """Returns what `prefill` does, and what a second look can go on from.

    Args:
      batch: one prompt per row, of some crops or of all.
      spare: how many tokens the cache can take beyond the prompt.

    Raises:
      ValueError: for a budget that is not of the plan, or a network whose image tokens
        are reduced: which of them stay depends on all that is looked at.
    """
    _check(model)
    gates = budget.gates(model.config.plan)
    batch = batch.replace(image_labels=None)
    found, patches = _first(params, batch, model=model, gates=gates, spare=spare)
    until = model.config.plan.unrefined_until(gates)
    layers = enumerate(found.cache.layers)
    keys = tuple(layer.image if i < until else None for i, layer in layers)
    return found, SeenImage(patches, keys)


def second_look(
    model: VLM,
    params: Params,
    seen: SeenImage,
    difference: LookDifference,
    budget: Budget,
    *,
    spare: int = 0,
) -> Prefilled:
    """Returns what `prefill` of all crops of the second look would, in `budget`.

    Args:
      seen: by the first look at the same rows, in any budget.

    Raises:
      ValueError: as `first_look`.
    """
    _check(model)
    gates = budget.gates(model.config.plan)
    kept = kept_layers(model.config.plan, gates, seen.keys)
    keys = tuple(k if i in kept else None for i, k in enumerate(seen.keys))
    seen = seen.replace(keys=keys)
    return _second(params, seen, difference, model=model, gates=gates, spare=spare)


def kept_layers(
    plan: LayerPlan, gates: Gates, keys: Sequence[KeyValues | None]
) -> tuple[int, ...]:
    """Returns the layers of a second look that take over keys of the first.

    Args:
      gates: of the second look. keys: of the first, None where it has none.
    """
    until, on = plan.unrefined_until(gates), plan.gate_of_layer(gates)
    return tuple(i for i in range(until) if keys[i] is not None and on.get(i, True))


@mesh_jit(static_argnames=("model", "gates", "spare"))
def _first(
    params: Params, batch: Batch, *, model: VLM, gates: Gates, spare: int
) -> tuple[Prefilled, Float[Array, "B C P D"]]:
    ends = PromptEnds.of(batch)

    def run(module: VLM) -> tuple[Array, KVCache, Array]:
        patches = _patches(module, batch)
        tokens = _tokens(module, patches, batch)
        begun = module.begin(
            batch.tokens, text_tags(batch), tokens, image_tags(batch), remember=True
        )
        done, _ = module.run(begun, gates)
        logits = module.logits(done.text, ends.last[:, None])[:, 0]
        return logits, done.cache(), patches

    logits, cache, patches = model.apply({"params": params}, method=run)
    return Prefilled.of(logits, ends, cache, gates=gates, spare=spare), patches


@mesh_jit(static_argnames=("model", "gates", "spare"))
def _second(
    params: Params,
    seen: SeenImage,
    difference: LookDifference,
    *,
    model: VLM,
    gates: Gates,
    spare: int,
) -> Prefilled:
    batch = difference.prompts
    ends, refining = PromptEnds.of(batch), model.config.plan.unrefined_until(gates)

    def run(module: VLM) -> tuple[Array, KVCache]:
        patches = jnp.concatenate([seen.patches, _patches(module, batch)], axis=1)
        tokens = _tokens(module, patches, batch)
        state = module.begin(
            batch.tokens, text_tags(batch), tokens, image_tags(batch), remember=True
        )
        keys = _merged_keys(module, seen, difference, state.image)
        state, _ = module.run(state, gates, stop=refining, image_keys=keys[:refining])
        done, _ = module.run(state, gates, start=refining)
        return module.logits(done.text, ends.last[:, None])[:, 0], done.cache()

    logits, cache = model.apply({"params": params}, method=run)
    return Prefilled.of(logits, ends, cache, gates=gates, spare=spare)


def _patches(module: VLM, batch: Batch) -> Float[Array, "B C P D"]:
    return module.multi_modal_projector(module.vision_tower.of_samples(batch.pixels))


def _tokens(module: VLM, patches: Float[Array, "B C P D"], batch: Batch) -> ImageTokens:
    newline = module.image_newline if module.config.image_newline else None
    index, weights = batch.image_token_index, batch.image_token_weights
    hidden = gather_image_tokens(patches, newline, index, weights)
    return ImageTokens(hidden, places=batch.image_places)


def _merged_keys(
    module: VLM, seen: SeenImage, difference: LookDifference, image: TokenStream
) -> tuple[KeyValues | None, ...]:
    """Returns the image's keys of every layer that takes over some, else None."""
    read = jnp.minimum(difference.read, image.length - 1)
    part = image.take(read)
    there = part.tags.valid & (difference.read < image.length)
    part = part.replace(
        tags=part.tags.replace(valid=there),
        places=jnp.take_along_axis(image.places, read, axis=1),
    )

    def merged(layer: int, known: KeyValues) -> KeyValues:
        new = module.language_model.unrefined_keys(layer, part)

        def of_all(old: Array, made: Array) -> Array:
            empty = jnp.zeros((old.shape[0], image.length, *old.shape[2:]), old.dtype)
            return _written(
                _written(empty, difference.known, old), difference.made, made
            )

        return jax.tree.map(of_all, known, new)

    return tuple(
        None if known is None else merged(layer, known)
        for layer, known in enumerate(seen.keys)
    )


def _written(
    into: Float[Array, "B V K H"],
    index: Int[Array, "B R"],
    values: Float[Array, "B R K H"],
) -> Float[Array, "B V K H"]:
    """Returns the array with values at these tokens of each row; V is no token."""
    rows = jnp.arange(into.shape[0])[:, None]
    return into.at[rows, index].set(values.astype(into.dtype), mode="drop")


def _check(model: VLM) -> None:
    if model.reducer != KEEP_ALL:
        raise ValueError(
            f"{model.reducer} drops image tokens by all that is looked at: look twice "
            "without a token reduction, or once with it."
        )
