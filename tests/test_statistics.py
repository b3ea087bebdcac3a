"""Differences of two methods against draws that are copied out one by one. tests/test_metrics.py has the intervals of one."""

import inspect

import numpy as np
import pytest

from crn_jax.scores.statistics import bootstrap, difference

pytestmark = pytest.mark.quick


def scores(seeds, images, shift=0.0, seed=0):
    """Images differ far more than methods, so that pairing matters."""
    rng = np.random.default_rng(7)
    hard = rng.normal(0, 10, images)
    return hard + shift + np.random.default_rng(seed).normal(0, 1, (seeds, images))


def test_the_interval_is_that_of_images_and_seeds_drawn_one_by_one():
    first, second = scores(3, 8), scores(2, 8, 0.5, 1)
    rng = np.random.default_rng(4)
    drawn = rng.multinomial(8, np.full(8, 1 / 8), 101)
    seeds = [rng.integers(s, size=(101, s)) for s in (3, 2)]
    values = []
    for r in range(101):
        images = np.repeat(np.arange(8), drawn[r])
        means = [x[np.ix_(chosen[r], images)].mean() for x, chosen in zip((first, second), seeds)]
        values.append(means[0] - means[1])
    values.sort()
    found = difference(first, second, 101, seed=4, level=0.9)
    assert (found.low, found.high) == pytest.approx((values[5], values[-6]))
    assert found.value == pytest.approx(first.mean() - second.mean())


def test_with_one_seed_it_is_the_bootstrap_of_the_differences():
    first, second = scores(1, 30), scores(1, 30, 0.3, 1)
    found = difference(first, second)
    assert (found.low, found.high) == pytest.approx(bootstrap(lambda means: means, (first - second)[0]))
    assert not difference(first, first).decided and difference(first, first).smaller == 0.5


def test_pairing_decides_what_two_intervals_do_not():
    first, second = scores(1, 100), scores(1, 100, 0.6, 1)
    ends = [bootstrap(lambda means: means, x[0]) for x in (first, second)]
    assert ends[0][1] > ends[1][0]  # the intervals overlap
    assert difference(first, second).decided and difference(second, first).decided


def test_seeds_that_disagree_leave_it_undecided():
    agreeing, shifts = scores(4, 50), np.array([[-3.0], [3.0], [-2.0], [2.5]])
    assert difference(agreeing + 1, agreeing).decided
    assert not difference(agreeing + 1 + shifts, agreeing).decided


def test_a_decided_pair_is_rarely_wrong():
    """Of 300 pairs that do not differ, about 5% look decided; the standard deviation of that share is 1.3%."""
    decided = [difference(scores(1, 60, seed=2 * i), scores(1, 60, seed=2 * i + 1), 300).decided for i in range(300)]
    assert 0.01 < np.mean(decided) < 0.05 + 3 * 0.013


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
