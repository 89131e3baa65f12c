"""Answers in the making: a fixed number of slots, filled and freed one by one.

All slots belong to one budget and one bucket. Each has its own prompt, image K/V and
answer; a finished one is free for the next prompt while its neighbours write on. Text
K/V lie in a ring that all slots share: every step writes one column, the same for all,
so a step needs no scatter, whenever its rows were admitted. A prompt of T columns is
admitted just behind the column that is written next (`p` prompt, `a` answer, `.` free):

    columns                  0 1 2 3 4 5 6 7    next to write: 3
    slot 0, since column 7   a a a . . p p a
    slot 1, just come        p p p . . . . .    one step later both have written 3

A row never meets itself again as long as the ring holds its prompt and its answer. What
a token may see follows from positions and validity, so the order of columns is nothing
to anybody.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.inference.sampling import Sampling, choose
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.kv_cache import KVCache, LayerCache
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vlm import VLM
from visor_jax.ops.gating import Gates
from visor_jax.ops.masks import TokenTags

Params = Any


@flax.struct.dataclass
class Slots:
    """B slots; `cache.length` is the ring's next column.

    newest, positions, segments: the last token written, not yet in the cache. left: how
    many more may follow it. active: False for a finished or free slot. written: the
    answers, end token included; count: tokens in them. keys: of random draws, None if
    greedy. used: tokens that a repetition penalty is for, None without one.
    """

    newest: Int[Array, "B"]
    positions: Int[Array, "B"]
    segments: Int[Array, "B"]
    left: Int[Array, "B"]
    active: Bool[Array, "B"]
    written: Int[Array, "B N"]
    count: Int[Array, "B"]
    keys: Key[Array, "B"] | None
    used: Bool[Array, "B W"] | None
    cache: KVCache


@flax.struct.dataclass
class Admission:
    """Which questions of a group of rows go into which slots; Q places, padded.

    row, last, segment: the question's row in the group, the slot of its last token in
    the row, and its segment. slot: where it goes; at or beyond the number of slots for
    padding. limit: most tokens of its answer. draw: folded into the key of its draws.
    count: how many questions there are, before the padding.
    """

    row: Int[Array, "Q"]
    last: Int[Array, "Q"]
    segment: Int[Array, "Q"]
    slot: Int[Array, "Q"]
    limit: Int[Array, "Q"]
    draw: Int[Array, "Q"]
    count: Int[Array, ""]


@flax.struct.dataclass
class Rules:
    """What ends an answer and how tokens are drawn. eos_ids: any of them ends a row."""

    eos_ids: tuple[int, ...] = flax.struct.field(pytree_node=False)
    sampling: Sampling = flax.struct.field(pytree_node=False)


def free_slots(
    config: VLMConfig,
    gates: Gates,
    reducer: TokenReducer,
    rules: Rules,
    *,
    slots: int,
    text_slots: int,
    image_tokens: int,
    new_tokens: int,
) -> Slots:
    """Returns slots that are all free. Image K/V exist only where a layer reads them.

    text_slots: columns of the ring: the longest prompt and all of an answer that a
    later token sees.
    """
    # Arrays of their own: programs write into them in place.
    numbers = {
        name: jnp.zeros(slots, jnp.int32)
        for name in ("newest", "positions", "segments", "left", "count")
    }
    used = None
    if rules.sampling.needs_used:
        used = jnp.zeros((slots, config.decoder.vocab_size), bool)
    keys = None
    if not rules.sampling.is_greedy:
        keys = jax.random.split(jax.random.key(0), slots)
    return Slots(
        **numbers,
        active=jnp.zeros(slots, bool),
        written=jnp.zeros((slots, new_tokens), jnp.int32),
        keys=keys,
        used=used,
        cache=KVCache.empty(
            config,
            gates,
            reducer,
            rows=slots,
            text_slots=text_slots,
            image_tokens=image_tokens,
        ),
    )


def admit(
    slots: Slots,
    admission: Admission,
    logits: Float[Array, "Q W"],
    tokens: Int[Array, "n T"],
    cache: KVCache,
    rules: Rules,
    key: Key[Array, ""] | None,
) -> Slots:
    """Returns the slots with the questions of a prefilled group and their first tokens.

    Args:
      logits: of the token after each question. tokens, cache: of the group's n rows.
      key: of all random draws; a question folds in its own.
    """
    question = admission
    seen = jax.tree.map(lambda x: x[question.row], cache.text)
    own = (seen.segments == 0) | (seen.segments == question.segment[:, None])
    seen = seen.replace(valid=seen.valid & own)
    last = jnp.take_along_axis(seen.order, question.last[:, None], axis=1)[:, 0]

    def put(old: Array, new: Array) -> Array:
        return old.at[question.slot].set(new.astype(old.dtype), mode="drop")

    keys, used = slots.keys, slots.used
    if keys is not None:
        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        keys = keys.at[question.slot].set(fold(key, question.draw), mode="drop")
    if used is not None:
        words = jnp.where(seen.valid, tokens[question.row], used.shape[1])
        used = put(used, _used(words, used.shape[1], rules.sampling))
    zeros = jnp.zeros_like(question.limit)
    slots = slots.replace(
        positions=put(slots.positions, last),
        segments=put(slots.segments, question.segment),
        left=put(slots.left, question.limit),
        count=put(slots.count, zeros),
        active=put(slots.active, zeros == 0),
        written=put(slots.written, jnp.zeros((1, slots.written.shape[1]))),
        keys=keys,
        used=used,
        cache=_admit_cache(slots.cache, question, cache, seen),
    )
    come = jnp.zeros(slots.active.shape, bool)
    come = come.at[question.slot].set(True, mode="drop")
    of_slots = jnp.zeros((*come.shape, logits.shape[1]), logits.dtype)
    of_slots = of_slots.at[question.slot].set(logits, mode="drop")
    return with_token(slots, of_slots, come, rules)


def _used(words: Array, vocabulary: int, sampling: Sampling) -> Array:
    rows = jnp.arange(words.shape[0])[:, None]
    used = jnp.zeros((words.shape[0], vocabulary), bool)
    used = used.at[rows, words].set(True, mode="drop")
    return used.at[:, jnp.asarray(sampling.also_used, int)].set(True)


def _admit_cache(
    cache: KVCache, question: Admission, new: KVCache, seen: TokenTags
) -> KVCache:
    columns, length = cache.text.valid.shape[1], new.text.valid.shape[1]

    def behind_next(x: Array) -> Array:
        """Returns (rows, T, ...) as rings whose prompt ends before the next column."""
        room = ((0, 0), (0, columns - length), *((0, 0),) * (x.ndim - 2))
        return jnp.roll(jnp.pad(x, room), cache.length - length, axis=1)

    def put(old: Array, tags: Array) -> Array:
        return old.at[question.slot].set(tags, mode="drop")

    text = jax.tree.map(lambda o, n: put(o, behind_next(n)), cache.text, seen)
    image = jax.tree.map(lambda o, n: put(o, n[question.row]), cache.image, new.image)
    rings = tuple(
        layer.replace(text=jax.tree.map(behind_next, layer.text))
        for layer in new.layers
    )

    # One row at a time and in place: image K/V are large, padding costs nothing.
    def copy(i: Array, layers: tuple[LayerCache, ...]) -> tuple[LayerCache, ...]:
        def row(old: Array, new: Array) -> Array:
            taken = jax.lax.dynamic_slice_in_dim(new, question.row[i], 1, axis=0)
            taken = taken.astype(old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, taken, question.slot[i], 0)

        return jax.tree.map(row, layers, rings)

    layers = jax.lax.fori_loop(0, question.count, copy, cache.layers)
    return cache.replace(layers=layers, text=text, image=image)


def write_turn(
    model: VLM, params: Params, slots: Slots, gates: Gates, rules: Rules, tokens: int
) -> Slots:
    """Returns the slots after `tokens` more steps, or fewer if all finish before."""

    def goes_on(state: tuple[Array, Slots]) -> Array:
        return (state[0] < tokens) & state[1].active.any()

    def step(state: tuple[Array, Slots]) -> tuple[Array, Slots]:
        done, slots = state
        tags = TokenTags(
            order=slots.positions[:, None],
            segments=slots.segments[:, None],
            valid=slots.active[:, None],
        )
        new = (slots.newest[:, None], tags, slots.cache, gates)
        logits, cache = model.apply({"params": params}, *new, method=VLM.decode)
        columns = cache.text.valid.shape[1]
        slots = slots.replace(cache=cache.replace(length=cache.length % columns))
        return done + 1, with_token(slots, logits[:, 0], slots.active, rules)

    return jax.lax.while_loop(goes_on, step, (jnp.int32(0), slots))[1]


def with_token(
    slots: Slots,
    logits: Float[Array, "B W"],
    writing: Bool[Array, "B"],
    rules: Rules,
) -> Slots:
    """Returns the slots in which those that are `writing` have one more token."""
    keys = slots.keys
    if keys is not None:
        keys = jax.vmap(jax.random.fold_in)(keys, slots.count)
    chosen = choose(logits, rules.sampling, keys, slots.used)
    ends = (chosen[:, None] == jnp.asarray(rules.eos_ids, jnp.int32)).any(axis=1)
    rows = jnp.arange(chosen.shape[0])
    place = jnp.where(writing, slots.count, slots.written.shape[1])
    used = slots.used
    if used is not None:
        used = used.at[rows, chosen].set(used[rows, chosen] | writing)
    left = jnp.where(writing, slots.left - 1, slots.left)
    goes_on = slots.active & ~ends & (left > 0)
    return slots.replace(
        newest=jnp.where(writing, chosen, slots.newest),
        positions=slots.positions + writing,
        left=left,
        active=jnp.where(writing, goes_on, slots.active),
        written=slots.written.at[rows, place].set(chosen, mode="drop"),
        count=slots.count + writing,
        used=used,
    )
