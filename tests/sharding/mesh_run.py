"""A tiny universal training run on any mesh: its compiled step, state and batch."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from tests import tiny
from visor_jax.batch import Batch
from visor_jax.budget import BudgetSet
from visor_jax.models.vlm import VLM
from visor_jax.sharding.axis_rules import batch_sharding, logical_rules
from visor_jax.sharding.mesh import MESH_AXES
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import (
    ObjectiveSettings,
    make_universal_step,
)
from visor_jax.training.state import TrainState, state_shardings

CONFIG = tiny.NETWORKS["grouped"].replace(remat="layer", projector_convolution=3)
BUDGETS = BudgetSet.parse(["every"], CONFIG.plan)
FROZEN = ("vision_tower/post_layernorm",)
# No size of the network is a multiple of it: where it turns up, there are activations
# of the whole batch.
SAMPLES = 56
# The same program, compiled in two thirds of the time. Each layer's parameters are
# gathered when they are needed, as an accelerator's compiler would, and not as soon as
# anything is idle.
COMPILER_OPTIONS = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_llvm_disable_expensive_passes": True,
    "xla_backend_optimization_level": 0,
}


@dataclasses.dataclass(frozen=True)
class MeshRun:
    """A run that has not begun: `step(state, batch)` gives the next state."""

    step: jax.stages.Compiled
    state: TrainState
    batch: Batch
    shardings: TrainState

    def curves(self, steps: int) -> dict[str, np.ndarray]:
        """Returns the summed loss and gradient norm, (steps, budgets), of a run."""
        state, rows = self.state, {"loss": [], "grad_norm": []}
        for _ in range(steps):
            state = self.step(state, self.batch)
            for name, values in rows.items():
                values.append(np.asarray(getattr(state.sums, name)))
        return {name: np.stack(values) for name, values in rows.items()}


def mesh_of(sizes: tuple[int, int, int]) -> jax.sharding.Mesh:
    """Returns a mesh of the first devices, as many as the sizes ask for."""
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, MESH_AXES, axis_types=auto, devices=devices)


def initial_state(optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step, on one device."""
    return TrainState.create(
        jax.tree.map(np.asarray, tiny.params_of(CONFIG)["params"]),
        optimizer,
        FROZEN,
        seed=0,
        num_budgets=len(BUDGETS),
    )


def mesh_run(sizes: tuple[int, int, int], **step_options: Any) -> MeshRun:
    """Returns the run on a mesh; step_options go to `make_universal_step`."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9))
    schedule = BudgetSchedule(BUDGETS, (SchedulePhase(1.0, {"any": 1.0}),), 100)
    options = {"objective": ObjectiveSettings(), **step_options}
    step = make_universal_step(
        VLM(CONFIG), optimizer, schedule, frozen=FROZEN, **options
    )
    state, mesh = initial_state(optimizer), mesh_of(sizes)
    batch = tiny.random_batch(CONFIG, tiny.SAMPLES * (SAMPLES // len(tiny.SAMPLES)))
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        shardings = state_shardings(state, FROZEN, mesh)
        state = jax.device_put(state, shardings)
        batch = jax.device_put(batch, batch_sharding(mesh))
        lowered = jax.jit(step, out_shardings=shardings).lower(state, batch)
    compiled = lowered.compile(compiler_options=COMPILER_OPTIONS)
    return MeshRun(compiled, state, batch, shardings)
