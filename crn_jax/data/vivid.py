"""Vivid photographs, which the released 512p and 1024p models learned from: tone and detail are boosted, edges are kept.

The module follows the released program's `optional_preprocessing/generate_vivid_images_{256,512,1024}full.m`, which have the
same constants at all three sizes. Filter and tone mapping are those of Farbman, Fattal, Lischinski and Szeliski,
"Edge-Preserving Decompositions for Multi-Scale Tone and Detail Manipulation", SIGGRAPH 2008. LAB is relative to ICC's white,
D50, as in MATLAB's `srgb2lab`. Two things are ours: photographs arrive with 8 bits, after the resize, and each of the three
boosted images is clipped to what sRGB can show before their mean is taken.

Within this module sRGB is float64 in 0..1 and LAB is float64 with L in 0..100. Two sparse factorizations take nearly all the
time. On one core, a photograph takes about 1 s and 0.2 GB at 256x512, 7 s and 0.9 GB at 512x1024, and 45 s and 3.7 GB at
1024x2048. Other Python threads can run during most of it.
"""

import dataclasses

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float64, UInt8

from crn_jax.data.examples import Example, Source
from crn_jax.data.geometry import Place

_GAMMA = 0.75
_SATURATION = 1.1
_MIDDLE_LIGHTNESS = 56
# For each boosted image: the sigmoids' slopes for fine details, medium details and base, and the base's exposure.
_BOOSTS = ((25, 1, 1, 1.0), (1, 40, 1, 1.0), (4, 1, 15, 1.1))

# Linear sRGB -> XYZ, Bradford-adapted to D50 (brucelindbloom.com, "RGB/XYZ Matrices").
_XYZ_FROM_RGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
_WHITE = _XYZ_FROM_RGB.sum(1)
_LAB_KNEE = 6 / 29  # below the cube of this, LAB replaces the cube root by a line


def vivid(photograph: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Boosts an RGB photograph as the released program does. It should have the size that is trained on already.

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
    """Another source's examples with vivid photographs."""

    inside: Source

    def __getitem__(self, index: int) -> Example:
        return self._boosted(self.inside[index])

    def placed(self, index: int, place: Place) -> Example:
        """Returns the other source's example at `place`. Tones are boosted after the crop, so they depend on the crop alone."""
        return self._boosted(self.inside.placed(index, place))

    @property
    def fit(self) -> str:
        """The other source's fit. A cache refuses random crops by it."""
        return getattr(self.inside, "fit", "resize")

    def _boosted(self, example: Example) -> Example:
        return example | {"photograph": vivid(example["photograph"])}


def vivid_of(source: Source) -> Source:
    """Returns a source of the same examples with vivid photographs."""
    return _Vivid(**{field.name: getattr(source, field.name) for field in dataclasses.fields(Source)}, inside=source)


def wls_filter(image: Float64[np.ndarray, "H W"], smoothness: float, alpha: float = 1.2) -> Float64[np.ndarray, "H W"]:
    """Smooths an image g of non-negative values, but not across its edges.

    The result u minimizes Farbman et al.'s Eq. 1, Σ_p (u_p − g_p)² + λ Σ_pq a_pq (u_p − u_q)². Here p and q are neighbours in
    rows and columns, λ is the smoothness, and a_pq = 1 / (|log g_p − log g_q|^α + ε). Thus u solves (I + λ L) u = g, where L is
    the Laplacian of the weights a.
    """
    index = np.arange(image.size).reshape(image.shape)
    first = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    second = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    logs = np.log(image.ravel() + np.finfo(np.float64).eps)
    weights = smoothness / (np.abs(logs[first] - logs[second]) ** alpha + 1e-4)
    graph = scipy.sparse.coo_array((weights, (first, second)), (image.size, image.size))
    graph = graph + graph.T
    system = scipy.sparse.diags_array(1 + graph.sum(1)) - graph
    # The system is diagonally dominant and symmetric: no pivots are needed, and an order for symmetric matrices fills in least.
    solver = scipy.sparse.linalg.splu(
        system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True}
    )
    return solver.solve(image.ravel()).reshape(image.shape)


def srgb_to_lab(rgb: Float64[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
    """Converts sRGB in 0..1 to CIE LAB relative to the white D50."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ_FROM_RGB.T / _WHITE
    root = np.where(ratio > _LAB_KNEE**3, np.cbrt(ratio), ratio / (3 * _LAB_KNEE**2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_srgb(lab: Float64[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
    """Inverts `srgb_to_lab`. Colours that sRGB cannot show are clipped to 0..1."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    y = (lightness + 16) / 116
    root = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    ratio = np.where(root > _LAB_KNEE, root**3, (root - 4 / 29) * 3 * _LAB_KNEE**2)
    linear = np.clip(ratio * _WHITE @ np.linalg.inv(_XYZ_FROM_RGB).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _tone_map(lab: np.ndarray, fine: np.ndarray, medium: np.ndarray, base: np.ndarray, boost: tuple) -> np.ndarray:
    """Maps LAB and the three layers `[H, W]` of its lightness to boosted sRGB, as `tonemapLAB.m` does at a gamma of 1."""
    fine_slope, medium_slope, base_slope, exposure = boost
    lightness = _MIDDLE_LIGHTNESS + _sigmoid(exposure * base - _MIDDLE_LIGHTNESS, base_slope)
    lightness = lightness + _sigmoid(medium, medium_slope) + _sigmoid(fine, fine_slope)
    return lab_to_srgb(np.stack([lightness, _SATURATION * lab[..., 1], _SATURATION * lab[..., 2]], axis=-1))


def _sigmoid(values: np.ndarray, slope: float) -> np.ndarray:
    """Evaluates `sigmoid.m`, an odd sigmoid of this slope, which maps 0 to 0 and ±50 to ±50."""
    return 50 * np.tanh(slope * values / 200) / np.tanh(slope / 4)
