"""Which values of a configuration a run may go on with when they have changed.

Every value is of one of these kinds; what none of the patterns names makes the run what
it is, and a run never goes on with another.
"""

import re
from collections.abc import Mapping
from typing import Any

# They change no number that the run computes: when it logs, saves, gives up or is
# evaluated, who reads its data, and what it must run on.
CHANGE_NOTHING = (
    *(r"loop\.log_every", r"loop\.checkpoint_every", r"loop\.keep_checkpoints"),
    *(r"loop\.max_skipped_steps", r"evaluation_pages", r"platform"),
    *(r"data\.cache", r"data\.workers", r"data\.threads", r"scores\.cache"),
    *(r"data\.max_bad_records", r"data\.max_left_out"),
)
# They say in which order the same numbers are added up, and where: what a run needs on
# another machine. Its loss stays the same but for rounding.
CHANGE_ROUNDING = (
    *(r"mesh\.(data|fsdp|tensor)", r"optimizer\.accumulate"),
    *(r"model\.remat", r"model\.attention", r"model\.scan_layers"),
)
# What keys meant before they came into configurations; older runs do not have them.
BEFORE_THEY_CAME = {
    "model.adapters": "paper",
    "model.adapter_init": "random",
    "model.projector_convolution": None,
    "model.remat": None,
    "model.attention": "auto",
    "model.scan_layers": "auto",
    "optimizer.convolution_begins": 0.0,
    "optimizer.matrices": "adam",
    "data.any_crops": False,
    "data.mirrors": False,
}


def without_idle_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: value} with one value where several mean the same.

    A projector's convolution of side 0 is none, and when none begins does not matter.
    """
    values, side = dict(values), "model.projector_convolution"
    if not values.get(side):
        idle = {side: None, "optimizer.convolution_begins": 0.0}
        values |= {key: value for key, value in idle.items() if key in values}
    return values


def may_change(key: str) -> bool:
    """Returns whether a run may go on with another value of this dotted key."""
    return _is_one_of(key, CHANGE_NOTHING) or _is_one_of(key, CHANGE_ROUNDING)


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> str | None:
    """Returns a line about values that changed, None for none.

    Args:
      changes: {dotted key: (old, new)}, as texts.
    """
    if not changes:
        return None
    listed = ", ".join(f"{key}: {old} -> {new}" for key, (old, new) in changes.items())
    rounding = [key for key in changes if _is_one_of(key, CHANGE_ROUNDING)]
    if rounding:
        effect = f"{', '.join(rounding)} may change the rounding of its numbers"
    else:
        effect = "none of its numbers changes by that"
    return f"the run goes on with other values ({listed}): {effect}"


def _is_one_of(key: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)
