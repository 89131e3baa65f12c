"""Compiles the prefill of a network that answers, for TPUs that are not here.

This runs in the child process, as `compiled_step`.
"""

import dataclasses

import jax
import numpy as np

from visor_jax.batch import Batch
from visor_jax.checkpoints.placement import placed
from visor_jax.inference.generation.prefill import Prefilled, prefill
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vlm import VLM
from visor_jax.plan.abstract_step import BatchShape, bytes_on_a_device, planned_batch
from visor_jax.plan.answers import AnswerPlan
from visor_jax.plan.tpu.compiled_step import CompiledStep, compile_program
from visor_jax.sharding.programs import on_mesh


def compile_prefill(
    plan: AnswerPlan, mesh: jax.sharding.Mesh, *, effort: str
) -> CompiledStep:
    """Returns the prefill at the plan's largest budget, compiled for the mesh.

    It reads as many prompts as are planned to be read at once, and its cache has room
    for their answers.

    Args:
      effort: as of `compile_step`.

    Raises:
      ValueError: if the mesh does not split the network or the prompts.
    """
    config, shape = plan.config, plan.shape
    params = placed(
        parameter_shapes(config), dtype=np.dtype(config.compute_dtype), mesh=mesh
    )
    batch = planned_batch(config, batch_shape(plan), mesh)
    known = {
        "parameters": bytes_on_a_device(params),
        "optimizer": 0,
        "batch": bytes_on_a_device(batch),
    }
    model, budget = VLM(config), plan.budgets.largest

    def read(params: object, batch: Batch) -> Prefilled:
        return prefill(model, params, batch, budget, spare=shape.new_tokens - 1)

    with on_mesh(mesh):
        return compile_program(
            lambda: jax.jit(read).lower(params, batch), known, effort=effort
        )


def batch_shape(plan: AnswerPlan) -> BatchShape:
    """Returns the lengths of the prompts that are read at once."""
    shape = dataclasses.asdict(plan.shape)
    lengths = ("crops", "image_tokens", "text_tokens", "corners")
    return BatchShape(rows=plan.shape.prompts, **{key: shape[key] for key in lengths})
