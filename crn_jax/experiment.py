"""An experiment: everything that defines a run, as one frozen dataclass that can be stored as JSON.

`configs.py` names experiments. Each run folder stores its experiment, so that no flag has to be repeated to resume or use the
run. Like settings.py, this file imports no JAX: an experiment imports what trains it when it is asked for its objective.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import cattrs
from cattrs.strategies import configure_tagged_union

from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import LABEL_SPACES
from crn_jax.data.sources import DRAWN, DataConfig, label_space_of, refuse_without_instances
from crn_jax.errors import UserError
from crn_jax.files import expanded
from crn_jax.formats.strict_types import strict_converter
from crn_jax.settings import (
    CascadeConfig,
    EncoderDecoderConfig,
    FullResolutionConfig,
    GANConfig,
    GANLossConfig,
    LambdaConfig,
    LossConfig,
    OptimizerConfig,
    Remat,
    SegmenterConfig,
    ShardingConfig,
)
from crn_jax.vgg_weights import VGGConfig, random_vgg19

if TYPE_CHECKING:
    from crn_jax.baselines.gan import GANObjective
    from crn_jax.generator import Generator
    from crn_jax.losses import Perception
    from crn_jax.objective import Objective
    from crn_jax.scores.segmenter import SegmenterObjective
    from crn_jax.train import Trainable


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a run is stored and how often it reports. All of these settings may change when a run is resumed."""

    folder: str | None = None
    """The folder in which the run is stored. Default: runs/NAME."""
    log_every: int = 20
    """The number of steps between two lines of metrics.jsonl. A line contains means over these steps."""
    validate_every: int = 1000
    """The number of steps between two validations. A validation writes a contact sheet and a checkpoint. There is always a
    validation at the end."""
    validation_examples: int = 50
    """The number of held-out examples in a validation, spread evenly over the validation split."""
    sheet_examples: int = 6
    """The number of rows of a contact sheet."""
    checkpoint_every: int = 1000
    """The number of steps between two checkpoints besides those of validations. An interrupted run saves one, too."""
    keep_last: int = 2
    """The number of checkpoints to keep besides the best one."""
    stuck_seconds: int = 120
    """The seconds after which a step, a validation or a save counts as stuck, or ten times its usual length if that is longer.
    The first of each kind may take thirty times as long, and so may waiting for a checkpoint to be on the disk. The run then
    ends with the exit status 76, to be started again."""
    replay_every: int | None = None
    """The number of steps between two steps that are computed twice and compared bit by bit, to find hardware that computes
    wrongly. GPUs need flags for it, which docs/reliability.md lists. None: no step is."""

    def __post_init__(self):
        if self.folder and self.folder.startswith("hf:"):
            raise UserError(f"--run.folder {self.folder}: nothing is trained on the Hub. Name a folder, or gs://BUCKET/FOLDER.")
        for field in dataclasses.fields(self)[1:]:
            if (value := getattr(self, field.name)) is not None and value < 1:
                raise UserError(f"--run.{field.name} must be at least 1, got {value}.")


