"""Compiles attention for TPUs that are not here: seconds and memory, no speed.

    python -m visor_jax.timing.tpu_attention [--topology=v5e:2x4] \\
        [--kernels=tags,splash,blockwise] [--only=SELF] [--json]

The compiler for TPUs comes as a package (`pip install -e '.[tpu]'`) and needs none. At
every shape of the networks the gradient is compiled (which begins with the forward
pass), split over all chips of the topology, one row of a batch on each:

    lower s, compile s   wall clock
    temp MB              memory of a chip beside arguments and results
    calls                kernels in the program, those that XLA makes itself aside
    quadratic            arrays of queries x keys in it: there should be none
"""

from absl import flags

from visor_jax.commands import command_line


def define_flags() -> None:
    """Declares the program's flags. Not at import: other programs share the names."""
    flags.DEFINE_string("topology", "v5e:2x4", "Chips, as v5e:2x4 or v6e:2x4.")
    flags.DEFINE_list("kernels", ["tags", "blockwise"], "Of visor_jax.ops.attention.")
    flags.DEFINE_string("only", "", "Shapes whose name has this in it.")
    flags.DEFINE_bool("json", False, "A line of JSON each, in place of a table.")


if __name__ == "__main__":
    command_line.begin(define_flags)

import contextlib
import dataclasses
import importlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jaxtyping import Array, Float

from visor_jax.ops.attention import attend
from visor_jax.ops.kernels.kernel import KeyPart
from visor_jax.ops.masks import TokenTags, form_between
from visor_jax.sharding.axis_rules import batch_sharding, logical_rules
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.timing.accelerator.attention import Shape, shapes

COLUMNS = ("shape", "kernel", "lower s", "compile s", "temp MB", "calls", "quadratic")
_CALL = 'custom_call_target="tpu_custom_call"'


def chips(topology: str) -> jax.sharding.Mesh:
    """Returns a mesh of chips that are not here, all along "fsdp".

    Raises:
      ValueError: without the compiler, or if it does not know the topology.
    """
    if not hasattr(_libtpu(), "get_library_path"):
        raise ValueError(
            "The compiler for TPUs is not installed: pip install -e '.[tpu]'."
        )
    # A machine without TPUs has nobody to ask what it is, and nothing to share.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"--topology={topology!r} is none: {error}") from error
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    devices = np.array(found.devices).reshape(1, -1, 1)
    return jax.sharding.Mesh(devices, MESH_AXES, axis_types=auto)


def _libtpu() -> Any:
    try:
        return importlib.import_module("libtpu")
    except ModuleNotFoundError:
        return None


@dataclasses.dataclass(frozen=True)
class Program:
    """The gradient of one kernel at one shape, for these chips."""

    name: str
    shape: Shape
    kernel: str
    mesh: jax.sharding.Mesh

    def check(self) -> None:
        """Raises ValueError if the kernel refuses the shape."""
        with self._on_mesh():
            jax.eval_shape(self._loss, *self._inputs())

    def row(self) -> dict[str, Any]:
        """Returns what compiling it took and made, by `COLUMNS`."""
        with self._on_mesh():
            start = time.perf_counter()
            lowered = jax.jit(jax.grad(self._loss)).lower(*self._inputs())
            made = time.perf_counter()
            program = lowered.compile()
            end = time.perf_counter()
        text = program.as_text()
        temp = program.memory_analysis().temp_size_in_bytes
        return {
            "shape": self.name,
            "kernel": self.kernel,
            "lower s": round(made - start, 1),
            "compile s": round(end - made, 1),
            "temp MB": round(temp / 1e6, 1),
            "calls": text.count(_CALL),
            "quadratic": quadratic_arrays(text, self.shape.queries, self.shape.keys),
        }

    @contextlib.contextmanager
    def _on_mesh(self) -> Iterator[None]:
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(logical_rules()):
            yield

    def _inputs(self) -> Any:
        """Returns query, key and value, and their tags, as shapes."""
        split = batch_sharding(self.mesh)
        rows = self.shape.rows * self.mesh.size
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (rows, *x.shape[1:]), x.dtype, sharding=split
            ),
            (jax.eval_shape(self.shape.inputs), jax.eval_shape(self.shape.tags)),
        )

    def _loss(
        self, arrays: tuple[Array, ...], tags: tuple[TokenTags, ...]
    ) -> Float[Array, ""]:
        query, key, value = arrays
        part = KeyPart(key, value, None)
        if tags:
            part = KeyPart(key, value, tags[-1], form_between(tags[0], tags[-1]))
        asking = tags[0] if tags else None
        mixed = attend(query, [part], asking, kernel=self.kernel)
        return mixed.astype(jnp.float32).sum()


def quadratic_arrays(text: str, queries: int, keys: int) -> int:
    """Returns how many arrays of a program's text hold a number for every pair."""
    count = 0
    for found in re.findall(r"\w+\[((?:\d+,)*\d+)\]", text):
        sizes = [int(size) for size in found.split(",")]
        # A pair of sizes no shorter than the lengths, whatever is filled up; the
        # heads' width and number are shorter than both.
        long = sorted(sizes)[-2:]
        shorter, longer = sorted((queries, keys))
        count += (
            len(long) == 2
            and shorter <= long[0]
            and longer <= long[1]
            and math.prod(long) < 4 * queries * keys
        )
    return count


def main(arguments: list[str]) -> None:
    """Prints a row for every shape and kernel."""
    del arguments
    options = flags.FLAGS
    jax.config.update("jax_platforms", "cpu")
    # A kept program would take no time.
    jax.config.update("jax_enable_compilation_cache", False)
    with command_line.user_errors():
        programs = programs_of(options)
    if not options.json:
        print(_line(COLUMNS))
        print(_line(["---"] * len(COLUMNS)))
    for program in programs:
        row = program.row()
        print(json.dumps(row) if options.json else _line(row.values()), flush=True)


def programs_of(options: Any) -> list[Program]:
    """Returns what the flags ask for. Raises ValueError if they cannot be met."""
    wanted = {k: s for k, s in shapes(tiny=False).items() if options.only in k}
    if not wanted:
        raise ValueError(f"--only={options.only!r} is in no name of a shape.")
    mesh = chips(options.topology)
    programs = [
        Program(name, shape, kernel, mesh)
        for name, shape in wanted.items()
        for kernel in options.kernels
    ]
    for program in programs:
        program.check()
    return programs


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    command_line.run(main)
