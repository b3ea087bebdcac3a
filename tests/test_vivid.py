import inspect

import numpy as np
import pytest
import skimage.color
from PIL import Image, ImageCms

from crn_jax.data.vivid import lab_to_srgb, srgb_to_lab, vivid, wls_filter

pytestmark = pytest.mark.quick


def random_image(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, shape)


def dense_wls(image, smoothness, alpha):
    """Farbman et al.'s Eqs. 3 and 5, term by term: (I + λ Σ_d D_dᵀ A_d D_d) u = g."""
    height, width = image.shape
    system = np.eye(image.size)
    for row in range(height):
        for column in range(width):
            for down, right in ((1, 0), (0, 1)):
                if row + down < height and column + right < width:
                    difference = np.zeros((height, width))
                    difference[row, column], difference[row + down, column + right] = -1, 1
                    gradient = np.sum(difference * np.log(image))
                    weight = smoothness / (abs(gradient) ** alpha + 1e-4)
                    system += weight * np.outer(difference, difference)
    return np.linalg.solve(system, image.ravel()).reshape(image.shape)


@pytest.mark.parametrize("shape", [(7, 9), (5, 1), (1, 6), (2, 2), (1, 1)])
@pytest.mark.parametrize(("smoothness", "alpha"), [(0.125, 1.2), (2.0, 0.7)])
def test_the_filter_solves_the_papers_system(shape, smoothness, alpha):
    image = random_image(*shape) + 1
    np.testing.assert_allclose(wls_filter(image, smoothness, alpha), dense_wls(image, smoothness, alpha), rtol=1e-9)


def test_constants_are_kept_and_so_are_mean_and_range():
    np.testing.assert_allclose(wls_filter(np.full((12, 17), 42.0), 0.5), 42, rtol=1e-10)
    np.testing.assert_array_equal(wls_filter(np.zeros((6, 5)), 0.5), 0)
    image = random_image(24, 20)
    smooth = wls_filter(image, 0.5)
    assert image.min() < smooth.min() and smooth.max() < image.max()
    np.testing.assert_allclose(smooth.mean(), image.mean(), rtol=1e-10)
    assert wls_filter(image, 5.0).std() < smooth.std() < image.std()


def test_edges_are_kept_and_texture_is_smoothed():
    noise = np.random.default_rng(0).normal(0, 0.5, (40, 40))
    noise -= noise.mean((0, 1))
    edge = np.where(np.arange(40) < 20, 10.0, 80.0) * np.ones((40, 1))
    smooth, blurred = wls_filter(edge + noise, 0.5), wls_filter(edge + noise, 0.5, alpha=0)
    assert (smooth[:, 20] - smooth[:, 19]).min() > 0.9 * 70
    assert (blurred[:, 20] - blurred[:, 19]).max() < 0.6 * 70  # with the same weight everywhere
    assert smooth[:, 22:].std() < 0.3 * noise.std()


def test_the_filter_has_no_direction_and_no_unit():
    image = random_image(11, 8) + 1
    smooth = wls_filter(image, 0.5)
    np.testing.assert_allclose(wls_filter(image[::-1], 0.5)[::-1], smooth, rtol=1e-9)
    np.testing.assert_allclose(wls_filter(image[:, ::-1], 0.5)[:, ::-1], smooth, rtol=1e-9)
    np.testing.assert_allclose(wls_filter(image.T, 0.5).T, smooth, rtol=1e-9)
    np.testing.assert_allclose(wls_filter(7 * image, 0.5) / 7, smooth, rtol=1e-9)


# Bradford's adaptation from D65 to D50 (brucelindbloom.com, "Chromatic Adaptation").
BRADFORD = np.array(
    [[1.0478112, 0.0228866, -0.0501270], [0.0295424, 0.9904844, -0.0170491], [-0.0092345, 0.0150436, 0.7521316]]
)


def test_lab_is_scikit_images_adapted_to_d50():
    rgb = np.random.default_rng(0).random((6, 9, 3)) ** 2
    expected = skimage.color.xyz2lab(skimage.color.rgb2xyz(rgb) @ BRADFORD.T, "D50")
    np.testing.assert_allclose(srgb_to_lab(rgb), expected, atol=0.02)
    np.testing.assert_allclose(lab_to_srgb(srgb_to_lab(rgb)), rgb, atol=1e-6)


