"""Ranks methods by a score, and says which pairs of them the images decide."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from crn_jax.scores.metrics import segmentation_scores
from crn_jax.scores.statistics import bootstrap, difference
from launch.evaluation.scoring import SCORES, Tally

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
    found = []
    for score in RANKED:
        for pair in itertools.combinations(rivals, 2):
            if not all(score.key in result["scores"] for result in pair):
                continue
            value, low, high = _interval(score.key, [tallies[result["name"]].arrays() for result in pair])
            better, count = None, len(tallies[pair[0]["name"]].arrays()["distance"])
            if score.key != "miou":
                one, other = (np.array([result["per_image"][score.key]], np.float64) for result in pair)
                smaller = difference(one, other).smaller
                better = 1 - smaller if score.better == "higher" else smaller
            found.append(
                {
                    "first": pair[0]["name"], "second": pair[1]["name"], "score": score.key,
                    "value": value, "low": low, "high": high, "better": better,
                    "decided": count >= FEWEST and bool(low > 0 or high < 0),
                }
            )  # fmt: skip
    return found


def _interval(key: str, arrays: list[dict[str, np.ndarray]]) -> tuple[float, float, float]:
    """Returns the difference of two methods' score over all images, and the ends of its interval."""
    if key not in ("miou", "accuracy"):
        apart = difference(arrays[0][key][None], arrays[1][key][None])
        return apart.value, apart.low, apart.high

    def less(means: np.ndarray) -> np.ndarray:
        first, second = (getattr(segmentation_scores(means[:, i]), key) for i in (0, 1))
        return 100 * (first - second)

    confusions = np.stack([one["confusion"] for one in arrays], 1)  # [images, 2, c, c]
    return float(less(confusions.mean(0, keepdims=True))[0]), *bootstrap(less, confusions)


def ranking(evaluation: dict[str, Any]) -> Iterator[str]:
    """Yields, for each score, the order of the methods, and which pairs are not decided; then how far to trust this."""
    if len(evaluation["names"]) < FEWEST and evaluation["differences"]:
        yield f"{len(evaluation['names'])} images decide no pair: {FEWEST} is the least."
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
        chance = 0.05 * len(evaluation["differences"])
        yield f"About {chance:.1g} of {len(evaluation['differences'])} differences would look decided by chance, at 95%."
