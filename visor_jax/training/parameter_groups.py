"""Learning rates by group of parameters: a tower's 2e-6 beside an adapter's 1e-3.

A group is a pattern of parameter paths ("vision_tower/encoder/..."). What belongs to no
group has the run's own rate. The rates of the last step are part of the optimiser's
state, so that a checkpoint says what each group was trained with.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Tree = Any
# The group of all parameters that no pattern names.
REST = "rest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    pattern: of `re.search`, on "a/b/c" paths. learning_rate: at its peak, None for the
    run's own; the course over the run is that of all groups.
    """

    pattern: str
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ValueError("A parameter group needs a pattern: '' matches all paths.")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"pattern={self.pattern!r} is no regular expression: {error}."
            ) from error
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} of the group {self.pattern!r} "
                "must be positive: what must not train belongs to `frozen`."
            )


class GroupRates(NamedTuple):
    """count: steps done. rates: learning rate of the last step, by group."""

    count: Int[Array, ""]
    rates: dict[str, Float[Array, ""]]


def scale_by_group_rate(
    groups: Mapping[str, ParameterGroup], schedules: Mapping[str, optax.Schedule]
) -> optax.GradientTransformation:
    """Returns the last link of an optimiser: updates times minus their group's rate.

    Args:
      schedules: from the step to the learning rate, of every group and of `REST`.

    Its `init` raises ValueError as `group_of_paths` does.
    """

    def init(params: Tree) -> GroupRates:
        # Optax also calls this with a placeholder, to learn the state's structure.
        if isinstance(params, Mapping):
            group_of_paths(params, groups)
        rates = {name: jnp.zeros((), jnp.float32) for name in schedules}
        return GroupRates(jnp.zeros((), jnp.int32), rates)

    def update(
        updates: Tree, state: GroupRates, params: Tree = None
    ) -> tuple[Tree, GroupRates]:
        del params
        rates = {
            name: jnp.asarray(schedule(state.count), jnp.float32)
            for name, schedule in schedules.items()
        }
        names = group_of_paths(updates, groups)
        flat = flax.traverse_util.flatten_dict(updates, sep="/")
        scaled = {path: x * -rates[names[path]] for path, x in flat.items()}
        return (
            flax.traverse_util.unflatten_dict(scaled, sep="/"),
            GroupRates(optax.safe_increment(state.count), rates),
        )

    return optax.GradientTransformation(init, update)


def group_of_paths(
    params: Tree, groups: Mapping[str, ParameterGroup]
) -> dict[str, str]:
    """Returns {path: name of its group} for every parameter.

    Raises:
      ValueError: if a group's pattern matches nothing, or a parameter is in two groups.
    """
    paths = list(flax.traverse_util.flatten_dict(params, sep="/"))
    found = {path: [] for path in paths}
    for name, group in groups.items():
        members = [path for path in paths if re.search(group.pattern, path)]
        if not members:
            raise ValueError(
                f"The parameter group {name!r} is empty: its pattern "
                f"{group.pattern!r} matches no parameter that trains."
            )
        for path in members:
            found[path].append(name)
    twice = {path: names for path, names in found.items() if len(names) > 1}
    if twice:
        path, names = next(iter(twice.items()))
        raise ValueError(
            f"{len(twice)} parameters are in more than one group, e.g. {path} in "
            f"{names}: make the patterns exclude one another."
        )
    return {path: names[0] if names else REST for path, names in found.items()}


def latest_rates(opt_state: Tree) -> dict[str, float]:
    """Returns the learning rate of the last step by group, from an optimiser's state.

    Raises:
      ValueError: if the optimiser has no such link.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, GroupRates))
    for node in nodes:
        if isinstance(node, GroupRates):
            return {name: float(rate) for name, rate in node.rates.items()}
    raise ValueError("This optimiser's state holds no learning rates by group.")
