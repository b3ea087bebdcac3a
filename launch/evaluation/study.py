"""The paper's perceptual study: a page that shows pairs of images to people, blind.

`write_study` makes one HTML file that needs no network. Whoever opens it chooses the more realistic image of each pair, and
saves the answers as a file; study_answers.py reads such files. Unlimited (the paper's Table 1): the first method against each
other, on the same layout, without haste. Timed (its Figure 4): the photograph against a method, masked after 1/8 to 8 s.
Sentinels, the photograph against a method that anyone tells apart, are spread among the pairs and show who pays attention.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from crn_jax.errors import UserError
from launch.common.page import data_url, write_page

PHOTOGRAPH = "photograph"
DURATIONS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""Of a timed study's pairs, in seconds."""
RESULT_FORMAT = "crn_jax study result 1"
_HEIGHT = 200  # of the images on the screen, as in the paper


class StudyMethod(NamedTuple):
    """What is compared: a name, and its image uint8 `[H, W, 3]` of an example, by the example's index."""

    name: str
    images: Callable[[int], np.ndarray]


def write_study(
    path: Path,
    methods: Sequence[StudyMethod],
    photographs: Callable[[int], np.ndarray],
    bad: StudyMethod,
    examples: Sequence[int],
    *,
    title: str,
    kind: Literal["unlimited", "timed"],
    pairs: int = 100,
    sentinels: int = 10,
    seed: int = 0,
) -> None:
    """Writes a study's page.

    `seed` fixes the pairs: methods, times and layouts occur equally often, and a layout comes again only when all have come.
    Their order, and which image is on the left, are drawn by the page for each participant.

    Args:
      path: of the HTML file.
      methods: unlimited: the first is compared with each other one; timed: each is compared with the photograph.
      photographs: uint8 `[H, W, 3]` of an example.
      bad: the method of the sentinels; one of `methods` if its name is.
      examples: the indices to take layouts from.
      title: what participants read above the instructions; it had better name no method.
      kind: of the study, see above. A timed study shows its sentinels for the longest time.
      pairs: how many, sentinels aside.
      sentinels: how many.
      seed: of the choice of layouts.

    Raises:
      UserError: for too few methods or examples, names that are not distinct, images of different proportions.
    """
    names = [method.name for method in methods]
    timed = kind == "timed"
    if len({PHOTOGRAPH, *names}) <= len(names) or bad.name == PHOTOGRAPH:
        raise UserError(f"The methods need names that differ, also from '{PHOTOGRAPH}'; got {names}, and {bad.name} as bad.")
    if len(names) < (1 if timed else 2):
        raise UserError(f"A study compares two methods or more, a timed one at least one with the photograph; got {names}.")
    if min(len(examples), pairs) < 1 or sentinels < 0:
        raise UserError(f"A study needs examples and pairs; got {len(examples)}, {pairs}, and {sentinels} sentinels.")

    photograph = StudyMethod(PHOTOGRAPH, photographs)
    if timed:
        compared = [(photograph, method, seconds) for seconds in DURATIONS for method in methods]
    else:
        compared = [(methods[0], method, None) for method in methods[1:]]
    order = np.random.default_rng(seed).permutation(examples).tolist()
    n, cycle = len(order), math.lcm(len(compared), len(order))
    # After a cycle the same would meet again, hence the shift: each comparison gets each layout before it gets one twice.
    asked = [_Pair(*compared[i % len(compared)], order[(i + i // cycle) % n]) for i in range(pairs)]
    longest = DURATIONS[-1] if timed else None
    asked += [_Pair(photograph, bad, longest, order[-1 - i % n], sentinel=True) for i in range(sentinels)]

    study = {"methods": names, **_drawn(asked)}
    study["id"] = hashlib.sha256(json.dumps(study).encode()).hexdigest()[:12]
    study |= {"format": RESULT_FORMAT, "title": title}
    write_page("study.html", study, path)


class _Pair(NamedTuple):
    first: StudyMethod
    second: StudyMethod
    seconds: float | None
    example: int
    sentinel: bool = False


def _drawn(asked: Sequence[_Pair]) -> dict[str, Any]:
    """What the page needs of the pairs: their images as data URIs, each once, at the size on the screen."""
    needed = {(method.name, pair.example): method for pair in asked for method in pair[:2]}
    screen = {(name, example): _on_screen(method.images(example)) for (name, example), method in needed.items()}
    widths = {image.width: f"{name}, example {example}" for (name, example), image in screen.items()}
    if len(widths) > 1:
        shown = "; ".join(f"{width} ({whose})" for width, whose in widths.items())
        raise UserError(f"A study's images need the same proportions; {_HEIGHT} pixels high, they are as wide as: {shown}.")
    uris = {key: data_url(np.asarray(image), lossless=False, quality=90) for key, image in screen.items()}
    positions = {uri: position for position, uri in enumerate(dict.fromkeys(uris.values()))}
    pairs = []
    for first, second, seconds, example, sentinel in asked:
        both = [first.name, second.name]
        images = [positions[uris[name, example]] for name in both]
        pairs.append({"methods": both, "images": images, "example": example, "sentinel": sentinel, "seconds": seconds})
    return {"pairs": pairs, "images": list(positions), "width": min(widths), "height": _HEIGHT}


def _on_screen(image: np.ndarray) -> Image.Image:
    height, width = image.shape[:2]
    return Image.fromarray(image).resize((round(_HEIGHT * width / height), _HEIGHT), Image.Resampling.BICUBIC)
