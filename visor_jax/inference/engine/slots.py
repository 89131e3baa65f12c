"""Answers in the making: a fixed number of slots, filled and freed one by one.

Slots are the rows of a `DecodeState`, all of one budget and one bucket. Each has its
own prompt, image K/V and answer; a finished one is free for the next prompt while its
neighbours go on. Text K/V lie in a ring that all slots share: every step writes one
column, the same for all, so a step needs no scatter, whenever its rows were admitted. A
prompt of T columns is admitted just behind the column that is written next (`p` prompt,
`a` answer, `.` free):

    columns                  0 1 2 3 4 5 6 7    next to write: 3
    slot 0, since column 7   a a a . . p p a
    slot 1, just come        p p p . . . . .    one step later both have written 3

A row never meets itself again as long as the ring holds its prompt and its answer. What
a token may see follows from order and validity, so the order of columns is nothing to
anybody. `cache.length` is the ring's next column.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from visor_jax.data.prompts.sampling import GREEDY, Sampling
from visor_jax.inference.generation.decode_step import (
    DecodeState,
    Rules,
    step,
    used_tokens,
)
from visor_jax.inference.sampling import RowSampling, also_used
from visor_jax.layer_plan import StaticGate
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.kv_cache import KVCache, LayerCache
from visor_jax.models.decoder.token_reducer import TokenReducer
from visor_jax.models.vlm import VLM
from visor_jax.ops.masks import TokenTags

Params = Any


class Admitted(NamedTuple):
    """One request that goes into a slot; see `Admission`."""

    row: int
    last: int
    segment: int
    slot: int
    limit: int
    draw: int
    seed: int
    sampling: Sampling


@flax.struct.dataclass
class Admission:
    """Which requests of a group of rows go into which slots, padded.

    row, last, segment: the request's row in the group, the index of its last token in
    the row, and its segment. slot: where it goes; at or beyond the number of slots for
    padding. limit: most tokens of its answer. draw: folded into the key of its draws.
    seed: of a key of its own instead, -1 for none: then it draws as if it were asked
    alone with that key, and `draw` is 0. sampling: how its tokens are chosen. also:
    used tokens beside those of its prompt, -1 for padding. count: how many requests
    there are, before the padding.
    """

    row: Int[Array, "X"]
    last: Int[Array, "X"]
    segment: Int[Array, "X"]
    slot: Int[Array, "X"]
    limit: Int[Array, "X"]
    draw: Int[Array, "X"]
    seed: Int[Array, "X"]
    sampling: RowSampling
    also: Int[Array, "X A"]
    count: Int[Array, ""]

    @classmethod
    def of(
        cls, admitted: Sequence[Admitted], *, slots: int, also_room: int
    ) -> "Admission":
        """Returns NumPy arrays of these requests, padded to as many as there are slots.

        also_room: columns of `also`.
        """
        table = np.zeros((slots, 7), np.int32)
        table[:, 3] = slots
        table[: len(admitted)] = np.reshape([each[:7] for each in admitted], (-1, 7))
        settings = [each.sampling for each in admitted]
        settings += [GREEDY] * (slots - len(settings))
        return cls(
            *table.T.copy(),
            sampling=RowSampling.of(settings),
            also=also_used(settings, also_room),
            count=np.int32(len(admitted)),
        )


def free_slots(
    config: VLMConfig,
    gates: tuple[StaticGate, ...],
    reducer: TokenReducer,
    *,
    slots: int,
    text_slots: int,
    image_tokens: int,
    new_tokens: int,
    scored: bool = False,
    cache: KVCache | None = None,
) -> DecodeState:
    """Returns slots that are all free. Image K/V exist only where a layer reads them.

    text_slots: columns of the ring: the longest prompt and all of an answer that a
    later token sees. scored: whether tokens' log-probabilities are written, too. cache:
    an empty one that is there already; None for a new one.
    """
    # Arrays of their own: programs write into them in place.
    numbers = {
        name: jnp.zeros(slots, jnp.int32)
        for name in ("newest", "order", "segments", "count", "limit")
    }
    return DecodeState(
        **numbers,
        finished=jnp.ones(slots, bool),
        written=jnp.zeros((slots, new_tokens), jnp.int32),
        sampling=jax.tree.map(jnp.asarray, RowSampling.of([GREEDY] * slots)),
        keys=jax.random.split(jax.random.key(0), slots),
        used=jnp.zeros((slots, config.decoder.vocab_size), bool),
        cache=cache
        or KVCache.empty(
            config,
            gates,
            reducer,
            rows=slots,
            text_slots=text_slots,
            image_tokens=image_tokens,
        ),
        gates=gates,
        log_probs=jnp.zeros((slots, new_tokens), jnp.float32) if scored else None,
    )


def admit(
    slots: DecodeState,
    admission: Admission,
    logits: Float[Array, "X W"],
    tokens: Int[Array, "rows T"],
    cache: KVCache,
    key: Key[Array, ""],
) -> tuple[DecodeState, tuple[Float[Array, "S W"], Bool[Array, "S"]]]:
    """Returns the slots with the requests of a prefilled group, without first tokens.

    Beside them what `Programs.first_tokens` takes: logits by slot, and which slots have
    come. Choosing takes as long to compile as some layers do, and is the same for all
    groups: it is a program of its own.

    Args:
      logits: of the token after each request. tokens, cache: of the group's rows.
      key: of random draws; a request folds in its own.
    """
    request = admission
    seen = jax.tree.map(lambda x: x[request.row], cache.text)
    own = (seen.segments == 0) | (seen.segments == request.segment[:, None])
    seen = seen.replace(valid=seen.valid & own)
    last = jnp.take_along_axis(seen.order, request.last[:, None], axis=1)[:, 0]

    def put(old: Array, new: Array) -> Array:
        return old.at[request.slot].set(new.astype(old.dtype), mode="drop")

    keys = _keys_of(request, key)
    prompts = jnp.where(seen.valid, tokens[request.row], -1)
    used = used_tokens(prompts, request.also, slots.used.shape[1])
    zeros = jnp.zeros_like(request.limit)
    slots = slots.replace(
        order=put(slots.order, last),
        segments=put(slots.segments, request.segment),
        count=put(slots.count, zeros),
        limit=put(slots.limit, request.limit),
        finished=put(slots.finished, zeros),
        written=put(slots.written, jnp.zeros((1, slots.written.shape[1]))),
        sampling=jax.tree.map(put, slots.sampling, request.sampling),
        keys=slots.keys.at[request.slot].set(keys, mode="drop"),
        used=put(slots.used, used),
        log_probs=jax.tree.map(
            lambda old: put(old, jnp.zeros((1, old.shape[1]))), slots.log_probs
        ),
        cache=_admit_cache(slots.cache, request, cache, seen),
    )
    come = jnp.zeros(slots.finished.shape, bool)
    come = come.at[request.slot].set(True, mode="drop")
    of_slots = jnp.zeros((*come.shape, logits.shape[1]), logits.dtype)
    of_slots = of_slots.at[request.slot].set(logits, mode="drop")
    return slots, (of_slots, come)


def without_cache(slots: DecodeState) -> DecodeState:
    """Returns the slots without what depends on their budget and bucket."""
    return slots.replace(cache=None, gates=())


def _keys_of(request: Admission, key: Key[Array, ""]) -> Key[Array, "X"]:
    """Returns the key of each request's draws."""

    def of_one(seed: Int[Array, ""], draw: Int[Array, ""]) -> Key[Array, ""]:
        own = jax.random.key(seed, impl=jax.random.key_impl(key))
        return jax.random.fold_in(jnp.where(seed < 0, key, own), draw)

    return jax.vmap(of_one)(request.seed, request.draw)


