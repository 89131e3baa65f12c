"""Reads the prompt: the logits of the first answer token, and the cache behind them.

Prompts may be padded on either side: what a token sees, and which token of a row is the
last one, follows from positions and validity alone. Two rows, image positions 0 and 1:

    tokens     what  is   this  .        .    .    hello  :
    valid      1     1    1     0        0    0    1      1
    positions  2     3    4     0        0    0    2      3
    last                  x                               x
    next token at position 5             at position 4
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.models.kv_cache import KVCache
from visor_jax.models.vlm import VLM

Params = Any


@flax.struct.dataclass
class Prefilled:
    """What decoding starts from.

    logits: (B, W) of the token that follows each prompt. positions, segments: (B,) tags
    of that token. cache: the prompt's, with room for `spare` more tokens.
    """

    logits: Float[Array, "B W"]
    positions: Int[Array, "B"]
    segments: Int[Array, "B"]
    cache: KVCache
    spare: int = flax.struct.field(pytree_node=False)


def prefill(
    model: VLM, params: Params, batch: Batch, budget: Budget, *, spare: int = 0
) -> Prefilled:
    """Returns the prefilled prompts; one program per budget, shapes and `spare`.

    Args:
      batch: one prompt per row (see `check_prompts`).
      spare: how many tokens the cache can take beyond the prompt.

    Raises:
      ValueError: for a budget that is not of the model's plan, or a negative `spare`.
    """
    if spare < 0:
        raise ValueError(f"{spare=} must not be negative.")
    gates = budget.gates(model.config.plan)
    # Labels play no part here and must not make a program of their own.
    batch = batch.replace(image_labels=None)
    return _prefill(params, batch, model=model, gates=gates, spare=spare)


@functools.partial(jax.jit, static_argnames=("model", "gates", "spare"))
def _prefill(
    params: Params, batch: Batch, *, model: VLM, gates: tuple[bool, ...], spare: int
) -> Prefilled:
    last = last_valid(batch.text_positions, batch.text_mask)

    def run(module: VLM) -> tuple[Float[Array, "B 1 W"], KVCache]:
        text, image = module.embed_text(batch), module.encode_image(batch)
        text, cache = module.language_model.prefill(text, image, gates)
        # One row of logits per prompt: over a real vocabulary the others would cost
        # about as much as the layers do.
        hidden = jnp.take_along_axis(text.hidden, last[:, None, None], axis=1)
        return module.logits(text.replace(hidden=hidden)), cache

    logits, cache = model.apply({"params": params}, method=run)
    return Prefilled(
        logits=logits[:, 0],
        positions=_at(batch.text_positions, last) + 1,
        segments=_at(batch.text_segments, last),
        cache=cache.with_capacity(batch.tokens.shape[1] + spare),
        spare=spare,
    )


def last_valid(
    positions: Int[Array, "B T"], valid: Bool[Array, "B T"]
) -> Int[Array, "B"]:
    """Returns the index of each row's valid token with the highest position."""
    return jnp.argmax(jnp.where(valid, positions, -1), axis=1)


def _at(values: Int[Array, "B T"], index: Int[Array, "B"]) -> Int[Array, "B"]:
    return jnp.take_along_axis(values, index[:, None], axis=1)[:, 0]


def check_prompts(batch: Batch) -> None:
    """Raises ValueError unless every row holds one prompt that ends with text.

    All offending rows are named. Reads the arrays, so they must be on this host.
    """
    mask, segments, text, image_mask, image = (
        np.asarray(x)
        for x in (
            batch.text_mask,
            batch.text_segments,
            batch.text_positions,
            batch.image_mask,
            batch.image_positions,
        )
    )
    problems = []
    empty = ~mask.any(axis=1)
    if empty.any():
        problems.append(f"rows {_rows(empty)} have no text")
    own = mask & (segments > 0)
    low = np.where(own, segments, np.iinfo(np.int32).max).min(axis=1)
    packed = own.any(axis=1) & (low < np.where(own, segments, 0).max(axis=1))
    if packed.any():
        problems.append(f"rows {_rows(packed)} pack several questions: one per row")
    last_text = np.where(mask, text, -1).max(axis=1)
    last_image = np.where(image_mask, image, -1).max(axis=1, initial=-1)
    late = ~empty & (last_image > last_text)
    if late.any():
        problems.append(f"rows {_rows(late)} end with the image: put text after it")
    if problems:
        raise ValueError("Not prompts to continue: " + "; ".join(problems) + ".")


def _rows(chosen: np.ndarray) -> list[int]:
    return np.flatnonzero(chosen).tolist()
