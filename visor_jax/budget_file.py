"""Files of budgets that a sweep found: which there are, and the best within a cost.

`@FILE` in a list of budgets stands for all of them, and `@FILE:0.4`, there or where one
is named, for the best that costs at most 0.4 of the dearest.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from visor_jax.layer_plan import LayerKind, LayerPlan

PREFIX = "@"
_WITHIN = re.compile(r"@(.+):([0-9.eE+-]+)")


def is_whole_file(name: str) -> bool:
    """Returns whether a name stands for all budgets of a file."""
    return name.startswith(PREFIX) and _WITHIN.fullmatch(name) is None


def names_in(file: Path, plan: LayerPlan) -> tuple[str, ...]:
    """Returns the names of the budgets that a sweep found to pay.

    Raises:
      ValueError: if the file cannot be read, or is of another plan.
    """
    return tuple(_content(file, plan)["budgets"])


def name_within(text: str, plan: LayerPlan) -> str:
    """Returns the name of the budget that "@FILE:COST" stands for.

    Raises:
      ValueError: for another form, a file that cannot be read, is of another plan, or
        has no budget as cheap as that.
    """
    match = _WITHIN.fullmatch(text)
    cost = math.nan if match is None else _number(match[2])
    if not cost > 0:
        raise ValueError(
            f"budget={text!r}: write '@FILE:0.4' for the best budget of a file that "
            "costs at most 0.4 of its dearest."
        )
    file = Path(match[1])
    content = _content(file, plan)
    kept = set(content["budgets"])
    try:
        scores = [each for each in content["scores"] if each["budget"] in kept]
        if not scores:
            raise TypeError("no scores of them")
        dearest = max(each["cost"] for each in scores)
        cheap = [each for each in scores if each["cost"] <= cost * dearest]
        if not cheap:
            least = min(each["cost"] for each in scores) / dearest
            raise ValueError(
                f"{file} has no budget that costs {cost:g} of the dearest: the "
                f"cheapest costs {least:.3g}."
            )
        return max(cheap, key=lambda each: each["score"])["budget"]
    except (KeyError, TypeError) as error:
        raise _no_budgets(file, error) from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _content(file: Path, plan: LayerPlan) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        kinds = tuple(LayerKind(kind) for kind in content["plan"])
        there, names = LayerPlan(kinds), content["budgets"]
        if not isinstance(names, list) or not names:
            raise TypeError("no list of names")
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a name is no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_budgets(file, error) from error
    if there != plan:
        raise ValueError(
            f"The budgets in {file} are of another layer plan: {_described(there)} "
            f"there, {_described(plan)} in this network. Run the sweep on this network."
        )
    return content


def _described(plan: LayerPlan) -> str:
    layers = (f"{kind} layers {[*at]}" for kind, at in plan.layers_by_kind.items())
    return ", ".join(layers)


def _no_budgets(file: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} holds no budgets ({error}): give a file that "
        "`python -m visor_jax.sweep` wrote."
    )
