"""Reads the prompt: the logits of the first answer token, and the cache behind them.

Prompts may be padded on either side: what a token sees, and which token of a row is the
last one, follows from order and validity alone. Two rows, an image of order 0 and 1:

    tokens     what  is   this  .        .    .    hello  :
    valid      1     1    1     0        0    0    1      1
    order      2     3    4     0        0    0    2      3
    last                  x                               x
    next token of order 5                of order 4
"""

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.vlm import VLM, begin_batch, text_tags
from visor_jax.ops.masks import last_valid
from visor_jax.sharding.programs import mesh_jit

Params = Any


@flax.struct.dataclass
class PromptEnds:
    """Where the prompts of a batch end.

    last: (B,) index of the last text token. order, segments: (B,) the place in the
    sequence of the token that follows, and its segment. prompt: (B, T) the text, -1 for
    padding.
    """

    last: Int[Array, "B"]
    order: Int[Array, "B"]
    segments: Int[Array, "B"]
    prompt: Int[Array, "B T"]

    @classmethod
    def of(cls, batch: Batch) -> "PromptEnds":
        """Returns where the prompts of a batch end; traced."""
        last = last_valid(text_tags(batch))
        return cls(
            last=last,
            order=_at(batch.text_positions, last) + 1,
            segments=_at(batch.text_segments, last),
            prompt=jnp.where(batch.text_mask, batch.tokens, -1),
        )


@flax.struct.dataclass
class Prefilled:
    """What decoding starts from.

    logits: (B, W) of the token that follows each prompt. ends: where that stands.
    cache: the prompts', with room for `spare` more tokens. gates: of the budget.
    """

    logits: Float[Array, "B W"]
    ends: PromptEnds
    cache: KVCache
    spare: int = flax.struct.field(pytree_node=False)
    gates: tuple[StaticGate, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(
        cls,
        logits: Float[Array, "B W"],
        ends: PromptEnds,
        cache: KVCache,
        *,
        gates: tuple[StaticGate, ...],
        spare: int,
    ) -> "Prefilled":
        """Returns the prompts with room for `spare` tokens in a cache that has none."""
        with_room = cache.with_capacity(ends.prompt.shape[1] + spare).split()
        return cls(logits, ends, with_room, spare, gates)


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


@mesh_jit(static_argnames=("model", "gates", "spare"))
def _prefill(
    params: Params,
    batch: Batch,
    *,
    model: VLM,
    gates: tuple[StaticGate, ...],
    spare: int,
) -> Prefilled:
    ends = PromptEnds.of(batch)

    def run(module: VLM) -> tuple[Array, KVCache]:
        done, _ = module.run(begin_batch(module, batch, remember=True), gates)
        return module.logits(done.text, ends.last[:, None])[:, 0], done.cache()

    logits, cache = model.apply({"params": params}, method=run)
    return Prefilled.of(logits, ends, cache, gates=gates, spare=spare)


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


def check_context(
    batch: Batch, max_new_tokens: int | np.ndarray, max_positions: int
) -> None:
    """Raises ValueError unless prompts and answers fit into the model's context.

    All offending rows are named. Reads the arrays, so they must be on this host.

    Args:
      max_new_tokens: of all rows, or of each.
    """
    last = np.where(batch.text_mask, np.asarray(batch.text_positions), -1).max(axis=1)
    room = max_positions - (last + 1)
    short = room < max_new_tokens
    if short.any():
        lengths = [f"row {row} ({last[row] + 1} tokens)" for row in _rows(short)]
        asked = ", ".join(map(str, np.unique(max_new_tokens)))
        raise ValueError(
            f"Prompt and max_new_tokens={asked} exceed the model's context of "
            f"{max_positions} tokens: {', '.join(lengths)}. Shorten the text, give "
            "fewer or smaller images, or ask for fewer new tokens."
        )


def _rows(chosen: np.ndarray) -> list[int]:
    return np.flatnonzero(chosen).tolist()
