"""What every attention kernel takes and says: `KeyPart` and the `Kernel` protocol.

A kernel is one file in this folder and one line in `visor_jax.ops.attention.KERNELS`;
`tests/ops/kernels/test_contract.py` holds every one of them to the same mathematics.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.ops.masks import MaskForm, TokenTags

# Below so many queries one pass over the keys needs no kernel of its own.
FEWEST_QUERIES = 128
# What the widths that fused kernels take are a multiple of.
_MULTIPLE = 8


class KeyPart(NamedTuple):
    """Some of the keys that queries attend to; tags are None where nothing is masked.

    form: what is known of the mask (`visor_jax.ops.masks.form_between`). Not an
    annotated struct of equal lengths: every part has a length of its own.
    """

    key: Array
    value: Array
    tags: TokenTags | None
    form: MaskForm = MaskForm.TAGS


class Kernel(Protocol):
    """One way to compute attention (`visor_jax.ops.attention.attend` says what it is).

    writes_scores: whether the scores of all pairs are written to memory at once, and
    kept for the backward pass.
    """

    writes_scores: bool

    def refuses(
        self, query: Array, parts: Sequence[KeyPart], platform: str
    ) -> str | None:
        """Returns why it cannot or should not be used here, None if it takes the work.

        Only static facts count: shapes, dtypes, the form of a mask, the platform. The
        arrays may be `jax.ShapeDtypeStruct`s.
        """

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        parts: Sequence[KeyPart],
        query_tags: TokenTags | None,
    ) -> Float[Array, "B Q N H"]:
        """Returns the values mixed by one softmax over the keys of all parts."""


def refuses_arrays(
    query: Array, parts: Sequence[KeyPart], *, dtypes: Sequence[str], widest: int
) -> str | None:
    """Returns why a fused kernel does not take arrays of these shapes and types.

    Args:
      dtypes: that it takes, all of one. widest: heads that it takes.
    """
    found = {str(jnp.dtype(x.dtype)) for x in (query, *(p.key for p in parts))}
    if len(found) > 1 or not found <= set(dtypes):
        return f"it takes {' or '.join(dtypes)}, not {sorted(found)}"
    queries, width = query.shape[1], query.shape[3]
    if width > widest or width % _MULTIPLE:
        return f"heads {width} wide are no multiple of {_MULTIPLE} up to {widest}"
    if queries < FEWEST_QUERIES:
        return f"{queries} queries are fewer than {FEWEST_QUERIES}"
    return None


def count_keys(parts: Sequence[KeyPart]) -> int:
    """Returns how many keys the parts have together."""
    return sum(part.key.shape[1] for part in parts)


def joined(parts: Sequence[KeyPart]) -> KeyPart:
    """Returns the parts as one, in their order."""
    if len(parts) == 1:
        return parts[0]
    key, value = (
        jnp.concatenate([part[field] for part in parts], axis=1) for field in (0, 1)
    )
    tags = None
    if parts[0].tags is not None:
        tags = functools.reduce(TokenTags.concat, [part.tags for part in parts])
    return KeyPart(key, value, tags)


def block_length(length: int, most: int, *, multiple: int) -> int:
    """Returns the length of equal blocks that leaves the least padding.

    Args:
      length: of all tokens. most: in a block. multiple: what a block is a multiple of.
    """
    blocks = -(-length // most)
    even = -(-length // blocks)
    return min(most, -(-even // multiple) * multiple)
