"""The Pallas programs of `visor_jax.ops.kernels.tags`: forward, and two of gradients.

Everything lies with its tokens last, (B, heads, H, tokens), and scores as (keys,
queries). So 128 lanes are filled whatever the width of a head, a query's peak, total
and gradient are rows, and sums over keys run down the sublanes:

    scores    key^T query      (M, Q)       mixed      value weights       (H, Q)
    d query   key d_scores     (H, Q)       d key      query d_scores^T    (H, M)

Every grid walks a table (`block_table`). What its steps add to stays in scratch memory,
in float32, until the last step of a block writes it. Sizes of grids are Python numbers:
`pl.num_programs` gives another call's in some versions of jax.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from visor_jax.ops.kernels import tags_bodies as bodies
from visor_jax.ops.kernels.block_table import Walk, blocks_meet, visits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """Tokens in a block of queries and of keys; interpret: run by XLA, anywhere."""

    query: int
    key: int
    interpret: bool = False


class Inputs(NamedTuple):
    """What all three programs read; query is scaled. Marks are of `block_table`."""

    query: Float[Array, "B N H Q"]
    key: Float[Array, "B K H M"]
    value: Float[Array, "B K H M"]
    query_marks: Int[Array, "rows 2 Q"]
    key_marks: Int[Array, "rows 2 M"]


class OfQueries(NamedTuple):
    """What the backward programs read besides.

    log_total: logarithm of each query's total of weights. shared: what the softmax
    takes off the gradients of all scores of a query.
    """

    log_total: Float[Array, "B N 1 Q"]
    shared: Float[Array, "B N 1 Q"]
    d_mixed: Float[Array, "B N H Q"]


def forward(
    x: Inputs, blocks: Blocks
) -> tuple[Float[Array, "B N H Q"], Float[Array, "B N 1 Q"]]:
    """Returns the mixed values and the logarithm of each query's total of weights."""
    walk, meet = _walk(x, blocks)
    specs = _by_queries(x, blocks, walk)
    width, heads = x.query.shape[2], x.query.shape[:2]
    return _call(
        functools.partial(bodies.forward, walk=walk),
        name="tags_forward",
        x=x,
        products=2,
        grid=(*heads, walk.outer, walk.inner),
        in_specs=[specs[name] for name in _PLACES],
        out_specs=[specs["out"], specs["out_row"]],
        out_shape=[
            jax.ShapeDtypeStruct(x.query.shape, x.query.dtype),
            jax.ShapeDtypeStruct((*heads, 1, x.query.shape[3]), jnp.float32),
        ],
        scratch=[(1, blocks.query), (1, blocks.query), (width, blocks.query)],
        interpret=blocks.interpret,
    )(visits(meet), *x)


def backward_query(
    x: Inputs, of_queries: OfQueries, blocks: Blocks
) -> Float[Array, "B N H Q"]:
    """Returns the gradient of the queries."""
    walk, meet = _walk(x, blocks)
    specs = _by_queries(x, blocks, walk)
    return _call(
        functools.partial(bodies.d_query, walk=walk),
        name="tags_d_query",
        x=x,
        products=3,
        grid=(*x.query.shape[:2], walk.outer, walk.inner),
        in_specs=[specs[name] for name in (*_PLACES, *_PLACES_OF_QUERIES)],
        out_specs=specs["out"],
        out_shape=jax.ShapeDtypeStruct(x.query.shape, x.query.dtype),
        scratch=[(x.query.shape[2], blocks.query)],
        interpret=blocks.interpret,
    )(visits(meet), *x, *of_queries)


def backward_keys(
    x: Inputs, of_queries: OfQueries, blocks: Blocks
) -> tuple[Float[Array, "B K H M"], Float[Array, "B K H M"]]:
    """Returns the gradients of keys and values."""
    walk, meet = _walk(x, blocks)
    walk = Walk(walk.inner, walk.outer, walk.rows)
    group = x.query.shape[1] // x.key.shape[1]
    specs = _by_keys(x, blocks, walk)
    return _call(
        functools.partial(bodies.d_keys, walk=walk, group=group),
        name="tags_d_keys",
        x=x,
        products=4,
        # Keys stay; the queries of all heads of their group pass by.
        grid=(*x.key.shape[:2], walk.outer, walk.inner, group),
        in_specs=[specs[name] for name in (*_PLACES, *_PLACES_OF_QUERIES)],
        out_specs=[specs["out"], specs["out"]],
        out_shape=[jax.ShapeDtypeStruct(x.key.shape, x.key.dtype)] * 2,
        scratch=[(x.key.shape[2], blocks.key)] * 2,
        interpret=blocks.interpret,
    )(visits(meet.swapaxes(1, 2)), *x, *of_queries)


