"""Colours for classes without colours, each as far as possible from the others."""

import functools

import numpy as np

Color = tuple[int, int, int]
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
MOST_COLORS = 4000
"""The largest number of colours that `palette` generates."""


@functools.cache
def palette(count: int) -> tuple[Color, ...]:
    """Generates colours for `count` classes, at most 4000. Each is as far as possible from black, white and those before it.

    A longer palette begins with a shorter one. Distances are "redmean" (compuphase.com/cmetric.htm), a cheap approximation of
    what eyes see. They are computed in integers, so every machine finds the same colours.
    """
    levels = np.arange(0, 256, 17, dtype=np.int32)
    candidates = [axis.ravel() for axis in np.meshgrid(levels, levels, levels, indexing="ij")]
    colors = list[Color]()
    nearest = np.minimum(_redmean(candidates, _BLACK), _redmean(candidates, _WHITE))
    for _ in range(count):
        farthest = nearest.argmax()
        red, green, blue = (int(levels[farthest]) for levels in candidates)
        colors.append((red, green, blue))
        np.minimum(nearest, _redmean(candidates, colors[-1]), out=nearest)
    return tuple(colors)


def _redmean(colors: list[np.ndarray], color: Color) -> np.ndarray:
    """Returns the distances of colours, given as one array for each of red, green and blue, from one colour."""
    red, green, blue = (np.square(levels - level) for levels, level in zip(colors, color))
    mean = (colors[0] + color[0]) // 2
    return ((512 + mean) * red >> 8) + 4 * green + ((767 - mean) * blue >> 8)
