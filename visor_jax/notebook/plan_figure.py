"""The idea in one picture: which layers see the image, and what a budget leaves out."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from visor_jax.budget import Budget
from visor_jax.evals.report import style
from visor_jax.layer_plan import READ, LayerKind, LayerPlan, StaticGate

# Heights of the two streams, and half the size of a layer's box.
_IMAGE, _TEXT, _HALF = 1.0, 0.0, 0.3
_LEGEND = (
    "look: text attends to the image by an adapter; read: in the layer itself",
    "refine: self-attention over image and text, where the budget wants it",
)


def plan_figure(plan: LayerPlan, budget: Budget | None = None) -> Figure:
    """Returns a drawing of the two streams through all layers, the first at the left.

    Args:
      budget: which SELF layers run; those that it leaves out are hollow. None for all.

    Raises:
      ValueError: for a budget of another plan.
    """
    gates = (Budget.all(plan) if budget is None else budget).gates(plan)
    on = plan.gate_of_layer(gates)
    drawing = style.figure(1.5 + 0.62 * plan.num_layers, 2.5)
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2.4, plan.num_layers + 0.4), ylim=(-1.2, 1.75))
    axes.axis("off")
    for y, name in ((_IMAGE, "image tokens"), (_TEXT, "text tokens")):
        axes.text(-0.75, y, name, ha="right", va="center", fontsize=9)
        _arrow(axes, (-0.65, y), (plan.num_layers - 0.1, y), style.GREY)
    for index, kind in enumerate(plan.kinds):
        _layer(axes, index, kind, on.get(index, True))
    for line, words in enumerate(_LEGEND):
        y = -0.8 - 0.24 * line
        axes.text(-0.6, y, words, fontsize=7.5, color=style.GREY)
    return drawing


def _layer(axes: Axes, index: int, kind: LayerKind, gate: StaticGate) -> None:
    _box(axes, index, _TEXT, style.INK, filled=True)
    axes.text(index, _TEXT - 0.5, str(index), ha="center", fontsize=7.5)
    if not kind.sees_image:
        return
    colour = style.ORANGE if kind.has_adapter else style.BLUE
    if kind.refines_image:
        _box(axes, index, _IMAGE, colour, filled=gate is True)
    if gate:
        _arrow(axes, (index, _IMAGE - _HALF), (index, _TEXT + _HALF), colour)
    words = _word(kind, gate)
    axes.text(index, 1.45, words, ha="center", fontsize=7.5, color=colour)


def _word(kind: LayerKind, gate: StaticGate) -> str:
    if not gate:
        return "off"
    if kind.has_adapter:
        return "look"
    return "refine" if kind.refines_image and gate is not READ else "read"


def _box(axes: Axes, x: float, y: float, colour: str, *, filled: bool) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - _HALF / 1.4, y - _HALF / 1.4),
            2 * _HALF / 1.4,
            2 * _HALF / 1.4,
            boxstyle="round,pad=0.03",
            facecolor=colour if filled else "white",
            edgecolor=colour,
            linestyle="-" if filled else ":",
            zorder=3,
        )
    )


def _arrow(
    axes: Axes, begin: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    axes.annotate(
        "",
        end,
        begin,
        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.3},
    )
