"""Which parameters a run trains, and in which groups: by shape, before any work."""

from typing import Any

import jax

from visor_jax.models.parameters import parameter_shapes
from visor_jax.policy.network import PARAMS, new_policy
from visor_jax.settings.run_settings import PolicySettings, RunSettings
from visor_jax.training.optimizer import split_frozen
from visor_jax.training.parameter_groups import group_of_paths

Params = Any


def check_groups(s: RunSettings) -> None:
    """Does nothing if the run has no groups, or each trained parameter is in one.

    Raises:
      ValueError: as `group_of_paths`, or for patterns of what is frozen.
    """
    if s.optimizer.groups:
        group_of_paths(trained_shapes(s), s.optimizer.groups)


def trained_shapes(s: RunSettings) -> Params:
    """Returns a tree of `jax.ShapeDtypeStruct`s of the parameters that train.

    Raises:
      ValueError: as `split_frozen`.
    """
    if isinstance(s, PolicySettings):
        width, key = s.model.decoder.width, jax.random.key(0)
        return {PARAMS: jax.eval_shape(lambda: new_policy(s.policy, width, key))}
    shapes = parameter_shapes(s.model, reading=bool(s.model.reading_layers))
    return split_frozen(shapes, s.optimizer.frozen)[0]
