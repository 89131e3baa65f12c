"""Gradients of a batch in parts, exactly those of the whole batch.

What is minimised is a weighted sum of means, each over the places of the *whole* batch
where it counts. Parts hold different numbers of such places, so the mean of the parts'
means would be something else; the counts of the whole batch come first instead:

    part            tokens that count    its loss is its sum over
    1               10                   40
    2               30                   40
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from visor_jax.training.objectives.losses import Summed

Tree = Any
Part = TypeVar("Part")


@flax.struct.dataclass
class Term:
    """`weight * summed.mean`, one addend of what a step minimises.

    The count must depend on the data alone, never on parameters.
    """

    summed: Summed
    weight: float = flax.struct.field(pytree_node=False, default=1.0)


# From (parameters, batch or part) to the addends and to sums that are only reported.
Terms = Callable[[Tree, Any], tuple[Sequence[Term], Any]]


def gradient(
    terms: Terms, params: Tree, batch: Any, *, parts: int = 1
) -> tuple[Tree, Any]:
    """Returns (gradient of the batch's loss, what `terms` reports, summed over parts).

    Args:
      parts: passes over a `parts`-th of the batch each, one after another, so that only
        one part's activations are held at a time.

    Raises:
      ValueError: if the samples do not split into so many parts.
    """
    if parts == 1:
        return jax.grad(_loss, argnums=1, has_aux=True)(terms, params, batch, None)
    split = _split(batch, parts)

    def add_counts(counts: list[Array], part: Any) -> tuple[list[Array], None]:
        # Whatever does not lead to a count is dead code: no forward pass is made.
        found = [term.summed.count for term in terms(params, part)[0]]
        return jax.tree.map(jnp.add, counts, found), None

    def add_gradient(sums: Tree, part: Any) -> tuple[Tree, None]:
        found = jax.grad(_loss, argnums=1, has_aux=True)(terms, params, part, counts)
        return jax.tree.map(jnp.add, sums, found), None

    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(lambda part: terms(params, part), first)
    zeros = [jnp.zeros((), jnp.float32) for _ in shapes[0]]
    counts, _ = jax.lax.scan(add_counts, zeros, split)
    nothing = jax.tree.map(jnp.zeros_like, params), jax.tree.map(_zeros, shapes[1])
    sums, _ = jax.lax.scan(add_gradient, nothing, split)
    return sums


def _loss(
    terms: Terms, params: Tree, batch: Any, counts: list[Float[Array, ""]] | None
) -> tuple[Float[Array, ""], Any]:
    """Returns (loss over the given counts, or over the batch's own; the report)."""
    addends, report = terms(params, batch)
    own = [term.summed.count for term in addends]
    means = (
        term.weight * Summed(term.summed.total, count).mean
        for term, count in zip(addends, counts or own, strict=True)
    )
    return sum(means, jnp.zeros(())), report


def _split(batch: Part, parts: int) -> Part:
    """Returns the batch with a leading axis of parts, every field (parts, B/parts, ..).

    Part i takes samples i, i + parts, ...: where samples are split over devices, each
    device finds its share of every part among its own.
    """

    def split(x: Array) -> Array:
        if x.shape[0] % parts:
            raise ValueError(f"{x.shape[0]} samples do not split into {parts=}.")
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)


def _zeros(shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(shape.shape, shape.dtype)
