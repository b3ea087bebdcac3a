"""Writes the page of launch.evaluate: scores and images in one HTML file that opens from disk and loads nothing else.

`pages/report.html` is its template (see launch/common/page.py). Names may be any text: the page's script writes them as text,
never as HTML.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crn_jax.data.labels.label_space import LabelSpace
from launch.common.output import finite
from launch.common.page import data_url, write_page


class Example(NamedTuple):
    """A layout to look at, and the images that the methods made of it."""

    number: int
    """The position of the example in the evaluation's names and scores."""
    why: str
    """The reason why it was chosen, such as "worst of camvid"."""
    layout: np.ndarray
    """The class ids `[H, W]`."""
    photograph: np.ndarray
    """The photograph, uint8 `[H, W, 3]`."""
    images: dict[str, np.ndarray]
    """Each method's images, uint8 `[k, H, W, 3]`, by its name."""
    predicted: dict[str, np.ndarray]
    """The class ids `[H, W]` that the segmenter sees in each method's scored image, by the method's name."""
    scored: dict[str, int]
    """The number of the image that is scored and segmented, by the method's name."""


class _View(NamedTuple):
    """A kind of picture that the page can show of each example. The candidate is a method's position, None for given data."""

    candidate: int | None
    title: str
    crisp: bool  # whether it is a map of classes, which is enlarged without smoothing


def write_report(evaluation: dict, examples: Sequence[Example], label_space: LabelSpace, path: Path) -> None:
    """Writes the page.

    Args:
      evaluation: The content of evaluation.json: title, command, versions, notes, classes, names, scores and candidates. The
        page shows a dash for a value that is missing, null, NaN or infinite.
      examples: The examples, in the order in which the page shows them. Images of methods that `evaluation` does not list
        are left out.
      label_space: The label space of the class ids.
      path: The HTML file, in a folder that exists.
    """
    write_page("report.html", report_data(evaluation, examples, label_space), path)


def report_data(evaluation: dict, examples: Sequence[Example], label_space: LabelSpace) -> dict:
    """Returns what the page reads, as plain JSON.

    This is `evaluation`, with null for NaN and infinities; the classes' `colors`; the `views`, which are kinds of pictures;
    and `examples`. Each example has the class ids `occurring`, the number of the image `scored` for every method that makes
    several, and a data URL or null for every view.
    """
    names = [candidate["name"] for candidate in evaluation["candidates"]]
    shown = [_pictures(example, names, label_space) for example in examples]
    views = list(dict.fromkeys(view for pictures in shown for view in pictures))
    views.sort(key=lambda view: -1 if view.candidate is None else view.candidate)  # the first example may lack some
    return {
        "evaluation": finite(evaluation),
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in label_space.colors],
        "views": [view._asdict() for view in views],
        "examples": [
            {
                "index": int(example.number),
                "why": example.why,
                "size": example.layout.shape[::-1],
                "scored": [example.scored.get(name) if len(example.images.get(name, ())) > 1 else None for name in names],
                "occurring": np.unique([example.layout, *example.predicted.values()]).tolist(),
                "pictures": [data_url(pictures[view], view.crisp) if view in pictures else None for view in views],
            }
            for example, pictures in zip(examples, shown)
        ],
    }


def _pictures(example: Example, names: Sequence[str], label_space: LabelSpace) -> dict[_View, np.ndarray]:
    """Returns the example's picture for each view that it has, uint8 `[H, W, 3]`."""
    pictures = {
        _View(None, "layout", True): label_space.draw(example.layout),
        _View(None, "photograph", False): example.photograph,
    }
    for c, name in enumerate(names):
        images = example.images.get(name, ())
        for u, image in enumerate(images):
            pictures[_View(c, f"image {u}" if len(images) > 1 else "", False)] = image
        if name in example.predicted:
            pictures[_View(c, "segmentation", True)] = label_space.draw(example.predicted[name])
    return pictures
