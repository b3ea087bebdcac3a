"""The Cascaded Refinement Network (Chen & Koltun, ICCV 2017, section 3.2).

A layout is a float array `[B, H, W, c]`, one-hot over the c classes, void last. Instance boundaries may follow as one more
channel. The cascade synthesizes k images from each layout, `[B, k, H, W, 3]`: float32, RGB on the 0..255 scale, not clipped.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crn_jax.images import to_images
from crn_jax.kernels.remat import keeps_all, rematerialized
from crn_jax.kernels.resize import halve_area
from crn_jax.layers import Bias, Conv3x3, LayerNorm, Projection, Upsampled
from crn_jax.settings import PAPER_WIDTHS, CascadeConfig, Remat, Upsampling  # noqa: F401  # people's own configs have them from here
from crn_jax.sharding import MIN_ROWS, constrain


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
            parts = [] if features is None else [Upsampled(self.upsampling, name="upsampled")(features)]
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
