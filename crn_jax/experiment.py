"""An experiment: all that defines a run, as one frozen dataclass that goes to JSON and back.

`configs.py` names instances; a run folder stores its own, so that no flag has to be repeated to resume or use it.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import cattrs
from cattrs.strategies import configure_tagged_union

from crn_jax.baselines.full_resolution import FullResolutionConfig
from crn_jax.baselines.gan import GANConfig, GANLossConfig, GANObjective
from crn_jax.cascade import CascadeConfig
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import LABEL_SPACES
from crn_jax.data.sources import DataConfig, label_space_of
from crn_jax.errors import UserError
from crn_jax.generator import Generator
from crn_jax.kernels.remat import Remat
from crn_jax.lambdas import LambdaConfig
from crn_jax.losses import LossConfig, Perception
from crn_jax.objective import Objective
from crn_jax.scores.segmenter import SegmenterConfig, SegmenterObjective
from crn_jax.sharding import ShardingConfig
from crn_jax.train import OptimizerConfig, Trainable
from crn_jax.unet import EncoderDecoderConfig
from crn_jax.vgg_weights import VGGConfig, random_vgg19


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a run lives and how often it reports. All of this may change when a run is resumed."""

    folder: str | None = None
    """Default: runs/NAME."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl; a line holds means over them."""
    validate_every: int = 1000
    """Steps between validations, each with a contact sheet and a checkpoint; one more comes at the end."""
    validation_examples: int = 50
    """Examples of a validation, spread evenly over the split."""
    sheet_examples: int = 6
    """Rows of a contact sheet."""
    checkpoint_every: int = 1000
    """Steps between further checkpoints; one more comes at an interruption."""
    keep_last: int = 2
    """Checkpoints kept besides the best one."""

    def __post_init__(self):
        if min(dataclasses.astuple(self)[1:]) < 1:
            raise UserError(f"Intervals and counts of --run must be at least 1, got {self}.")


