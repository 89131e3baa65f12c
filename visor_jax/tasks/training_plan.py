"""A plan of universal training: what is trained, on which devices, in which batches."""

import dataclasses
from typing import Any

import flax.traverse_util
import jax
import optax

from visor_jax.batch import Batch
from visor_jax.budget import Budget
from visor_jax.data.buckets import Bucket, Buckets
from visor_jax.data.images.image_settings import ImageSettings
from visor_jax.data.pages.forms import forms_of
from visor_jax.models.vision.siglip import crops_at_once
from visor_jax.plan.abstract_step import (
    BatchShape,
    bytes_on_a_device,
    compiled_for,
    in_backward_order,
    planned_batch,
    planned_state,
)
from visor_jax.plan.activations import DeviceBatch
from visor_jax.plan.step_bytes import StepBytes, step_bytes
from visor_jax.settings.run_settings import UniversalSettings
from visor_jax.sharding.axis_rules import samples_split
from visor_jax.sharding.mesh import AnyMesh, MeshSettings, make_mesh, planned_mesh
from visor_jax.token_reduction.trained import as_trained
from visor_jax.training.layer_stacks import LayerStacks
from visor_jax.training.objectives.universal_step import make_universal_step
from visor_jax.training.optimizer import make_optimizer, split_frozen
from visor_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A universal step on a mesh of devices that need not be here."""

    run: UniversalSettings
    mesh: AnyMesh
    shape: BatchShape

    def __post_init__(self) -> None:
        parts = samples_split(self.mesh)
        if self.shape.rows % (parts * self.accumulate):
            raise ValueError(
                f"A batch of {self.shape.rows} rows does not split over the {parts} "
                "devices of the mesh axes data and fsdp, in optimizer.accumulate="
                f"{self.accumulate} parts: choose another --batch_size."
            )

    @property
    def accumulate(self) -> int:
        """Parts in which a batch passes, one after another."""
        return self.run.optimizer.accumulate

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.run.optimizer, self.run.loop.steps)

    @property
    def passes(self) -> int:
        """Forward passes of a step, each of which keeps its own activations."""
        objective = self.run.objective
        return 3 if objective.sandwich else 1 + (objective.distill_weight > 0)

    def state(self) -> TrainState:
        """Returns the abstract state. Raises ValueError if the mesh cannot split it."""
        return planned_state(
            self.run.model,
            self.optimizer,
            self.run.optimizer.frozen,
            self.mesh,
            num_budgets=len(self.run.budgets),
        )

    def stacked(self, state: TrainState) -> TrainState:
        """Returns the abstract state as a step takes it on the devices of the mesh."""
        with jax.set_mesh(self.mesh):
            model = as_trained(self.run.model)
            stacks = LayerStacks.of(model, self.run.optimizer, state.params)
        return stacks.stacked(state)

    def batch(self) -> Batch:
        """Returns the abstract batch."""
        return planned_batch(self.run.model, self.shape, self.mesh)

    def bytes(self, state: TrainState, budget: Budget | None) -> StepBytes:
        """Returns the bytes by formula; None for the step that serves every budget."""
        model, shape = self.run.model, self.shape
        rows = shape.rows // self.accumulate
        trainable, _ = split_frozen(state.params, self.run.optimizer.frozen)
        params, trained = (
            flax.traverse_util.flatten_dict(tree, sep="/")
            for tree in (state.params, trainable)
        )
        on_a_device = DeviceBatch(
            rows=self.passes * rows // samples_split(self.mesh),
            crops=shape.crops,
            image_tokens=shape.image_tokens,
            text_tokens=shape.text_tokens,
            crops_at_once=crops_at_once(model.vision, samples=rows, crops=shape.crops),
        )
        return step_bytes(
            model,
            on_a_device,
            budget,
            params=params,
            is_trained={path: path in trained for path in params},
            optimizer=bytes_on_a_device(state) - bytes_on_a_device(state.params),
            batch_bytes=bytes_on_a_device(self.batch()),
            tensor=self.mesh.shape["tensor"],
            in_parts=self.accumulate > 1,
        )

    def reserved(self, state: TrainState) -> int:
        """Returns the bytes on a device that the compiler reserves for the step.

        The plan's mesh is one of simulated devices. Takes minutes for a real network.
        """
        run, model = self.run, as_trained(self.run.model)
        optimizer = in_backward_order(self.optimizer)
        step = make_universal_step(
            model,
            optimizer,
            run.schedule,
            run.objective,
            run.optimizer.frozen,
            self.accumulate,
        )
        compiled = compiled_for(step, self.stacked(state), self.batch(), self.mesh)
        memory = compiled.memory_analysis()
        new = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + new + memory.temp_size_in_bytes


def largest_bucket(run: UniversalSettings) -> Bucket:
    """Returns the largest shape of a row in training."""
    vision = run.model.vision
    if run.data.kind == "pages":
        pages, patches = run.data.pages, forms_of(run.data.pages.kind)[-1].patch_index
        text = pages.text_length
        return Bucket(crops=patches.crops, image_tokens=patches.count, text_tokens=text)
    images = ImageSettings.of_sizes(vision.image_size, vision.patch_size)
    return Buckets.ladder(
        images,
        pad_id=0,
        text_tokens=run.data.text_lengths,
        max_images=run.data.max_images,
        max_frames=0,
    ).all[-1]


def read_plan(
    run: UniversalSettings, sizes: tuple[int, int, int], options: Any
) -> TrainingPlan:
    """Returns the plan that the flags ask for. Raises ValueError for bad values."""
    names = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    simulated = options.compile and options.topology is None
    mesh = make_mesh(MeshSettings(**names)) if simulated else planned_mesh(*sizes)
    return TrainingPlan(run=run, mesh=mesh, shape=read_shape(run, options))


def read_shape(run: UniversalSettings, options: Any) -> BatchShape:
    """Returns the largest batch of the run, but for the lengths that the flags give."""
    bucket = largest_bucket(run)

    def given(name: str, otherwise: int) -> int:
        value = getattr(options, name)
        return otherwise if value is None else value

    return BatchShape(
        rows=given("batch_size", run.data.batch_size),
        crops=given("crops", bucket.crops),
        image_tokens=given("image_tokens", bucket.image_tokens),
        text_tokens=given("text_tokens", bucket.text_tokens),
        corners=bucket.corners,
    )


def describe(plan: TrainingPlan) -> str:
    """Returns what is planned, in two lines."""
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.shape.items())
    shape, run = plan.shape, plan.run
    passes = f", {plan.passes} passes a step" if plan.passes > 1 else ""
    return (
        f"{run.label} {run.preset} on {plan.mesh.size} devices ({axes}), "
        f"{shape.rows // samples_split(plan.mesh)} of {shape.rows} rows on each\n"
        f"a row: {shape.crops} crops, {shape.image_tokens} image tokens, "
        f"{shape.text_tokens} text tokens; {run.model.compute_dtype}, "
        f"remat {run.model.remat!r}{passes}"
    )
