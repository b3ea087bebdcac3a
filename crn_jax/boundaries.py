"""Instance boundaries, an optional last channel of a layout. The paper has none.

Classes do not tell where one car ends and the next one begins. pix2pixHD (Wang et al., CVPR 2018, section 3.3) adds a channel
for that: 1 where the instance of a pixel differs from that of one of its four neighbours, and else 0.
"""

import functools
import operator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Integer


def boundaries_of(instances: Integer[Array | np.ndarray, "B H W"]) -> Bool[Array | np.ndarray, "B H W"]:
    """Tells which pixels lie at an instance's boundary, on both of its sides.

    The definition is that of `get_edges` in the program of pix2pixHD. Pixels beyond the border of the image do not count.

    Args:
      instances: the id of each pixel's instance. Any ids will do, because only their differences count.
    """
    inside, xp = instances, np if isinstance(instances, np.ndarray) else jnp
    padded = xp.pad(inside, ((0, 0), (1, 1), (1, 1)), mode="edge")
    above, below, left, right = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    return functools.reduce(operator.or_, (neighbour != inside for neighbour in (above, below, left, right)))
