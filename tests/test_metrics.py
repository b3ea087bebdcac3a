"""Scores of images and of segmentations against scikit-image and scikit-learn, and their intervals."""

import inspect

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from skimage.metrics import structural_similarity
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from crn_jax.scores import statistics
from crn_jax.scores.metrics import class_iou, confusion, psnr, segmentation_scores, ssim
from crn_jax.scores.statistics import bootstrap
from launch.evaluation.methods import resized
from launch.evaluation.protocols import PROTOCOLS

pytestmark = pytest.mark.quick


def image_pair(height, width, noise, seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] + np.array([0, 40, 80])
    a = smooth % 256
    return a.astype(np.uint8), np.clip(a + rng.integers(-noise, noise + 1, a.shape), 0, 255).astype(np.uint8)


def test_psnr_by_hand():
    a, b = np.zeros((2, 3, 4, 3), np.uint8)
    assert psnr(a, b) == np.inf
    b[2, 3, 1] = 255  # one of 36 values is wrong, by all that is possible
    assert psnr(a, b) == psnr(b, a) == pytest.approx(10 * np.log10(36))
    assert psnr(a, np.full_like(a, 1)) == pytest.approx(20 * np.log10(255))
    assert psnr(np.full_like(a, 255), a) == 0  # differences do not wrap around


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (23, 17), (64, 33)])
@pytest.mark.parametrize("noise", [1, 40, 255])
def test_ssim_is_that_of_scikit_image(size, noise):
    a, b = image_pair(*size, noise)
    as_published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(a, b, channel_axis=-1, data_range=255, **as_published)
    assert abs(ssim(a, b) - expected) < 1e-10
    assert ssim(a, a) == 1 and ssim(a, b) < 1


def test_ssim_of_one_window_by_its_definition():
    a, b = image_pair(11, 11, 60)
    weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(weights, weights)[..., None] / weights.sum() ** 2
    x, y = a.astype(float), b.astype(float)
    mean_x, mean_y = (weights * x).sum((0, 1)), (weights * y).sum((0, 1))
    var_x, var_y = (weights * (x - mean_x) ** 2).sum((0, 1)), (weights * (y - mean_y) ** 2).sum((0, 1))
    cov = (weights * (x - mean_x) * (y - mean_y)).sum((0, 1))
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim(a, b) == pytest.approx(expected.mean(), abs=1e-10)


