"""Which blocks of queries and keys can meet, in the order a kernel visits them.

The rule of `visor_jax.ops.masks` takes two numbers a token, validity no third:

                 order                       segment
    valid        as it is                    as it is
    invalid key  LATE: after every query     0
    inv. query   EARLY: before every key     0

A kernel walks over all pairs, row by row, and its table says for every step at which
pair the inputs stand: at the step's own if the two blocks can meet, else at the next
pair that can (the last one, behind it). Inputs that stay are not fetched again.

    can meet     steps         table         so fetched, as (row, column)
    x .          0 1           0 2           (0, 0)  (1, 0)
    x x          2 3           2 3                            (1, 1)
    . .          4 5           3 3
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from visor_jax.ops.masks import TokenTags

EARLY, LATE = np.iinfo(np.int32).min, np.iinfo(np.int32).max
# Where no pair of a row of the batch can meet.
NOWHERE = -1


def query_marks(
    tags: TokenTags | None, length: int, padded: int
) -> Int[Array, "rows 2 T"]:
    """Returns order and segment of every query; one row for all without tags.

    Args:
      length: of the tokens. padded: with those behind them, which are invalid.
    """
    return _marks(tags, length, padded, EARLY)


def key_marks(
    tags: TokenTags | None, length: int, padded: int
) -> Int[Array, "rows 2 T"]:
    """Returns order and segment of every key, as `query_marks`."""
    return _marks(tags, length, padded, LATE)


def _marks(tags: TokenTags | None, length: int, padded: int, invalid: int) -> Array:
    if tags is None:
        order = segments = jnp.zeros((1, length), jnp.int32)
    else:
        order = jnp.where(tags.valid, tags.order, invalid).astype(jnp.int32)
        segments = jnp.where(tags.valid, tags.segments, 0).astype(jnp.int32)
    behind = ((0, 0), (0, padded - length))
    order = jnp.pad(order, behind, constant_values=invalid)
    return jnp.stack([order, jnp.pad(segments, behind)], axis=1)


def blocks_meet(
    query: Int[Array, "rows 2 Q"],
    key: Int[Array, "rows 2 M"],
    query_block: int,
    key_block: int,
) -> Bool[Array, "rows n m"]:
    """Returns whether any query of one block might see any key of the other.

    By the blocks' first and last order and segment: never False where one does.
    """
    rows = query.shape[0]
    asking, own = query.reshape(rows, 2, -1, query_block).swapaxes(0, 1)
    order, segments = key.reshape(rows, 2, -1, key_block).swapaxes(0, 1)
    last = asking.max(axis=-1)[:, :, None]
    first_shared, first_own = (
        jnp.where(of, order, LATE).min(axis=-1)[:, None]
        for of in (segments == 0, segments != 0)
    )
    lowest, highest = _segments_of_their_own(own)
    lowest_key, highest_key = _segments_of_their_own(segments)
    in_reach = (highest[:, :, None] >= lowest_key[:, None]) & (
        lowest[:, :, None] <= highest_key[:, None]
    )
    seen = (first_shared <= last) | ((first_own <= last) & in_reach)
    # LATE stands for no key at all, EARLY for no query.
    return seen & (jnp.minimum(first_shared, first_own) < LATE) & (last > EARLY)


def _segments_of_their_own(segments: Array) -> tuple[Array, Array]:
    """Returns the lowest and highest segment in each block, those of 0 left out."""
    lowest = jnp.where(segments == 0, LATE, segments).min(axis=-1)
    return lowest, jnp.where(segments == 0, EARLY, segments).max(axis=-1)


def visits(meet: Bool[Array, "rows n m"]) -> Int[Array, "steps"]:
    """Returns the table of a walk over the pairs, `m` fastest; of all rows in turn.

    Steps are counted anew in every row. NOWHERE in rows without any pair.
    """
    flat = meet.reshape(meet.shape[0], -1)
    count = flat.shape[1]
    step = jnp.arange(count, dtype=jnp.int32)
    coming = jax.lax.cummin(jnp.where(flat, step, count), axis=1, reverse=True)
    last = jnp.where(flat, step, NOWHERE).max(axis=1, keepdims=True)
    return jnp.where(coming < count, coming, last).astype(jnp.int32).reshape(-1)


class Stand(NamedTuple):
    """Where inputs stand at a step; Pallas scalars or numbers.

    meet: whether the step's own blocks can meet. ahead: whether the inputs are those of
    a step to come. outer, inner: block of the inputs along each axis of the walk.
    """

    meet: Any
    ahead: Any
    outer: Any
    inner: Any


@dataclasses.dataclass(frozen=True)
class Walk:
    """Steps over the pairs (outer block, inner block) of each row of the batch.

    rows: how many the table has; 1 if it holds for all rows of the batch.
    """

    outer: int
    inner: int
    rows: int

    def row(self, batch_row: Any) -> Any:
        """Returns the row of the table and of the marks that is this one's."""
        return batch_row if self.rows > 1 else 0

    def at(self, table: Any, batch_row: Any, outer: Any, inner: Any) -> Stand:
        """Returns what the table (of `visits`) says of this step."""
        step = outer * self.inner + inner
        entry = table[self.row(batch_row) * (self.outer * self.inner) + step]
        place = jnp.maximum(entry, 0)
        return Stand(
            meet=entry == step,
            ahead=entry > step,
            outer=jax.lax.div(place, self.inner),
            inner=jax.lax.rem(place, self.inner),
        )
