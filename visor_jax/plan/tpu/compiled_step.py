"""Compiles a program for TPUs that are not here, and reads what came of it.

This runs in the child process: the compiler ends the process it is in where it finds
something impossible, and stays in it for good.
"""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from visor_jax.batch import Batch
from visor_jax.plan.abstract_step import bytes_on_a_device
from visor_jax.plan.tpu.program_text import Collective, read_program
from visor_jax.plan.tpu.slices import Slices
from visor_jax.sharding.axis_rules import logical_rules
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.training.initial_state import shardings_of
from visor_jax.training.state import TrainState

FAST, FULL = "fast", "full"
# What the compiler says of a program that does not fit: "Used 23.45G of 15.75G hbm".
_TOO_MUCH = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """What the compiler made of a program; bytes are those of one chip.

    parameters, optimizer, batch: that are there, by their shapes; what answers has no
    optimizer, and its batch are prompts or slots. arguments: what the program reads of
    them, as the compiler lays it out. new_results: that take no argument's place.
    peak: the fullest moment, as the compiler plans it; gaps between arrays aside.
    usable: of the chip's memory; None unless the compiler said so, which it does of a
    program that does not fit. Of such a program it says nothing but `peak`.
    """

    lower_s: float
    compile_s: float
    parameters: int
    optimizer: int
    batch: int
    peak: int
    usable: int | None = None
    arguments: int = 0
    new_results: int = 0
    temporary: int = 0
    code: int = 0
    conditionals: int = 0
    whiles: int = 0
    kernels: dict[str, int] = dataclasses.field(default_factory=dict)
    collectives: dict[str, Collective] = dataclasses.field(default_factory=dict)
    largest: int = 0
    program_mb: float = 0.0

    @property
    def unread(self) -> int:
        """Returns the bytes that are there and no argument: a tower, while decoding."""
        there = self.parameters + self.optimizer + self.batch
        return max(0, there - self.arguments) if self.arguments else 0

    @property
    def reserved(self) -> int:
        """Returns the bytes that are asked for beside the program, gaps and all."""
        asked = self.arguments + self.new_results + self.temporary
        return max(self.peak, asked) + self.unread

    @property
    def needed(self) -> int:
        """Returns the bytes that a chip must have."""
        return self.reserved + self.code

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "CompiledStep":
        """Returns what `dataclasses.asdict` and JSON have been through."""
        collectives = {
            kind: Collective(**each) for kind, each in fields["collectives"].items()
        }
        return cls(**{**fields, "collectives": collectives})


def mesh_of(slices: Slices, sizes: tuple[int, int, int]) -> jax.sharding.Mesh:
    """Returns the mesh over the chips of slices, laid out as `train` lays it out."""
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(sizes, MESH_AXES, axis_types=auto, devices=slices.devices())


def compile_step(
    step: Callable[[TrainState, Batch], TrainState],
    state: TrainState,
    batch: Batch,
    mesh: jax.sharding.Mesh,
    *,
    effort: str,
) -> CompiledStep:
    """Returns the step compiled for the mesh, as `train` compiles it.

    Args:
      effort: "full" as in training; "fast" plans the same memory in a fraction of the
        time, for a program that nobody should train with.
    """
    known = {
        "parameters": bytes_on_a_device(state.params),
        "optimizer": bytes_on_a_device(state) - bytes_on_a_device(state.params),
        "batch": bytes_on_a_device(batch),
    }

    def lower() -> jax.stages.Lowered:
        jitted = jax.jit(step, donate_argnums=0, out_shardings=shardings_of(state))
        return jitted.lower(state, batch)

    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        return compile_program(lower, known, effort=effort)


def compile_program(
    lower: Callable[[], jax.stages.Lowered], known: dict[str, Any], *, effort: str
) -> CompiledStep:
    """Returns what the compiler makes of what `lower` returns.

    Args:
      known: bytes of the arguments, by the fields' names.
      effort: as of `compile_step`.
    """
    if effort == FAST:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    # A program from a cache would take no time.
    jax.config.update("jax_enable_compilation_cache", False)
    began = time.perf_counter()
    lowered = lower()
    known["lower_s"] = round(time.perf_counter() - began, 1)
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = too_much(str(error))
        if memory is None:
            raise
        seconds = round(time.perf_counter() - began, 1)
        peak, usable = memory
        return CompiledStep(compile_s=seconds, peak=peak, usable=usable, **known)
    known["compile_s"] = round(time.perf_counter() - began, 1)
    return _read(compiled, known)


def _read(compiled: jax.stages.Compiled, known: dict[str, Any]) -> CompiledStep:
    memory, text = compiled.memory_analysis(), read_program(compiled.as_text())
    return CompiledStep(
        **known,
        arguments=memory.argument_size_in_bytes,
        new_results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        conditionals=text.conditionals,
        whiles=text.whiles,
        kernels=text.kernels,
        collectives=text.collectives,
        largest=text.largest,
        program_mb=text.megabytes,
    )


def too_much(message: str) -> tuple[int, int] | None:
    """Returns (needed, usable) bytes if an error says that a program does not fit."""
    found = _TOO_MUCH.search(message)
    if found is None:
        return None
    needed, unit, usable, usable_unit = found.groups()
    return (
        round(float(needed) * _UNITS[unit]),
        round(float(usable) * _UNITS[usable_unit]),
    )
