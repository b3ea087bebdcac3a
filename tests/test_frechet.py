"""Distances between sets of features against their definitions."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from crn_jax.scores.frechet import frechet_distance, kernel_distance, precision_recall, published_kernel_distance

pytestmark = pytest.mark.quick


def features(n, d, seed=0, scale=1.0):
    """Correlated, with condition numbers of about 1e4."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.geomspace(1, 1e-2, d)
    return scale * (rng.normal(size=(n, d)) @ mixing + rng.normal(size=d))


def by_matrix_root(x, y):
    s_x, s_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s_x @ s_y)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s_x + s_y - 2 * root.real)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 90), (200, 9), (9, 200), (8, 8)])
def test_frechet_distance_by_the_matrix_root(n, m):
    x, y = features(n, 8), features(m, 8, 1, 1.5)
    assert frechet_distance(x, y) == pytest.approx(by_matrix_root(x, y), rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 7), (2, 2), (5, 60)])
def test_frechet_distance_of_singular_covariances(n, m):
    """Where sqrtm fails, the eigenvalues of the symmetric S_x^(1/2) S_y S_x^(1/2) give the distance."""
    x, y = features(n, 12), features(m, 12, 1)
    s_x, s_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(s_x)
    half = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ s_y @ half), 0)).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s_x + s_y) - 2 * shared
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_diagonal_gaussians():
    """Both sets whitened, so their moments are exact: |mu|^2 + sum (sigma_x - sigma_y)^2."""
    rng = np.random.default_rng(0)

    def exact(n, sigma, mean):
        centred = rng.normal(size=(n, len(sigma)))
        centred -= centred.mean(0)
        return np.linalg.qr(centred)[0] * np.sqrt(n - 1) * sigma + mean

    sigma_x, sigma_y, mean = np.array([1.0, 2, 1e-6]), np.array([3.0, 2, 0]), np.array([1.0, 0, -2])
    expected = 5 + np.sum((sigma_x - sigma_y) ** 2)
    assert frechet_distance(exact(50, sigma_x, mean), exact(80, sigma_y, 0 * mean)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(50, 6), (6, 50), (2, 3)])
def test_frechet_distance_of_a_set_to_itself(n, d):
    x = features(n, d, scale=1e3).astype(np.float32)
    traces = np.sum(np.var(x, axis=0, dtype=np.float64))
    assert 0 <= frechet_distance(x, x) <= 1e-13 * traces
    assert 0 <= frechet_distance(x, x[::-1]) <= 1e-13 * traces
    assert frechet_distance(x, x + 1) == pytest.approx(d, rel=1e-3)  # float32 rounds x + 1


def test_frechet_distance_has_its_symmetries():
    x, y = features(30, 7), features(12, 7, 1)
    distance = frechet_distance(x, y)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(7, 7)))[0]
    shuffled = np.random.default_rng(3).permutation(x)
    assert distance > 0.1
    assert frechet_distance(y, x) == pytest.approx(distance)
    assert frechet_distance(shuffled, y[::-1]) == pytest.approx(distance)
    assert frechet_distance(x @ rotation + 5, y @ rotation + 5) == pytest.approx(distance)
    assert frechet_distance(10 * x, 10 * y) == pytest.approx(100 * distance)


def kernel(a, b):
    return (sum(u * v for u, v in zip(a, b)) / len(a) + 1) ** 3


def squared_mmd(x, y):
    """Eq. 4 of Gretton et al., pair by pair."""
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    h = [kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i]) for i, j in pairs]
    return sum(h) / len(pairs)


@pytest.mark.parametrize(("n", "d"), [(2, 3), (3, 1), (9, 4)])
def test_kernel_distance_by_its_definition(n, d):
    x, y = features(n, d), features(n, d, 1, 2.0)
    value, deviation = kernel_distance(x, y)
    assert value == pytest.approx(squared_mmd(x, y))
    assert (deviation < 1e-12) == (n == 2)  # where every subset is the whole


def test_the_deviation_is_that_of_subsets():
    """All pairs of four images are about equally likely, so the deviation over many subsets is that over the six pairs."""
    x, y = features(4, 3), features(4, 3, 1)
    pairs = [[i, j] for i in range(4) for j in range(i)]
    expected = np.std([squared_mmd(x[pair], y[pair]) for pair in pairs])
    assert kernel_distance(x, y, subsets=20000)[1] == pytest.approx(expected, rel=0.03)
    assert kernel_distance(x, y, size=4)[1] == pytest.approx(0, abs=1e-12)


def paired_trials(shift, n, trials):
    """x is normal, y is x itself moved: as dependent as can be. With d = 1 the squared MMD follows from three moments."""
    x = np.random.default_rng(0).normal(size=(trials, n, 1))
    moments_x, moments_y = np.array([0, 1, 0]), np.array([shift, 1 + shift**2, shift**3 + 3 * shift])
    return x, x + shift, np.array([3, 3, 1]) @ (moments_x - moments_y) ** 2


