"""A network in which some layers leave the image alone, or text does not see it.

    frozen   the image comes out of the layer as it went in (no queries, no MLP); text
             still reads the keys and values that the layer makes of it
    unseen   text goes through the layer as if there were no image; the image is refined
             as ever
    both     the layer is one of text alone

Which layers these are is traced: one program serves every choice. Every layer is
computed in both ways, and what comes out of them is chosen.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from visor_jax.analysis.study import Prompts, Study
from visor_jax.inference.generation.finite import why_not_finite
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.decoder_state import DecoderState
from visor_jax.models.decoder.streams import TokenStream
from visor_jax.models.vision.image_tokens import ImageTokens
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags
from visor_jax.sharding.programs import mesh_jit

Layers = Collection[int]


def run_ablated(
    model: VLM,
    state: DecoderState,
    gates: tuple[StaticGate, ...],
    frozen: Bool[Array, "L"],
    unseen: Bool[Array, "L"],
    *,
    keep_images: bool = False,
) -> tuple[DecoderState, list[Array]]:
    """Returns the state behind all layers, and the image behind each; inside `apply`.

    Args:
      keep_images: whether images are wanted, which counts as a reader: [] without.
    """
    plan = model.config.plan
    gate_of, images = plan.gate_of_layer(gates), []
    for layer, kind in enumerate(plan.kinds):
        before = state
        capture = (layer,) if keep_images else ()
        state, _ = model.run(state, gates, start=layer, stop=layer + 1, capture=capture)
        if kind.sees_image and gate_of.get(layer, True) is not False:
            module = model.language_model.layers[layer]
            alone, _, _ = module.text_only(before.text, before.image)
            state = state.replace(text=_either(unseen[layer], alone, state.text))
            image = _either(frozen[layer], before.image, state.image)
            state = state.replace(image=image)
        images += [state.image.hidden] if keep_images else []
    return state, images


def _either(first: Bool[Array, ""], one: TokenStream, other: TokenStream) -> Any:
    return other.with_hidden(jnp.where(first, one.hidden, other.hidden))


def next_log_probs(
    study: Study,
    prompts: Prompts,
    *,
    frozen: Layers = (),
    unseen: Layers = (),
    last: Int[np.ndarray, "B"] | None = None,
) -> Float[np.ndarray, "B W"]:
    """Returns the log probabilities of the token behind each prompt, in nats.

    Args:
      last: index of the token behind which, None for the prompt's last.

    Raises:
      ValueError: where the network's logits are not finite.
    """
    layers = np.arange(study.network.config.plan.num_layers)
    found = _log_probs(
        study.network.params,
        prompts.tokens,
        prompts.text,
        prompts.image_tokens,
        prompts.image,
        np.isin(layers, list(frozen)),
        np.isin(layers, list(unseen)),
        prompts.last if last is None else last,
        model=study.network.vlm,
        gates=study.gates,
    )
    found = np.asarray(found)
    if not np.isfinite(found.max(axis=-1)).all():
        raise ValueError(why_not_finite(study.network.params))
    return found


@mesh_jit(static_argnames=("model", "gates"))
def _log_probs(
    params: Any,
    tokens: Int[Array, "B T"],
    text: TokenTags,
    image_tokens: ImageTokens,
    image: TokenTags,
    frozen: Bool[Array, "L"],
    unseen: Bool[Array, "L"],
    last: Int[Array, "B"],
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
) -> Float[Array, "B W"]:
    def run(module: VLM) -> Array:
        begun = module.begin(tokens, text, image_tokens, image)
        done, _ = run_ablated(module, begun, gates, frozen, unseen)
        return module.logits(done.text, last[:, None])[:, 0]

    return jax.nn.log_softmax(model.apply({"params": params}, method=run))


def answers(
    study: Study, prompts: Prompts, *, frozen: Layers = (), unseen: Layers = ()
) -> list[str]:
    """Returns the greedy answer to every example's prompt.

    Every token is a pass over the whole prompt: a cache would hold what some other
    choice of layers has made. The prompts need room for the answers.
    """
    processor, count = study.network.processor, len(prompts.examples)
    tokens, text = prompts.tokens.copy(), jax.tree.map(np.copy, prompts.text)
    rows, last = np.arange(len(tokens)), prompts.last
    first = tokens.shape[1] - prompts.room
    written: list[np.ndarray] = []
    for step in range(prompts.room):
        there = _with_text(prompts, tokens, text)
        log_probs = next_log_probs(
            study, there, frozen=frozen, unseen=unseen, last=last
        )
        token = log_probs.argmax(axis=-1)
        written.append(token[:count])
        ended = np.isin(np.stack(written), processor.eos_ids).any(axis=0)
        if ended.all():
            break
        place = first + step
        tokens[:, place] = token
        text.order[:, place] = text.order[rows, prompts.last] + step + 1
        text.segments[:, place] = text.segments[rows, prompts.last]
        text.valid[:, place] = True
        last = np.full_like(prompts.last, place)
    return [_text(row, processor) for row in np.stack(written, axis=1).tolist()]


def _with_text(prompts: Prompts, tokens: np.ndarray, text: TokenTags) -> Prompts:
    return dataclasses.replace(prompts, tokens=tokens, text=text)


def _text(tokens: list[int], processor: Any) -> str:
    ends = [i for i, token in enumerate(tokens) if token in processor.eos_ids]
    return processor.text(tokens[: ends[0]] if ends else tokens)
