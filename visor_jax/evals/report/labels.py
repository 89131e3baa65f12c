"""Names beside the points of a picture, where there is room for them.

Every name gets a place of its own: beside its point or a little above or below, inside
the axes, over no other name and no point. A thin line leads to it. Where there is no
room left the name is left out, and the caller learns how many are.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_SIZE = 8.5
# Of a point's mark, and between it and its name, in points (1/72 inch).
_MARK, _GAP = 5.0, 13.0
# A name's distance from its point, in lines: the nearest first.
_FARTHEST = 14


@dataclasses.dataclass(frozen=True)
class Label:
    """A name of the point (x, y) in data coordinates.

    side: 1 for the right of the point if there is room, -1 for the left.
    lines: how much lower it would rather stand, in lines.
    """

    name: str
    x: float
    y: float
    colour: str
    line_colour: str
    side: int = 1
    lines: float = 0.0


def place_labels(axes: Axes, labels: Sequence[Label]) -> int:
    """Writes the names, the first ones at the best places; returns how many lack room.

    The limits of the axes must be as they stay.
    """
    measure = _Measure(axes)
    points = [measure.around(label) for label in labels]
    taken: list[Bbox] = list(points)
    left_out = 0
    for label, point in zip(labels, points, strict=True):
        others = [box for box in taken if box is not point]
        for side, box in measure.places(label):
            if measure.is_inside(box) and not any(_meet(box, each) for each in others):
                _write(axes, label, side, box)
                taken.append(box)
                break
        else:
            left_out += 1
    return left_out


class _Measure:
    """What stands where on the axes, in pixels."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._renderer = FigureCanvasAgg(axes.figure).get_renderer()
        self._inside = axes.get_window_extent(self._renderer)
        self._pixels = axes.figure.dpi / 72

    def around(self, label: Label) -> Bbox:
        """Returns the box of the label's point."""
        x, y = self._axes.transData.transform((label.x, label.y))
        reach = _MARK * self._pixels
        return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)

    def is_inside(self, box: Bbox) -> bool:
        """Returns whether the box lies within the axes."""
        inside = self._inside
        return (
            box.x0 >= inside.x0
            and box.x1 <= inside.x1
            and box.y0 >= inside.y0
            and box.y1 <= inside.y1
        )

    def places(self, label: Label) -> Iterator[tuple[int, Bbox]]:
        """Yields (side, box of the name), the best first."""
        x, y = self._axes.transData.transform((label.x, label.y))
        text = Text(0, 0, label.name, fontsize=_SIZE, figure=self._axes.figure)
        size = text.get_window_extent(self._renderer)
        gap, line = _GAP * self._pixels, 1.25 * _SIZE * self._pixels
        for distance in range(2 * _FARTHEST + 1):
            steps = (distance + 1) // 2 * (1 if distance % 2 else -1)
            middle = y - (label.lines + steps) * line
            for side in (label.side, -label.side):
                start = x + gap if side > 0 else x - gap - size.width
                yield (
                    side,
                    Bbox.from_bounds(start, middle - line / 2, size.width, line),
                )


def _meet(a: Bbox, b: Bbox) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def _write(axes: Axes, label: Label, side: int, box: Bbox) -> None:
    corner = (box.x0 if side > 0 else box.x1, (box.y0 + box.y1) / 2)
    axes.annotate(
        label.name,
        (label.x, label.y),
        axes.transData.inverted().transform(corner),
        fontsize=_SIZE,
        color=label.colour,
        va="center",
        ha="left" if side > 0 else "right",
        zorder=4,
        arrowprops={
            "arrowstyle": "-",
            "color": label.line_colour,
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": 4,
        },
        bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"},
    )
