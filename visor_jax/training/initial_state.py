"""The state that a run begins with, as a value and as shapes on a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from visor_jax.batch import Batch
from visor_jax.models.vlm import VLM
from visor_jax.sharding.mesh import AnyMesh
from visor_jax.training.state import TrainState, state_shardings

Params = Any


def fresh_state(
    model: VLM,
    optimizer: optax.GradientTransformation,
    frozen: tuple[str, ...],
    batch: Batch,
    *,
    seed: int,
    num_budgets: int,
) -> TrainState:
    """Returns the state before the first step, a pure function of the seed."""
    gates = (True,) * len(model.config.plan.self_layers)
    init = functools.partial(model.init, reading=bool(model.config.reading_layers))
    # Parameters depend on shapes alone; pictures would be constants of the program.
    blank = batch.map(lambda x: jnp.zeros(x.shape, x.dtype))
    params = init(jax.random.key(seed), blank, gates)["params"]
    return TrainState.create(
        params, optimizer, frozen, seed=seed, num_budgets=num_budgets
    )


def abstract_state(
    create: Callable[[], TrainState], frozen: tuple[str, ...], mesh: AnyMesh
) -> TrainState:
    """Returns shapes, dtypes and shardings of what `create()` would make.

    Raises:
      ValueError: if a parameter cannot be split over the mesh.
    """
    abstract = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        state_shardings(abstract, frozen, mesh),
    )


def shardings_of(state: TrainState) -> TrainState:
    """Returns the shardings of a state, abstract or not."""
    return jax.tree.map(lambda x: x.sharding, state)


def first_state(
    create: Callable[[], TrainState], abstract: TrainState, given: Params
) -> TrainState:
    """Returns `create()` placed as `abstract` says, with the given parameters put in.

    given: a tree with some of the parameters; {} for none.
    """
    shardings = shardings_of(abstract)
    state = jax.jit(create, out_shardings=shardings)()
    flat = flax.traverse_util.flatten_dict(state.params, sep="/")
    places = flax.traverse_util.flatten_dict(shardings.params, sep="/")
    for path, value in flax.traverse_util.flatten_dict(given, sep="/").items():
        flat[path] = jax.device_put(value, places[path])
    return state.replace(params=flax.traverse_util.unflatten_dict(flat, sep="/"))
