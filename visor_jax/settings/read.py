"""From the configuration file to the frozen settings of the packages.

The only reader of ConfigDict. Every key must be known and every value must make sense
before any work starts: an unknown key is an error that names the keys there are.
"""

from collections.abc import Mapping
from typing import Any

from visor_jax.budget import BudgetSet
from visor_jax.checkpoints.stored_network import newest_network
from visor_jax.data.pages.forms import TILES, forms_of
from visor_jax.data.settings import CONVERSATIONS, PAGES, DataSettings
from visor_jax.evals.pages.benchmark import check_reads_pages
from visor_jax.evals.report.report import check_label, check_policy_label
from visor_jax.models.adapters import OWN
from visor_jax.models.config import VLMConfig
from visor_jax.runtime.processes import PLATFORMS
from visor_jax.settings.run_settings import (
    PolicySettings,
    RunSettings,
    UniversalSettings,
)
from visor_jax.settings.sections import SECTIONS, Sections, build, check_keys
from visor_jax.training.objectives.budget_sampling import BudgetSchedule, SchedulePhase
from visor_jax.training.objectives.policy_objective import BLENDED
from visor_jax.training.objectives.tower_pretraining import TowerSettings
from visor_jax.training.optimizer import OptimizerSettings, make_optimizer


def read_settings(
    config: Mapping[str, Any], *, data_needed: bool = True
) -> UniversalSettings | PolicySettings:
    """Returns the settings that the configuration describes.

    data_needed: False where nothing is trained, so that the data need not be here.

    Raises:
      ValueError: for unknown or missing keys and for values that make no sense.
    """
    fields = _plain(config)
    if fields.pop("init_from_needed", False) and not fields.get("init_from"):
        raise ValueError(
            "This configuration begins with a checkpoint: add "
            "--config.init_from=WORKDIR of a run, or of imported weights."
        )
    task = fields.get("task", "universal")
    if task not in _TASKS:
        raise ValueError(f"{task=} is not one of {tuple(_TASKS)}.")
    run = _TASKS[task](fields)
    if data_needed:
        run.data.check_present()
        _check_tokenizer(run)
    return run


def _check_tokenizer(run: RunSettings) -> None:
    named = run.init_from or run.data.processor
    if run.data.kind == CONVERSATIONS and not named:
        raise ValueError(
            "There is no tokenizer to read the data with: begin with a checkpoint "
            "(--config.init_from=DIR), or name a folder of tokenizer and processor "
            "files (--config.data.processor=DIR)."
        )


def _universal(fields: dict[str, Any]) -> UniversalSettings:
    own = {"model", "budgets", "budget_phases", "objective", "tower"}
    check_keys(
        fields, _SHARED | own | {"init_from"}, required=_SHARED | own, where="config"
    )
    check_label(fields["label"])
    sections = SECTIONS["universal"]
    asked = build(sections, "model", fields["model"])
    model = asked.build()
    budgets = BudgetSet.parse(fields["budgets"], model.plan)
    shared = _shared(sections, fields)
    if shared["data"].draws_crops:
        model = model.replace(any_crops=True)
    phases = tuple(
        SchedulePhase(end, weights) for end, weights in fields["budget_phases"]
    )
    tower = fields["tower"]
    if tower is not None:
        tower = build(sections, "tower", tower)
    _check_form(model, shared["data"], tower)
    init_from = fields.get("init_from")
    if init_from is not None and tower is not None and tower.steps:
        raise ValueError(
            f"init_from={init_from!r} brings a vision tower and tower.steps="
            f"{tower.steps} would train one: set tower.steps to 0."
        )
    if asked.adapter_init == OWN and init_from is None:
        raise ValueError(
            f"model.adapter_init={OWN!r} copies from a checkpoint's layers: name one "
            "(--config.init_from=DIR), or set 'random'."
        )
    return UniversalSettings(
        **shared,
        model=model,
        adapter_init=asked.adapter_init,
        budgets=budgets,
        schedule=BudgetSchedule(budgets, phases, shared["loop"].steps),
        objective=build(sections, "objective", fields["objective"]),
        tower=tower,
        init_from=init_from,
    )


def _check_form(
    model: VLMConfig, data: DataSettings, tower: TowerSettings | None
) -> None:
    """Raises ValueError for pages of several crops and a network of another form.

    Likewise for what a tower cannot be pretrained on.
    """
    if tower is not None and tower.steps:
        _check_tower(tower, data)
    if data.kind != PAGES or data.pages.kind != TILES:
        return
    images, vision = forms_of(TILES)[0].images, model.vision
    sizes = images.tile_size, images.patch_size
    if (vision.image_size, vision.patch_size) != sizes or not model.image_newline:
        raise ValueError(
            f"data.pages.kind={TILES!r} has crops of {sizes[0]} pixels, patches of "
            f"{sizes[1]} and newlines, and the network is for {vision.image_size}, "
            f"{vision.patch_size} and newlines {model.image_newline}: set "
            "model.variant to 'mini_tiles'."
        )


