"""Tokens in an order in which lengths, and causal order by index, say the whole mask.

For kernels of others, which know no more than that. A row of a `CAUSAL` mask:

    order    4 5 . 0 1 2 3        sorted   0 1 2 3 4 5 .        length 6
    valid    1 1 0 1 1 1 1

Under a `WHOLE` mask the valid keys go first. Nothing of a packed row is known by form.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import MaskForm, TokenTags


@runtime_checkable
class AttendFirst(Protocol):
    """Attention over the first tokens of every row."""

    def __call__(
        self,
        query: Float[Array, "B Q N H"],
        key: Float[Array, "B M K H"],
        value: Float[Array, "B M K H"],
        *,
        queries: Int[Array, "B"] | None = None,
        keys: Int[Array, "B"] | None = None,
        is_causal: bool = False,
    ) -> Float[Array, "B Q N H"]:
        """Returns the mixed values; what is behind the first queries may be anything.

        Args:
          queries, keys: how many count, at least 1; None for all.
          is_causal: query i sees the keys up to i alone.
        """


def refuses_form(parts: Sequence[KeyPart]) -> str | None:
    """Returns why the mask over these parts cannot be said by lengths, or None."""
    masked = [part for part in parts if part.tags is not None]
    if masked and (len(parts) > 1 or masked[0].form is MaskForm.TAGS):
        return "nothing is known of the mask but the tags of each token"
    return None


def attend_sorted(
    attend: AttendFirst, query: Float[Array, "B Q N H"], part: KeyPart
) -> Float[Array, "B Q N H"]:
    """Returns what `visor_jax.ops.attention.attend` does.

    Invalid queries of a `CAUSAL` mask give zeros; those that see no key of a `WHOLE`
    one something that is finite.

    Args:
      part: of a known form; the queries of a causal one are the keys' own tokens.

    Raises:
      ValueError: for tags of which no form is known.
    """
    if reason := refuses_form([part]):
        raise ValueError(f"{part.form} cannot be said by lengths: {reason}.")
    key, value, tags, form = part
    if tags is None:
        return attend(query, key, value)
    if form is MaskForm.WHOLE:
        first = jnp.argsort(~tags.valid, axis=1, stable=True)
        key, value = (_take(x, first) for x in (key, value))
        # A row without keys must not be divided by nothing; nobody uses what it gives.
        return attend(query, key, value, keys=jnp.maximum(_count(tags), 1))
    never = jnp.iinfo(tags.order.dtype).max
    index = jnp.argsort(jnp.where(tags.valid, tags.order, never), axis=1, stable=True)
    query, key, value = (_take(x, index) for x in (query, key, value))
    count = jnp.maximum(_count(tags), 1)
    mixed = attend(query, key, value, queries=count, keys=count, is_causal=True)
    mixed = _take(mixed, jnp.argsort(index, axis=1))
    return jnp.where(tags.valid[..., None, None], mixed, 0)


def _count(tags: TokenTags) -> Int[Array, "B"]:
    return tags.valid.sum(axis=1, dtype=jnp.int32)


def _take(x: Array, index: Int[Array, "B T"]) -> Array:
    """Returns every row's tokens in this order, a permutation."""

    def take(x: Array, index: Array) -> Array:
        # Said to be unique, or the gradient would be summed up token by token.
        return x.at[index].get(unique_indices=True, mode="promise_in_bounds")

    return jax.vmap(take)(x, index)
