"""VGG-19 (Simonyan & Zisserman, 2015) as the perception network Φ of the loss.

Images are RGB on the 0..255 scale. Parameters are a plain dict,
`{"mean": [3], "conv1_1": {"kernel": [3, 3, in, out], "bias": [out]}, ...}`, which `vgg_weights.py` reads from files.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from crn_jax.kernels.convolution import conv3x3, conv3x3_inside
from crn_jax.kernels.halo import with_halo, without_outside
from crn_jax.kernels.remat import convolved
from crn_jax.kernels.resize import halve_area
from crn_jax.sharding import by_device, constrain, rows_are_split
from crn_jax.vgg_layers import LAYERS, STAGES, TAPS, Pooling


def abstract_vgg19() -> dict:
    """Returns the shapes and dtypes of the parameters."""
    shapes = {name: {"kernel": (3, 3, *channels), "bias": channels[1:]} for name, channels in LAYERS.items()}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        {"mean": (3,), **shapes},
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def vgg19_features(
    params: dict, images: Float[Array, "N H W 3"], pooling: Pooling = "average", dtype: DTypeLike = jnp.float32
) -> dict[str, Float[Array, "N _ _ _"]]:
    """Returns Φ_l, the features after the ReLU, for every layer in `TAPS`.

    Args:
      params: VGG-19's parameters, from `vgg_weights.load_vgg19`.
      images: RGB, 0..255.
      pooling: average as the paper's released program, or max as VGG-19 was trained with.
      dtype: the dtype of the convolutions, and of all features but `input`, which stays float32.

    Returns:
      The features `[N, H / 2^s, W / 2^s, C]` by the names in `TAPS`, where s = 0, 0, 1, 2, 3, 4. `input` is the image less
      the network's mean colour. Odd sizes are rounded up, as by TensorFlow ("SAME"); averages are over real pixels only.
    """
    features = {"input": less_mean(params, images)}
    x = features["input"].astype(dtype)
    for tap in TAPS[1:]:
        x = features[tap] = vgg19_stage(params, x, tap, pooling)
    return features


def less_mean(params: dict, images: Float[Array, "N H W 3"]) -> Float[Array, "N H W 3"]:
    """Returns images less the mean colour: VGG-19's input, and Φ_0 of the loss."""
    return constrain(images) - params["mean"][None, None, None]


def vgg19_stage(params: dict, x: Float[Array, "N H W C"], tap: str, pooling: Pooling) -> Float[Array, "N H2 W2 C2"]:
    """Computes Φ_l, the features of the layer `tap`, from Φ_{l-1} and in its dtype."""
    with jax.named_scope(f"vgg19_{tap}"):
        for first, second in zip(STAGES[tap][::2], STAGES[tap][1::2]):
            if first.endswith("_1") and first != "conv1_1":
                x = constrain(pool(x, pooling))
            if rows_are_split(x, min_rows=2):  # one exchange of rows serves both convolutions
                x = by_device(_two_layers, x, whole=(params[first], params[second]))
            else:
                x = _layer(params[second], _layer(params[first], x))
    return x


@jax.custom_jvp
def _relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


@jax.custom_jvp
def _relu_inside(x: Array) -> Array:
    """The ReLU of a device's rows with a halo of one row, which stays zero outside the image."""
    return without_outside(_relu(x))


# The derivative looks at the result, where that of `jax.nn.relu` asks whether x > 0. So x need not be kept, and compilers add
# bias and ReLU to the convolution. They would turn "result > 0" into "x > 0", but they leave "result != 0" as it is.
for relu in (_relu, _relu_inside):
    relu.defjvps(lambda tangent, result, x: jnp.where(result != 0, tangent, 0))


def _layer(params: dict, x: Array, convolve: Callable = conv3x3, relu: Callable = _relu) -> Array:
    kernel, bias = params["kernel"].astype(x.dtype), params["bias"].astype(x.dtype)
    return convolved(relu(convolve(x, kernel) + bias[None, None, None]))


def _two_layers(x: Array, first: dict, second: dict) -> Array:
    """Computes two convolutions with ReLU on a device's rows of an image."""
    x = _layer(first, with_halo(x, 2), conv3x3_inside, _relu_inside)
    return _layer(second, x, conv3x3_inside)


def pool(x: Float[Array, "N H W C"], pooling: Pooling) -> Float[Array, "N (H+1)//2 (W+1)//2 C"]:
    """Pools 2x2 pixels at stride 2. At odd sizes the last window holds only the pixels that there are."""
    window = (1, 2, 2, 1)
    if pooling == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "SAME")
    if x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0:
        return halve_area(x)  # Its gradient, too, stays within the rows of a device.
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "SAME")
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total / jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, window, "SAME")


def by_layer(values: Float[Array | np.ndarray, "6"] | tuple[()]) -> dict[str, float]:
    """Returns six numbers by the names of their layers (an empty dict where there are none)."""
    return dict(zip(TAPS, np.asarray(values).tolist()))
