"""What a run is told, checked: frozen values of which no library but this one knows."""

import dataclasses

from visor_jax.budget import BudgetSet
from visor_jax.data.settings import DataSettings
from visor_jax.models.adapters import RANDOM
from visor_jax.models.config import VLMConfig
from visor_jax.policy.network import PolicyConfig
from visor_jax.policy.score_cache import ScoreSettings
from visor_jax.runtime.arguments import MOST_SEED, whole_number
from visor_jax.sharding.mesh import MeshSettings
from visor_jax.training.loop import LoopSettings
from visor_jax.training.objectives.budget_sampling import BudgetSchedule
from visor_jax.training.objectives.policy_objective import PolicyObjective
from visor_jax.training.objectives.tower_pretraining import TowerSettings
from visor_jax.training.objectives.universal_step import ObjectiveSettings
from visor_jax.training.optimizer import OptimizerSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a training run is made of, whatever its task.

    platform: what it must run on, see `runtime.processes.check_platform`.
    init_from: checkpoint whose parameters the run begins with (an imported one, or
      another run's); None for new ones.
    """

    task: str
    preset: str
    label: str
    seed: int
    model: VLMConfig
    budgets: BudgetSet
    data: DataSettings
    optimizer: OptimizerSettings
    loop: LoopSettings
    platform: str
    mesh: MeshSettings
    evaluation_pages: int
    init_from: str | None = None

    def __post_init__(self) -> None:
        # More digits than keys of random numbers have.
        whole_number(self.seed, "seed", least=0, most=MOST_SEED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniversalSettings(RunSettings):
    """A network that serves every budget (or one).

    adapter_init: what the adapters start as that `init_from` lacks.
    """

    schedule: BudgetSchedule
    objective: ObjectiveSettings
    tower: TowerSettings | None
    adapter_init: str = RANDOM


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicySettings(RunSettings):
    """A policy for the network of `init_from`; model and budgets are that network's."""

    init_from: str
    policy: PolicyConfig
    objective: PolicyObjective
    scores: ScoreSettings