def test_kernel_distance_is_unbiased_for_paired_sets():
    x, y, truth = paired_trials(0.5, 10, 2000)
    values = np.array([kernel_distance(*pair, subsets=1)[0] for pair in zip(x, y)])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth) < 3 * error
    cross_of_pairs = np.mean((x * y + 1) ** 3) - np.mean((x[1:] * y[:-1] + 1) ** 3)
    assert 2 / 10 * cross_of_pairs > 10 * error  # what the estimator with all cross terms would be off by


def test_the_deviation_over_halves_is_the_values():
    x, y, _ = paired_trials(0.5, 40, 300)
    results = np.array([kernel_distance(*pair) for pair in zip(x, y)])
    assert np.sqrt(np.mean(results[:, 1] ** 2)) == pytest.approx(results[:, 0].std(), rel=0.2)


def test_kernel_distance_has_its_symmetries():
    x, y = features(20, 6), features(20, 6, 1)
    value, deviation = kernel_distance(x, y)
    order = np.random.default_rng(0).permutation(20)
    assert kernel_distance(x[order], y[order])[0] == pytest.approx(value, rel=1e-12)
    assert kernel_distance(y, x) == pytest.approx((value, deviation))
    assert kernel_distance(x, y) == (value, deviation) != kernel_distance(x, y, seed=1)
    np.testing.assert_allclose(kernel_distance(x, x.copy()), 0, atol=1e-14)
    assert kernel_distance(x, x[order])[0] != pytest.approx(0, abs=1e-6)  # pairs count


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_sets_that_cannot_be_compared_are_refused(distance):
    x, distance = features(5, 3), inspect.unwrap(distance)  # without the checks of its annotations
    with pytest.raises(ValueError, match="at least two images, got 5 and 1"):
        distance(x, x[:1])
    with pytest.raises(ValueError, match=r"got \[5, 3\] and \[5, 2\]"):
        distance(x, x[:, :2])
    with pytest.raises(ValueError, match=r"got \[3\] and \[3\]"):
        distance(x[0], x[0])
    with pytest.raises(ValueError, match="not finite"):
        distance(x, np.where(x == x[2, 1], np.nan, x))


def test_pairs_that_are_none_are_refused():
    x = features(5, 3)
    with pytest.raises(ValueError, match="got 5 images and 4"):
        inspect.unwrap(kernel_distance)(x, x[:4])
    for size in (1, 6):
        with pytest.raises(ValueError, match=f"from 2 to 5 pairs, got {size}"):
            kernel_distance(x, x, size=size)


def test_clean_fid_gives_the_same_distances():
    """`record_clean_fid.py` has recorded what clean-fid makes of these features."""
    recorded = np.load(Path(__file__).parent / "data" / "clean_fid_reference.npz")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 24)), rng.normal(0.3, 1.2, (50, 24))
    assert frechet_distance(x, y) == pytest.approx(recorded["fid"], rel=1e-6)
    for other, expected in zip((y[:40], x[::-1] + 0.1), recorded["kid"]):
        assert published_kernel_distance(x, other) == pytest.approx(expected, rel=1e-9)


def test_the_published_kernel_distance_keeps_pairs():
    """`kernel_distance` leaves them out. Near its partners, a set therefore seems nearer by the published one than it is."""
    x = features(30, 6)
    y = x + 0.01 * features(30, 6, 1)
    kernel = (x @ y.T / 6 + 1) ** 3
    apart = (kernel.sum() - np.trace(kernel)) / (30 * 29) - kernel.mean()
    assert published_kernel_distance(x, y) - kernel_distance(x, y)[0] == pytest.approx(2 * apart) and apart < 0


def by_neighbours(images, photographs, k):
    """The definition, point by point."""

    def share(points, among):
        inside = 0
        for point in points:
            for i, member in enumerate(among):
                others = sorted(np.linalg.norm(member - other) for j, other in enumerate(among) if j != i)
                if np.linalg.norm(point - member) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    return share(images, photographs), share(photographs, images)


@pytest.mark.parametrize(("n", "m", "k"), [(12, 12, 3), (9, 15, 1), (5, 20, 4)])
def test_precision_and_recall_are_those_of_the_definition(n, m, k):
    rng = np.random.default_rng(n)
    images, photographs = rng.normal(0.5, 0.7, (n, 3)), rng.normal(size=(m, 3))
    found = precision_recall(images, photographs, k)
    assert tuple(found) == pytest.approx(by_neighbours(images, photographs, k)) and found != (1, 1)


def test_precision_sees_quality_and_recall_sees_variety():
    rng = np.random.default_rng(0)
    photographs = rng.normal(size=(200, 4))
    assert precision_recall(photographs, photographs) == (1, 1)
    alike = precision_recall(0.1 * rng.normal(size=(200, 4)), photographs)  # all near the mean
    assert alike.precision == 1 and alike.recall < 0.2
    wild = precision_recall(5 * rng.normal(size=(200, 4)), photographs)
    assert wild.precision < 0.3 and wild.recall > 0.8
    with pytest.raises(ValueError, match="needs more than 3 images, got 3 and 200"):
        precision_recall(photographs[:3], photographs)
