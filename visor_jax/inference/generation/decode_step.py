"""One token step and one state, for whole answers, streams and the engine's slots.

The newest token of a row has been chosen but is not in the cache: a step reads it and
chooses the next one. A row is finished at an end token or at its limit; from there on
it gives padding and counts no more:

    eos = 1, pad = 0    row 0, limit 5    7 4 1 0 0    count 3
                        row 1, limit 3    5 5 2 0 0    count 3

How a row's tokens are chosen is its own, too; what it draws depends on its own key and
count alone, so rows of one state need not have begun together. The cache's text columns
are a ring: one behind the last is the first. Nothing of a row is lost as long as they
hold its prompt and all of its answer but the last token, which nobody reads.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.data.prompts.stop_tokens import EndTokens, end_tokens
from visor_jax.inference.generation.finite import marked
from visor_jax.inference.sampling import RowSampling, sample_token
from visor_jax.layer_plan import StaticGate
from visor_jax.models.decoder.kv_cache import KVCache
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

Params = Any


@flax.struct.dataclass
class Rules:
    """What ends an answer; the same for all rows.

    eos_ids: any of them ends a row; a negative one never does. pad_id: what a finished
    row gives.
    """

    eos_ids: Int[Array, "Z"]
    pad_id: Int[Array, ""]

    @classmethod
    def of(cls, eos_id: EndTokens, pad_id: int) -> "Rules":
        """Returns the rules of these end tokens, one or several."""
        return cls(
            eos_ids=jnp.asarray(end_tokens(eos_id), jnp.int32),
            pad_id=jnp.asarray(pad_id, jnp.int32),
        )


@flax.struct.dataclass
class DecodeState:
    """B answers between two steps, and the gates that their prompts were read with.

    newest, order, segments: the last token, which is not in the cache yet, its place in
    the sequence and its segment. count: tokens written so far; limit: at most so many.
    written: these tokens, end token included. sampling, keys, used: how each row's
    tokens are chosen, the keys of its draws and the tokens that its repetition penalty
    is for; all three are None where every row takes the likeliest token. `used` takes a
    byte per row and token of the vocabulary, little beside a row's cache, and only a
    few of them change in a step: so it is there for rows without a penalty, too, and a
    penalty is no program of its own. log_probs: of the tokens written, by the network's
    own logits, however they were chosen; None where nobody asks how sure it was: then
    programs hold nothing of it.
    """

    newest: Int[Array, "B"]
    order: Int[Array, "B"]
    segments: Int[Array, "B"]
    count: Int[Array, "B"]
    limit: Int[Array, "B"]
    finished: Bool[Array, "B"]
    written: Int[Array, "B U"]
    sampling: RowSampling | None
    keys: Key[Array, "B"] | None
    used: Bool[Array, "B W"] | None
    cache: KVCache | None
    gates: tuple[StaticGate, ...] = flax.struct.field(pytree_node=False)
    log_probs: Float[Array, "B U"] | None = None


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
    cache = cache.split().replace(length=cache.length % columns)
    state = state.replace(cache=cache)
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
    sampling, keys, used = state.sampling, state.keys, state.used
    if sampling is not None:
        # Nothing is sorted or drawn for rows that do not write.
        sampling = sampling.only(writing)
        keys = jax.vmap(jax.random.fold_in)(keys, state.count)
    token = sample_token(logits, sampling, keys, used)
    token, broken = marked(token, logits)
    rows = jnp.arange(token.shape[0])
    if used is not None:
        used = used.at[rows, token].set(used[rows, token] | writing)
    column = jnp.where(writing, state.count, state.written.shape[1])
    log_probs = state.log_probs
    if log_probs is not None:
        of_token = log_probs_of(token, logits)
        log_probs = log_probs.at[rows, column].set(of_token, mode="drop")
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
        log_probs=log_probs,
    )


def log_probs_of(
    token: Int[Array, "B"], logits: Float[Array, "B W"]
) -> Float[Array, "B"]:
    """Returns the log-probability of each row's token, float32.

    Of the logits as they are: temperature, cuts and penalties, which choose among
    tokens, do not change how sure the network is.
    """
    every = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # What is not finite has no token.
    token = jnp.maximum(token, 0)
    return jnp.take_along_axis(every, token[:, None], axis=-1)[:, 0]


def used_tokens(
    prompt: Int[Array, "B T"], also: Int[Array, "B A"], vocabulary: int
) -> Bool[Array, "B W"]:
    """Returns the tokens that count as used before an answer; -1 is padding.

    also: tokens beside those of the prompt.
    """
    rows = jnp.arange(prompt.shape[0])[:, None]
    used = jnp.zeros((prompt.shape[0], vocabulary), bool)
    for tokens in (prompt, also):
        # Padding lies outside and is dropped.
        tokens = jnp.where(tokens < 0, vocabulary, tokens)
        used = used.at[rows, tokens].set(True, mode="drop")
    return used
