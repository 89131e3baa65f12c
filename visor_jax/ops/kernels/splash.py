"""Attention by splash, jax's own kernel for TPUs: to compare with, and by name alone.

Its masks are fixed when a program is made and its segments must be equal to meet, so it
cannot say the project's rule (a segment 0 that all see). Where a mask is known by form
it can: tokens are sorted (`sorted_tokens`), and lengths become two segments. Lengths
are filled up to whole blocks of 128; shorter blocks it does not have.

Its fused backward pass is not used: it writes a copy of the queries' gradients for
every block of keys.
"""

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.ops.kernels.kernel import (
    KeyPart,
    block_length,
    joined,
    refuses_arrays,
)
from visor_jax.ops.kernels.on_mesh import refuses_mesh, split_over_mesh
from visor_jax.ops.kernels.sorted_tokens import attend_sorted, refuses_form
from visor_jax.ops.masks import MaskForm, TokenTags

BLOCK = 512
_LANES = 128
WIDEST = 256
DTYPES = "bfloat16", "float32"


@dataclasses.dataclass(frozen=True)
class SplashKernel:
    """`splash_attend` on every device of the mesh, where the mask is known by form.

    block: most tokens in a block. interpret: for tests, on any platform.
    """

    block: int = BLOCK
    interpret: bool = False
    writes_scores = False

    def refuses(
        self, query: Array, parts: Sequence[KeyPart], platform: str
    ) -> str | None:
        """Returns what splash cannot do, or does no better than the plain kernel."""
        if platform != "tpu" and not self.interpret:
            return f"splash is a kernel for TPUs, not {platform}"
        return (
            refuses_arrays(query, parts, dtypes=DTYPES, widest=WIDEST)
            or refuses_form(parts)
            or refuses_mesh(
                query, [part.key for part in parts], alone=not self.interpret
            )
        )

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        parts: Sequence[KeyPart],
        query_tags: TokenTags | None,
    ) -> Float[Array, "B Q N H"]:
        """Returns `splash_attend` over the parts joined, split over the mesh."""
        del query_tags
        key, value, tags, form = joined(parts)
        attend = functools.partial(
            splash_attend, form=form, block=self.block, interpret=self.interpret
        )
        return split_over_mesh(attend, (query, key, value), (tags,))


def splash_attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B M K H"],
    value: Float[Array, "B M K H"],
    tags: TokenTags | None = None,
    *,
    form: MaskForm,
    block: int = BLOCK,
    interpret: bool = False,
) -> Float[Array, "B Q N H"]:
    """Returns what `visor_jax.ops.attention.attend` does, on one device.

    Args:
      tags, form: of the keys, as a `KeyPart` has them; without tags any form.
      block: most tokens in a block of queries or keys, a multiple of 128.
    """
    attend = functools.partial(_with_segments, block=block, interpret=interpret)
    return attend_sorted(attend, query, KeyPart(key, value, tags, form))


def _with_segments(
    query: Array,
    key: Array,
    value: Array,
    *,
    queries: Int[Array, "B"] | None = None,
    keys: Int[Array, "B"] | None = None,
    is_causal: bool = False,
    block: int,
    interpret: bool,
) -> Array:
    """Returns attention over the first tokens of each row; lengths None for all."""
    splash_attention = _library()
    length, width = query.shape[1], query.shape[3]
    blocks = tuple(
        block_length(x.shape[1], block, multiple=_LANES) for x in (query, key)
    )
    asked = _segment_ids(query, queries, blocks[0])
    if queries is None:
        # They see the same as the others, for nothing: what they give is cut off.
        asked = jnp.ones_like(asked)
    ids = splash_attention.SegmentIds(asked, _segment_ids(key, keys, blocks[1]))
    query = _heads_first(query * width**-0.5, blocks[0])
    key, value = (_heads_first(x, blocks[1]) for x in (key, value))
    shape = query.shape[2], key.shape[2]
    make = splash_attention.CausalMask if is_causal else splash_attention.FullMask
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([make(shape)] * query.shape[1]),
        block_sizes=_block_sizes(*blocks),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    mixed = jax.vmap(kernel)(query, key, value, ids)
    return mixed[:, :, :length].swapaxes(1, 2)


def _segment_ids(
    x: Float[Array, "B T N H"], count: Int[Array, "B"] | None, block: int
) -> Int[Array, "B _"]:
    """Returns 1 for the first tokens of each row, 0 for the others up to a block."""
    batch, length = x.shape[:2]
    filled = length + -length % block
    count = jnp.full(batch, length, jnp.int32) if count is None else count
    return (jnp.arange(filled) < count[:, None]).astype(jnp.int32)


def _heads_first(x: Float[Array, "B T N H"], block: int) -> Float[Array, "B N _ H"]:
    """Returns the heads before the tokens, with zeros behind to whole blocks."""
    extra = -x.shape[1] % block
    return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, extra), (0, 0)))


def _block_sizes(query: int, key: int) -> Any:
    return _library().BlockSizes(
        **{f"block_q{of}": query for of in ("", "_dkv", "_dq")},
        **{f"block_kv{of}": key for of in ("", "_dkv", "_dq")},
    )


def _library() -> Any:
    # Not at import: it is experimental, and nothing else is to need it.
    return importlib.import_module("jax.experimental.pallas.ops.tpu.splash_attention")
