"""Compares the answers of segmenters with those that a program has recorded of the original."""

from pathlib import Path

import numpy as np
from PIL import Image


def photograph(shared_data: Path) -> np.ndarray:
    """The part of a photograph that the recorders show."""
    with Image.open(shared_data / "camvid" / "val" / "0016E5_07959.jpg") as picture:
        return np.asarray(picture)[150:198, 200:264]


def check_logits(found: np.ndarray, expected: np.ndarray) -> None:
    """Compares logits `[H, W, c]`, after a check that the recorded ones are no constant."""
    assert found.shape == expected.shape and expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def check_classes(found: np.ndarray, expected: np.ndarray, scores: np.ndarray, margin: float) -> None:
    """Compares classes wherever the best of the scores `[H, W, c]` is clear of the second best."""
    second, first = np.partition(scores, -2, axis=-1)[..., -2:].transpose(2, 0, 1)
    clear = first - second > margin
    assert clear.mean() > 0.8 and len(np.unique(expected)) > 2
    np.testing.assert_array_equal(found[clear], expected[clear])
