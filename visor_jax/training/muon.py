"""Muon for the matrices of layers, Adam for everything else.

    kernels of layers    momentum (Nesterov), made orthogonal by Newton-Schulz steps, as
                         large as an update of Adam: times 0.2 sqrt(longer side)
    embeddings, heads,   Adam
    norms, biases, ...

Muon is K. Jordan's (2024), the scale that of Liu et al. (arXiv 2502.16982), by which
both share learning rates and weight decay. It keeps one moment of a matrix where Adam
keeps two. Matrices of one shape are made orthogonal together, in batched products
instead of dozens of small ones: while an update is made, a few copies of all of them
are there. (`optax.contrib.muon` takes them one by one, which took more than twice as
long at the sizes of `mini`; tests hold its iteration against this one.)
"""

import re
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Tree = Any
Flat = dict[str, Array]

# Of the quintic whose iteration takes all singular values near 1, and how often.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_BETA = 0.95
# The root mean square of an update of Adam, about.
_ADAMS_SIZE = 0.2
_MATRIX = re.compile(r"layers_\d+/(?:.*/)?kernel$")


class MuonState(NamedTuple):
    """momentum: of matrices. adam: state of all other parameters."""

    momentum: Tree
    adam: Any


def muon_and(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns Muon for the matrices of layers and `adam` for everything else.

    Neither has a learning rate yet. Its `init` raises ValueError where no matrix of a
    layer trains.
    """

    def init(params: Tree) -> MuonState:
        matrices, others = _split(params)
        if not matrices:
            raise ValueError(
                "optimizer.matrices='muon': none of the parameters that train is the "
                "kernel of a layer; write 'adam'."
            )
        zeros = {path: jnp.zeros_like(x) for path, x in matrices.items()}
        return MuonState(_tree(zeros), adam.init(_tree(others)))

    def update(
        updates: Tree, state: MuonState, params: Tree = None
    ) -> tuple[Tree, MuonState]:
        del params
        matrices, others = _split(updates)
        old = flax.traverse_util.flatten_dict(state.momentum, sep="/")
        momentum = {k: _BETA * old[k] + (1 - _BETA) * g for k, g in matrices.items()}
        ahead = {k: _BETA * momentum[k] + (1 - _BETA) * g for k, g in matrices.items()}
        moved, adam_state = adam.update(_tree(others), state.adam)
        found = flax.traverse_util.flatten_dict(moved, sep="/") | _orthogonal(ahead)
        return _tree(found), MuonState(_tree(momentum), adam_state)

    return optax.GradientTransformation(init, update)


def orthogonalized(x: Float[Array, "n rows columns"]) -> Float[Array, "n rows columns"]:
    """Returns matrices of the same singular vectors, with singular values about 1.

    Between 0.7 and 1.2, but for those far below the largest.
    """
    is_tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if is_tall else x
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-8)
    linear, cubic, quintic = _COEFFICIENTS
    for _ in range(_STEPS):
        square = x @ jnp.swapaxes(x, -1, -2)
        x = linear * x + (cubic * square + quintic * square @ square) @ x
    return jnp.swapaxes(x, -1, -2) if is_tall else x


def _orthogonal(matrices: Flat) -> Flat:
    """Returns the updates of these momenta, those of one shape computed together.

    Stacked layers are matrices behind an axis of their own.
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for path, x in matrices.items():
        by_shape.setdefault(x.shape[-2:], []).append(path)
    found: Flat = {}
    for shape, paths in by_shape.items():
        parts = [matrices[path].reshape(-1, *shape) for path in paths]
        scale = _ADAMS_SIZE * max(shape) ** 0.5
        every, at = scale * orthogonalized(jnp.concatenate(parts)), 0
        for path, part in zip(paths, parts, strict=True):
            found[path] = every[at : at + len(part)].reshape(matrices[path].shape)
            at += len(part)
    return found


def _split(tree: Tree) -> tuple[Flat, Flat]:
    """Returns {path: leaf} of the matrices of layers, and of everything else."""
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    matrices = {path: x for path, x in flat.items() if _MATRIX.search(path)}
    return matrices, {path: x for path, x in flat.items() if path not in matrices}


def _tree(flat: Flat) -> Tree:
    return flax.traverse_util.unflatten_dict(flat, sep="/")
