"""One token step and one state, for whole answers, streams and the engine's slots.

The newest token of a row has been chosen but is not in the cache: a step reads it and
chooses the next one. A row is finished at an end token or at its limit; from there on
it gives padding and counts no more:

    eos = 1, pad = 0    row 0, limit 5    7 4 1 0 0    count 3
                        row 1, limit 3    5 5 2 0 0    count 3

What a row draws depends on its own key and count alone, so rows of one state need not
have begun together. The cache's text columns are a ring: one behind the last is the
first. Nothing of a row is lost as long as they hold its prompt and all of its answer
but the last token, which nobody reads.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.data.prompts.stop_tokens import EndTokens, end_tokens
from visor_jax.inference.generation.finite import marked
from visor_jax.inference.sampling import Sampling, sample_token
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

Params = Any


@flax.struct.dataclass
class Rules:
    """What ends an answer and how tokens are drawn; the same for all rows.

    eos_ids: any of them ends a row; a negative one never does. pad_id: what a finished
    row gives.
    """

    eos_ids: Int[Array, "Z"]
    pad_id: Int[Array, ""]
    sampling: Sampling = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, eos_id: EndTokens, pad_id: int, sampling: Sampling) -> "Rules":
        """Returns the rules of these end tokens, one or several, and this sampling."""
        return cls(
            eos_ids=jnp.asarray(end_tokens(eos_id), jnp.int32),
            pad_id=jnp.asarray(pad_id, jnp.int32),
            sampling=sampling,
        )


@flax.struct.dataclass
class DecodeState:
    """B answers between two steps, and the gates that their prompts were read with.

    newest, order, segments: the last token, which is not in the cache yet, its place in
    the sequence and its segment. count: tokens written so far; limit: at most so many.
    written: these tokens, end token included. keys: of random draws, None if greedy.
    used: tokens that a repetition penalty is for, None without one.
    """

    newest: Int[Array, "B"]
    order: Int[Array, "B"]
    segments: Int[Array, "B"]
    count: Int[Array, "B"]
    limit: Int[Array, "B"]
    finished: Bool[Array, "B"]
    written: Int[Array, "B U"]
    keys: Key[Array, "B"] | None
    used: Bool[Array, "B W"] | None
    cache: KVCache
    gates: tuple[bool, ...] = flax.struct.field(pytree_node=False)


def step(model: VLM, params: Params, state: DecodeState, rules: Rules) -> DecodeState:
    """Returns the state in which every unfinished row has one more token."""
    tags = TokenTags(
        order=state.order[:, None],
        segments=state.segments[:, None],
        valid=~state.finished[:, None],
    )
    new = (state.newest[:, None], tags, state.cache, state.gates)
    logits, cache = model.apply({"params": params}, *new, method=VLM.decode)
    columns = cache.text.valid.shape[1]
    state = state.replace(cache=cache.replace(length=cache.length % columns))
    return with_token(state, logits[:, 0], ~state.finished, rules)


def with_token(
    state: DecodeState,
    logits: Float[Array, "B W"],
    writing: Bool[Array, "B"],
    rules: Rules,
) -> DecodeState:
    """Returns the state in which the rows that are `writing` have one more token.

    Args:
      logits: of that token; where they are not finite, it is `NOT_FINITE` and the row
        ends. writing: none of them finished.
    """
    keys = state.keys
    if keys is not None:
        keys = jax.vmap(jax.random.fold_in)(keys, state.count)
    token = sample_token(logits, rules.sampling, keys, state.used)
    token, broken = marked(token, logits)
    rows = jnp.arange(token.shape[0])
    used = state.used
    if used is not None:
        used = used.at[rows, token].set(used[rows, token] | writing)
    column = jnp.where(writing, state.count, state.written.shape[1])
    before = jnp.where(state.finished, rules.pad_id, state.newest)
    count = state.count + writing
    ends = (token[:, None] == rules.eos_ids).any(axis=1) | (count >= state.limit)
    ends |= broken
    return state.replace(
        newest=jnp.where(writing, token, before),
        order=state.order + writing,
        count=count,
        finished=state.finished | (writing & ends),
        written=state.written.at[rows, column].set(token, mode="drop"),
        used=used,
    )


def used_tokens(
    prompt: Int[Array, "B T"], vocabulary: int, sampling: Sampling
) -> Bool[Array, "B W"]:
    """Returns the tokens that count as used before an answer; -1 is padding."""
    rows = jnp.arange(prompt.shape[0])[:, None]
    # Padding lies outside and is dropped.
    prompt = jnp.where(prompt < 0, vocabulary, prompt)
    used = jnp.zeros((prompt.shape[0], vocabulary), bool)
    used = used.at[rows, prompt].set(True, mode="drop")
    return used.at[:, jnp.asarray(sampling.also_used, int)].set(True)
