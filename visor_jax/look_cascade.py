"""The base view first, all crops where its answer is unsure: crops='auto@0.8'.

A cascade (`routing.cascade`) over crops instead of budgets: the first look is answered
to its end, and where its confidence lies below the threshold the network looks again,
at everything, in the same budget (`inference.looking_twice`; in the engine,
`inference.engine.scheduler`).
"""

import dataclasses
import math

from visor_jax.look import crops_of
from visor_jax.runtime.arguments import confidence_threshold, shown

AUTO_LOOK = "auto"
_FORM = "'auto@THRESHOLD', as in 'auto@0.8'"


@dataclasses.dataclass(frozen=True)
class LookCascade:
    """How sure an answer to the base view must be to stand.

    threshold: in (0, 1]; an answer whose confidence lies below it is not kept. 1 looks
    again wherever the network is not certain.

    Raises ValueError for another threshold.
    """

    threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", confidence_threshold(self.threshold))

    @property
    def name(self) -> str:
        """What `of_name` reads; the threshold to its last digit."""
        return f"{AUTO_LOOK}@{self.threshold!r}"

    def looks_again(self, confidence: float) -> bool:
        """Returns whether a first answer of this confidence is not enough."""
        return confidence < self.threshold

    @classmethod
    def of_name(cls, name: str) -> "LookCascade":
        """Returns the cascade with this name. Raises ValueError for no such name."""
        kind, has_threshold, threshold = name.partition("@")
        if kind == AUTO_LOOK and not has_threshold:
            raise ValueError(
                f"crops={name!r} needs a threshold: write {_FORM}, or find one with "
                "visor_jax.inference.routing.look_calibration."
            )
        try:
            number = float(threshold)
        except ValueError:
            number = math.nan
        if kind != AUTO_LOOK or math.isnan(number):
            raise ValueError(f"crops={shown(name)} is no cascade: write {_FORM}.")
        return cls(number)


def look_name(said: object) -> str:
    """Returns the name of crops or of a cascade, as answers and settings say it.

    Raises:
      ValueError: as `crops_of` and `LookCascade.of_name`.
    """
    if isinstance(said, LookCascade):
        return said.name
    if isinstance(said, str) and is_look_cascade(said):
        return LookCascade.of_name(said).name
    return crops_of(said).name


def is_look_cascade(crops: object) -> bool:
    """Returns whether crops, or the name of some, are a cascade."""
    if isinstance(crops, str):
        return crops == AUTO_LOOK or crops.startswith(f"{AUTO_LOOK}@")
    return isinstance(crops, LookCascade)
