"""How a map between two families of parameter names is written down and applied.

A map is data, a sequence of rules. `{i}` stands for a number, any other `{word}` for
one word, and the same names must stand on both sides, so a rule reads both ways:

    KeyRule("layers.{i}.mlp.{name}.weight", "layers_{i}/mlp/{name}/kernel", LINEAR)
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import numpy as np

_SLOT = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout (a view, no copy) and its inverse, by a permutation of axes.

    to_flax: axes of the torch array in the order in which Flax has them.
    """

    to_flax: tuple[int, ...] | None = None

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Returns the torch array in Flax's layout."""
        return array if self.to_flax is None else array.transpose(self.to_flax)

    def invert(self, array: np.ndarray) -> np.ndarray:
        """Returns the Flax array in torch's layout."""
        return array if self.to_flax is None else array.transpose(self._to_torch)

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that torch has for a Flax array of this shape."""
        if self.to_flax is None:
            return tuple(shape)
        return tuple(shape[axis] for axis in self._to_torch)

    @property
    def first_axis(self) -> int:
        """The axis in Flax of what is torch's first one."""
        return 0 if self.to_flax is None else self.to_flax.index(0)

    @property
    def _to_torch(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in np.argsort(self.to_flax))


SAME = Transform()
# torch keeps (out, in), Flax (in, out).
LINEAR = Transform((1, 0))
# torch keeps (out, in, h, w), Flax (h, w, in, out).
CONV = Transform((2, 3, 1, 0))


@dataclasses.dataclass(frozen=True)
class KeyRule:
    """One line of a map: canonical Hugging Face key, path here, change of layout."""

    theirs: str
    ours: str
    transform: Transform = SAME

    def __post_init__(self) -> None:
        if set(_SLOT.findall(self.theirs)) != set(_SLOT.findall(self.ours)):
            raise ValueError(f"{self} must name the same slots on both sides.")


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a name leads, and through which change of layout."""

    name: str
    transform: Transform


def to_ours(key: str, rules: Sequence[KeyRule]) -> Target | None:
    """Returns the path of a canonical key, None if no rule knows it."""
    return _follow(key, rules, lambda rule: (rule.theirs, rule.ours))


def to_theirs(path: str, rules: Sequence[KeyRule]) -> Target | None:
    """Returns the canonical key of a path, None if Hugging Face has no such thing."""
    return _follow(path, rules, lambda rule: (rule.ours, rule.theirs))


def _follow(
    name: str,
    rules: Sequence[KeyRule],
    sides: Callable[[KeyRule], tuple[str, str]],
) -> Target | None:
    for rule in rules:
        source, target = sides(rule)
        match = _compiled(source).fullmatch(name)
        if match is not None:
            return Target(target.format(**match.groupdict()), rule.transform)
    return None


@functools.cache
def _compiled(template: str) -> re.Pattern[str]:
    parts = _SLOT.split(template)
    # Even places hold plain text, odd ones the names of slots.
    pieces = [
        f"(?P<{part}>{r'[0-9]+' if part == 'i' else r'[a-z0-9_]+'})"
        if place % 2
        else re.escape(part)
        for place, part in enumerate(parts)
    ]
    return re.compile("".join(pieces))