class Start(NamedTuple):
    """The run that a training starts from."""

    folder: str
    keeps_moments: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What every named experiment says, whatever it trains.

    Besides its fields, a kind of experiment says what its training needs: `vgg`, the VGG-19 that validation compares images by
    (None: none); `segmenter_run` and `frozen`, the networks that stand beside the one that is trained; `start`; and
    `measured_by`. Its `generator` is what makes images of layouts (None: it makes none).
    """

    trains: ClassVar[str]
    """The kind in a word: its tag in JSON."""
    measured_by: ClassVar[Literal["distance", "mIoU"]]
    """The held-out score that validation measures, and that the best checkpoint is chosen by."""

    name: str
    about: str = ""
    """One line that says what this run is."""
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = 1
    """Examples per step; the paper's is 1."""
    epochs: int = 200
    """Passes over the training data."""
    steps: int | None = None
    """Steps in all, in place of whole epochs."""
    seed: int = 0
    """Of the initial parameters and of the data's order."""
    sharding: ShardingConfig = ShardingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self):
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}.")
        if self.data.labels in (None, *LABEL_SPACES):  # a run outlives one's own file, which launch.train checks
            self.check_classes(label_space_of(self.data))

    def last_step(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    @property
    def folder(self) -> str:
        """The run's folder."""
        return self.run.folder or f"runs/{self.name}"

    @property
    def rescale_epoch(self) -> int:
        """At the end of which epoch λ is rescaled; 0 if never."""
        return 0

    @property
    def num_classes(self) -> int:
        """Of the model, void included."""
        raise NotImplementedError

    @property
    def segmenter_run(self) -> str | None:
        """The run folder of the segmenter that the loss needs; None if it needs none."""
        return None

    @property
    def start(self) -> Start | None:
        """The run that the training starts from; None if it starts from fresh parameters."""
        return None

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> Trainable:
        """Returns the static part of the training step; `segmenter` is the config of `segmenter_run`, if there is one."""
        raise NotImplementedError

    def frozen(self, vgg_params: dict, segmenter_params: dict | None = None) -> dict:
        """Returns the parameters that the training step is given and leaves as they are.

        Args:
          vgg_params: those of the VGG-19 that `vgg` asks for.
          segmenter_params: those of `segmenter_run`, if there is one.
        """
        return {}

    def inference_params(self, params: dict) -> dict:
        """Returns the parameters that the trained network is used with, of all that are trained."""
        return params

    def check_classes(self, label_space: LabelSpace) -> None:
        """Raises UserError unless the model has the data's classes."""
        if self.num_classes != label_space.num_classes:
            raise UserError(
                f"{self.data.labels or self.data.source} has {label_space.num_classes} classes, void included, but "
                f"--{self.trains}.num_classes is {self.num_classes}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis(Training):
    """What trains a generator of images, which are compared with photographs by VGG-19."""

    trains = "cascade"
    measured_by = "distance"

    vgg: VGGConfig = VGGConfig()
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it. none: nothing; images: VGG-19 on k images, one at a time;
    conv: also norms, nonlinearities, upsampling (on CPUs in vain); full: convolutions too. (Of a baseline: of VGG-19.)"""

    def __post_init__(self):
        super().__post_init__()
        if self.vgg.allow_random and self.data.source != "streets":
            raise UserError("--vgg.allow_random is for streets only: photographs need a VGG-19 with ImageNet weights.")
        height, width = self.size
        if min(height, width) < 16:
            raise UserError(f"VGG-19 needs images of at least 16x16; the {self.trains} makes {height}x{width}.")

    @property
    def generator(self) -> Generator:
        """What is trained."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Of the model, void included."""
        return self.generator.num_classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.generator.size

    @property
    def perception(self) -> Perception:
        """How images are compared with held-out photographs: by average pooling, whatever the loss compares them by."""
        return Perception("average", self.generator.dtype, self.remat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Synthesis):
    """What trains a generator with the perceptual loss."""

    lambdas: LambdaConfig = LambdaConfig()
    loss: LossConfig = LossConfig()

    @property
    def rescale_epoch(self) -> int:
        """At the end of which epoch λ is rescaled; 0 if never."""
        return self.lambdas.rescale_epoch or 0

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> Objective:
        """Returns the static part of the training step."""
        return Objective(self.generator, self.lambdas, self.optimizer, self.vgg.pooling, steps_per_epoch, self.remat, self.loss)

    def frozen(self, vgg_params: dict, segmenter_params: dict | None = None) -> dict:
        """Returns VGG-19's parameters: the given ones, or random ones if the loss takes an untrained VGG-19."""
        return random_vgg19(seed=0) if self.vgg.untrained else vgg_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Regression):
    """A named experiment: a cascade."""

    cascade: CascadeConfig
    init_from: str | None = None
    """A run folder to start from: its modules are taken over. New ones are fresh, as is the head then, or for another k."""
    init_moments: Literal["fresh", "kept"] = "fresh"
    """Adam's moments of what is taken over. kept: that run's, and its last parameters instead of their moving average."""

    @property
    def generator(self) -> CascadeConfig:
        """What is trained."""
        return self.cascade

    @property
    def start(self) -> Start | None:
        """The run that the training starts from; None if it starts from fresh parameters."""
        return Start(self.init_from, self.init_moments == "kept") if self.init_from else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineExperiment(Regression):
    """A named experiment: what the paper compares the cascade with, trained by its loss and procedure."""

    trains = "baseline"

    baseline: EncoderDecoderConfig | FullResolutionConfig

    @property
    def generator(self) -> EncoderDecoderConfig | FullResolutionConfig:
        """What is trained."""
        return self.baseline


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANExperiment(Synthesis):
    """A named experiment: an adversarial network that the paper compares the cascade with."""

    trains = "gan"

    gan: GANConfig
    loss: GANLossConfig = GANLossConfig()
    segmenter: str | None = None
    """A run folder of a segmenter of this size, for a loss with segmentation."""

    def __post_init__(self):
        super().__post_init__()
        if (self.loss.segmentation_weight > 0) != (self.segmenter is not None):
            raise UserError(
                f"--segmenter RUN and --loss.segmentation_weight belong together; got {self.segmenter} and "
                f"{self.loss.segmentation_weight:g}."
            )

    @property
    def generator(self) -> GANConfig:
        """What synthesizes."""
        return self.gan

    @property
    def segmenter_run(self) -> str | None:
        """The run folder of the segmenter that the loss needs; None if it needs none."""
        return self.segmenter

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> GANObjective:
        """Returns the static part of the training step; `segmenter` is the config of `segmenter_run`, if there is one."""
        return GANObjective(self.gan, self.loss, self.optimizer, steps_per_epoch, segmenter)

    def frozen(self, vgg_params: dict, segmenter_params: dict | None = None) -> dict:
        """Returns the segmenter's parameters, under that name, if there is one."""
        return {} if segmenter_params is None else {"segmenter": segmenter_params}

    def inference_params(self, params: dict) -> dict:
        """Returns the generator's parameters; the discriminator has no part in synthesis."""
        return params["generator"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterExperiment(Training):
    """A named experiment: a segmenter, trained on photographs, to judge synthesized images by."""

    trains = "segmenter"
    measured_by = "mIoU"
    vgg: ClassVar[None] = None
    generator: ClassVar[None] = None

    segmenter: SegmenterConfig

    @property
    def num_classes(self) -> int:
        """Of the model, void included."""
        return self.segmenter.num_classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photographs, in pixels."""
        return self.segmenter.size

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> SegmenterObjective:
        """Returns the static part of the training step."""
        return SegmenterObjective(self.segmenter, self.optimizer, steps_per_epoch)


AnyExperiment = Experiment | BaselineExperiment | GANExperiment | SegmenterExperiment

Kind = TypeVar("Kind", bound=Training)


def require_kind(experiment: Training, kind: type[Kind], whose: str) -> Kind:
    """Returns the experiment, which has to be of a kind; `whose` it is, the message says first.

    Raises:
      UserError: if it trains something else.
    """
    if not isinstance(experiment, kind):
        raise UserError(f"{whose} trains a {experiment.trains}; here one that trains a {kind.trains} is needed.")
    return experiment


_converter = cattrs.Converter(forbid_extra_keys=True)
configure_tagged_union(AnyExperiment, _converter, tag_generator=lambda kind: kind.trains, tag_name="kind")


def to_json(experiment: Training) -> dict[str, Any]:
    """Returns an experiment as plain dicts, lists, numbers and strings; `kind` says which class it is of."""
    fields = _converter.unstructure(experiment, unstructure_as=AnyExperiment)
    return {"kind": fields.pop("kind"), **fields}  # first, as a person reads it


def from_json(fields: dict[str, Any]) -> AnyExperiment:
    """Returns the experiment that `to_json` was given.

    Raises:
      UserError: naming each field that is unknown, missing or of a wrong type.
    """
    if "kind" not in fields:  # stored before there was that key; a GAN may have a segmenter, but no segmenter has a GAN
        fields = {**fields, "kind": next((kind for kind in ("baseline", "gan", "segmenter") if kind in fields), "cascade")}
    try:
        return _converter.structure(fields, AnyExperiment)
    except KeyError as error:
        raise UserError(f"the stored experiment is of a kind that this version of crn_jax does not know: {error}.") from error
    except cattrs.BaseValidationError as error:
        problems = "; ".join(cattrs.transform_error(error, "experiment", _describe_problem))
        raise UserError(f"the stored experiment does not fit this version of crn_jax: {problems}") from error


def _describe_problem(error: BaseException, type_: type | None) -> str:
    known = cattrs.v.format_exception(error, type_)
    return f"{known} ({error})" if isinstance(error, ValueError) else known


_MAY_CHANGE = (
    "name",
    "about",
    "epochs",
    "steps",
    "sharding.",
    "remat",
    "run.",
    "data.root",
    "data.threads",
    "data.cache",
    "vgg.weights",
)


def differences(stored: Training, asked: Training) -> list[str]:
    """The fields that a resumed run must not change but that differ, each as 'field: stored, now asked'."""
    before, after = flat(to_json(stored)), flat(to_json(asked))
    return [
        f"{key}: {before.get(key)}, now {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(_MAY_CHANGE)
    ]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
