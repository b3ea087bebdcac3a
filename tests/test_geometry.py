"""Pillow samples; here NumPy does, from the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crn_jax.data.geometry import MIDDLE, sizes_that_fit, view
from crn_jax.errors import UserError

pytestmark = pytest.mark.quick

VOID = 9
lengths = st.integers(1, 40)
shapes = st.tuples(lengths, lengths)
places = st.tuples(st.floats(0, 1), st.floats(0, 1))


def centres(first: float, last: float, count: int) -> np.ndarray:
    """Returns the centres of `count` equal parts of the interval."""
    return first + (np.arange(count) + 0.5) * (last - first) / count


def cubic_weights(first: float, last: float, count: int, length: int) -> np.ndarray:
    """Returns the weights of `length` pixels for each of `count`: Keys' cubic (a = -0.5), widened where it shrinks."""
    widening = max((last - first) / count, 1)
    x = np.abs((np.arange(length) + 0.5 - centres(first, last, count)[:, None]) / widening)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def bicubic(photograph: np.ndarray, box, size: tuple[int, int]) -> np.ndarray:
    left, top, right, bottom = box
    rows = cubic_weights(top, bottom, size[0], photograph.shape[0])
    columns = cubic_weights(left, right, size[1], photograph.shape[1])
    return np.clip(np.einsum("yh,hwc,xw->yxc", rows, photograph.astype(float), columns), 0, 255)


def random_layout(shape, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, VOID, shape).astype(dtype)


@settings(max_examples=100, deadline=None)
@given(shapes, shapes, places, st.sampled_from(["crop", "random_crop", "pad"]), st.sampled_from([np.uint8, np.uint16]))
def test_layouts_take_the_nearest_pixel_of_the_region(shape, size, place, fit, dtype):
    layout, chosen = random_layout(shape, dtype), view(shape, size, fit, place)
    result = chosen.layout(layout, VOID)
    assert result.shape == size and result.dtype == dtype
    (left, top, right, bottom), (h, w) = chosen.box, chosen.shown
    y, x = (size[0] - h) // 2, (size[1] - w) // 2
    rows, columns = centres(top, bottom, h), centres(left, right, w)
    # On the border of two pixels, either is the nearest one.
    expected = [layout[np.ix_(*(np.clip((c + e).astype(int), 0, n - 1) for c, n in zip((rows, columns), shape)))]
                for e in (-1e-9, 1e-9)]  # fmt: skip
    inside = result[y : y + h, x : x + w]
    sure = np.ix_(*(np.abs(c - np.rint(c)) > 1e-6 for c in (rows, columns)))
    assert (inside[sure] == expected[0][sure]).all()
    assert {*np.unique(inside)} <= {*np.unique(layout)}
    margin = np.ones(size, bool)
    margin[y : y + h, x : x + w] = False
    assert (result[margin] == VOID).all()


@settings(max_examples=50, deadline=None)
@given(shapes, shapes, places, st.sampled_from(["crop", "pad"]))
def test_photographs_are_antialiased_bicubic(shape, size, place, fit):
    photograph = np.random.default_rng(shape).integers(70, 186, (*shape, 3)).astype(np.uint8)  # Pillow clips twice
    chosen = view(shape, size, fit, place)
    result = chosen.photograph(Image.fromarray(photograph))
    assert result.shape == (*size, 3) and result.dtype == np.uint8
    h, w = chosen.shown
    y, x = (size[0] - h) // 2, (size[1] - w) // 2
    expected = bicubic(photograph, chosen.box, chosen.shown)
    assert np.abs(result[y : y + h, x : x + w] - expected).max() <= 2  # Pillow rounds, and between rows and columns once more
    assert result.astype(int).sum() == result[y : y + h, x : x + w].astype(int).sum()  # margins are black


@settings(max_examples=100, deadline=None)
@given(shapes, shapes, places)
def test_a_crop_is_the_largest_region_of_the_aspect_ratio(shape, size, place):
    left, top, right, bottom = view(shape, size, "random_crop", place).box
    assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
    assert math.isclose((right - left) * size[0], (bottom - top) * size[1], rel_tol=1e-9)
    assert math.isclose(right - left, shape[1]) or math.isclose(bottom - top, shape[0])


