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

from visor_jax.ops.kernels.kernel import KeyPart, joined, refuses_arrays
from visor_jax.ops.kernels.sorted_tokens import attend_sorted, refuses_form
from visor_jax.ops.masks import TokenTags

GPUS = ("gpu", "cuda")
DTYPES = "bfloat16", "float16"
WIDEST = 128
# What lengths must be multiples of where gradients are wanted.
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
        reason = refuses_arrays(query, parts, dtypes=DTYPES, widest=WIDEST)
        return reason or refuses_form(parts)

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
    """Returns what `attend_sorted` does, by cuDNN.

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
