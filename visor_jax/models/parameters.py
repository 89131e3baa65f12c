"""The parameters of a network without running it: shapes, and new values of some."""

from collections.abc import Callable, Collection
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from visor_jax.batch import Batch
from visor_jax.models.config import VLMConfig
from visor_jax.models.vlm import VLM

Params = Any


def parameter_shapes(config: VLMConfig, *, reading: bool = False) -> Params:
    """Returns a tree of `jax.ShapeDtypeStruct`s of all parameters.

    reading: with the heads of the auxiliary reading loss, if the network has them.
    """
    return jax.eval_shape(_init(config, reading), jax.random.key(0))


def new_parameters(config: VLMConfig, paths: Collection[str], *, seed: int) -> Params:
    """Returns the freshly initialised parameters with these paths ("a/b/kernel").

    The values do not depend on which paths are asked for; the others are not computed.
    """
    if not paths:
        return {}
    init = _init(config, reading=True)

    def chosen(key: jax.Array) -> dict[str, jax.Array]:
        flat = flax.traverse_util.flatten_dict(init(key), sep="/")
        return {path: flat[path] for path in sorted(paths)}

    flat = jax.jit(chosen)(jax.random.key(seed))
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _init(config: VLMConfig, reading: bool) -> Callable[[jax.Array], Params]:
    # Parameters do not depend on how activations are computed.
    model = VLM(config.replace(compute_dtype="float32", remat="none", attention="auto"))
    gates = (True,) * len(config.plan.self_layers)

    def init(key: jax.Array) -> Params:
        batch = _smallest_batch(config).map(jnp.asarray)
        return model.init(key, batch, gates, reading=reading)["params"]

    return init


def _smallest_batch(config: VLMConfig) -> Batch:
    side = config.vision.image_size
    number, yes = np.zeros((1, 1), np.int32), np.ones((1, 1), bool)
    return Batch(
        pixels=np.zeros((1, 1, side, side, 3), np.float32),
        image_token_index=number,
        image_positions=number,
        image_mask=yes,
        tokens=number,
        text_positions=number + 1,
        text_segments=number,
        text_mask=yes,
        targets=number,
        loss_mask=yes,
    )
