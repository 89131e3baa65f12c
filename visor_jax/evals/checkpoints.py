"""Checkpoints to evaluate: reads them, and says which may share a row of a report.

A row of several networks is a mean over replicates: networks that were trained alike
but for their seed. That mean says something only if nothing but the seed differs, and
only if no network is in it twice. What a policy chooses stands beside its network's
budgets only if both are means over the same networks.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from visor_jax.budget import Budget, BudgetSet
from visor_jax.evals.report.report import check_label, check_policy_label
from visor_jax.evals.report.rows import RunFacts
from visor_jax.inference.loading.network import Network
from visor_jax.inference.loading.open_network import open_network
from visor_jax.models.config import VLMConfig
from visor_jax.policy.score_cache import digest_of_arrays
from visor_jax.token_reduction.registry import NONE, name_of
from visor_jax.token_reduction.trained import own_reducer

_FACTS = ("preset", "seed", "train_steps", "wall_clock_s")
# What replicates must have in common; "settings" are those of training, where the
# checkpoint says them.
_RECIPE = ("model", "budgets", "preset", "train_steps", "settings", "policy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replicate:
    """What a report has to know of a checkpoint before it averages anything.

    path: as the user gave it. label: its network's. seed: of the run's training.
    network: stands for the network's parameters. recipe: JSON values that runs of
    different seeds have in common. policy: its policy's label, None without.
    """

    path: str
    label: str
    seed: int
    network: str
    recipe: Mapping[str, Any]
    policy: str | None = None

    @property
    def shown_as(self) -> str:
        """What its rows are labelled with."""
        return self.label if self.policy is None else self.policy


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedCheckpoint:
    """A checkpoint that was read and may be evaluated.

    replicate: what it may be averaged with. budgets: to evaluate it at.
    """

    replicate: Replicate
    network: Network
    budgets: BudgetSet
    facts: RunFacts


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedBudgets:
    """Budgets to try networks at, names separated by commas; None for their own.

    universal: of universal networks. untrained: of dense ones, beside all layers on.
    """

    universal: str | None = None
    untrained: str | None = None

    def check(self, described: Iterable[Mapping[str, Any]]) -> None:
        """Raises ValueError for budgets that none of the checkpoints takes."""
        labels = {each["label"] for each in described if not each.get("policy")}
        for flag, names, label in (
            ("budgets", self.universal, "universal"),
            ("untrained", self.untrained, "dense"),
        ):
            if names is not None and label not in labels:
                raise ValueError(
                    f"--{flag}={names} is for {label} networks, and there is none "
                    "here: leave it out."
                )

    def names(self, metadata: Mapping[str, Any]) -> str | Sequence[str]:
        """Returns those of the network that a checkpoint describes."""
        own, label = metadata["budgets"], metadata["label"]
        # A policy knows the budgets that it was trained for.
        if metadata.get("policy"):
            return own
        if label == "universal" and self.universal is not None:
            return self.universal
        if label == "dense" and self.untrained is not None:
            return self.untrained
        return own


def check_description(
    path: str, metadata: Mapping[str, Any], asked: AskedBudgets
) -> tuple[VLMConfig, BudgetSet]:
    """Returns the sizes of a checkpoint's network and the budgets to try it at.

    Raises:
      ValueError: for a checkpoint that no report can show.
    """
    lacking = [k for k in ("model", "budgets", "label", *_FACTS) if k not in metadata]
    if lacking:
        raise ValueError(
            f"{path}: the checkpoint does not say its {', '.join(lacking)}: it was not "
            "written by `python -m visor_jax.train`."
        )
    try:
        check = check_policy_label if metadata.get("policy") else check_label
        check(metadata["label"])
        config = VLMConfig.from_dict(metadata["model"])
        budgets = BudgetSet.parse(asked.names(metadata), config.plan)
        full = Budget.all(config.plan)
        if metadata["label"] == "dense" and full not in budgets:
            # What the others are compared with.
            budgets = BudgetSet(config.plan, (*budgets, full))
        return config, budgets
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_checkpoint(
    path: str,
    asked: AskedBudgets,
    reduce: str | None = None,
    mesh: Mesh | None = None,
) -> EvaluatedCheckpoint:
    """Returns what a checkpoint holds, description and parameters of the same step.

    reduce: of all checkpoints of an evaluation alike (`token_reduction.registry`).
    mesh: that each of them is split over.

    Raises:
      ValueError: if it cannot be read, or shown in a report.
    """
    network = open_network(path, reduce=reduce, mesh=mesh)
    metadata, policy = network.metadata, network.policy
    _, chosen = check_description(path, metadata, asked)
    return EvaluatedCheckpoint(
        replicate=Replicate(
            path=path,
            label=metadata["label"] if policy is None else "universal",
            seed=metadata["seed"],
            network=digest_of_arrays(network.params),
            recipe=_recipe_of(metadata, network.config),
            policy=None if policy is None else metadata["label"],
        ),
        network=network,
        budgets=chosen,
        facts=RunFacts(
            checkpoint=path,
            git_commit=metadata.get("git_commit", "unknown"),
            **{name: metadata[name] for name in _FACTS},
        ),
    )


def _recipe_of(metadata: Mapping[str, Any], config: VLMConfig) -> dict[str, Any]:
    """Returns what replicates have in common.

    A method of token reduction as it is: texts say some of its settings or all.
    """
    method = name_of(own_reducer(config))
    model = {**metadata["model"], "trained_with": None if method == NONE else method}
    return {**{key: metadata.get(key) for key in _RECIPE}, "model": model}


def check_replicates(replicates: Sequence[Replicate]) -> None:
    """Does nothing if what would share a row differs in its seed alone.

    Raises:
      ValueError: if runs of one label differ in more than the seed, if a network counts
        twice, or if a policy's networks are not those of the fixed budgets.
    """
    by_label: dict[str, list[Replicate]] = {}
    for replicate in replicates:
        by_label.setdefault(replicate.shown_as, []).append(replicate)
    for label, alike in by_label.items():
        for other in alike[1:]:
            _check_recipe(label, alike[0], other)
        _check_repeated(label, alike)
    for label, alike in by_label.items():
        if alike[0].policy is not None:
            _check_networks(label, alike, replicates)


def _check_recipe(label: str, first: Replicate, other: Replicate) -> None:
    one, two = (dict(_flat(each.recipe)) for each in (first, other))
    differing = [
        f"{key} ({one.get(key, 'not said')} and {two.get(key, 'not said')})"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key)
    ]
    if differing:
        raise ValueError(
            f"{first.path} and {other.path} are both labelled {label!r} but are not "
            f"two seeds of one thing: they differ in {', '.join(differing)}. Report "
            "them separately, or train one with another --config.label."
        )


def _check_repeated(label: str, alike: Sequence[Replicate]) -> None:
    seen: dict[tuple[Any, ...], Replicate] = {}
    for replicate in alike:
        # A network may have several policies, but each is trained with its own seed.
        key = (replicate.network, replicate.policy and replicate.seed)
        if key in seen:
            raise ValueError(
                f"{seen[key].path} and {replicate.path}, both {label!r}, are the same: "
                "it would count twice in their mean. Leave one out."
            )
        seen[key] = replicate


def _check_networks(
    label: str, alike: Sequence[Replicate], replicates: Sequence[Replicate]
) -> None:
    """Raises ValueError unless the policies' networks are those of the fixed rows."""
    own = {each.network for each in alike}
    beside = {r.network: r.path for r in replicates if r.label == alike[0].label}
    lacking = sorted(path for network, path in beside.items() if network not in own)
    if lacking:
        raise ValueError(
            f"Rows of {label!r} would be means over {len(own)} networks, those of "
            f"fixed budgets over {len(beside)}: there is no {label!r} for the network "
            f"of {', '.join(lacking)}. Add one, or leave it out."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
