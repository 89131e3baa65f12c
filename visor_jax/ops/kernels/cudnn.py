"""Attention by cuDNN, the fused kernel for GPUs: for masks whose form is known.

cuDNN knows lengths, and causal order by index from the first key on; a mask of one's
own it would read from memory, at less than half the speed. So tokens are sorted first,
and brought back (`sorted_tokens`). Nothing of a packed row is known by form:
`blockwise` takes it.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.ops.kernels.kernel import KeyPart, joined
from visor_jax.ops.kernels.sorted_tokens import attend_sorted, refuses_form
from visor_jax.ops.masks import TokenTags

GPUS = ("gpu", "cuda")
DTYPES = {jnp.dtype("bfloat16"), jnp.dtype("float16")}
WIDEST = 128
# Below so many queries one pass over the keys needs no kernel of its own.
FEWEST_QUERIES = 128
# What widths and, where gradients are wanted, lengths must be multiples of.
_MULTIPLE = 8


class CudnnKernel:
    """`cudnn_attend` where cuDNN can."""

    writes_scores = False

    def refuses(
        self, query: Array, parts: Sequence[KeyPart], platform: str
    ) -> str | None:
        """Returns what cuDNN cannot do, or does no better than the plain kernel."""
        if platform not in GPUS:
            return f"cuDNN is for NVIDIA GPUs, not {platform}"
        dtypes = {jnp.dtype(x.dtype) for x in (query, *(p.key for p in parts))}
        if len(dtypes) > 1 or not dtypes <= DTYPES:
            return f"cuDNN takes bfloat16 or float16, not {sorted(map(str, dtypes))}"
        queries, width = query.shape[1], query.shape[3]
        if width > WIDEST or width % _MULTIPLE:
            return f"heads {width} wide are no multiple of {_MULTIPLE} up to {WIDEST}"
        if queries < FEWEST_QUERIES:
            return f"{queries} queries are fewer than {FEWEST_QUERIES}"
        return refuses_form(parts)

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        parts: Sequence[KeyPart],
        query_tags: TokenTags | None,
    ) -> Float[Array, "B Q N H"]:
        """Returns `cudnn_attend`."""
        del query_tags
        return cudnn_attend(query, joined(parts))


def cudnn_attend(
    query: Float[Array, "B Q N H"], part: KeyPart, *, implementation: str = "cudnn"
) -> Float[Array, "B Q N H"]:
    """Returns what `visor_jax.ops.attention.attend` does; rows that see nothing: zeros.

    Args:
      part: of a known form; the queries of a causal one are the keys' own tokens.
      implementation: of `jax.nn.dot_product_attention`.
    """
    attend = functools.partial(_with_lengths, implementation=implementation)
    return attend_sorted(attend, query, part)


def _with_lengths(
    query: Array,
    key: Array,
    value: Array,
    *,
    queries: Int[Array, "B"] | None = None,
    keys: Int[Array, "B"] | None = None,
    is_causal: bool = False,
    implementation: str,
) -> Array:
    """Returns attention over the first tokens of each row; lengths None for all."""
    batch, length = query.shape[:2]
    padded = _padded(query), _padded(key), _padded(value)
    filled = padded[0].shape != query.shape or padded[1].shape != key.shape
    if filled or queries is not None or keys is not None:
        queries = jnp.full(batch, length, jnp.int32) if queries is None else queries
        keys = jnp.full(batch, key.shape[1], jnp.int32) if keys is None else keys
    mixed = jax.nn.dot_product_attention(
        *padded,
        is_causal=is_causal,
        query_seq_lengths=queries,
        key_value_seq_lengths=keys,
        implementation=implementation,
    )
    return mixed[:, :length]


def _padded(x: Array) -> Array:
    extra = -x.shape[1] % _MULTIPLE
    return jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) if extra else x
