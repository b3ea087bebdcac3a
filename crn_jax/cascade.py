"""The Cascaded Refinement Network (Chen & Koltun, ICCV 2017, section 3.2).

A layout is a float array `[B, H, W, c]`, one-hot over the c classes, void last. Instance boundaries may follow as one more
channel. The cascade synthesizes k images from each layout, `[B, k, H, W, 3]`: float32, RGB on the 0..255 scale, not clipped.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crn_jax.images import to_images
from crn_jax.kernels.remat import Remat, keeps_all, rematerialized
from crn_jax.kernels.resize import Upsampling, halve_area, upsampled
from crn_jax.layers import Bias, Conv3x3, LayerNorm, Projection
from crn_jax.sharding import MIN_ROWS, constrain

PAPER_WIDTHS = (1024, 1024, 1024, 1024, 1024, 512, 512, 128, 32)
"""The feature maps d_0 ... d_8 of the paper. Seven modules give 256x512 pixels, eight 512x1024, nine 1024x2048."""


@dataclasses.dataclass(frozen=True)
class CascadeConfig:
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
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must hold at least one positive number, got {self.widths}.")
        if min(self.num_classes, self.num_images, *self.base) < 1:
            raise ValueError(f"num_classes, num_images and base must be positive, got {self}.")

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

    fixed_size: ClassVar[bool] = False

    def network(self, remat: Remat = "none") -> "Cascade":
        """Returns the network g(L; θ)."""
        return Cascade(self, remat)


class RefinementModule(nn.Module):
    """The refinement module M_i: two 3x3 convolutions, each followed by layer norm and LReLU.

    Its input is the layout beside the upsampled features of M_{i-1}. M_0 has no features, and an ablation no layout.
    """

    width: int
    dtype: jnp.dtype
    linear_output: bool = False
    norm: bool = True
    upsampling: Upsampling = "align_corners"

    @nn.compact
    def __call__(
        self, features: Float[Array, "B half_h half_w d"] | None, layout: Float[Array, "B h w c"] | None
    ) -> Float[Array, "B h w {self.width}"]:
        with jax.named_scope("upsampling"):
            parts = [] if features is None else [upsampled(features, self.upsampling)]
        parts += [] if layout is None else [constrain(layout, MIN_ROWS)]
        for i in (1, 2):
            # The convolution needs no bias: the norm has one, and the colour projection has one for a linear output.
            x = Conv3x3(self.width, self.dtype, name=f"conv{i}")(*parts)
            if not (self.linear_output and i == 2):
                x = LayerNorm(name=f"norm{i}")(x) if self.norm else Bias(name=f"norm{i}")(x)
                x = nn.leaky_relu(x, 0.2)
            parts = [x]
        return x


class Cascade(nn.Module):
    """The network g(L; θ): the refinement modules M_0 ... M_n and the projection to colour."""

    config: CascadeConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(self, layout: Float[Array, "B H W C"]) -> Float[Array, "B {self.config.num_images} H W 3"]:
        config, last = self.config, len(self.config.widths) - 1
        check_layout_shape(config, layout.shape)
        layouts = [jnp.asarray(layout, config.dtype)]
        for _ in range(last):
            with jax.named_scope("halved_layouts"):
                layouts.insert(0, constrain(halve_area(layouts[0]), MIN_ROWS))

        features: Array | None = None
        for i, width in enumerate(config.widths):
            linear = config.variant == "paper" and i == last
            seen = None if config.layout_at == "first" and i else layouts[i]
            name = f"module_{i}"
            module = RefinementModule(width, jnp.dtype(config.dtype), linear, config.norm, config.upsampling, name=name)
            if self.is_initializing() or keeps_all(self.remat):
                features = module(features, seen)
            else:  # The backward pass computes the module again, so it must be a function of its parameters, too.
                refine = rematerialized(module.clone(parent=None).apply, self.remat)
                features = refine({"params": self.variables["params"][name]}, features, seen)
        assert features is not None  # since there is at least one module
        rgb = Projection(3 * config.num_images, name="to_rgb")(features)
        return to_images(rgb)


def check_layout_shape(config: CascadeConfig, shape: tuple[Any, ...]) -> None:
    """Checks that a layout of this shape, `[B, H, W, c]` or with boundaries `[B, H, W, c + 1]`, fits the cascade.

    Raises:
      ValueError: if it does not; the message names the nearest sizes that do.
    """
    if len(shape) != 4 or shape[-1] != config.num_classes + config.boundaries:
        last = "instance boundaries after void" if config.boundaries else "void last"
        raise ValueError(
            f"A layout must be [B, H, W, {config.num_classes + config.boundaries}] with {last}, got {list(shape)}."
        )
    height, width = shape[1:3]
    scale = 2 ** (len(config.widths) - 1)
    if height % scale or width % scale:
        fitting = [f"{max(h, 1) * scale}x{max(w, 1) * scale}" for h, w in _neighbours(height, width, scale)]
        raise ValueError(
            f"A layout of {height}x{width} does not fit {len(config.widths)} modules: height and width must be multiples "
            f"of 2^{len(config.widths) - 1} = {scale}. Nearest sizes: {', '.join(dict.fromkeys(fitting))}. This "
            f"cascade was made for {config.size[0]}x{config.size[1]}."
        )


def _neighbours(height: int, width: int, scale: int) -> list[tuple[int, int]]:
    """Returns height and width in units of `scale`, rounded down and up."""
    (h0, h1), (w0, w1) = ((n // scale, -(-n // scale)) for n in (height, width))
    return [(h0, w0), (h0, w1), (h1, w0), (h1, w1)]
