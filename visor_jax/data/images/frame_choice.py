"""Which frames of a clip a network sees: evenly spaced ones, from first to last.

    frames of the file    0 1 2 3 4 5 6 7 8 9
    seen of them, of 4    0     3     6     9

As LLaVA-OneVision's evaluation takes 32 of them; but a shorter clip's frames once each.
"""

import numpy as np

# Of one clip, as LLaVA-OneVision is trained and evaluated.
FRAMES = 32


def chosen_frames(count: int, most: int) -> list[int]:
    """Returns which frames of a clip of `count` are seen, at most `most` of them."""
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most, dtype=int).tolist()
