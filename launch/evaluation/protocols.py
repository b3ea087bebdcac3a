"""The protocols by which others measured their published figures, and the same images by several of them at once.

A protocol says at which size a judge sees the images, how layouts reach this size, what counts as void, over which classes the
mean is taken, and which FID is meant. docs/evaluation.md has the published figures, with their protocols.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from crn_jax.data.examples import Source
from crn_jax.data.geometry import alike
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import CITYSCAPES, LABEL_SPACES, find_label_space
from crn_jax.data.sources import DataConfig, Split, open_source
from crn_jax.errors import UserError
from crn_jax.scores.metrics import MeanOver, confusion, pixels_by_class
from launch.evaluation.methods import PHOTOGRAPHS, Batch, resized

Size = tuple[int, int]


class Protocol(NamedTuple):
    """A way of measuring mIoU, pixel accuracy and FID on a data set."""

    name: str
    judge: str
    """The network that judged the published figures."""
    size: Size | None
    """Height and width at which the judge gets images, and at which layouts are compared. None: the data's size."""
    polegroup_is_void: bool
    """Whether the classes are Cityscapes' 19 train ids, which leave polegroup out. The paper's program has it as pole."""
    counts_void: bool
    """Whether pixels whose layout is void count as wrong in the accuracy. No protocol counts them in mIoU."""
    fid: bool
    """Whether it has an FID: by pytorch-fid, on all validation images, at the size of the protocol."""
    about: str
    sources: tuple[str, ...]
    """The addresses of the code or of the authors' words."""
    mean_over: MeanOver = "occurring"
    """The classes over which the judge's program averages."""


_SPADE = "SPADE (Park et al. 2019). It released no code for its scores, so this is what the users who reproduced them say."
_OASIS = "OASIS (Schönfeld et al. 2021), by its authors' words and its code for FID. It publishes no pixel accuracy."
_OF_SPADE = (
    "https://github.com/NVlabs/SPADE/issues/14", "https://github.com/NVlabs/SPADE/issues/39",
    "https://github.com/xh-liu/CC-FPSE/issues/4",
)  # fmt: skip
_OF_OASIS = "https://github.com/boschresearch/OASIS/blob/master/utils/fid_scores.py"

_ON_CITYSCAPES = (
    Protocol(
        "spade", "DRN-D-105", (256, 512), True, True, True, _SPADE,
        (
            *_OF_SPADE, "https://github.com/NVlabs/SPADE/issues/100", "https://github.com/EndlessSora/TSIT/issues/1",
            "https://github.com/tzt101/CLADE/issues/3",
        ),
    ),
    Protocol(
        "oasis", "DRN-D-105", (256, 512), True, False, True, _OASIS,
        ("https://github.com/boschresearch/OASIS/issues/5", "https://github.com/boschresearch/OASIS/issues/2", _OF_OASIS),
    ),
    Protocol(
        "pix2pixhd", "PSPNet", (1024, 2048), True, True, False,
        "pix2pixHD (Wang et al. 2018). Its judge is another network, and it tells neither how void counts nor the size. "
        "This is the size of its images. That void counts is our conclusion from SPADE, its successor.",
        ("https://github.com/NVIDIA/pix2pixHD/issues/57", "https://arxiv.org/abs/1711.11585"),
    ),
    Protocol(
        "paper", "people", None, False, False, False,
        "The paper of the cascade asked people and measured no mIoU. This is what launch.evaluate gives by itself: "
        "the data's size, and void left out of both scores.",
        ("https://arxiv.org/abs/1707.09405",),
    ),
)  # fmt: skip

_VOID = " Void is left out, as in the judge's own program."
_ON_ADE20K = (
    Protocol(
        "spade", "UPerNet101", (256, 256), False, False, True, _SPADE + _VOID,
        (*_OF_SPADE, "https://github.com/CSAILVision/semantic-segmentation-pytorch/blob/7c5ea37/eval.py"), "all",
    ),
    Protocol(
        "oasis", "UPerNet101", (256, 256), False, False, True, _OASIS + _VOID,
        (
            "https://github.com/boschresearch/OASIS/issues/17", _OF_OASIS,
            "https://github.com/CSAILVision/semantic-segmentation-pytorch/blob/8f27c9b/eval.py",
        ),
        "all",
    ),
)  # fmt: skip
_ON_COCOSTUFF = (
    Protocol(
        "spade", "DeepLabV2-ResNet101", (256, 256), False, False, True, _SPADE + _VOID,
        (*_OF_SPADE, "https://github.com/kazuto1011/deeplab-pytorch/blob/4219467/main.py"), "in layouts",
    ),
    Protocol(
        "oasis", "DeepLabV2-ResNet101", (256, 256), False, False, True, _OASIS + _VOID,
        (_OF_OASIS, "https://github.com/kazuto1011/deeplab-pytorch/blob/4219467/main.py"), "in layouts",
    ),
)  # fmt: skip

PROTOCOLS = {
    data: {protocol.name: protocol for protocol in protocols}
    for data, protocols in (("cityscapes", _ON_CITYSCAPES), ("ade20k", _ON_ADE20K), ("cocostuff", _ON_COCOSTUFF))
}
"""The protocols by data set and name."""


def data_of(label_space: LabelSpace) -> str | None:
    """Returns the data set of `PROTOCOLS` that has these classes, whatever its layouts' ids are, or None."""
    return next((data for data in PROTOCOLS if LABEL_SPACES[data].classes == label_space.classes), None)