def test_lab_is_matlabs():
    """`applycform([.2 .3 .4], makecform('srgb2xyz'))` is [0.0617 0.0679 0.1024] (stackoverflow.com/a/40091526)."""
    lightness, a, b = srgb_to_lab(np.array([0.2, 0.3, 0.4]))
    y = (lightness + 16) / 116
    xyz = np.array([y + a / 500, y, y - b / 200]) ** 3 * (0.9642, 1, 0.8249)  # ICC's D50
    np.testing.assert_allclose(xyz, [0.0617, 0.0679, 0.1024], atol=1e-4)


def test_lab_is_littlecmss():
    rgb = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    lab = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), transform))
    ours = srgb_to_lab(rgb / 255)
    np.testing.assert_allclose(ours[..., 0], lab[..., 0] * (100 / 255), atol=0.3)
    np.testing.assert_allclose(ours[..., 1:], lab[..., 1:].view(np.int8), atol=0.8)


def test_white_grey_and_black():
    grey = np.array([0, 0.03, 0.5, 1.0])[:, None] * np.ones(3)
    lab = srgb_to_lab(grey)
    np.testing.assert_allclose(lab[:, 1:], 0, atol=1e-9)
    np.testing.assert_allclose(lab[[0, 3], 0], [0, 100], atol=1e-9)
    assert (lab >= 0).all(axis=0)[0]
    np.testing.assert_allclose(lab_to_srgb(np.array([[130.0, 0, 0], [-9.0, 0, 0]])), [[1, 1, 1], [0, 0, 0]], atol=1e-9)


def vivid_by_the_script(photograph):
    """generate_vivid_images_512full.m, line by line, but for the conversions between sRGB and LAB."""
    lab = srgb_to_lab((photograph / 255) ** 0.75)
    lightness = lab[..., 0]
    smooth0, smooth1 = dense_wls(lightness, 0.125, 1.2), dense_wls(lightness, 0.5, 1.2)

    def sigmoid(x, a):
        return (1 / (1 + np.exp(-a * x)) - 0.5) * (0.5 / (1 / (1 + np.exp(-a * 0.5)) - 0.5))

    def tonemap(val0, val1, val2, exposure, saturation=1.1):
        detail0, detail1 = sigmoid((lightness - smooth0) / 100, val0) * 100, sigmoid((smooth0 - smooth1) / 100, val1) * 100
        base = sigmoid((exposure * smooth1 - 56) / 100, val2) * 100 + 56
        result = lab * (1, saturation, saturation)
        result[..., 0] = base + detail1 + detail0
        return lab_to_srgb(result)

    mean = (tonemap(4, 1, 15, 1.1) + tonemap(1, 40, 1, 1) + tonemap(25, 1, 1, 1)) / 3
    return np.floor(255 * mean + 0.5).astype(np.uint8)


def test_vivid_is_the_released_script():
    photograph = np.random.default_rng(0).integers(20, 236, (9, 12, 3), dtype=np.uint8)
    result = vivid(photograph)
    np.testing.assert_array_equal(result, vivid_by_the_script(photograph))
    assert result.dtype == np.uint8 and np.abs(result.astype(int) - photograph).mean() > 10
    np.testing.assert_array_equal(vivid(photograph[:, ::-1])[:, ::-1], result)


def test_grey_stays_grey_and_plain_shades_keep_their_order():
    shades = np.array([0, 0, 1, 40, 128, 255], np.uint8)
    ramp = vivid(np.tile(shades[:, None], (4, 1, 3)).reshape(4, 6, 3))
    assert np.ptp(ramp.astype(int), axis=-1).max() <= 1
    plain = [vivid(np.full((2, 3, 3), shade, np.uint8)) for shade in shades[1:]]
    assert all(len(np.unique(shade)) == 1 for shade in plain)
    assert (np.diff([int(shade[0, 0, 0]) for shade in plain]) > 0).all()


def test_photographs_gain_contrast_and_keep_their_edges_in_place(shared_data):
    with Image.open(sorted((shared_data / "camvid" / "val").iterdir())[0]) as image:
        photograph = np.asarray(image.convert("RGB").resize((128, 96), Image.Resampling.BICUBIC))
    steps = [np.diff(srgb_to_lab(rgb / 255)[..., 0]) for rgb in (photograph, vivid(photograph))]
    assert 1.2 < np.abs(steps[1]).mean() / np.abs(steps[0]).mean() < 4
    assert np.corrcoef(steps[0].ravel(), steps[1].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_photograph_is_refused(wrong):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got (uint8|float64) \[4, 4"):
        inspect.unwrap(vivid)(wrong)  # without the check of its annotations
