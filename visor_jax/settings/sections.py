"""Which settings class reads which section of a configuration, and how it is made.

A section's keys are the fields of its class: what no field takes is an error that names
those there are.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.data.settings import DataSettings
from visor_jax.policy.network import PolicyConfig
from visor_jax.policy.score_cache import ScoreSettings
from visor_jax.settings.model_settings import ModelSettings
from visor_jax.settings.run_settings import (
    PolicySettings,
    RunSettings,
    UniversalSettings,
)
from visor_jax.sharding.mesh import MeshSettings
from visor_jax.training.loop import LoopSettings
from visor_jax.training.objectives.budget_sampling import SchedulePhase
from visor_jax.training.objectives.policy_objective import PolicyObjective
from visor_jax.training.objectives.tower_pretraining import TowerSettings
from visor_jax.training.objectives.universal_step import ObjectiveSettings
from visor_jax.training.optimizer import OptimizerSettings
from visor_jax.training.parameter_groups import ParameterGroup

# The class that reads each section of a task's configuration, by its dotted name; "*"
# stands for names that the configuration gives. "": what is in no section.
Sections = Mapping[str, type]
_SHARED_SECTIONS: Sections = {
    "data": DataSettings,
    "data.pages": PageDataSettings,
    "optimizer": OptimizerSettings,
    "optimizer.groups.*": ParameterGroup,
    "loop": LoopSettings,
    "mesh": MeshSettings,
    # Whether there must be an `init_from`.
    "init_from_needed": RunSettings,
}
SECTIONS: Mapping[str, Sections] = {
    "universal": {
        "": UniversalSettings,
        **_SHARED_SECTIONS,
        "model": ModelSettings,
        "budget_phases": SchedulePhase,
        "objective": ObjectiveSettings,
        "tower": TowerSettings,
    },
    "policy": {
        "": PolicySettings,
        **_SHARED_SECTIONS,
        "policy": PolicyConfig,
        "objective": PolicyObjective,
        "scores": ScoreSettings,
    },
}


def class_of(sections: Sections, name: str) -> type | None:
    """Returns the class that reads the section of this dotted name, None for none."""
    return sections.get(name) or sections.get(f"{name.rpartition('.')[0]}.*")


def build(sections: Sections, where: str, fields: Mapping[str, Any]) -> Any:
    """Returns the section's settings.

    Raises:
      ValueError: for unknown or missing keys and for values that make no sense.
    """
    cls = class_of(sections, where)
    known = {f.name: f for f in dataclasses.fields(cls)}
    required = [
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    check_keys(fields, tuple(known), required=required, where=where)
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"{where}: a value has the wrong type ({error}).") from error


def check_keys(
    fields: Iterable[str], known: Iterable[str], *, required: Iterable[str], where: str
) -> None:
    """Raises ValueError unless all keys are known and none of `required` is absent."""
    unknown = sorted(set(fields) - set(known))
    missing = sorted(set(required) - set(fields))
    if unknown:
        raise ValueError(
            f"Unknown keys {unknown} in {where}: it takes {sorted(known)}."
        )
    if missing:
        raise ValueError(f"{where} lacks the keys {missing}.")
