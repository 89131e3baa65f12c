"""Compiles the programs of a network that answers, for TPUs that are not here.

This runs in the child process, as `compiled_step`.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from visor_jax.batch import Batch
from visor_jax.checkpoints.placement import placed
from visor_jax.inference.engine.placement import Placement
from visor_jax.inference.engine.slots import free_slots
from visor_jax.inference.generation.decode_step import DecodeState, Rules, step
from visor_jax.inference.generation.prefill import Prefilled, prefill
from visor_jax.models.config import VLMConfig
from visor_jax.models.decoder.token_reducer import KEEP_ALL
from visor_jax.models.parameters import parameter_shapes
from visor_jax.models.vlm import VLM
from visor_jax.plan.abstract_step import BatchShape, planned_batch
from visor_jax.plan.answers import AnswerPlan
from visor_jax.plan.tpu.compiled_step import CompiledStep, compile_program
from visor_jax.runtime.device_cache import num_bytes_of
from visor_jax.sharding.programs import on_mesh

Params = Any


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
    params = _params(config, mesh)
    batch = planned_batch(config, batch_shape(plan), mesh)
    model, budget = VLM(config), plan.budgets.largest

    def read(params: Params, batch: Batch) -> Prefilled:
        return prefill(model, params, batch, budget, spare=shape.new_tokens - 1)

    with on_mesh(mesh):
        return compile_program(
            lambda: jax.jit(read).lower(params, batch),
            _known(params, batch),
            effort=effort,
        )


def compile_decode(
    plan: AnswerPlan, mesh: jax.sharding.Mesh, *, effort: str
) -> CompiledStep:
    """Returns a step of decoding in all slots at the largest budget, compiled.

    The slots are those of an engine, with room for the plan's answers behind its
    prompts, and their memory is used again. Every row takes its likeliest token.

    Args:
      effort: as of `compile_step`.

    Raises:
      ValueError: if the mesh does not split the network.
    """
    config, shape = plan.config, plan.shape
    params, model = _params(config, mesh), VLM(config)
    places = Placement.beside(params)
    free = functools.partial(
        free_slots,
        config,
        plan.budgets.largest.gates(config.plan),
        KEEP_ALL,
        slots=shape.slots,
        text_slots=shape.text_tokens + shape.new_tokens - 1,
        image_tokens=shape.image_tokens,
        new_tokens=shape.new_tokens,
    )
    # Nobody draws: what that takes is no part of the program.
    slots = jax.eval_shape(free).replace(sampling=None, keys=None, used=None)
    slots = places.split(slots)
    # Which tokens they are is nothing to the memory.
    rules = Rules.of((0,), 0)

    def write(params: Params, slots: DecodeState) -> DecodeState:
        return step(model, params, slots, rules)

    with on_mesh(mesh):
        return compile_program(
            lambda: places.jit(write, slots, donate=1).lower(params, slots),
            _known(params, slots),
            effort=effort,
        )


def _params(config: VLMConfig, mesh: jax.sharding.Mesh) -> Params:
    dtype = np.dtype(config.compute_dtype)
    return placed(parameter_shapes(config), dtype=dtype, mesh=mesh)


def _known(params: Params, batch: Any) -> dict[str, Any]:
    """Returns the bytes of the arguments on a chip, by the fields' names."""
    return {
        "parameters": num_bytes_of(params),
        "optimizer": 0,
        "batch": num_bytes_of(batch),
    }


def batch_shape(plan: AnswerPlan) -> BatchShape:
    """Returns the lengths of the prompts that are read at once."""
    shape = dataclasses.asdict(plan.shape)
    lengths = ("crops", "image_tokens", "text_tokens", "corners")
    return BatchShape(rows=plan.shape.prompts, **{key: shape[key] for key in lengths})
