"""What the report's pictures have in common: colours, marks, sizes.

The colours are Okabe and Ito's, which readers with any kind of colour vision tell
apart; no picture relies on colour alone.
"""

import io
import logging
from pathlib import Path
from typing import BinaryIO

# Announces on stderr that it builds its font cache, once per machine.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

import matplotlib  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from visor_jax.runtime import atomic_write  # noqa: E402

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#007A5A", "#C44500"
# Reddish purple, dark enough for small text.
PURPLE = "#96407A"
INK, GREY, LIGHT = "#222222", "#767676", "#E3E3E3"
DOTS_PER_INCH = 150

# Model kind -> (colour, marker, size).
MODEL_MARKS = {
    "universal": (BLUE, "o", 60),
    "dedicated": (ORANGE, "s", 62),
    "dense": (INK, "D", 62),
    "untrained": (GREY, "d", 56),
    "stage": (RED, "v", 66),
    "policy": (GREEN, "^", 72),
}

# Dark enough for small text; a dedicated network's name differs by colour and marker.
LABEL_COLOURS = {"universal": INK, "dedicated": "#8A5D00", "dense": INK}
LABEL_COLOURS |= {"policy": GREEN, "stage": RED, "untrained": GREY}


class _Picture(Figure):
    """A figure that notebooks show, whatever backend they have."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def figure(width: float, height: float) -> Figure:
    """Returns an empty figure of so many inches; no window, no global state."""
    return _Picture(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")


def plain_axes(axes: Axes) -> None:
    """Leaves axes with two lines and light horizontal rules."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)


def save(drawing: Figure, file: Path) -> None:
    """Writes the figure as PNG, in place of what was there."""
    atomic_write.write_file(file, lambda stream: drawing.savefig(stream, format="png"))


def save_svg(drawing: Figure, file: Path) -> None:
    """Writes the figure as SVG: the same bytes for the same figure, texts as texts."""
    settings = {"svg.hashsalt": "visor_jax", "svg.fonttype": "none"}

    def write(stream: BinaryIO) -> None:
        with matplotlib.rc_context(settings):
            drawing.savefig(stream, format="svg", metadata={"Date": None})

    atomic_write.write_file(file, write)