def test_images_that_cannot_be_compared_are_refused():
    a = np.zeros((10, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 10x40"):
        ssim(a, a)
    for score in map(inspect.unwrap, (psnr, ssim)):  # without the checks of their annotations
        with pytest.raises(ValueError, match=r"got uint8 \[10, 40, 3\], uint8 \[10, 40, 1\]"):
            score(a, a[..., :1])
        with pytest.raises(ValueError, match="got float32"):
            score(a.astype(np.float32), a)
        with pytest.raises(ValueError, match="images"):
            score(a[..., 0], a[..., 0])


@st.composite
def segmentations(draw):
    """Layouts, predictions [3, h, w], and c. Few of the classes may occur, and a layout may be all void."""
    c = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    some = st.sets(st.integers(0, c - 1), min_size=1).map(sorted)
    ids = [[rng.choice(draw(some), shape) for _ in range(3)] for _ in range(2)]
    return *np.array(ids, draw(st.sampled_from([np.uint8, np.uint16, np.int64]))), c


def scores_of(layout, predicted, c, count_void):
    """scikit-learn gives the same IoU of each class, mean, and accuracy."""
    counted = np.full(layout.shape, True) if count_void else layout != c - 1
    layout, predicted = layout[counted], predicted[counted]
    occurs = [bool((layout == u).any() or (predicted == u).any()) for u in range(c - 1)]
    iou = np.full(c - 1, np.nan)
    if any(occurs):
        labels = np.flatnonzero(occurs)
        iou[labels] = jaccard_score(layout, predicted, labels=labels, average=None, zero_division=0)
    accuracy = accuracy_score(layout, predicted) if len(layout) else np.nan
    return iou, iou[occurs].mean() if any(occurs) else np.nan, accuracy


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(case=segmentations(), count_void=st.booleans())
def test_segmentation_scores_are_those_of_scikit_learn(case, count_void):
    layouts, predictions, c = case
    confusions = np.stack([confusion(layout, predicted, c) for layout, predicted in zip(layouts, predictions)])
    assert confusions.shape == (3, c, c) and confusions.dtype == np.int64
    iou, scores = class_iou(confusions, count_void), segmentation_scores(confusions, count_void)
    assert iou.shape == (3, c - 1) and scores.miou.shape == scores.accuracy.shape == (3,)
    for i, (layout, predicted) in enumerate(zip(layouts, predictions)):
        labels = np.arange(c)
        np.testing.assert_array_equal(confusions[i], confusion_matrix(layout.ravel(), predicted.ravel(), labels=labels))
        expected = scores_of(layout.ravel(), predicted.ravel(), c, count_void)
        for got, wanted in zip((iou[i], scores.miou[i], scores.accuracy[i]), expected):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
    together = segmentation_scores(confusions.sum(0), count_void)
    of_all = scores_of(layouts.ravel(), predictions.ravel(), c, count_void)
    np.testing.assert_allclose(together, of_all[1:], rtol=1e-12)
    np.testing.assert_allclose(segmentation_scores(confusions.mean(0), count_void), together, rtol=1e-12)  # has no scale


def test_void_by_hand():
    """There are 8 pixels: class 0 twice right, once called void; class 1 once called 0; void called 0, 0, 2 and void."""
    layout, predicted = np.array([[0, 0, 0, 1, 3, 3, 3, 3]]), np.array([[0, 0, 3, 0, 0, 0, 2, 3]])
    found = confusion(layout, predicted, 4)
    np.testing.assert_array_equal(class_iou(found), [2 / 4, 0, np.nan])
    np.testing.assert_array_equal(class_iou(found, count_void=True), [2 / 6, 0, 0])
    assert segmentation_scores(found) == (1 / 4, 2 / 4)
    assert segmentation_scores(found, count_void=True) == pytest.approx((1 / 9, 3 / 8))


def test_ids_out_of_range_are_refused():
    good, bad = np.zeros((2, 3), np.uint8), np.full((2, 3), 4, np.uint8)
    with pytest.raises(ValueError, match="prediction has ids 4 to 4, but there are 4 classes"):
        confusion(good, bad, 4)
    with pytest.raises(ValueError, match="layout has ids -1 to -1"):
        confusion(good - np.int64(1), good, 4)
    with pytest.raises(ValueError, match=r"layout is \[2, 3\], the prediction \[3, 2\]"):
        inspect.unwrap(confusion)(good, good.T, 4)


def itself(means):
    return means


def miou(means):
    return segmentation_scores(means).miou


def test_the_interval_of_a_normal_mean_covers_it():
    """At n = 60 and 300 resamples in a little less than 0.9 of 400 trials (Student's t); their standard deviation is 0.016."""
    rng = np.random.default_rng(5)
    intervals = np.array([bootstrap(itself, rng.normal(3, 2, 60), 300, seed, level=0.9) for seed in range(400)])
    covered = np.mean((intervals[:, 0] <= 3) & (3 <= intervals[:, 1]))
    assert abs(covered - 0.885) < 3 * 0.016
    sample = rng.normal(3, 2, 60)
    half = 1.959964 * sample.std() / np.sqrt(60)
    np.testing.assert_allclose(bootstrap(itself, sample, 20000), [sample.mean() - half, sample.mean() + half], atol=0.02)


@pytest.mark.parametrize("chunk", [1, 400, 1 << 22])
def test_resamples_are_images_drawn_with_replacement(chunk, monkeypatch):
    """Drawn, copied out and scored one by one. Chunks change nothing."""
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    confusions = rng.integers(0, 9, (7, 4, 4))
    copies = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), 101)
    values = sorted(float(miou(np.repeat(confusions, copy, axis=0).sum(0))) for copy in copies)
    assert bootstrap(miou, confusions, 101, seed=3, level=0.9) == pytest.approx((values[5], values[-6]))  # 5 of 100 outside
    assert bootstrap(miou, confusions, 101, seed=3, level=1) == pytest.approx((values[0], values[-1]))
    assert bootstrap(miou, confusions, 101, seed=4, level=0.9) != pytest.approx((values[5], values[-6]))


def test_degenerate_intervals():
    assert bootstrap(itself, np.array([2.5])) == (2.5, 2.5)
    assert bootstrap(itself, np.array([np.inf])) == (np.inf, np.inf)
    assert bootstrap(itself, np.full(5, 3)) == (3, 3)
    one = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert bootstrap(miou, one[None]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no samples"):
        bootstrap(itself, np.zeros(0))


def test_infinite_and_undefined_samples():
    low, high = bootstrap(itself, np.array([20, 30, np.inf]), level=0.9)
    assert 20 <= low <= 30 and high == np.inf  # (2/3)^3 of the resamples lack the third
    assert bootstrap(itself, np.array([20, 30, -np.inf]), level=0.9)[0] == -np.inf
    assert np.isnan(bootstrap(itself, np.array([20, np.nan, 30]))).all()
    void = confusion(np.array([2, 2]), np.array([0, 1]), 3)
    some = confusion(np.array([0, 1]), np.array([0, 1]), 3)
    assert bootstrap(miou, np.stack([void, some])) == (1, 1)  # a quarter of the resamples is all void
    assert np.isnan(bootstrap(miou, np.stack([void, void]))).all()
    assert np.isnan(bootstrap(miou, np.stack([some, np.where(void > 0, np.nan, some)]))).all()


def test_protocols_see_images_at_their_size():
    image = np.full((8, 16, 3), 77, np.uint8)
    sizes = {protocol.size or (8, 16) for protocols in PROTOCOLS.values() for protocol in protocols.values()}
    assert all(resized(image, size).shape == (*size, 3) and (resized(image, size) == 77).all() for size in sizes)