def _check_tower(tower: TowerSettings, data: DataSettings) -> None:
    if data.kind == CONVERSATIONS:
        if data.max_images > 1:
            raise ValueError(
                f"tower.steps={tower.steps}: the tower is pretrained on what is asked "
                f"about one picture, and data.max_images={data.max_images}: set "
                "tower.steps to 0, or data.max_images to 1."
            )
        return
    if data.pages.kind == TILES:
        raise ValueError(
            f"tower.steps={tower.steps}: the tower is pretrained on digit pages alone. "
            f"With data.pages.kind={TILES!r} it trains with the rest: set it to 0."
        )


def _policy(fields: dict[str, Any]) -> PolicySettings:
    own = {"budgets", "policy", "objective", "scores", "init_from"}
    check_keys(fields, _SHARED | own, required=_SHARED | own, where="config")
    sections = SECTIONS["policy"]
    init_from, shared = fields["init_from"], _shared(sections, fields)
    if not init_from:
        raise ValueError(
            "A policy needs a trained network: add --config.init_from=WORKDIR of a "
            "universal run."
        )
    data = shared["data"]
    if data.kind != PAGES and data.supervision != "assistant":
        raise ValueError(
            f"data.supervision={data.supervision!r}: a policy decides before the first "
            "answer, so only the assistant's words may count: set 'assistant'."
        )
    if data.draws_crops:
        raise ValueError(
            "any_crops=True: a policy learns which budget, of whole images; leave it "
            "False, in data and in data.pages."
        )
    if shared["optimizer"].accumulate > 1:
        raise ValueError("A policy's batch is not split: leave optimizer.accumulate 1.")
    check_policy_label(fields["label"])
    stored = newest_network(init_from)
    model = stored.config
    if data.kind == PAGES:
        check_reads_pages(model, stored.metadata)
    trained = stored.budgets.names
    names = fields["budgets"] or trained
    budgets = BudgetSet.parse(names, model.plan)
    untrained = sorted(set(budgets.names) - set(trained))
    if untrained:
        raise ValueError(
            f"Budgets {untrained} are not among those that {init_from} was trained "
            f"for: {list(trained)}."
        )
    if len(budgets) < 2:
        raise ValueError(
            f"{init_from} has one budget, {budgets.names[0]!r}: nothing to choose."
        )
    policy = {**fields["policy"], "num_budgets": len(budgets)}
    objective = build(sections, "objective", fields["objective"])
    if objective.kind == BLENDED and budgets.reads:
        raise ValueError(
            f"objective.kind={BLENDED!r} blends layers that are on with layers that "
            f"are off, and {list(budgets.names)} have some that read: take another "
            "objective."
        )
    return PolicySettings(
        **shared,
        model=model,
        budgets=budgets,
        init_from=init_from,
        policy=build(sections, "policy", policy),
        objective=objective,
        scores=build(sections, "scores", fields["scores"]),
    )


_TASKS = {"universal": _universal, "policy": _policy}
_SHARED = {
    *("task", "preset", "label", "seed", "data", "optimizer", "loop", "mesh"),
    *("platform", "evaluation_pages"),
}


def _shared(sections: Sections, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of `RunSettings` that every task reads alike."""
    loop = build(sections, "loop", fields["loop"])
    optimizer = _optimizer(sections, fields["optimizer"])
    make_optimizer(optimizer, loop.steps)
    return {
        **{name: fields[name] for name in ("task", "preset", "label", "seed")},
        "data": _data(sections, fields["data"], fields["seed"]),
        "optimizer": optimizer,
        "loop": loop,
        "platform": _platform(fields["platform"]),
        "mesh": build(sections, "mesh", fields["mesh"]),
        "evaluation_pages": _at_least_one(
            fields["evaluation_pages"], "evaluation_pages"
        ),
    }


def _optimizer(sections: Sections, fields: dict[str, Any]) -> OptimizerSettings:
    groups = {
        name: build(sections, f"optimizer.groups.{name}", group)
        for name, group in fields.get("groups", {}).items()
    }
    return build(sections, "optimizer", {**fields, "groups": groups})


def _data(sections: Sections, fields: dict[str, Any], seed: int) -> DataSettings:
    fields = dict(fields)
    pages = fields.pop("pages", None)
    if pages is not None:
        pages = {**pages, "seed": seed, "batch_size": fields.get("batch_size")}
        if "phases" in pages:
            pages["phases"] = tuple((end, weights) for end, weights in pages["phases"])
        pages = build(sections, "data.pages", pages)
    return build(sections, "data", {**fields, "pages": pages})


def _platform(name: str) -> str:
    if name not in PLATFORMS:
        raise ValueError(f"platform={name!r} is not one of {PLATFORMS}.")
    return name


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