def _admit_cache(
    cache: KVCache, request: Admission, new: KVCache, seen: TokenTags
) -> KVCache:
    columns, length = cache.text.valid.shape[1], new.text.valid.shape[1]

    def behind_next(x: Array) -> Array:
        """Returns (rows, T, ...) as rings whose prompt ends before the next column."""
        room = ((0, 0), (0, columns - length), *((0, 0),) * (x.ndim - 2))
        return jnp.roll(jnp.pad(x, room), cache.length - length, axis=1)

    def put(old: Array, tags: Array) -> Array:
        return old.at[request.slot].set(tags, mode="drop")

    text = jax.tree.map(lambda o, n: put(o, behind_next(n)), cache.text, seen)
    image = jax.tree.map(lambda o, n: put(o, n[request.row]), cache.image, new.image)
    rings = tuple(
        layer.replace(text=jax.tree.map(behind_next, layer.text))
        for layer in new.layers
    )

    # One row at a time and in place: image K/V are large, padding costs nothing.
    def copy(i: Array, layers: tuple[LayerCache, ...]) -> tuple[LayerCache, ...]:
        def row(old: Array, new: Array) -> Array:
            taken = jax.lax.dynamic_slice_in_dim(new, request.row[i], 1, axis=0)
            taken = taken.astype(old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, taken, request.slot[i], 0)

        return jax.tree.map(row, layers, rings)

    layers = jax.lax.fori_loop(0, request.count, copy, cache.layers)
    return cache.replace(layers=layers, text=text, image=image)


def decode_turn(
    model: VLM,
    params: Params,
    slots: DecodeState,
    rules: Rules,
    tokens: int,
    *,
    draws: bool,
) -> DecodeState:
    """Returns the slots after `tokens` more steps, or fewer if all finish before.

    draws: whether a row may draw its tokens or have a repetition penalty; without one
    the program is that of the likeliest tokens alone.
    """
    how = {"sampling": slots.sampling, "keys": slots.keys, "used": slots.used}
    if not draws:
        # What is left out is of rows that do not ask for it, and stays as it is.
        slots = slots.replace(**dict.fromkeys(how))

    def goes_on(state: tuple[Array, DecodeState]) -> Array:
        done, slots = state
        return (done < tokens) & ~slots.finished.all()

    def advance(state: tuple[Array, DecodeState]) -> tuple[Array, DecodeState]:
        done, slots = state
        return done + 1, step(model, params, slots, rules)

    slots = jax.lax.while_loop(goes_on, advance, (jnp.int32(0), slots))[1]
    return slots if draws else slots.replace(**how)