# Names of the specs below, for the fields of `Inputs` and of `OfQueries`.
_PLACES = ("query", "key", "key", "asked", "seen")
_PLACES_OF_QUERIES = ("row", "row", "query")


def _walk(x: Inputs, blocks: Blocks) -> tuple[Walk, Array]:
    meet = blocks_meet(x.query_marks, x.key_marks, blocks.query, blocks.key)
    return Walk(meet.shape[1], meet.shape[2], meet.shape[0]), meet


def _by_queries(x: Inputs, blocks: Blocks, walk: Walk) -> dict[str, pl.BlockSpec]:
    """Returns where arrays stand while a block of queries stays and keys pass by."""
    group = x.query.shape[1] // x.key.shape[1]

    def stand(b, i, j, table):
        at = walk.at(table, b, i, j)
        return at.outer, at.inner

    def of_query(b, n, i, j, table):
        return b, n, 0, stand(b, i, j, table)[0]

    def of_key(b, n, i, j, table):
        return b, jax.lax.div(n, group), 0, stand(b, i, j, table)[1]

    def asked(b, n, i, j, table):
        return walk.row(b), 0, stand(b, i, j, table)[0]

    def seen(b, n, i, j, table):
        return walk.row(b), 0, stand(b, i, j, table)[1]

    def out(b, n, i, j, table):
        return b, n, 0, i

    specs = _specs(x, blocks, of_query, of_key, asked, seen)
    specs["out"] = pl.BlockSpec(specs["query"].block_shape, out)
    specs["out_row"] = pl.BlockSpec(specs["row"].block_shape, out)
    return specs


def _by_keys(x: Inputs, blocks: Blocks, walk: Walk) -> dict[str, pl.BlockSpec]:
    """Returns where arrays stand while a block of keys stays and queries pass by."""
    group = x.query.shape[1] // x.key.shape[1]

    def of_query(b, c, j, i, h, table):
        at = walk.at(table, b, j, i)
        # At the next pair's first head; behind the last pair, at its last one.
        waits = jnp.where(at.ahead, 0, group - 1)
        return b, c * group + jnp.where(at.meet, h, waits), 0, at.inner

    def of_key(b, c, j, i, h, table):
        return b, c, 0, walk.at(table, b, j, i).outer

    def asked(b, c, j, i, h, table):
        return walk.row(b), 0, walk.at(table, b, j, i).inner

    def seen(b, c, j, i, h, table):
        return walk.row(b), 0, walk.at(table, b, j, i).outer

    def out(b, c, j, i, h, table):
        return b, c, 0, j

    specs = _specs(x, blocks, of_query, of_key, asked, seen)
    specs["out"] = pl.BlockSpec(specs["key"].block_shape, out)
    return specs


def _specs(
    x: Inputs,
    blocks: Blocks,
    of_query: Callable,
    of_key: Callable,
    asked: Callable,
    seen: Callable,
) -> dict[str, pl.BlockSpec]:
    width = x.query.shape[2]
    return {
        "query": pl.BlockSpec((1, 1, width, blocks.query), of_query),
        "row": pl.BlockSpec((1, 1, 1, blocks.query), of_query),
        "key": pl.BlockSpec((1, 1, width, blocks.key), of_key),
        "asked": pl.BlockSpec((1, 2, blocks.query), asked),
        "seen": pl.BlockSpec((1, 2, blocks.key), seen),
    }


def _call(
    body: Callable,
    *,
    name: str,
    x: Inputs,
    products: int,
    grid: tuple[int, ...],
    in_specs: list[pl.BlockSpec],
    out_specs: Any,
    out_shape: Any,
    scratch: list[tuple[int, ...]],
    interpret: bool,
) -> Callable:
    """Returns the program; products: of all queries with all keys, for its cost."""
    batch, heads, width, queries = x.query.shape
    pairs = batch * heads * queries * x.key.shape[3]
    moved = (*x[:3], *jax.tree.leaves(out_shape))
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            # Rows and heads in any order; blocks in that of the table.
            dimension_semantics=("parallel",) * 2 + ("arbitrary",) * (len(grid) - 2),
        ),
        # As if all pairs met. Without it the compiler takes the call for free.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * width * pairs,
            transcendentals=pairs,
            bytes_accessed=sum(math.prod(a.shape) * a.dtype.itemsize for a in moved),
        ),
        interpret=interpret,
        name=name,
    )
