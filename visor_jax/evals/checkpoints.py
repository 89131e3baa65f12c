"""Which runs may share a row of a report: those that differ in their seed alone.

A mean over seeds says something only if nothing but the seed differs, and only if no
network is in it twice. What a policy chooses stands beside its network's budgets only
if both are means over the same networks.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from visor_jax.budget import BudgetSet
from visor_jax.evals.report.rows import RunFacts
from visor_jax.models.vlm import VLM
from visor_jax.policy.network import Policy

Params = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
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


def check_members(members: Sequence[Member]) -> None:
    """Does nothing if the members of every row are seeds of one thing.

    Raises:
      ValueError: if runs of one label differ in more than the seed, if a network counts
        twice, or if a policy's networks are not those of the fixed budgets.
    """
    by_label: dict[str, list[Member]] = {}
    for member in members:
        by_label.setdefault(member.shown_as, []).append(member)
    for label, alike in by_label.items():
        for other in alike[1:]:
            _check_recipe(label, alike[0], other)
        _check_repeated(label, alike)
    for label, alike in by_label.items():
        if alike[0].policy is not None:
            _check_networks(label, alike, members)


def _check_recipe(label: str, first: Member, other: Member) -> None:
    one, two = (dict(_flat(member.recipe)) for member in (first, other))
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


def _check_repeated(label: str, alike: Sequence[Member]) -> None:
    seen: dict[tuple[Any, ...], Member] = {}
    for member in alike:
        # A network may have several policies, but each is trained with its own seed.
        key = (member.network, member.policy and member.seed)
        if key in seen:
            raise ValueError(
                f"{seen[key].path} and {member.path}, both {label!r}, are the same: it "
                "would count twice in their mean. Leave one out."
            )
        seen[key] = member


def _check_networks(
    label: str, alike: Sequence[Member], members: Sequence[Member]
) -> None:
    """Raises ValueError unless the policies' networks are those of the fixed rows."""
    own = {member.network for member in alike}
    beside = {m.network: m.path for m in members if m.label == alike[0].label}
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A checkpoint that was read and may be evaluated.

    params: of the network alone. member: what it may be averaged with.
    policy: the one in the checkpoint, None if there is none.
    """

    member: Member
    model: VLM
    params: Params
    budgets: BudgetSet
    facts: RunFacts
    policy: Policy | None = None
