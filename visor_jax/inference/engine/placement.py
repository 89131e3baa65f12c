"""Where the engine's arrays lie on a mesh: known before any of them is made.

    slots           rows over `data` and `fsdp`, K/V heads over `tensor`
    pending rows    every copy of the network has all of them; K/V heads over `tensor`
    images          likewise
    all else        on every device

Rows or heads that their mesh axes do not divide are on every device of those axes.
Programs are compiled for these places, so arrays pass from one to the next as they are.
Without a mesh nothing is said of places.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from visor_jax import axes
from visor_jax.models.decoder.kv_cache import KEY_AXES, KeyValues
from visor_jax.ops.logical_axes import dividing, spec_of
from visor_jax.sharding.axis_rules import logical_rules
from visor_jax.sharding.mesh import AnyMesh
from visor_jax.sharding.programs import mesh_of

Tree = Any


@dataclasses.dataclass(frozen=True)
class Placement:
    """The places of the arrays of an engine; mesh: None for one device.

    Trees are of arrays whose first axis are rows, or of their shapes.
    """

    mesh: AnyMesh | None = None

    @classmethod
    def beside(cls, params: Tree) -> "Placement":
        """Returns the places on the mesh of the parameters, if they have one that
        splits anything."""
        mesh = mesh_of(params)
        return cls(None if mesh is None or mesh.size == 1 else mesh)

    def split(self, shapes: Tree) -> Tree:
        """Returns the shapes of arrays whose rows are split over samples' axes."""
        return self._placed(shapes, axes.BATCH)

    def copied(self, shapes: Tree) -> Tree:
        """Returns the shapes of arrays whose rows are on every device."""
        return self._placed(shapes, axes.UNSPLIT)

    def whole(self, arrays: Tree) -> Tree:
        """Returns the shapes of arrays that are on every device, whatever they are."""
        if self.mesh is None:
            return arrays
        place = jax.sharding.NamedSharding(self.mesh, jax.P())
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arrays
        )

    def zeros(self, shapes: Tree) -> Tree:
        """Returns arrays of zeros, made where they are to be."""
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), shapes
        )

    def jit(
        self, run: Callable[..., Any], out: Tree, *, donate: int | Sequence[int] = ()
    ) -> Any:
        """Returns the program of a function that gives arrays at places.

        Args:
          out: placed shapes of what it gives, or of the first levels of that tree.
          donate: arguments whose memory it may use.
        """
        if self.mesh is None:
            return jax.jit(run, donate_argnums=donate)
        where = jax.tree.map(lambda x: x.sharding, out)
        return jax.jit(run, donate_argnums=donate, out_shardings=where)

    def put(self, arrays: Tree, shapes: Tree) -> Tree:
        """Returns the arrays at the places of these shapes."""
        if self.mesh is None:
            return arrays
        return jax.tree.map(
            lambda x, place: jax.device_put(x, place.sharding), arrays, shapes
        )

    def shares(self, rows: int) -> int:
        """Returns in how many parts so many rows are split."""
        if self.mesh is None:
            return 1
        with nn.logical_axis_rules(logical_rules()):
            split = dividing(rows, axes.BATCH, self.mesh)
        parts = 1
        for axis in split:
            parts *= self.mesh.shape[axis]
        return parts

    def most_rows(self, wished: int, on_a_device: int) -> int:
        """Returns how many rows there can be, as evenly split as so many can.

        Args:
          wished: at most so many.
          on_a_device: at most so many on each; at least 1.
        """
        if self.mesh is None:
            return min(wished, on_a_device)
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if wished >= parts:
            return min(wished // parts, on_a_device) * parts
        fits = (n for n in range(wished, 0, -1) if n // self.shares(n) <= on_a_device)
        return next(fits)

    def _placed(self, shapes: Tree, rows: str | None) -> Tree:
        if self.mesh is None:
            return shapes

        def placed(x: Any, names: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
            split = spec_of(x.shape, names, self.mesh)
            sharding = jax.sharding.NamedSharding(self.mesh, split)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        def of_node(node: Any) -> Any:
            if isinstance(node, KeyValues):
                names = (rows, *KEY_AXES[1:])
                return jax.tree.map(lambda x: placed(x, names), node)
            names = (rows, *(axes.UNSPLIT,) * len(node.shape))[: len(node.shape)]
            return placed(node, names)

        with nn.logical_axis_rules(logical_rules()):
            return jax.tree.map(
                of_node, shapes, is_leaf=lambda x: isinstance(x, KeyValues)
            )
