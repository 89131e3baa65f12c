"""Slopes without derivatives."""

from collections.abc import Callable
from typing import Any

import numpy as np


def slope(function: Callable[[Any], Any], x: np.ndarray, step: float) -> np.ndarray:
    """Returns the central differences of a scalar function at every element of x."""
    found = np.zeros(x.size)
    for i in range(x.size):
        move = np.zeros(x.size, x.dtype)
        move[i] = step
        up, down = (function(x + s * move.reshape(x.shape)) for s in (1, -1))
        found[i] = (float(up) - float(down)) / (2 * step)
    return found.reshape(x.shape)