class Start(NamedTuple):
    """The run from which a training starts, and whether Adam's moments are taken over from it."""

    folder: str
    keeps_moments: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What all kinds of named experiments have in common.

    Besides its fields, each kind has these attributes: `vgg`, the VGG-19 that compares images with held-out photographs (None
    if nothing is compared); `generator`, which makes images of layouts (None if the experiment trains no generator);
    `segmenter_run` and `frozen`, the other networks that the training needs; `start`; and `measured_by`.
    """

    trains: ClassVar[str]
    """The kind of network that is trained, in a word; it marks the kind of experiment in JSON."""
    measured_by: ClassVar[Literal["distance", "mIoU"]]
    """The held-out score that validation measures, and which decides about the best checkpoint."""

    name: str
    """The name of the run, and of its folder in runs/ unless --run.folder names another."""
    about: str = ""
    """One line that describes this run."""
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = 1
    """The number of examples in each step. The paper uses 1."""
    epochs: int = 200
    """The number of passes over the training data."""
    steps: int | None = None
    """The number of steps of the whole training. None: as many as the epochs have."""
    seed: int = 0
    """The seed of the initial parameters and of the order of the data."""
    sharding: ShardingConfig = ShardingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:  # JAX and Grain take no others
            raise UserError(f"--seed must be at least 0 and less than 2^31, got {self.seed}.")
        for name in ("batch_size", "epochs", "steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, got {value}.")
        if self.boundaries:
            refuse_without_instances(self.data)
        elif self.data.instances is not None:
            raise UserError(
                f"--data.instances {self.data.instances} is for cascades with instance boundaries. Add --cascade.boundaries, "
                f"or leave it out."
            )
        if self.data.labels in (None, *LABEL_SPACES):  # a run outlives one's own file, which launch.train checks
            self.check_classes(label_space_of(self.data))

    def last_step(self, steps_per_epoch: int) -> int:
        """Returns the number of steps of the whole run."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    @property
    def folder(self) -> str:
        """The run's folder."""
        return expanded(self.run.folder) if self.run.folder else f"runs/{self.name}"

    @property
    def rescale_epoch(self) -> int:
        """The epoch at whose end λ is rescaled; 0 if λ is never rescaled."""
        return 0

    @property
    def num_classes(self) -> int:
        """The number of classes of the network, void included."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of the images or photographs, in pixels."""
        raise NotImplementedError

    @property
    def boundaries(self) -> bool:
        """Whether the network takes instance boundaries, so that examples need instances."""
        return False

    @property
    def segmenter_run(self) -> str | None:
        """The run folder of the segmenter that the loss needs; None if it needs no segmenter."""
        return None

    @property
    def start(self) -> Start | None:
        """The run from which the training starts; None if it starts from fresh parameters."""
        return None

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> "Trainable":
        """Returns the static part of the training step; `segmenter` is the config of `segmenter_run`, if there is one."""
        raise NotImplementedError

    def frozen(self, vgg_params: dict, segmenter_params: dict | None = None) -> dict:
        """Returns the frozen parameters, which the training step uses but does not train.

        Args:
          vgg_params: the parameters of the VGG-19 that `vgg` describes.
          segmenter_params: the parameters of the segmenter of `segmenter_run`, if there is one.
        """
        return {}

    def inference_params(self, params: dict) -> dict:
        """Returns those of the trained parameters that inference needs."""
        return params

    def check_classes(self, label_space: LabelSpace) -> None:
        """Checks that the network has as many classes as the data.

        Raises:
          UserError: if it does not.
        """
        if self.num_classes != label_space.num_classes:
            raise UserError(
                f"{self.data.labels or self.data.source} has {label_space.num_classes} classes, void included, but "
                f"--{self.trains}.num_classes is {self.num_classes}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis(Training):
    """A named experiment that trains a generator, whose images VGG-19 compares with photographs."""

    trains = "cascade"
    measured_by = "distance"

    vgg: VGGConfig = VGGConfig()
    remat: Remat = "none"
    """What the backward pass computes a second time instead of keeping it in memory. none: nothing. images: VGG-19, for one of
    the k images at a time. conv: also norms, nonlinearities and upsampling, which saves nothing on CPUs. full: convolutions,
    too. With baselines, conv and full concern VGG-19 alone. GANs are trained without VGG-19, so it has no effect there."""

    def __post_init__(self):
        super().__post_init__()
        if self.vgg.allow_random and self.data.source not in DRAWN:
            raise UserError("--vgg.allow_random is for streets only: photographs need a VGG-19 with ImageNet weights.")
        height, width = self.size
        if min(height, width) < 16:
            raise UserError(f"VGG-19 needs images of at least 16x16; the {self.trains} makes {height}x{width}.")

    @property
    def generator(self) -> "Generator":
        """The generator that is trained."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """The number of classes of the network, void included."""
        return self.generator.num_classes

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of the images, in pixels."""
        return self.generator.size

    @property
    def boundaries(self) -> bool:
        """Whether the generator takes instance boundaries, so that examples need instances."""
        return self.generator.boundaries

    @property
    def perception(self) -> "Perception":
        """The comparison with held-out photographs, in which VGG-19 pools by averages, whatever pooling the loss uses."""
        from crn_jax.losses import Perception

        return Perception("average", self.generator.dtype, self.remat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Synthesis):
    """A named experiment that trains a generator with the perceptual loss."""

    lambdas: LambdaConfig = LambdaConfig()
    loss: LossConfig = LossConfig()

    @property
    def rescale_epoch(self) -> int:
        """The epoch at whose end λ is rescaled; 0 if λ is never rescaled."""
        return self.lambdas.rescale_epoch or 0

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> "Objective":
        """Returns the static part of the training step."""
        from crn_jax.objective import Objective

        return Objective(self.generator, self.lambdas, self.optimizer, self.vgg.pooling, steps_per_epoch, self.remat, self.loss)

    def frozen(self, vgg_params: dict, segmenter_params: dict | None = None) -> dict:
        """Returns VGG-19's parameters: `vgg_params`, or random ones if the loss uses an untrained VGG-19."""
        return random_vgg19(seed=0) if self.vgg.untrained else vgg_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Regression):
    """A named experiment that trains a cascade."""

    cascade: CascadeConfig
    init_from: str | None = None
    """The folder of a run from which the modules are taken over. Further modules start from random parameters. The projection
    to colour does so, too, if there are further modules or another number of images."""
    init_moments: Literal["fresh", "kept"] = "fresh"
    """What becomes of Adam's moments of the modules that --init_from takes over. fresh: they start from 0. kept: they are
    taken over, too, and the modules come from that run's last parameters instead of their moving average."""

    @property
    def generator(self) -> CascadeConfig:
        """The generator that is trained."""
        return self.cascade

    @property
    def start(self) -> Start | None:
        """The run from which the training starts; None if it starts from fresh parameters."""
        return Start(expanded(self.init_from), self.init_moments == "kept") if self.init_from else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineExperiment(Regression):
    """A named experiment that trains a baseline of the paper with the cascade's loss and procedure."""

    trains = "baseline"

    baseline: EncoderDecoderConfig | FullResolutionConfig

    @property
    def generator(self) -> EncoderDecoderConfig | FullResolutionConfig:
        """The generator that is trained."""
        return self.baseline


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANExperiment(Synthesis):
    """A named experiment that trains an adversarial baseline of the paper."""

    trains = "gan"

    gan: GANConfig
    loss: GANLossConfig = GANLossConfig()
    segmenter: str | None = None
    """The run folder of a segmenter of the same image size, for a loss with --loss.segmentation_weight."""

    def __post_init__(self):
        super().__post_init__()
        if (self.loss.segmentation_weight > 0) != (self.segmenter is not None):
            raise UserError(
                f"--segmenter RUN and a positive --loss.segmentation_weight belong together; got {self.segmenter} and "
                f"{self.loss.segmentation_weight:g}."
            )

    @property
    def generator(self) -> GANConfig:
        """The generator that is trained."""
        return self.gan

    @property
    def segmenter_run(self) -> str | None:
        """The run folder of the segmenter that the loss needs; None if it needs no segmenter."""
        return expanded(self.segmenter) if self.segmenter else None

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> "GANObjective":
        """Returns the static part of the training step; `segmenter` is the config of `segmenter_run`, if there is one."""
        from crn_jax.baselines.gan import GANObjective

        return GANObjective(self.gan, self.loss, self.optimizer, steps_per_epoch, segmenter)

    def frozen(self, vgg_params: dict, segmenter_params: dict | None = None) -> dict:
        """Returns the segmenter's parameters under the key `segmenter`, if there is a segmenter."""
        return {} if segmenter_params is None else {"segmenter": segmenter_params}

    def inference_params(self, params: dict) -> dict:
        """Returns the generator's parameters; synthesis does not need the discriminator."""
        return params["generator"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterExperiment(Training):
    """A named experiment that trains a segmenter on photographs, to judge synthesized images."""

    trains = "segmenter"
    measured_by = "mIoU"
    vgg: ClassVar[None] = None
    generator: ClassVar[None] = None

    segmenter: SegmenterConfig

    @property
    def num_classes(self) -> int:
        """The number of classes of the network, void included."""
        return self.segmenter.num_classes

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of the photographs, in pixels."""
        return self.segmenter.size

    def objective(self, steps_per_epoch: int, segmenter: SegmenterConfig | None = None) -> "SegmenterObjective":
        """Returns the static part of the training step."""
        from crn_jax.scores.segmenter import SegmenterObjective

        return SegmenterObjective(self.segmenter, self.optimizer, steps_per_epoch)


AnyExperiment = Experiment | BaselineExperiment | GANExperiment | SegmenterExperiment

Kind = TypeVar("Kind", bound=Training)


def require_kind(experiment: Training, kind: type[Kind], whose: str) -> Kind:
    """Returns the experiment if it is of the required kind.

    Args:
      experiment: any experiment.
      kind: the class that it has to be of.
      whose: the subject of the error message, such as "The run runs/demo".

    Raises:
      UserError: if the experiment is of another kind.
    """
    if not isinstance(experiment, kind):
        raise UserError(f"{whose} trains a {experiment.trains}; here one that trains a {kind.trains} is needed.")
    return experiment


def _tag(kind: Any) -> str:
    return kind.trains


@functools.cache
def _converter() -> cattrs.Converter:
    converter = strict_converter(forbid_extra_keys=True)
    configure_tagged_union(AnyExperiment, converter, tag_generator=_tag, tag_name="kind")
    return converter


def to_json(experiment: Training) -> dict[str, Any]:
    """Returns an experiment as plain dicts, lists, numbers and strings; the key `kind` names its class."""
    fields = _converter().unstructure(experiment, unstructure_as=AnyExperiment)
    return {"kind": fields.pop("kind"), **fields}  # a person reads the kind first


def from_json(
    fields: dict[str, Any], complaint: str = "the stored experiment does not fit this version of crn_jax"
) -> AnyExperiment:
    """Returns the experiment that `to_json` has turned into `fields`. A message about its fields begins with `complaint`.

    Raises:
      UserError: if fields are unknown, missing or of a wrong type; the message names each.
    """
    if "kind" not in fields:  # older versions did not store it; a GAN may have a segmenter, but no segmenter has a GAN
        fields = {**fields, "kind": next((kind for kind in ("baseline", "gan", "segmenter") if kind in fields), "cascade")}
    try:
        return _converter().structure(fields, AnyExperiment)  # type: ignore[arg-type]  # cattrs accepts unions, its types do not
    except KeyError as error:
        raise UserError(f"the stored experiment is of a kind that this version of crn_jax does not know: {error}.") from error
    except cattrs.BaseValidationError as error:
        problems = "; ".join(cattrs.transform_error(error, "experiment", _describe_problem))
        raise UserError(f"{complaint}: {problems}.") from error


def _describe_problem(error: BaseException, type_: type | None) -> str:
    known = cattrs.v.format_exception(error, type_)
    return f"{known} ({error})" if isinstance(error, ValueError) else known