def test_crops_of_whole_pixels_are_slices():
    layout = random_layout((8, 24))
    photograph = np.random.default_rng(0).integers(0, 256, (8, 24, 3)).astype(np.uint8)
    for place, columns in ((MIDDLE, slice(8, 16)), ((0, 0), slice(0, 8)), ((1, 1), slice(16, 24))):
        chosen = view((8, 24), (8, 8), "crop", place)
        np.testing.assert_array_equal(chosen.layout(layout, VOID), layout[:, columns])
        np.testing.assert_array_equal(chosen.photograph(Image.fromarray(photograph)), photograph[:, columns])
    upright = view((24, 8), (8, 8), "crop", (0.25, 0)).layout(layout.T.copy(), VOID)
    np.testing.assert_array_equal(upright, layout.T[4:12])


def test_padding_keeps_all_and_adds_void():
    layout = random_layout((4, 8))
    padded = view((4, 8), (8, 8), "pad").layout(layout, VOID)
    np.testing.assert_array_equal(padded, np.pad(layout, ((2, 2), (0, 0)), constant_values=VOID))
    thin = view((1, 1000), (8, 8), "pad").layout(np.zeros((1, 1000), np.uint8), VOID)
    assert (thin == 0).sum() == 8  # not nothing


@pytest.mark.parametrize("fit", ["resize", "crop", "random_crop", "pad", "stretch"])
def test_what_has_the_aspect_ratio_fits_alike(fit):
    layout = random_layout((12, 16))
    chosen = view((12, 16), (6, 8), fit, (0.3, 0.9))
    np.testing.assert_array_equal(chosen.layout(layout, VOID), view(layout.shape, (6, 8), "resize").layout(layout, VOID))
    assert chosen.box == (0, 0, 16, 12) and chosen.shown == (6, 8)


def test_stretching_shows_the_whole_file_in_another_shape():
    layout = random_layout((10, 30))
    stretched = view((10, 30), (20, 20), "stretch").layout(layout, VOID)
    np.testing.assert_array_equal(stretched, layout[np.arange(20) // 2][:, (np.arange(20) * 3 + 1) // 2])


def test_resizing_stretches_by_two_percent_at_most():
    assert view((480, 640), (97, 128), "resize").shown == (97, 128)
    with pytest.raises(UserError, match=r"x\.png: 480x640 has another aspect ratio than the cascade's 98x128"):
        view((480, 640), (98, 128), "resize", path="x.png")


@pytest.mark.parametrize(
    "shape, near, expected",
    [
        ((480, 640), (256, 512), {(3, 4): [(192, 256), (384, 512)]}),
        ((512, 512), (96, 128), {(4, 4): [(64, 64), (128, 128)]}),
        ((1000, 667), (96, 128), {(6, 4): [(96, 64), (192, 128)]}),
        ((1024, 2048), (96, 128), {(4, 8): [(64, 128), (128, 256)]}),
        ((1052, 1914), (256, 512), {(5, 9): [(160, 288), (320, 576)], (6, 11): [(192, 352), (384, 704)]}),
        ((100, 3000), (256, 512), {}),
    ],
)
def test_sizes_that_fit(shape, near, expected):
    assert sizes_that_fit(shape, near) == expected
    for sizes in sizes_that_fit(shape, near).values():
        assert all(view(shape, size, "resize").size == size for size in sizes)


def test_the_error_for_a_wrong_size_lists_those_that_fit():
    with pytest.raises(UserError) as error:
        view((1052, 1914), (256, 512), "resize", path="00001.png")
    assert str(error.value) == (
        "00001.png: 1052x1914 has another aspect ratio than the cascade's 256x512. Crop it, or train with --data.fit crop, "
        "random_crop, pad or stretch, or a cascade that it fits: --cascade.base 5 9 (160x288 or 320x576); --cascade.base 6 11 "
        "(192x352 or 384x704)."
    )
    with pytest.raises(UserError, match=r"random_crop, pad or stretch\.$"):
        view((10, 300), (16, 16), "resize", path="panorama.png")
