"""The calibrated cascade of a checkpoint: cascade.json in its workdir.

    {"cascade": "cascade:sa0,sa3:1,3,5@0.83", "step": 2400, "measured": {...}}

It is of one step of one network: another step has other confidences, and is refused.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from visor_jax.budget import BudgetSet
from visor_jax.inference.routing.cascade import Cascade, check_ladder

CASCADE_FILE = "cascade.json"


@dataclasses.dataclass(frozen=True)
class CascadeFile:
    """Where a checkpoint's calibration lies, there or not, and of which step it is."""

    path: epath.Path
    step: int

    @classmethod
    def beside(cls, step: epath.PathLike) -> "CascadeFile":
        """Returns that of a step directory."""
        step = epath.Path(step)
        return cls(step.parents[1] / CASCADE_FILE, int(step.name))

    def read(self, budgets: BudgetSet) -> Cascade:
        """Returns the cascade that was calibrated for this step.

        Raises:
          ValueError: if there is none, or it is of another step or other budgets.
        """
        if not self.path.exists():
            raise ValueError(f"{self.path} is not there: {_remedy(self, budgets)}")
        try:
            content = json.loads(self.path.read_text())
            name, step = content["cascade"], content["step"]
            cascade = Cascade.of_name(name, budgets.plan)
            cascade.check(budgets)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{self.path} holds no cascade of this network ({error})"
            raise ValueError(f"{reason}: {_remedy(self, budgets)}") from error
        if step != self.step:
            raise ValueError(
                f"{self.path} was calibrated at step {step}, and this is step "
                f"{self.step}: {_remedy(self, budgets)}"
            )
        return cascade

    def content(self, cascade: Cascade, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the JSON values of the file. measured: how it was calibrated."""
        return {"cascade": cascade.name, "step": self.step, "measured": dict(measured)}


def calibrated(file: CascadeFile | None, budgets: BudgetSet) -> Cascade:
    """Returns the cascade called 'cascade'.

    Args:
      file: None for a network that has no workdir.

    Raises:
      ValueError: for a single budget, or without a calibration, with how to get one.
    """
    check_ladder(budgets)
    if file is None:
        raise ValueError(
            "budget='cascade' needs a calibration beside the checkpoint, and this "
            f"network is not a run's: name budgets and threshold, {_example(budgets)}."
        )
    return file.read(budgets)


def _remedy(file: CascadeFile, budgets: BudgetSet) -> str:
    return (
        "budget='cascade' takes its threshold from there; `python -m "
        f"visor_jax.cascade --checkpoint={file.path.parent}` measures one. Or name "
        f"budgets and threshold, {_example(budgets)}."
    )


def _example(budgets: BudgetSet) -> str:
    return f"'cascade:{budgets.smallest.name},{budgets.largest.name}@0.8'"
