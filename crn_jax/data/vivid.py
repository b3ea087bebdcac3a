"""The vivid photographs that the released 512p and 1024p models learned from: tone and detail boosted, edges kept.

Published, and followed here: the released program's `optional_preprocessing/generate_vivid_images_{256,512,1024}full.m`, which
have the same constants at all three sizes, and the filter and tone mapping that they call, of Farbman, Fattal, Lischinski and
Szeliski, "Edge-Preserving Decompositions for Multi-Scale Tone and Detail Manipulation", SIGGRAPH 2008. MATLAB's `srgb2lab`
refers colours to ICC's white, D50, and so do we. Ours: photographs arrive as 8 bits, after the resize; and each of the three
boosted images is clipped to what sRGB can show before they are averaged.

Photographs are uint8 `[H, W, 3]` sRGB; within this file sRGB is float64 0..1 and LAB is float64, L 0..100. The time goes into
two sparse factorizations: about 1 s and 0.2 GB a photograph at 256x512, 7 s and 0.9 GB at 512x1024, 45 s and 3.7 GB at
1024x2048, on one core, for most of which other Python threads can run.
"""

import dataclasses

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from crn_jax.data.examples import Example, Source
from crn_jax.data.geometry import Place

_GAMMA = 0.75
_SATURATION = 1.1
_MIDDLE_LIGHTNESS = 56
# Slopes of the sigmoids for fine details, medium details and base, and the exposure of the base.
_BOOSTS = ((25, 1, 1, 1.0), (1, 40, 1, 1.0), (4, 1, 15, 1.1))

# Linear sRGB -> XYZ, Bradford-adapted to D50 (brucelindbloom.com, "RGB/XYZ Matrices").
_XYZ_FROM_RGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
_WHITE = _XYZ_FROM_RGB.sum(1)
_LAB_KNEE = 6 / 29  # below its cube, LAB's cube root is a line


def vivid(photograph: np.ndarray) -> np.ndarray:
    """The released program's vivid version of a photograph at the size that is trained on: uint8 `[H, W, 3] -> [H, W, 3]`.

    Raises:
      ValueError: if it is not a uint8 photograph of three channels.
    """
    if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3:
        raise ValueError(f"A photograph is uint8 [H, W, 3], got {photograph.dtype} {list(photograph.shape)}.")
    lab = srgb_to_lab((photograph / 255) ** _GAMMA)
    lightness = lab[..., 0]
    medium, base = wls_filter(lightness, 0.125), wls_filter(lightness, 0.5)
    boosted = [_tone_map(lab, lightness - medium, medium - base, base, boost) for boost in _BOOSTS]
    return np.rint(255 * np.mean(boosted, axis=0)).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class _Vivid(Source):
    """Another source's examples, their photographs `vivid`."""

    inside: Source

    def __getitem__(self, index: int) -> Example:
        return self._boosted(self.inside[index])

    def placed(self, index: int, place: Place) -> Example:
        return self._boosted(self.inside.placed(index, place))

    @property
    def fit(self) -> str:
        """As the other's, which a cache looks at."""
        return getattr(self.inside, "fit", "resize")

    def _boosted(self, example: Example) -> Example:
        return example | {"photograph": vivid(example["photograph"])}


def vivid_of(source: Source) -> Source:
    """The same examples with vivid photographs."""
    return _Vivid(**{field.name: getattr(source, field.name) for field in dataclasses.fields(Source)}, inside=source)


def wls_filter(image: np.ndarray, smoothness: float, alpha: float = 1.2) -> np.ndarray:
    """Smooths an image of non-negative values, but not across its edges: float64 `[H, W] -> [H, W]`.

    The u that minimizes Farbman et al.'s Eq. 1, Σ_p (u_p − g_p)² + λ Σ_pq a_pq (u_p − u_q)² over neighbours p, q in rows and
    columns, with a_pq = 1 / (|log g_p − log g_q|^α + ε); that is, (I + λ L) u = g with L the Laplacian of the weights a.
    """
    index = np.arange(image.size).reshape(image.shape)
    first = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    second = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    logs = np.log(image.ravel() + np.finfo(np.float64).eps)
    weights = smoothness / (np.abs(logs[first] - logs[second]) ** alpha + 1e-4)
    graph = scipy.sparse.coo_array((weights, (first, second)), (image.size, image.size))
    graph = graph + graph.T
    system = scipy.sparse.diags_array(1 + graph.sum(1)) - graph
    # Diagonally dominant and symmetric: it needs no pivots, and an ordering for symmetric matrices fills in least.
    solver = scipy.sparse.linalg.splu(
        system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True}
    )
    return solver.solve(image.ravel()).reshape(image.shape)


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE LAB against D50, `[..., 3] -> [..., 3]`."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ_FROM_RGB.T / _WHITE
    root = np.where(ratio > _LAB_KNEE**3, np.cbrt(ratio), ratio / (3 * _LAB_KNEE**2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """The inverse of `srgb_to_lab`, clipped to what sRGB can show, 0..1."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    y = (lightness + 16) / 116
    root = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    ratio = np.where(root > _LAB_KNEE, root**3, (root - 4 / 29) * 3 * _LAB_KNEE**2)
    linear = np.clip(ratio * _WHITE @ np.linalg.inv(_XYZ_FROM_RGB).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _tone_map(lab: np.ndarray, fine: np.ndarray, medium: np.ndarray, base: np.ndarray, boost: tuple) -> np.ndarray:
    """`tonemapLAB.m` at its gamma of 1: LAB and the three layers of its lightness `[H, W]` -> sRGB."""
    fine_slope, medium_slope, base_slope, exposure = boost
    lightness = _MIDDLE_LIGHTNESS + _sigmoid(exposure * base - _MIDDLE_LIGHTNESS, base_slope)
    lightness = lightness + _sigmoid(medium, medium_slope) + _sigmoid(fine, fine_slope)
    return lab_to_srgb(np.stack([lightness, _SATURATION * lab[..., 1], _SATURATION * lab[..., 2]], axis=-1))


def _sigmoid(values: np.ndarray, slope: float) -> np.ndarray:
    """`sigmoid.m`: an odd S of this slope through 0 and ±50."""
    return 50 * np.tanh(slope * values / 200) / np.tanh(slope / 4)
