"""Training states that hold the parameters of scanned layers as they are scanned.

    in files, by name                       in memory
    language_model/layers_0/mlp/.. (D, F)   language_model/layers_0/mlp/.. (8, D, F)
    language_model/layers_3/mlp/.. (D, F)
    ...

A step that takes its layers from one array spares the compiler an update, a norm and a
choice for each of them. Whatever goes by a parameter's name (files, rules of sharding,
what is frozen, groups) knows layers alone: a run stacks its state once when it begins,
and takes it apart when it saves. Values are copied, never computed.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from visor_jax.models.scanned_columns import Column, scanned_columns
from visor_jax.models.vlm import VLM
from visor_jax.training.optimizer import OptimizerSettings
from visor_jax.training.state import TrainState

Tree = Any


@dataclasses.dataclass(frozen=True)
class LayerStacks:
    """columns: paths of layers whose parameters are one array each in a state."""

    columns: tuple[Column, ...] = ()

    @classmethod
    def of(cls, model: VLM, settings: OptimizerSettings, params: Tree) -> "LayerStacks":
        """Returns what a universal run stacks on the platform in context.

        A column stays apart if a pattern of `settings` (what is frozen, groups) tells
        its layers from one another.

        Args:
          params: arrays or shapes of all of them, a layer apart.
        """
        paths = flax.traverse_util.flatten_dict(params, sep="/")
        groups = (group.pattern for group in settings.groups.values())
        patterns = (*settings.frozen, *groups)
        return cls(
            tuple(
                column
                for column in scanned_columns(model)
                if _are_alike(column, paths, patterns)
            )
        )

    def stack(self, state: TrainState) -> TrainState:
        """Returns the state as a step takes it, on the same devices.

        Both are there while it is made.
        """
        return self._made(_stacked_arrays, self.stacked(state), state)

    def unstack(self, state: TrainState) -> TrainState:
        """Returns the state as files hold it, on the same devices; `state` stays."""
        return self._made(_parted_arrays, self._parted(state, _parts_of), state)

    def stacked(self, abstract: TrainState) -> TrainState:
        """Returns shapes, dtypes and shardings of the stacked state."""
        return self._joined(abstract, _under_an_axis)

    def _made(
        self, make: Callable[..., TrainState], aim: TrainState, state: TrainState
    ) -> TrainState:
        if not self.columns:
            return state
        shardings = jax.tree.map(lambda x: x.sharding, aim)
        leaves, tree = jax.tree.flatten(shardings)
        return _program(make, self, tuple(leaves), tree)(state)

    def _joined(
        self, state: TrainState, join: Callable[[Sequence[Any]], Any]
    ) -> TrainState:
        def joined(tree: Tree) -> Tree:
            flat = flax.traverse_util.flatten_dict(tree, sep="/")
            for column in self.columns:
                for below in _below(column[0], flat):
                    leaves = [flat.pop(layer + below) for layer in column]
                    flat[column[0] + below] = join(leaves)
            return flax.traverse_util.unflatten_dict(flat, sep="/")

        return _of_parameters(joined, state)

    def _parted(
        self, state: TrainState, parts: Callable[[Any, int], Iterable[Any]]
    ) -> TrainState:
        def parted(tree: Tree) -> Tree:
            flat = flax.traverse_util.flatten_dict(tree, sep="/")
            for column in self.columns:
                for below in _below(column[0], flat):
                    leaves = parts(flat.pop(column[0] + below), len(column))
                    names = (layer + below for layer in column)
                    flat.update(zip(names, leaves, strict=True))
            return flax.traverse_util.unflatten_dict(flat, sep="/")

        return _of_parameters(parted, state)


@functools.lru_cache(maxsize=8)
def _program(
    make: Callable[..., TrainState],
    stacks: LayerStacks,
    shardings: tuple[Any, ...],
    tree: Any,
) -> Callable[[TrainState], TrainState]:
    out = jax.tree.unflatten(tree, shardings)
    return jax.jit(functools.partial(make, stacks), out_shardings=out)


def _stacked_arrays(stacks: LayerStacks, state: TrainState) -> TrainState:
    return stacks._joined(state, jnp.stack)


def _parted_arrays(stacks: LayerStacks, state: TrainState) -> TrainState:
    return stacks._parted(state, lambda x, count: [x[i] for i in range(count)])


def _under_an_axis(leaves: Sequence[Any]) -> jax.ShapeDtypeStruct:
    """Returns layers' arrays as one that every device holds all layers of."""
    [first, *_] = leaves
    split = first.sharding
    if isinstance(split, NamedSharding):
        split = NamedSharding(split.mesh, PartitionSpec(None, *split.spec))
    shape = (len(leaves), *first.shape)
    return jax.ShapeDtypeStruct(shape, first.dtype, sharding=split)


def _parts_of(x: Any, count: int) -> list[jax.ShapeDtypeStruct]:
    split = x.sharding
    if isinstance(split, NamedSharding):
        split = NamedSharding(split.mesh, PartitionSpec(*split.spec[1:]))
    return [jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=split)] * count


def _of_parameters(change: Callable[[Tree], Tree], state: TrainState) -> TrainState:
    """Returns the state with what is by parameters' names changed: moments too."""

    def changed(part: Any) -> Any:
        return change(part) if isinstance(part, dict) else part

    return jax.tree.map(changed, state, is_leaf=lambda part: isinstance(part, dict))


def _below(layer: str, paths: Iterable[str]) -> list[str]:
    """Returns the ends of a layer's parameters' paths, "/mlp/up_proj/kernel"."""
    return [path.removeprefix(layer) for path in paths if path.startswith(f"{layer}/")]


def _are_alike(column: Column, paths: Collection[str], patterns: Sequence[str]) -> bool:
    """Returns whether each pattern says the same of all layers of a column."""
    return all(
        len({bool(re.search(pattern, layer + below)) for layer in column}) == 1
        for below in _below(column[0], paths)
        for pattern in patterns
    )