def judge_on(data: str) -> str:
    """Returns the network by which published figures on a data set of `PROTOCOLS` were measured since SPADE."""
    return PROTOCOLS[data]["spade"].judge


def protocols_on(label_space: LabelSpace, names: Iterable[str]) -> tuple[Protocol, ...]:
    """Returns the protocols of these names on the data set that has these classes.

    Raises:
      UserError: if there are no protocols for the classes, or if one of the names is not among them.
    """
    data, names = data_of(label_space), list(dict.fromkeys(names))
    if data is None:
        raise UserError(
            f"--protocol {names[0]}: the protocols are for the classes of {', '.join(PROTOCOLS)}, but the layouts of "
            f"{label_space.name} have others."
        )
    known = PROTOCOLS[data]
    for name in names:
        if name not in known:
            raise UserError(f"--protocol {name} is for other data than {label_space.name}. Here there are: {', '.join(known)}.")
    return tuple(known[name] for name in names)


class View(NamedTuple):
    """What protocols may share: a size, and whether polegroup is void there."""

    size: Size
    polegroup_is_void: bool

    @property
    def key(self) -> str:
        """The key of its pixels by class in a tally."""
        return f"pixels {self.size[0]}x{self.size[1]} {'strict' if self.polegroup_is_void else ''}".strip()


def features_key(size: Size) -> str:
    """Returns the key of the features at a size in a tally."""
    return f"features {size[0]}x{size[1]}"


class Seen(NamedTuple):
    """What the judges see in images: class ids `[B, H, W]`, and with Inception-V3 its features `[B, 2048]`."""

    classes: np.ndarray
    features: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Several protocols, and the examples as each of them sees them."""

    protocols: tuple[Protocol, ...]
    size: Size
    """Height and width of the data."""
    sources: dict[View, Source]
    indices: Sequence[int]
    """The position in a source of each example that is scored."""

    def view(self, protocol: Protocol) -> View:
        """Returns what a protocol sees."""
        return View(protocol.size or self.size, protocol.polegroup_is_void)

    def measure(
        self,
        method: str,
        batch: Batch,
        images: np.ndarray,
        known: dict[Size, Seen],
        see: Callable[[np.ndarray], Seen],
    ) -> dict[str, np.ndarray]:
        """Measures a method's images of a batch by all protocols. The judges see them once at each size.

        Args:
          method: The method's name.
          batch: The examples.
          images: The images at their own size, uint8 `[B, h, w, 3]`.
          known: What the judges have seen already, by size.
          see: What shows images to the judges.

        Returns:
          For each view the pixels by class `[B, 4, c]`, and for each size with an FID the features `[B, 2048]`.
        """
        measured = {}
        for size in dict.fromkeys(view.size for view in self.sources):
            views = [view for view in self.sources if view.size == size]
            examples = {view: [self.sources[view][self.indices[n]] for n in batch.numbers] for view in views}
            if size in known:
                seen = known[size]
            elif method == PHOTOGRAPHS:
                seen = see(np.stack([example["photograph"] for example in examples[views[0]]]))
            else:
                seen = see(np.stack([resized(image, size) for image in images]))
            for view in views:
                num_classes = self.sources[view].label_space.num_classes
                pairs = zip((example["layout"] for example in examples[view]), seen.classes)
                measured[view.key] = np.array([pixels_by_class(confusion(*pair, num_classes)) for pair in pairs])
            if seen.features is not None and any(self.view(p).size == size for p in self.protocols if p.fid):
                measured[features_key(size)] = seen.features
        return measured

    def described(self) -> list[dict[str, Any]]:
        """Returns what evaluation.json and the page say about the protocols."""
        return [protocol._asdict() | {"size": self.view(protocol).size} for protocol in self.protocols]


def open_conventions(
    protocols: Sequence[Protocol], data: DataConfig, split: Split, source: Source, indices: Sequence[int]
) -> Conventions:
    """Opens the examples as each protocol sees them.

    Args:
      protocols: The protocols, which are those of the source's classes (see `protocols_on`).
      data: The data set.
      split: The part of it.
      source: The examples at the data's size.
      indices: The positions of the examples that are scored.

    Raises:
      UserError: if the images have another shape than a protocol's.
    """
    for protocol in protocols:
        if protocol.size and not alike(protocol.size, source.size):
            there, here = ("x".join(map(str, size)) for size in (protocol.size, source.size))
            raise UserError(f"--protocol {protocol.name} is for images of the shape of {there}, but the data's size is {here}.")
    plain = dataclasses.replace(data, cache=None, vivid=False)
    strict = find_label_space("cityscapes_strict")
    sources = {}
    for protocol in protocols:
        view = View(protocol.size or source.size, protocol.polegroup_is_void)
        # Not by its name: a label file of one's own may be called cityscapes.json, and have other ids.
        other = protocol.polegroup_is_void and source.label_space.ids == CITYSCAPES.ids
        label_space = dataclasses.replace(strict, read_as=source.label_space.read_as) if other else source.label_space
        if view.size == source.size and label_space is source.label_space:
            sources[view] = source
        else:
            sources[view] = open_source(plain, split, view.size, label_space=label_space)
    return Conventions(tuple(protocols), source.size, sources, indices)
