"""Weights and images that are drawn from names and seeds, so that torch and JAX can have the same without a file.

Only NumPy is needed, since the programs that record references run where JAX is not.
"""

import zlib

import numpy as np


def named_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A tensor for each name and shape, in torch's layout; features keep their scale through any number of layers."""
    return {name: _drawn(np.random.default_rng(zlib.crc32(name.encode())), name, shape) for name, shape in shapes.items()}


def _drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 2, shape).astype(np.float32)
    if name.endswith(("bn3.weight", "increase.bn.weight")):  # of residual blocks, which add up
        return rng.uniform(0.1, 0.3, shape).astype(np.float32)
    if name.endswith("weight") and len(shape) == 1:  # of norms
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.startswith("lin"):  # of LPIPS, none of which is negative
        return rng.uniform(0, 1, shape).astype(np.float32)
    if name.endswith("weight"):
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    return rng.normal(0, 0.2, shape).astype(np.float32)  # biases and running means


def image(seed: int, height: int, width: int) -> np.ndarray:
    """Blocks of 16x16 pixels under noise, uint8 `[H, W, 3]`."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0, 255, (-(-height // 16), -(-width // 16), 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.clip(blocks + rng.normal(0, 20, blocks.shape), 0, 255).astype(np.uint8)
