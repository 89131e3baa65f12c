"""Learning rates by group of parameters: a tower's 2e-6 beside an adapter's 1e-3.

A group is a pattern of parameter paths ("vision_tower/encoder/..."). Where there are
groups, every parameter that trains is in exactly one; without them all are in `REST`.
The rates of the last step are part of the optimiser's state, so that a checkpoint says
what each group was trained with (but for what does not learn all the time: `shares`).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Tree = Any
# The one group of a run that names none.
REST = "rest"
_LAYER = re.compile(r"(?<=layers_)\d+")


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
    groups: Mapping[str, ParameterGroup],
    schedules: Mapping[str, optax.Schedule],
    shares: Mapping[str, optax.Schedule] | None = None,
) -> optax.GradientTransformation:
    """Returns the last link of an optimiser: updates times minus their group's rate.

    Args:
      schedules: from the step to the learning rate, of every group, or of `REST`.
      shares: {pattern: from the step to the share of its group's rate}, of parameters
        that do not learn all the time; what no path matches is of no meaning.

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
        for pattern, share in (shares or {}).items():
            now = share(state.count)
            for path in filter(re.compile(pattern).search, flat):
                scaled[path] *= now
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
      ValueError: if there are groups and a parameter is in none of them or in several,
        or a group has no parameter; all of them are listed.
    """
    found = {
        path: [name for name, group in groups.items() if re.search(group.pattern, path)]
        for path in flax.traverse_util.flatten_dict(params, sep="/")
    }
    if not groups:
        return dict.fromkeys(found, REST)
    problems = [*_outside(found), *_in_several(found), *_empty(found, groups)]
    if problems:
        patterns = [f"  {name}: {g.pattern!r}" for name, g in groups.items()]
        raise ValueError(
            "\n".join([_REQUIRED, *problems, "The patterns are:", *patterns])
        )
    return {path: name for path, [name] in found.items()}


_REQUIRED = (
    "optimizer.groups must have every parameter that trains in exactly one group."
)


def _outside(found: Mapping[str, list[str]]) -> list[str]:
    """Returns lines about the parameters that are in no group, [] if there are none."""
    outside = [path for path, names in found.items() if not names]
    if not outside:
        return []
    lines = [
        f"Parameters in no group ({len(outside)}):",
        *_indented(outside),
        "Add a group for them, or widen the pattern of one.",
    ]
    if any(path.startswith("reading_heads_") for path in outside):
        lines.append(
            "The network has reading heads for model.reading_layers: give them a "
            "group, '^reading_heads_', or leave model.reading_layers empty."
        )
    return lines


def _in_several(found: Mapping[str, list[str]]) -> list[str]:
    """Returns lines about the parameters that are in several groups."""
    several: dict[str, list[str]] = {}
    for path, names in found.items():
        if len(names) > 1:
            several.setdefault(" and ".join(map(repr, names)), []).append(path)
    if not several:
        return []
    lines = [f"Parameters in several groups ({sum(map(len, several.values()))}):"]
    for names, paths in several.items():
        lines += [f"{path} in {names}" for path in _indented(paths)]
    return [*lines, "Make the patterns exclude one another."]


def _empty(
    found: Mapping[str, list[str]], groups: Mapping[str, ParameterGroup]
) -> list[str]:
    """Returns lines about the groups that have no parameter."""
    used = {name for names in found.values() for name in names}
    return [
        f"The group {name!r} has no parameter that trains: mend its pattern, or leave "
        "it out."
        for name in groups
        if name not in used
    ]


def _indented(paths: Iterable[str]) -> list[str]:
    """Returns lines of paths, those that differ in the layer alone in one line."""
    layers: dict[str, list[str]] = {}
    for path in paths:
        layers.setdefault(_LAYER.sub("*", path), []).extend(_LAYER.findall(path))
    return [
        "  " + path.replace("*", ",".join(sorted(numbers, key=int)))
        for path, numbers in layers.items()
    ]
