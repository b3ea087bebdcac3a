"""An ablation: several trainings that answer one question. `configs.py` names ablations, and `launch.ablate` runs them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the trainings that an ablation compares."""

    name: str
    arguments: str
    """The arguments of launch.train: a named experiment, and flags."""
    about: str = ""
    """What a reader of the table should know about this variant."""
    preferred: dict[str, float] | None = None
    """The percentage of people in the paper's study who preferred the cascade to this variant, by data set."""


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A suite of trainings with the same budget, data order and evaluation."""

    question: str
    variants: tuple[Variant, ...]
    """The trainings. The first one is the reference with which the others are compared."""
    segmenter: str | None = None
    """Arguments of launch.train for the segmenter that judges the images. An adversarial variant may also train with it."""
    classes: tuple[str, ...] = ()
    """Classes on whose pixels alone the distance is compared, too."""
