"""From the configuration file to the frozen settings of the packages.

The only reader of ConfigDict. Every key must be known and every value must make sense
before any work starts: an unknown key is an error that names the keys there are.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from visor_jax.analysis.budget_sweep import read_budget_file
from visor_jax.budget import BudgetSet
from visor_jax.data.pages.settings import PageDataSettings
from visor_jax.layer_plan import LayerPlan
from visor_jax.models import variants
from visor_jax.models.config import VLMConfig
from visor_jax.sharding.mesh import MeshSettings
from visor_jax.training.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.loop import LoopSettings
from visor_jax.training.optimizer import OptimizerSettings, learning_rate_schedule
from visor_jax.training.tower_stage import TowerSettings
from visor_jax.training.universal_step import ObjectiveSettings

T = TypeVar("T")

DATA_KINDS = ("pages", "prepared")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What to train on.

    kind: "pages" (the embedded benchmark, drawn on the spot) or "prepared" (rows on
      disk under `path`).
    cache: directory for drawn pages and the pretrained tower; None for the workdir's.
    """

    kind: str
    batch_size: int
    pages: PageDataSettings | None = None
    path: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in DATA_KINDS:
            raise ValueError(f"data.kind={self.kind!r} is not one of {DATA_KINDS}.")
        if self.kind == "prepared":
            if not self.path:
                raise ValueError(
                    "This preset trains on prepared data and has no data path: add "
                    "--config.data.path=DIRECTORY."
                )
            if not Path(self.path, "manifest.json").exists():
                raise ValueError(
                    f"data.path={self.path!r} is not a prepared data set: it holds no "
                    "manifest.json."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that a training run is made of.

    init_from: checkpoint whose parameters the run begins with (an imported one, or
      another run's); None for new ones.
    """

    task: str
    preset: str
    label: str
    seed: int
    model: VLMConfig
    budgets: BudgetSet
    schedule: BudgetSchedule
    data: DataSettings
    objective: ObjectiveSettings
    optimizer: OptimizerSettings
    tower: TowerSettings | None
    loop: LoopSettings
    mesh: MeshSettings
    evaluation_pages: int
    init_from: str | None = None


TASKS = ("universal",)


def read(config: Mapping[str, Any]) -> RunSettings:
    """Returns the settings that the configuration describes.

    Raises:
      ValueError: for unknown or missing keys and for values that make no sense.
    """
    fields = _plain(config)
    sections = {f.name for f in dataclasses.fields(RunSettings)} - {"schedule"}
    sections.add("budget_phases")
    required = sections - {"init_from"}
    _check_keys(fields, sections, required=required, where="config")
    if fields["task"] not in TASKS:
        raise ValueError(f"task={fields['task']!r} is not one of {TASKS}.")
    model = _build(ModelSettings, fields["model"], "model").build()
    names = _budget_names(fields["budgets"], model.plan)
    budgets = BudgetSet.parse(names, model.plan)
    loop = _build(LoopSettings, fields["loop"], "loop")
    phases = tuple(
        SchedulePhase(end, weights) for end, weights in fields["budget_phases"]
    )
    optimizer = _build(OptimizerSettings, fields["optimizer"], "optimizer")
    learning_rate_schedule(optimizer, loop.steps)
    tower = fields["tower"]
    if tower is not None:
        tower = _build(TowerSettings, tower, "tower")
    init_from = fields.get("init_from")
    if init_from is not None and tower is not None and tower.steps:
        raise ValueError(
            f"init_from={init_from!r} brings a vision tower and tower.steps="
            f"{tower.steps} would train one: set tower.steps to 0."
        )
    return RunSettings(
        task=fields["task"],
        preset=fields["preset"],
        label=fields["label"],
        seed=fields["seed"],
        model=model,
        budgets=budgets,
        schedule=BudgetSchedule(budgets, phases, loop.steps),
        data=_data(fields["data"], fields["seed"]),
        objective=_build(ObjectiveSettings, fields["objective"], "objective"),
        optimizer=optimizer,
        tower=tower,
        loop=loop,
        mesh=_build(MeshSettings, fields["mesh"], "mesh"),
        evaluation_pages=_at_least_one(fields["evaluation_pages"], "evaluation_pages"),
        init_from=init_from,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which network to train: a named variant with what a run changes of it.

    plan: "visor" (the variant's own layers unless some are given) or "dense".
    """

    variant: str
    plan: str = "visor"
    self_layers: tuple[int, ...] | None = None
    cross_layers: tuple[int, ...] | None = None
    reading_layers: tuple[int, ...] | None = None
    compute_dtype: str | None = None
    remat: str | None = None

    def build(self) -> VLMConfig:
        """Returns the network's configuration. Raises ValueError if impossible."""
        config = self._with_plan(variants.variant(self.variant))
        overrides = {
            name: value
            for name in ("reading_layers", "compute_dtype", "remat")
            if (value := getattr(self, name)) is not None
        }
        return config.replace(**overrides)

    def _with_plan(self, config: VLMConfig) -> VLMConfig:
        if self.plan not in ("visor", "dense"):
            raise ValueError(f"model.plan={self.plan!r} is not 'visor' or 'dense'.")
        own = self.self_layers is None and self.cross_layers is None
        if self.plan == "dense":
            if not own:
                raise ValueError("A dense plan takes no self_layers or cross_layers.")
            return variants.dense(config)
        if own:
            return config
        plan = config.plan
        given = {"self_": self.self_layers, "cross": self.cross_layers}
        defaults = {"self_": plan.self_layers, "cross": plan.cross_layers}
        layers = {k: defaults[k] if v is None else v for k, v in given.items()}
        # The variant's reading layers belong to its own plan.
        return config.replace(
            reading_layers=(), plan=LayerPlan.build(plan.num_layers, **layers)
        )


def _budget_names(names: tuple[str, ...], plan: LayerPlan) -> tuple[str, ...]:
    """Returns the names, with "@file" replaced by the budgets of a sweep's file."""
    expanded: list[str] = []
    for name in names:
        if name.startswith("@"):
            expanded += read_budget_file(Path(name[1:]), plan)
        else:
            expanded.append(name)
    return tuple(expanded)


def _data(fields: dict[str, Any], seed: int) -> DataSettings:
    fields = dict(fields)
    pages = fields.pop("pages", None)
    if pages is not None:
        pages = {**pages, "seed": seed, "batch_size": fields.get("batch_size")}
        if "phases" in pages:
            pages["phases"] = tuple((end, weights) for end, weights in pages["phases"])
        pages = _build(PageDataSettings, pages, "data.pages")
    return _build(DataSettings, {**fields, "pages": pages}, "data")


def _build(cls: type[T], fields: Mapping[str, Any], where: str) -> T:
    known = {f.name: f for f in dataclasses.fields(cls)}
    required = [
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    _check_keys(fields, tuple(known), required=required, where=where)
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"{where}: a value has the wrong type ({error}).") from error


def _check_keys(fields, known, *, required, where: str) -> None:
    unknown = sorted(set(fields) - set(known))
    missing = sorted(set(required) - set(fields))
    if unknown:
        raise ValueError(
            f"Unknown keys {unknown} in {where}: it takes {sorted(known)}."
        )
    if missing:
        raise ValueError(f"{where} lacks the keys {missing}.")


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1.")
    return value


def _plain(value: Any) -> Any:
    """Returns the config as dicts and tuples."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value
