"""Writes the page of the paper's perceptual study, which shows people pairs of images without naming the methods.

`write_study` writes one HTML file that needs no network. Participants choose the more realistic image of each pair, and save
their answers as a file, which study_answers.py reads. An unlimited study (the paper's Table 1) compares the first method with
each other method, without a time limit. A timed study (Figure 4) compares the photograph with each method, and covers both
after 1/8 to 8 s. Sentinels are pairs that anyone can tell apart; they show which participants pay attention.
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
"""How long a timed study shows its pairs, in seconds."""
RESULT_FORMAT = "crn_jax study result 1"
_HEIGHT = 200  # pixels of the images on the screen, as in the paper


class StudyMethod(NamedTuple):
    """A method that is compared: its name, and a function from an example's index to its image, uint8 `[H, W, 3]`."""

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

    The pairs follow from `seed`. Methods, times and layouts occur equally often, and a layout is repeated only after all others
    have occurred. The page draws their order, and which image is on the left, for each participant.

    Args:
      path: The HTML file.
      methods: An unlimited study compares the first method with each other one, a timed study each with the photograph.
      photographs: A function from an example's index to its photograph, uint8 `[H, W, 3]`.
      bad: The method that sentinels show beside the photograph. It may be one of `methods`.
      examples: The indices of the examples to choose from.
      title: What participants read above the instructions. It should name no method.
      kind: The kind of the study. A timed study shows its sentinels for the longest time.
      pairs: The number of pairs without the sentinels.
      sentinels: The number of sentinels.
      seed: The seed by which layouts are chosen.

    Raises:
      UserError: for too few methods or examples, for names that are not distinct, and for images of different proportions.
    """
    names = [method.name for method in methods]
    timed = kind == "timed"
    if len({PHOTOGRAPH, *names}) <= len(names) or bad.name == PHOTOGRAPH:
        raise UserError(
            f"The methods' names must differ, and none may be '{PHOTOGRAPH}'; got {names}, and {bad.name} for sentinels."
        )
    if len(names) < (1 if timed else 2):
        raise UserError(f"A study needs at least two methods, or at least one if it is timed; got {names}.")
    if min(len(examples), pairs) < 1 or sentinels < 0:
        raise UserError(f"A study needs examples and pairs; got {len(examples)}, {pairs}, and {sentinels} sentinels.")

    photograph = StudyMethod(PHOTOGRAPH, photographs)
    if timed:
        compared: list[_Compared] = [(photograph, method, seconds) for seconds in DURATIONS for method in methods]
    else:
        compared = [(methods[0], method, None) for method in methods[1:]]
    order = np.random.default_rng(seed).permutation(examples).tolist()
    n, cycle = len(order), math.lcm(len(compared), len(order))
    # The shift after each cycle gives each comparison every layout before any layout comes to it twice.
    asked = [_Pair(*compared[i % len(compared)], order[(i + i // cycle) % n]) for i in range(pairs)]
    longest = DURATIONS[-1] if timed else None
    asked += [_Pair(photograph, bad, longest, order[-1 - i % n], sentinel=True) for i in range(sentinels)]

    study: dict[str, Any] = {"methods": names, **_drawn(asked)}
    study["id"] = hashlib.sha256(json.dumps(study).encode()).hexdigest()[:12]
    study |= {"format": RESULT_FORMAT, "title": title}
    write_page("study.html", study, path)


_Compared = tuple[StudyMethod, StudyMethod, float | None]  # the methods, and for how many seconds they are shown


class _Pair(NamedTuple):
    first: StudyMethod
    second: StudyMethod
    seconds: float | None
    example: int
    sentinel: bool = False


def _drawn(asked: Sequence[_Pair]) -> dict[str, Any]:
    """Returns what the page needs: the pairs, and their images as data URIs, each once, at the size on the screen."""
    needed = {(method.name, pair.example): method for pair in asked for method in pair[:2]}
    screen = {(name, example): _on_screen(method.images(example)) for (name, example), method in needed.items()}
    widths = {image.width: f"{name}, example {example}" for (name, example), image in screen.items()}
    if len(widths) > 1:
        shown = "; ".join(f"{width} ({whose})" for width, whose in widths.items())
        raise UserError(
            f"A study's images must have the same proportions. At {_HEIGHT} pixels of height, their widths are: {shown}."
        )
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
