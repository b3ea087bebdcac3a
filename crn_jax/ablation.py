"""An ablation: one question, put to several trainings. `configs.py` names them, `launch.ablate` carries them out."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the trainings that are compared."""

    name: str
    arguments: str
    """Those of launch.train: an experiment of configs.py, and what is set otherwise."""
    about: str = ""
    """What a reader of the table should know."""
    preferred: dict[str, float] | None = None
    """How many of a hundred people preferred the paper's cascade to it, by data set."""


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A suite of trainings under the same budget, data order and evaluation."""

    question: str
    variants: tuple[Variant, ...]
    """The first is what the others are compared with."""
    segmenter: str | None = None
    """The experiment of the segmenter that judges the images, and that an adversarial variant may train with."""
