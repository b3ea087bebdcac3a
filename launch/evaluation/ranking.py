"""Ranks methods by a score, and says which pairs of them the images decide."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from crn_jax.errors import counted
from crn_jax.scores.statistics import Difference, bootstrap, difference, few_images
from launch.evaluation.scoring import SCORES, Tally, percent_of

RANKED = tuple(score for score in SCORES if score.key in ("miou", "accuracy", "distance", "lpips", "psnr", "ssim"))
"""The scores by which methods are ranked. FID and its relatives are scores of whole sets and have no interval."""

FEWEST = 6
"""The fewest images that decide a pair. Differences of equal methods have one sign on all n images in one of 2^(n - 1) cases,
which is more than 5% for fewer."""


def differences(tallies: dict[str, Tally], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares each two methods that compete, by each score of `RANKED`, on the same images.

    Returns:
      For each pair and score: `first` and `second`, the names; `score`, its key; `value`, first less second, with `low` and
      `high`, the ends of its paired 95% bootstrap interval over images; `better`, the probability that the first is better on
      an image drawn at random, a tie counting half (None for mIoU, a score of all images together); and `decided`, whether the
      interval leaves out 0 and there are `FEWEST` images or more.
    """
    rivals = [result for result in results if result["kind"] in ("run", "images")]
    arrays = {result["name"]: tallies[result["name"]].arrays() for result in rivals}
    found = []
    for score in RANKED:
        for pair in itertools.combinations(rivals, 2):
            if not all(score.key in result["scores"] for result in pair):
                continue
            first, second = (result["name"] for result in pair)
            apart = _apart(score.key, arrays[first], arrays[second])
            smaller = None if score.key == "miou" else apart.smaller
            found.append(
                {
                    "first": first, "second": second, "score": score.key,
                    "value": apart.value, "low": apart.low, "high": apart.high,
                    "better": 1 - smaller if smaller is not None and score.better == "higher" else smaller,
                    "decided": len(arrays[first]["distance"]) >= FEWEST and apart.decided,
                }
            )  # fmt: skip
    return found


def _apart(key: str, first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> Difference:
    """Returns the difference of two methods' score over all images. mIoU has no `smaller` (NaN), because no image has one."""
    if key not in ("miou", "accuracy"):
        return difference(first[key][None], second[key][None])

    percent = percent_of(key)

    def less(means: np.ndarray) -> np.ndarray:
        return percent(means[:, 0]) - percent(means[:, 1])

    pixels = np.stack([first["pixels"], second["pixels"]], 1)  # [images, 2, 4, c]
    value, ends = float(less(pixels.mean(0, keepdims=True))[0]), bootstrap(less, pixels)
    low, high = (value + few_images(len(pixels)) * (end - value) for end in ends)
    each = np.stack([percent(one["pixels"]) for one in (first, second)])
    each = each[:, np.isfinite(each).all(0)]  # a layout that is void throughout has no accuracy
    smaller = np.nan if key == "miou" or not each.size else difference(each[:1], each[1:]).smaller
    return Difference(value, low, high, smaller)


def ranking(evaluation: dict[str, Any]) -> Iterator[str]:
    """Yields, for each score, the order of the methods, and which pairs are not decided; then how far to trust this."""
    if len(evaluation["names"]) < FEWEST and evaluation["differences"]:
        yield f"{counted(len(evaluation['names']), 'image')} cannot decide a pair: {FEWEST} is the least."
        return
    for score in RANKED:
        pairs = [pair for pair in evaluation["differences"] if pair["score"] == score.key]
        rivals = {name for pair in pairs for name in (pair["first"], pair["second"])}
        if not pairs:
            continue
        values = {c["name"]: c["scores"][score.key]["value"] for c in evaluation["candidates"] if c["name"] in rivals}
        order = sorted(values, key=values.__getitem__, reverse=score.better == "higher")
        unclear = [f"{pair['first']} and {pair['second']}" for pair in pairs if not pair["decided"]]
        decided = f"not decided: {', '.join(unclear)}" if unclear else "all pairs are decided"
        yield f"By {score.title}: {', '.join(order)} ({decided})."
    if len(evaluation["differences"]) > 5:
        count = len(evaluation["differences"])
        yield f"About {round(0.05 * count, 1):g} of {count} differences would look decided by chance, at 95%."
