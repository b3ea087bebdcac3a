"""The layers of VGG-19 that compare images, by name. This file imports no JAX, so that settings can name them."""

from typing import Literal

LAYERS = {
    "conv1_1": (3, 64), "conv1_2": (64, 64),
    "conv2_1": (64, 128), "conv2_2": (128, 128),
    "conv3_1": (128, 256), "conv3_2": (256, 256), "conv3_3": (256, 256), "conv3_4": (256, 256),
    "conv4_1": (256, 512), "conv4_2": (512, 512), "conv4_3": (512, 512), "conv4_4": (512, 512),
    "conv5_1": (512, 512), "conv5_2": (512, 512),
}  # fmt: skip
"""The input and output channels of every convolution up to the deepest tap."""

STAGES = {
    "input": (),
    "conv1_2": ("conv1_1", "conv1_2"),
    "conv2_2": ("conv2_1", "conv2_2"),
    "conv3_2": ("conv3_1", "conv3_2"),
    "conv4_2": ("conv3_3", "conv3_4", "conv4_1", "conv4_2"),
    "conv5_2": ("conv4_3", "conv4_4", "conv5_1", "conv5_2"),
}
"""The convolutions between each tap and the one before it."""

TAPS = tuple(STAGES)
"""The layers Φ_0 ... Φ_5 of the paper, in the order of λ."""

Pooling = Literal["average", "max"]
