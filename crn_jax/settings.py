"""What can be set: the parts of an experiment, each a frozen dataclass with a sentence for every field.

Each file of the library takes the settings of its part from here: `cascade.py`, for example, takes `CascadeConfig`. This file
imports no JAX, so that a command line is read without waiting for it. A function that makes a network, or computes, imports
what it needs.
"""

import dataclasses
import fnmatch
import math
from typing import TYPE_CHECKING, ClassVar, Literal

from crn_jax.baselines.shapes import PATCH_WIDTHS, dilations, fitting, patches
from crn_jax.errors import UserError
from crn_jax.vgg_layers import TAPS

if TYPE_CHECKING:
    import flax.linen as nn
    import optax
    from jaxtyping import Array, Float, Int

    from crn_jax.cascade import Cascade
    from crn_jax.unet import EncoderDecoder

Upsampling = Literal["align_corners", "half_pixel"]
"""The bilinear interpolation that doubles features, as `CascadeConfig.upsampling` explains it."""

Remat = Literal["none", "images", "conv", "full"]
"""What the backward pass keeps.

- none: everything.
- images: the k images. The loss of each is computed a second time, one image at a time.
- conv: the input of each refinement module and of each stage of VGG-19, and the results of their convolutions. On CPUs this
  saves nothing, because the compiler merges the second computation with the first.
- full: only these inputs, so that convolutions are computed twice.

If k > 1, `conv` and `full` also do what `images` does, which computes VGG-19 once more.
"""

PAPER_WIDTHS = (1024, 1024, 1024, 1024, 1024, 512, 512, 128, 32)
"""The feature maps d_0 ... d_8 of the paper. Seven modules give 256x512 pixels, eight 512x1024, nine 1024x2048."""


def check_widths(widths: tuple[int, ...]) -> None:
    """Raises ValueError unless there are widths, and all are positive."""
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be one or more positive numbers, got {widths}.")


