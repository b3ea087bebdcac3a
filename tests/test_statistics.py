"""Differences of two methods against draws that are copied out one by one. tests/test_metrics.py has the intervals of one."""

import inspect

import numpy as np
import pytest
import scipy.stats

from crn_jax.scores.statistics import bootstrap, difference, few_images, spread_of_seeds

pytestmark = pytest.mark.quick


def scores(seeds, images, shift=0.0, seed=0):
    """Images differ far more than methods, so that pairing matters."""
    rng = np.random.default_rng(7)
    hard = rng.normal(0, 10, images)
    return hard + shift + np.random.default_rng(seed).normal(0, 1, (seeds, images))


def test_the_interval_is_that_of_images_drawn_one_by_one():
    first, second = scores(3, 8), scores(2, 8, 0.5, 1)
    drawn = np.random.default_rng(4).multinomial(8, np.full(8, 1 / 8), 101)
    values = []
    for counts in drawn:
        images = np.repeat(np.arange(8), counts)
        values.append(first[:, images].mean() - second[:, images].mean())
    values.sort()
    found, value = difference(first, second, resamples=101, seed=4, level=0.9), first.mean() - second.mean()
    wider = np.sqrt(8 / 7) * scipy.stats.t.ppf(0.95, 7) / scipy.stats.norm.ppf(0.95)  # as 8 images are few
    expected = [value + wider * (end - value) for end in (values[5], values[-6])]
    assert found[:3] == pytest.approx([value, *expected])


def test_where_images_say_nothing_seeds_make_the_interval():
    """All images have one difference, so that the interval is Student's t, within what a thousand quantiles tell."""
    first, second = np.full((3, 1000), 5.0), np.zeros((3, 1000))
    found = difference(first, second, variance=4.0, degrees=3)
    assert found[1:3] == pytest.approx([5 - 2 * scipy.stats.t.ppf(0.975, 3), 5 + 2 * scipy.stats.t.ppf(0.975, 3)], abs=0.06)


def test_two_methods_with_the_same_seeds_are_a_paired_t_test():
    means = np.array([[3.0, 5.5, 4.0], [2.0, 3.5, 3.2]])
    spread = spread_of_seeds(means)
    assert spread.of_difference(0, 1, 3) == pytest.approx((means[0] - means[1]).var(ddof=1) / 3) and spread.degrees == 2


def test_a_method_whose_seeds_are_far_apart_is_alone_in_that():
    rng = np.random.default_rng(0)
    blocks = rng.normal(0, 50, 3)  # what a seed does to all methods is no difference between them
    means = rng.normal(0, 1, (9, 3)) + blocks
    means[4] += [-40, 0, 40]
    spread = spread_of_seeds(means)
    assert 0.5 < spread.pooled < 3 and spread.each[4] > 1000 and spread.degrees == 16
    assert np.count_nonzero(np.array(spread.each) > 10) == 1
    means[2, 1:] = np.nan  # it has one seed, and what the others show counts
    again = spread_of_seeds(means)
    assert again.each[2] == again.pooled == pytest.approx(spread.pooled, rel=0.5)
    for nothing in (means[:1], means[:, :1], np.full((3, 2), np.nan), np.array([[1, np.nan, 2], [np.nan, 1, np.nan]])):
        assert spread_of_seeds(nothing) is None


@pytest.mark.parametrize(("methods", "seeds"), ((2, 3), (4, 2), (20, 2)))
def test_equal_methods_rarely_look_different_however_few_the_seeds(methods, seeds):
    """Seeds move a score three times as far as images do. About 5% of the pairs look decided; a bootstrap had 15% to 30%."""
    rng, decided = np.random.default_rng(1), []
    for _ in range(240 // (methods - 1)):
        blocks, hard = rng.normal(0, 4, (seeds, 1)), rng.normal(0, 10, 60)
        found = [hard + blocks + rng.normal(0, 3, (seeds, 1)) + rng.normal(0, 1, (seeds, 60)) for _ in range(methods)]
        spread = spread_of_seeds(np.array([each.mean(1) for each in found]))
        for other in range(1, methods):
            apart = difference(found[other], found[0], spread.of_difference(other, 0, seeds), spread.degrees, resamples=200)
            decided.append(apart.decided)
    assert np.mean(decided) < 0.05 + 3 * 0.02  # pairs of one suite share the reference


def test_with_one_seed_it_is_the_bootstrap_of_the_differences():
    first, second = scores(1, 30), scores(1, 30, 0.3, 1)
    found, value = difference(first, second), (first - second).mean()
    ends = bootstrap(lambda means: means, (first - second)[0])
    assert (found.low, found.high) == pytest.approx([value + few_images(30) * (end - value) for end in ends])
    assert not difference(first, first).decided and difference(first, first).smaller == 0.5


def test_pairing_decides_what_two_intervals_do_not():
    first, second = scores(1, 100), scores(1, 100, 0.6, 1)
    ends = [bootstrap(lambda means: means, x[0]) for x in (first, second)]
    assert ends[0][1] > ends[1][0]  # the intervals overlap
    assert difference(first, second).decided and difference(second, first).decided


def test_a_decided_pair_is_rarely_wrong():
    """Of 300 pairs that do not differ, about 5% look decided; the standard deviation of that share is 1.3%."""
    for images in (6, 60):
        pairs = [[scores(1, images, seed=2 * i + j) for j in (0, 1)] for i in range(300)]
        decided = [difference(*pair, resamples=300).decided for pair in pairs]
        assert 0.01 < np.mean(decided) < 0.05 + 3 * 0.013, images


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    first, second = np.array([[1.0, 2, 3], [1, 0, 9]]), np.array([[1.0, 5, 3]])
    assert difference(first, second).smaller == pytest.approx((0.5 + 1 + 0.5 + 0.5 + 1 + 0) / 6)
    assert difference(second, first).smaller == pytest.approx(1 - 3.5 / 6)


def test_undefined_and_infinite_scores_decide_nothing():
    endless = difference(np.array([[np.inf, 30.0]]), np.array([[np.inf, 20.0]]))  # PSNR of identical images
    assert np.isnan([endless.value, endless.low, endless.high]).all() and not endless.decided and endless.smaller == 0.25
    unknown = difference(np.array([[np.nan, 1.0]]), np.array([[2.0, 2.0]]))
    assert np.isnan(unknown[:]).all() and not unknown.decided
    for first, second in [((1, 3), (1, 4)), ((1, 0), (1, 0)), ((3,), (3,))]:
        with pytest.raises(ValueError, match="same images are compared"):
            inspect.unwrap(difference)(np.zeros(first), np.zeros(second))
