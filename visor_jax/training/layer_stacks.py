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
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from visor_jax.models.scanned_columns import Column, scanned_columns
from visor_jax.models.vlm import VLM
from visor_jax.training.optimizer import OptimizerSettings
from visor_jax.training.state import TrainState

Tree = Any
# The memory of a host that its devices read and write themselves.
_HOST = "pinned_host"


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

        `state` is used up: a layer's array is let go of as soon as it is stacked, so
        that devices never hold more than one of them twice.
        """
        return self._joined(state, _stacked)

    def unstack(self, state: TrainState) -> TrainState:
        """Returns the state layer by layer, on the same devices; `state` is used up."""
        return self._parted(state, _taken_apart)

    def for_files(self, state: TrainState) -> TrainState:
        """Returns the state layer by layer, as files hold it; `state` stays.

        What was stacked is in the memory of the hosts, where they can show devices
        theirs: a device need not hold it twice while it is written.
        """
        return self._parted(state, _on_hosts)

    def stacked(self, abstract: TrainState) -> TrainState:
        """Returns shapes, dtypes and shardings of the stacked state."""
        return self._joined(abstract, _under_an_axis)

    def _joined(
        self, state: TrainState, join: Callable[[Sequence[Any]], Any]
    ) -> TrainState:
        def joined(flat: dict[str, Any]) -> None:
            for column in self.columns:
                for below in _below(column[0], flat):
                    leaves = [flat.pop(layer + below) for layer in column]
                    flat[column[0] + below] = join(leaves)

        return _of_parameters(joined, state) if self.columns else state

    def _parted(
        self, state: TrainState, parts: Callable[[Any, int], Iterable[Any]]
    ) -> TrainState:
        def parted(flat: dict[str, Any]) -> None:
            for column in self.columns:
                for below in _below(column[0], flat):
                    leaves = parts(flat.pop(column[0] + below), len(column))
                    names = (layer + below for layer in column)
                    flat.update(zip(names, leaves, strict=True))

        return _of_parameters(parted, state) if self.columns else state


def _under_an_axis(leaves: Sequence[Any]) -> jax.ShapeDtypeStruct:
    """Returns layers' arrays as one that every device holds all layers of."""
    [first, *_] = leaves
    split = first.sharding
    if isinstance(split, NamedSharding):
        split = NamedSharding(split.mesh, PartitionSpec(None, *split.spec))
    shape = (len(leaves), *first.shape)
    return jax.ShapeDtypeStruct(shape, first.dtype, sharding=split)


def _stacked(leaves: Sequence[jax.Array]) -> jax.Array:
    found = _stack(_under_an_axis(leaves).sharding)(leaves)
    for leaf in leaves:
        leaf.delete()
    return found


def _taken_apart(leaf: jax.Array, count: int) -> list[jax.Array]:
    found = _layers(leaf, count, _of_a_layer(leaf.sharding))
    leaf.delete()
    return found


def _on_hosts(leaf: jax.Array, count: int) -> list[jax.Array]:
    split = _of_a_layer(leaf.sharding)
    [device, *_] = split.addressable_devices
    if _HOST in {memory.kind for memory in device.addressable_memories()}:
        split = split.with_memory_kind(_HOST)
    return _layers(leaf, count, split)


def _layers(leaf: jax.Array, count: int, split: Sharding) -> list[jax.Array]:
    layer = _layer(split)
    return [layer(leaf, index) for index in range(count)]


def _of_a_layer(split: Sharding) -> Sharding:
    if isinstance(split, NamedSharding):
        return NamedSharding(split.mesh, PartitionSpec(*split.spec[1:]))
    return split


@functools.cache
def _stack(split: Sharding) -> Callable[[Sequence[jax.Array]], jax.Array]:
    return jax.jit(jnp.stack, out_shardings=split)


@functools.cache
def _layer(split: Sharding) -> Callable[[jax.Array, int], jax.Array]:
    # One program for all layers: which of them is an argument.
    take = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False)
    return jax.jit(take, out_shardings=split)


def _of_parameters(
    change: Callable[[dict[str, Any]], None], state: TrainState
) -> TrainState:
    """Returns the state with what is by parameters' names changed: moments too.

    change: of {"a/b/kernel": leaf}, in place.
    """

    def changed(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        flat = flax.traverse_util.flatten_dict(part, sep="/")
        change(flat)
        return flax.traverse_util.unflatten_dict(flat, sep="/")

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