def check_positive(config: object, *names: str) -> None:
    """Raises ValueError unless these fields of a config are positive."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}.")


def check_levels(size: tuple[int, int], widths: tuple[int, ...]) -> None:
    """Raises ValueError unless height and width can be halved from each level to the next."""
    scale = 2 ** (len(widths) - 1)
    if size[0] % scale or size[1] % scale or min(size) < 1:
        raise ValueError(f"size must be multiples of 2^(levels - 1) = {scale}, got {size[0]} {size[1]}.")


class _Network:
    """What holds for most generators (see `Generator`). A config that differs says so itself."""

    fixed_size: ClassVar[bool] = False
    mixes_batch: ClassVar[bool] = False

    @property
    def largest_side(self) -> int | None:
        """The longest side of an image that the generator can make, in pixels. None: any."""
        return None


@dataclasses.dataclass(frozen=True)
class CascadeConfig(_Network):
    """The architecture of a cascade. Module i has `widths[i]` feature maps and works at `base * 2**i` pixels."""

    num_classes: int
    """The number of classes c of a layout, void included."""
    widths: tuple[int, ...] = PAPER_WIDTHS[:7]
    """The feature maps d_i of each refinement module. Each module more doubles height and width."""
    base: tuple[int, int] = (4, 8)
    """Height and width of the first module, in pixels: 4 8 for images of 1:2 (the paper), 3 4 for 3:4, 4 4 for squares."""
    num_images: int = 1
    """The number k of images synthesized from one layout."""
    variant: Literal["paper", "authors"] = "authors"
    """The last feature layer: with authors, it has norm and LReLU as all others (the released program); with paper, it is
    linear."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the convolutions, in the cascade and in the loss's VGG-19, and of the sums of gradients over devices.
    Parameters, norms, colours and the loss stay float32."""
    norm: bool = True
    """Whether layer norm follows each convolution. Without it, a bias does (an ablation)."""
    upsampling: Upsampling = "align_corners"
    """The bilinear interpolation that doubles the features: align_corners as the released program, or half_pixel as today's
    libraries."""
    layout_at: Literal["every", "first"] = "every"
    """The modules that see the layout: every one (the paper), or only the first (an ablation)."""
    boundaries: bool = False
    """Whether the layout has one more channel, 1 at the boundaries of instances, which separates cars that touch. The paper has
    none. The instances come from --data.instances, or from the data set's own files."""

    def __post_init__(self):
        check_widths(self.widths)
        check_positive(self, "num_classes", "num_images")
        if min(self.base) < 1:
            raise ValueError(f"base must be positive, got {self.base}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the synthesized image, in pixels."""
        scale = 2 ** (len(self.widths) - 1)
        return self.base[0] * scale, self.base[1] * scale

    @property
    def min_size(self) -> tuple[int, int]:
        """The smallest layout that fits, in pixels. Other heights and widths must be multiples of it."""
        scale = 2 ** (len(self.widths) - 1)
        return scale, scale

    def network(self, remat: Remat = "none") -> "Cascade":
        """Returns the network g(L; θ)."""
        from crn_jax.cascade import Cascade

        return Cascade(self, remat)


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(_Network):
    """The encoder-decoder baseline. The paper gives no widths; these are our reconstruction."""

    num_classes: int
    """The number of classes of a layout, void included."""
    size: tuple[int, int]
    """Height and width of the images, in pixels."""
    widths: tuple[int, ...]
    """The feature maps of each level. Each level has half the resolution of the one before it."""
    num_images: int = 1
    """The number k of images synthesized from one layout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the convolutions."""

    def __post_init__(self):
        check_positive(self, "num_classes", "num_images")
        check_widths(self.widths)
        check_levels(self.size, self.widths)

    @property
    def min_size(self) -> tuple[int, int]:
        """The smallest layout that fits, in pixels. Other heights and widths must be multiples of it."""
        scale = 2 ** (len(self.widths) - 1)
        return scale, scale

    boundaries: ClassVar[bool] = False

    def network(self, remat: Remat = "none") -> "nn.Module":
        """Returns the network from layouts to images, which keeps all of its features whatever `remat` says."""
        from crn_jax.unet import encoder_decoder

        return encoder_decoder(self)


@dataclasses.dataclass(frozen=True)
class FullResolutionConfig(_Network):
    """The full-resolution baseline. The paper's network has 10 layers of 256 maps, which its GPU could just hold."""

    num_classes: int
    """The number of classes, which are the channels of the layout, void included."""
    size: tuple[int, int]
    """The height and the width of the images, in pixels."""
    maps: int
    """The number of feature maps in each layer. The paper's network has 256."""
    layers: int = 10
    """The number of dilated convolutions."""
    num_images: int = 1
    """The number k of images to synthesize from each layout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the convolutions."""

    min_size: ClassVar[tuple[int, int]] = (1, 1)  # any size up to `largest_side` fits
    boundaries: ClassVar[bool] = False

    def __post_init__(self):
        check_positive(self, "num_classes", "num_images", "maps", "layers")
        dilations(*self.size, self.layers)

    @property
    def largest_side(self) -> int:
        """The longest side of an image that the layers see the whole of, in pixels."""
        return 2**self.layers

    def network(self, remat: Remat = "none") -> "nn.Module":
        """Returns the network from layouts to images; `remat` has no effect."""
        from crn_jax.baselines.full_resolution import full_resolution

        return full_resolution(self)


@dataclasses.dataclass(frozen=True)
class GANConfig(_Network):
    """A generator and a discriminator."""

    num_classes: int
    """The number of classes, which are the channels of the layout, void included."""
    size: tuple[int, int]
    """The height and the width of the images, in pixels. The parameters depend on it."""
    networks: Literal["pix2pix", "dcgan"]
    """The kind of networks. pix2pix: U-Net-256 and the 70x70 PatchGAN. dcgan: our reconstruction of the paper's GAN."""
    widths: tuple[int, ...] | None = None
    """The number of feature maps in each layer of the generator, from the outermost. None: as published for pix2pix, and by our
    choice for dcgan."""
    discriminator_widths: tuple[int, ...] | None = None
    """The number of feature maps in each layer of the discriminator. None: as published for pix2pix, and by our choice for
    dcgan."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the convolutions."""

    def __post_init__(self):
        check_positive(self, "num_classes")
        for widths in (self.widths, self.discriminator_widths):
            if widths is not None:
                check_widths(widths)
        smallest = 1 if self.networks == "pix2pix" else 3
        fitting(self.widths or (1, 1), *self.size, smallest)
        if self.networks == "dcgan":
            fitting(self.discriminator_widths or (1, 1), *self.size, smallest)
        else:
            patches(len(self.discriminator_widths or PATCH_WIDTHS), *self.size)

    @property
    def num_images(self) -> int:
        """The number k of images that are synthesized from each layout."""
        return 1

    @property
    def min_size(self) -> tuple[int, int]:
        """The height and the width of the layout with which parameters are made, in pixels."""
        return self.size

    fixed_size: ClassVar[bool] = True
    boundaries: ClassVar[bool] = False
    mixes_batch: ClassVar[bool] = True  # by batch norm, and by dropout

    def network(self, remat: Remat = "none") -> "nn.Module":
        """Returns the generator, from layouts [B, H, W, c] to images [B, 1, H, W, 3]; `remat` has no effect."""
        from crn_jax.baselines.adversarial import generator

        return generator(self)

    def discriminator(self) -> "nn.Module":
        """Returns the discriminator, from layouts [B, H, W, c] and images [B, H, W, 3] to logits."""
        from crn_jax.baselines.adversarial import discriminator

        return discriminator(self)


@dataclasses.dataclass(frozen=True)
class SegmenterConfig:
    """The shape of a segmenter."""

    num_classes: int
    """The number of classes of the layouts, void included."""
    size: tuple[int, int]
    """Height and width of the photographs, and of the images that the segmenter will judge, in pixels."""
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    """The number of feature maps at each level. The resolution is halved from each level to the next."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the convolutions. Parameters, norms and the loss stay float32."""

    def __post_init__(self):
        check_widths(self.widths)
        if self.num_classes < 2:
            raise ValueError(f"A segmenter needs a class besides void, got num_classes {self.num_classes}.")
        check_levels(self.size, self.widths)

    def network(self) -> "EncoderDecoder":
        """Returns the network, which gives a score to each class but void."""
        import jax.numpy as jnp

        from crn_jax.unet import EncoderDecoder

        return EncoderDecoder(self.widths, self.num_classes - 1, jnp.dtype(self.dtype))


RELEASED_WEIGHTS = {
    "cityscapes_256p": (1, 1 / 1.6, 1 / 2.3, 1 / 1.8, 1 / 2.8, 10 / 0.8),
    "cityscapes_512p": (1, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5),
    "gta_256p": (1, 1 / 1.4, 1 / 1.8, 1 / 1.3, 1 / 2.2, 10 / 0.62),
}
"""The weights w_l that the released programs contain as fixed divisors. The program for 1024p uses those for 512p."""


@dataclasses.dataclass(frozen=True)
class LambdaConfig:
    """How λ starts, and when and how it is rescaled."""

    initial: tuple[float, ...] = (1.0,) * len(TAPS)
    """The initial weights of the six terms: input, conv1_2, ... conv5_2. A weight of 1 is the paper's λ = 1/elements. A layer
    of weight 0 stays out of the loss for good."""
    rescale_epoch: int | None = 100
    """The epoch (counted from 1) at whose end λ is rescaled, once, by the means of the terms over this epoch. With None, it is
    never rescaled."""
    keep: Literal["total", "image"] = "total"
    """What rescaling leaves unchanged, before conv5_2_factor: total keeps the expected loss, image the image's term (the
    authors' "relative to l0")."""
    conv5_2_factor: float = 1.0
    """The factor of conv5_2's weight after rescaling. At 1, all terms contribute equally, as with the released weights, whose
    factor of 10 for conv5_2 is part of that balance (docs/fidelity.md)."""

    def __post_init__(self):
        if len(self.initial) != len(TAPS):
            raise ValueError(f"initial needs {len(TAPS)} weights ({', '.join(TAPS)}), got {self.initial}.")
        if not all(0 <= weight < math.inf for weight in self.initial) or max(self.initial) == 0:
            raise ValueError(f"initial weights must not be negative, infinite or NaN, nor all 0, got {self.initial}.")
        if not 0 <= self.conv5_2_factor < math.inf:
            raise ValueError(f"conv5_2_factor must be finite and not negative, got {self.conv5_2_factor}.")
        if self.keep == "image" and self.initial[0] == 0:
            raise ValueError("keep image needs an image term, but the first of the initial weights is 0.")
        if self.rescale_epoch is not None and self.rescale_epoch < 1:
            raise ValueError(f"rescale_epoch counts from 1, got {self.rescale_epoch}.")

    @property
    def depth(self) -> int:
        """The number of layers up to the last one whose weight is not 0. Deeper ones need not be computed."""
        return max(i for i, weight in enumerate(self.initial) if weight > 0) + 1


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The part of a collection of k images that counts in the loss. For k = 1, every choice is Eq. 1."""

    best_per: Literal["image", "class"] = "image"
    """The images that count: the best whole image (Eq. 2), or for each class the image that shows it best (Eq. 3)."""
    mean_share: float = 0.0
    """The weight of the mean over all k images; the best image has the rest. The released program's 0.001 keeps training
    images that are never the best."""

    def __post_init__(self):
        if not 0 <= self.mean_share <= 1:
            raise ValueError(f"mean_share must lie between 0 and 1, got {self.mean_share}.")


@dataclasses.dataclass(frozen=True)
class GANLossConfig:
    """The terms of the generator's loss besides the one for deceiving the discriminator."""

    l1_weight: float = 100.0
    """The weight of the mean absolute difference from the photograph, on the scale -1..1. pix2pix uses 100."""
    segmentation_weight: float = 0.0
    """The weight of the segmenter's cross-entropy on synthesized images. The paper does not give one."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not 0 <= (value := getattr(self, field.name)) < math.inf:
                raise ValueError(f"{field.name} must be finite and not negative, got {value}.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, which is Adam, as in the paper."""

    learning_rate: float = 1e-4
    """The learning rate of Adam. The paper uses 1e-4 throughout."""
    schedule: Literal["constant", "authors_fallback"] = "constant"
    """How the learning rate changes. constant: never. authors_fallback: the rate is min(1e-6 * 1.1^(epoch-1), 1e-4 if epoch >
    100 else 1e-3), which the authors' program offers for a training that diverges; learning_rate is not used."""
    b1: float = 0.9
    """Adam's decay rate for the mean of the gradient. GANs use 0.5."""
    ema_decay: float | None = None
    """The decay, such as 0.999, of an exponential moving average of the parameters. Validation and synthesis use the average
    instead of the parameters. None: no average is kept."""
    freeze: tuple[str, ...] = ()
    """Parts of the network whose parameters stay as they are: module_0, to_rgb, or patterns such as 'module_[0-6]'."""

    def __post_init__(self):
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be finite and not negative, got {self.learning_rate}.")
        if not 0 <= self.b1 < 1:
            raise ValueError(f"b1 must be at least 0 and less than 1, got {self.b1}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}.")

    def rate(self, step: "Int[Array, '']", steps_per_epoch: int) -> "float | Float[Array, '']":
        """Returns the learning rate of a step, counted from 0."""
        import jax.numpy as jnp

        if self.schedule == "constant":
            return self.learning_rate
        epoch = step // steps_per_epoch + 1
        return jnp.minimum(1e-6 * 1.1 ** (epoch - 1), jnp.where(epoch > 100, 1e-4, 1e-3))

    def init(self, params: dict) -> "dict[str, optax.ScaleByAdamState]":
        """Returns Adam's moments before the first step, for each part of the parameters that is trained.

        Each part (a refinement module, the head) counts its own steps. A new part beside parts that keep their moments
        (growth.py) therefore gets the bias correction of its own age.

        Raises:
          UserError: if `freeze` names a part that does not exist, or leaves nothing to train.
        """
        for pattern in self.freeze:
            if not fnmatch.filter(params, pattern):
                raise UserError(f"--optimizer.freeze {pattern}: there is no such part. Parts: {', '.join(params)}.")
        trained = [part for part in params if not any(fnmatch.fnmatchcase(part, pattern) for pattern in self.freeze)]
        if not trained:
            raise UserError(f"--optimizer.freeze {' '.join(self.freeze)} leaves nothing to train of {', '.join(params)}.")
        return {part: self._adam().init(params[part]) for part in trained}

    def update(self, params: dict, gradient: dict, opt_state: dict, rate: "float | Float[Array, '']") -> tuple[dict, dict]:
        """Returns the trained parts `params` after one step of Adam at this rate, and Adam's new moments."""
        import jax

        directions, moments = {}, {}
        for part in params:
            directions[part], moments[part] = self._adam().update(gradient[part], opt_state[part])
        return jax.tree.map(lambda p, direction: p - rate * direction, params, directions), moments

    def _adam(self) -> "optax.GradientTransformation":
        import optax

        return optax.scale_by_adam(b1=self.b1)


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """How a training is split over devices. All of these settings may change when a run is resumed."""

    mesh: tuple[int, int] = (-1, -1)
    """The number of devices along data, which splits the batch, and along spatial, which splits the height of each image. -1
    stands for all devices that remain. With -1 -1, as many devices as can share the batch equally go along data, the others
    along spatial."""
    shard_state: bool = True
    """Splits the parameters, Adam's moments and the moving average into one shard for each device, instead of keeping a copy
    on each. A step then gathers the parameters (all-gather), and each device updates its own shard."""
