"""Plans of steps that compile in seconds, with memory like that of real ones."""

import dataclasses
from typing import Any

from configs import universal
from visor_jax.budget import BudgetSet
from visor_jax.layer_plan import LayerPlan
from visor_jax.models.config import (
    AdapterConfig,
    DecoderConfig,
    VisionConfig,
    VLMConfig,
)
from visor_jax.plan.abstract_step import BatchShape
from visor_jax.settings.read import read_settings
from visor_jax.sharding.mesh import AnyMesh
from visor_jax.tasks.training_plan import TrainingPlan
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.universal_step import ObjectiveSettings

MODEL = VLMConfig(
    vision=VisionConfig(
        width=64,
        mlp_width=256,
        num_layers=2,
        num_heads=2,
        image_size=112,
        patch_size=8,
    ),
    decoder=DecoderConfig(
        vocab_size=4096,
        width=128,
        mlp_width=512,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
    ),
    adapter=AdapterConfig(num_kv_heads=4),
    plan=LayerPlan.build(4, cross=(0, 3), self_=(2,)),
    remat="layer",
)
SHAPE = BatchShape(rows=8, crops=2, image_tokens=392, text_tokens=1024)


def small_plan(
    mesh: AnyMesh, shape: BatchShape = SHAPE, frozen: Any = None, **model: Any
) -> TrainingPlan:
    """Returns the plan of a universal run of the small network on a mesh."""
    config = MODEL.replace(**model)
    run = read_settings(universal.get_config())
    budgets = BudgetSet.parse(["none", "all"], config.plan)
    phases = (SchedulePhase(1.0, {"any": 1.0}),)
    optimizer = run.optimizer
    if frozen is not None:
        optimizer = dataclasses.replace(optimizer, frozen=frozen)
    run = dataclasses.replace(
        run,
        model=config,
        budgets=budgets,
        schedule=BudgetSchedule(budgets, phases, run.loop.steps),
        objective=ObjectiveSettings(),
        optimizer=optimizer,
    )
    return TrainingPlan(run=run, mesh=mesh, shape=shape)
