"""A training step on shapes alone: state, batch and program; nothing is run."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from visor_jax.batch import Batch
from visor_jax.models.config import VLMConfig
from visor_jax.models.parameters import parameter_shapes
from visor_jax.sharding.axis_rules import batch_sharding, logical_rules
from visor_jax.sharding.mesh import AnyMesh
from visor_jax.training.initial_state import abstract_state, shardings_of
from visor_jax.training.state import TrainState

# What accelerators' compilers do of themselves, for they know how much memory there is:
# parameters are gathered when a layer is due, and gradients reduced one by one.
SAVE_MEMORY = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    # The second one would drop the barriers of `nn.remat` and of `in_backward_order`
    # before the order of the program is decided.
    "xla_disable_hlo_passes": "cpu-all-reduce-combiner,cse_barrier_expander",
    # Nothing is run: machine code need not be fast.
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
_LAYER = re.compile(r"layers_(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The lengths of a batch, padding included.

    rows: of the global batch. corners: patches per image token, see `Batch`.
    """

    rows: int
    crops: int
    image_tokens: int
    text_tokens: int
    corners: int = 1

    def __post_init__(self) -> None:
        wrong = {k: v for k, v in dataclasses.asdict(self).items() if v < 1}
        if wrong:
            raise ValueError(f"A batch needs lengths of at least 1: {wrong}.")


def planned_state(
    config: VLMConfig,
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...],
    mesh: AnyMesh,
    *,
    num_budgets: int,
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state of a universal run.

    Raises:
      ValueError: if a parameter cannot be split over the mesh.
    """
    shapes = parameter_shapes(config, reading=bool(config.reading_layers))

    def create() -> TrainState:
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return TrainState.create(
            params, optimizer, frozen, seed=0, num_budgets=num_budgets
        )

    return abstract_state(create, frozen, mesh)


def planned_batch(config: VLMConfig, shape: BatchShape, mesh: AnyMesh) -> Batch:
    """Returns a batch of `jax.ShapeDtypeStruct`s, split by sample."""
    rows, side = shape.rows, config.vision.image_size
    image, text = (rows, shape.image_tokens), (rows, shape.text_tokens)
    split = batch_sharding(mesh)

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    summed = shape.corners > 1
    index = (*image, shape.corners) if summed else image
    labels = array(image, jnp.int32) if config.reading_layers else None
    return Batch(
        pixels=array((rows, shape.crops, side, side, 3), jnp.float32),
        image_token_index=array(index, jnp.int32),
        image_token_weights=array(index, jnp.float32) if summed else None,
        image_positions=array(image, jnp.int32),
        image_mask=array(image, jnp.bool_),
        image_labels=labels,
        tokens=array(text, jnp.int32),
        text_positions=array(text, jnp.int32),
        text_segments=array(text, jnp.int32),
        text_mask=array(text, jnp.bool_),
        targets=array(text, jnp.int32),
        loss_mask=array(text, jnp.bool_),
    )


def compiled_for(
    step: Callable[[TrainState, Batch], TrainState],
    state: TrainState,
    batch: Batch,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Compiled:
    """Returns the step compiled for simulated devices, as `train` compiles it."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(logical_rules()):
        jitted = jax.jit(step, donate_argnums=0, out_shardings=shardings_of(state))
        return jitted.lower(state, batch).compile(compiler_options=SAVE_MEMORY)


def in_backward_order(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns the same optimiser for a program whose memory is measured on a CPU.

    That compiler goes through a program depth first. Asked for the first layer's
    gradient, it runs all of the backward pass and puts off every other layer's, with
    all that they need; so they are asked for in the order in which they can be made.
    """

    def update(gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        ordered = sorted(
            jax.tree.leaves_with_path(gradients),
            key=lambda leaf: _depth(jax.tree_util.keystr(leaf[0])),
            reverse=True,
        )
        norm = sum(jnp.sum(x * x) for _, x in ordered)
        gradients = jax.tree.map(
            lambda x: jax.lax.optimization_barrier((x, norm))[0], gradients
        )
        return optimizer.update(gradients, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _depth(path: str) -> tuple[int, int]:
    """Returns a number that is higher for parameters that are used later."""
    layer = _LAYER.search(path)
    if layer:
        return int("language_model" in path), int(layer[1])
    last = "lm_head" in path or "['language_model']['norm']" in path
    return (2, 0) if last else (-1, 0)


def bytes_on_a_device(tree: Any) -> int:
    """Returns the bytes of the shards of all arrays, abstract or not, on one device."""
    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
    )
