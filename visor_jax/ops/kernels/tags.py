"""Attention for TPUs that computes its mask from tags: one Pallas kernel for every row.

No mask is read and no token moved: each pair of blocks compares the tags of its own
tokens. Text, images, both together, packed questions, padding on either side and the
tower (without tags) are one program. Pairs of blocks that cannot meet are neither
computed nor fetched (`block_table`). Memory grows with length, as in `blockwise`, whose
mathematics this is: a running softmax, and weights computed again for the gradients.

Queries that are invalid or see nothing give zeros, and no gradient.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.kernels.block_table import key_marks, query_marks
from visor_jax.ops.kernels.kernel import (
    KeyPart,
    block_length,
    count_keys,
    joined,
    refuses_arrays,
)
from visor_jax.ops.kernels.on_mesh import refuses_mesh, split_over_mesh
from visor_jax.ops.kernels.tags_pallas import (
    Blocks,
    Inputs,
    OfQueries,
    backward_keys,
    backward_query,
    forward,
)
from visor_jax.ops.masks import TokenTags

# Tokens in a block, at most: the scores of two blocks are 1 MiB of on-chip memory.
BLOCK = 512
# Blocks are a multiple of the lanes of a vector register.
_LANES = 128
WIDEST = 256
DTYPES = "bfloat16", "float32"
# Entries of 4 bytes that tables may have, in 1 MiB of scalar memory.
MOST_PAIRS = 128 * 1024


@dataclasses.dataclass(frozen=True)
class TagsKernel:
    """`tags_attend` on every device of the mesh, where a TPU can.

    block: most tokens in a block. interpret: for tests, on any platform: Pallas' steps
    run one by one as programs of XLA, slowly.
    """

    block: int = BLOCK
    interpret: bool = False
    writes_scores = False

    def refuses(
        self, query: Array, parts: Sequence[KeyPart], platform: str
    ) -> str | None:
        """Returns what the kernel cannot do, or does no better than the plain one."""
        if platform != "tpu" and not self.interpret:
            return (
                f"it is a kernel for TPUs, not {platform}, where only tests interpret "
                "it: TagsKernel(interpret=True)"
            )
        reason = refuses_arrays(query, parts, dtypes=DTYPES, widest=WIDEST)
        if reason is not None:
            return reason
        rows, queries = query.shape[:2]
        pairs = -(-queries // self.block) * -(-count_keys(parts) // self.block)
        tables = 1 if parts[0].tags is None else rows
        if tables * pairs > MOST_PAIRS:
            return f"a table of {tables * pairs} pairs of blocks is over {MOST_PAIRS}"
        return refuses_mesh(
            query, [part.key for part in parts], alone=not self.interpret
        )

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        parts: Sequence[KeyPart],
        query_tags: TokenTags | None,
    ) -> Float[Array, "B Q N H"]:
        """Returns `tags_attend` over the parts joined, split over the mesh."""
        key, value, tags, _ = joined(parts)
        attend = functools.partial(
            tags_attend, block=self.block, interpret=self.interpret
        )
        return split_over_mesh(attend, (query, key, value), (query_tags, tags))


def tags_attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B M K H"],
    value: Float[Array, "B M K H"],
    query_tags: TokenTags | None = None,
    key_tags: TokenTags | None = None,
    *,
    block: int = BLOCK,
    interpret: bool = False,
) -> Float[Array, "B Q N H"]:
    """Returns what `visor_jax.ops.attention.attend` does, on one device.

    Args:
      block: most tokens in a block of queries or keys, a multiple of 128.
    """
    queries, keys, width = query.shape[1], key.shape[1], query.shape[3]
    blocks = Blocks(
        query=block_length(queries, block, multiple=_LANES),
        key=block_length(keys, block, multiple=_LANES),
        interpret=interpret,
    )
    query = _tokens_last(query * width**-0.5, blocks.query)
    key, value = (_tokens_last(x, blocks.key) for x in (key, value))
    asked = query_marks(query_tags, queries, query.shape[3])
    seen = key_marks(key_tags, keys, key.shape[3])
    mixed = _attend(blocks, Inputs(query, key, value, asked, seen))
    return mixed[..., :queries].transpose(0, 3, 1, 2)


def _tokens_last(x: Float[Array, "B T N H"], block: int) -> Float[Array, "B N H _"]:
    """Returns the tokens along the last axis, with zeros behind to whole blocks."""
    extra = -x.shape[1] % block
    return jnp.pad(x.transpose(0, 2, 3, 1), (*((0, 0),) * 3, (0, extra)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(blocks: Blocks, x: Inputs) -> Array:
    """Returns the mixed values of all queries, shaped and typed like them."""
    return forward(x, blocks)[0]


def _attend_forward(blocks: Blocks, x: Inputs) -> tuple[Array, Any]:
    mixed, log_total = forward(x, blocks)
    return mixed, (x, mixed, log_total)


def _attend_backward(blocks: Blocks, residuals: Any, d_mixed: Array) -> tuple[Inputs]:
    x, mixed, log_total = residuals
    product = d_mixed.astype(jnp.float32) * mixed.astype(jnp.float32)
    shared = product.sum(axis=2, keepdims=True)
    of_queries = OfQueries(log_total, shared, d_mixed)
    d_query = backward_query(x, of_queries, blocks)
    d_key, d_value = backward_keys(x, of_queries, blocks)
    return (Inputs(d_query, d_key, d_value, None, None),)


_attend.defvjp(_attend_forward, _attend_backward)
