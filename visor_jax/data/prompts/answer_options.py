"""What a request may say about its own answer, beside what it asks."""

import dataclasses
from typing import Any

from visor_jax.data.prompts.sampling import Sampling
from visor_jax.look_cascade import look_name
from visor_jax.runtime.arguments import finite_number, whole_number

# What the numbers may be.
_NUMBERS = {
    "max_new_tokens": {"least": 1},
    "seed": {"least": 0, "most": 2**31 - 1},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How one request is answered; None, or no text, leaves it as all are answered.

    budget: a name ("none", "all", "sa1:3", a number of layers), or "auto". cost: with
      "auto", above 0 for cheaper choices.
    max_new_tokens: at most so many. sampling: how its tokens are chosen.
    seed: of its random draws, which then depend on nothing else: they are those of
      `generate(..., key=jax.random.key(seed))`.
    stop: texts; the answer ends before the first that it would hold.
    crops: of an image that are looked at: "base", "all", or how many tiles beside the
      base view ("2", "base+2", "base+2:1,4"); "auto@0.8": see `look_cascade`.

    Raises ValueError for what is none of that.
    """

    budget: str | None = None
    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    cost: float | None = None
    crops: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.budget is not None and not isinstance(self.budget, str):
            problems.append(f"budget={self.budget!r} is no name of a budget")
        elif (self.budget or "").startswith("@"):
            # A request may be a stranger's: it opens no files.
            problems.append(f"budget={self.budget!r} is a file and no name of a budget")
        if self.sampling is not None and not isinstance(self.sampling, Sampling):
            problems.append(f"sampling={self.sampling!r} is no Sampling")
        for name, limits in _NUMBERS.items():
            try:
                self._check_number(name, limits)
            except ValueError as error:
                problems.append(str(error).rstrip("."))
        if self.cost is not None:
            try:
                object.__setattr__(self, "cost", finite_number(self.cost, "cost"))
            except ValueError as error:
                problems.append(str(error).rstrip("."))
        if self.crops is not None:
            try:
                object.__setattr__(self, "crops", look_name(self.crops))
            except ValueError as error:
                problems.append(str(error).rstrip("."))
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, list | tuple) or not all(map(_is_text, stop)):
            problems.append(f"stop={self.stop!r} are not all texts, none of them empty")
        if problems:
            raise ValueError("Impossible options: " + "; ".join(problems) + ".")
        object.__setattr__(self, "stop", tuple(stop))

    def _check_number(self, name: str, limits: dict[str, int]) -> None:
        """Makes Python's number of a field. Raises ValueError for what is none."""
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, whole_number(value, name, **limits))

    @classmethod
    def of_dict(cls, fields: dict[str, Any]) -> "AnswerOptions":
        """Returns the options of JSON values; `sampling` is an object of its own.

        Raises:
          ValueError: for an unknown name, with those that are known, or values that are
            none of what they should be.
        """
        fields = {**fields}
        _check_names("an answer's options", fields, cls)
        budget = fields.get("budget")
        if isinstance(budget, int) and not isinstance(budget, bool):
            fields["budget"] = str(budget)
        given = fields.get("sampling")
        if given is not None:
            if not isinstance(given, dict):
                raise ValueError(f"sampling {given!r} is no JSON object.")
            fields["sampling"] = _sampling(given)
        if fields.get("stop") is None:
            fields.pop("stop", None)
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON values of what is said, {} for nothing."""
        said = dataclasses.asdict(self).items()
        return {name: value for name, value in said if value not in (None, ())}


def _sampling(given: dict[str, Any]) -> Sampling:
    """Returns the sampling of JSON values. Raises ValueError as `of_dict`."""
    _check_names("sampling", given, Sampling)
    return Sampling(**given)


def _check_names(what: str, given: dict[str, Any], kind: type) -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown {unknown} in {what}: known are {known}.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
