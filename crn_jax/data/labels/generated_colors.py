"""Colours for classes without colours, each as far as possible from the others."""

import functools

import numpy as np

Color = tuple[int, int, int]
_BLACK = (0, 0, 0)
MOST_COLORS = 4000
"""The largest number of colours that `palette` generates."""


@functools.cache
def palette(count: int) -> tuple[Color, ...]:
    """Generates colours for `count` classes, at most 4000. Each is as far as possible from black, white and those before it.

    A longer palette begins with a shorter one. Distances are "redmean" (compuphase.com/cmetric.htm), a cheap approximation of
    what eyes see. They are computed in integers, so every machine finds the same colours.
    """
    levels = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    colors = [np.array(_BLACK), np.array((255, 255, 255))]
    nearest = np.minimum(*(_redmean(candidates, color) for color in colors))
    for _ in range(count):
        colors.append(candidates[nearest.argmax()])
        nearest = np.minimum(nearest, _redmean(candidates, colors[-1]))
    return tuple((red, green, blue) for red, green, blue in np.array(colors[2:]).reshape(-1, 3).tolist())


def _redmean(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
    red, green, blue = np.square(colors - color).T
    mean = (colors[:, 0] + color[0]) // 2
    return ((512 + mean) * red >> 8) + 4 * green + ((767 - mean) * blue >> 8)
