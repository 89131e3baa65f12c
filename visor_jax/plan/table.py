"""The memory plan as text: what a device holds, and which devices can hold it."""

from collections.abc import Iterable, Mapping

from visor_jax.plan.accelerators import Accelerator
from visor_jax.plan.step_bytes import StepBytes

ANY_BUDGET = "any budget"
FOOTNOTE = (
    "GB = 1e9 bytes. 'any budget' is the universal step (traced gates), whose one "
    "program\nhas room for them all; the other columns are programs for one budget. "
    "Not counted:\nthe runtime's own memory and gaps between buffers."
)
_WIDTH = 12


def step_table(columns: Mapping[str, StepBytes]) -> str:
    """Returns a row per kind of memory and a column per budget."""
    rows = [("", list(columns))]
    for name, values in _rows(list(columns.values())):
        rows.append((name, [f"{value / 1e9:.3f}" for value in values]))
    rows.append(("fullest moment", [one.peak for one in columns.values()]))
    widths = [max(_WIDTH, len(name) + 2) for name in columns]
    return "\n".join(
        f"{name:<34}"
        + "".join(f"{x:>{width}}" for x, width in zip(values, widths, strict=True))
        for name, values in rows
    )


def _rows(steps: list[StepBytes]) -> Iterable[tuple[str, list[int]]]:
    yield "parameters (float32)", [one.parameters for one in steps]
    yield "optimiser state", [one.optimizer for one in steps]
    yield "batch", [one.batch for one in steps]
    yield "gradients", [one.gradients for one in steps]
    for part in ("tower", "projector", "decoder"):
        yield f"activations kept: {part}", [one.kept[part] for one in steps]
    yield "logits", [one.logits for one in steps]
    for moment in sorted({moment for one in steps for moment in one.moments}):
        values = [one.moments.get(moment, 0) for one in steps]
        yield f"beside the state: {moment}", values
    yield "total at the fullest moment", [one.total for one in steps]


def device_table(needed: int, devices: Iterable[Accelerator]) -> str:
    """Returns a row per device: its memory, what is left of it, and the verdict."""
    lines = [f"{'device':<8}{'GB':>8}{'left':>10}"]
    for device in devices:
        left, verdict = device.left(needed), device.verdict(needed)
        lines.append(
            f"{device.name:<8}{device.memory / 1e9:8.0f}{left / 1e9:10.2f}  {verdict}"
        )
    return "\n".join(lines)
