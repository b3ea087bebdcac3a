"""The page of launch.evaluate: scores and images in one HTML file that opens from disk and asks for nothing else.

`pages/report.html` is the page but for its data and what pages have in common (launch/common/page.py). Names are arbitrary; the
script writes them as text, never as HTML.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crn_jax.data.labels.label_space import LabelSpace
from launch.common.output import finite
from launch.common.page import data_url, write_page


class Example(NamedTuple):
    """A layout to look at, and all that was made of it."""

    index: int
    """Of the evaluation's examples: where its name and its scores stand."""
    why: str
    """It was chosen, such as "worst of camvid by distance"."""
    layout: np.ndarray
    """Class ids `[H, W]`."""
    photograph: np.ndarray
    """uint8 `[H, W, 3]`."""
    images: dict[str, np.ndarray]
    """uint8 `[k, H, W, 3]` by the candidate's name."""
    predicted: dict[str, np.ndarray]
    """Class ids `[H, W]` that the segmenter sees, by the candidate's name."""
    scored: dict[str, int]
    """Which of its images the scores and the segmentation are of, by the candidate's name."""


class _View(NamedTuple):
    """What can be chosen to be seen of all examples; the candidate is its position, None for what is given."""

    candidate: int | None
    title: str
    crisp: bool  # a map of classes, to be enlarged without smoothing


def write_report(evaluation: dict, examples: Sequence[Example], label_space: LabelSpace, path: Path) -> None:
    """Writes the page.

    Args:
      evaluation: what evaluation.json holds: title, command, versions, notes, classes, names, scores and candidates. A
        value that is missing, null, NaN or infinite is shown as a dash.
      examples: in the order to be shown. Images of candidates that `evaluation` does not list are left out.
      label_space: of the class ids.
      path: of the HTML file, in a folder that exists.
    """
    write_page("report.html", report_data(evaluation, examples, label_space), path)


def report_data(evaluation: dict, examples: Sequence[Example], label_space: LabelSpace) -> dict:
    """What the page reads, as plain JSON: `evaluation`, with null for NaN and infinities; the classes' `colors`; `views`, what
    can be seen of the examples; and `examples`, each with the class ids `occurring`, the image `scored` of every candidate
    that has several, and a data URL or null for every view."""
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
                "index": int(example.index),
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
    """Its views, uint8 `[H, W, 3]` each."""
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
