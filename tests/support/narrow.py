"""Trainings against a narrow VGG-19, for runs whose images do not matter.

The network of the loss has an eighth of its channels, so that a step takes no time and a weight file is small. Its layers, and
all that is traced and compiled, stay what they are.

`python -m tests.support.narrow SECONDS ...` is `python -m launch.train ...`, but that it pauses so long before each step.
`python -m tests.support.narrow launch.evaluate ...` is that command.
"""

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import h5py

from crn_jax.data.pipeline import training_batches
from crn_jax.vgg import LAYERS
from crn_jax.vgg_weights import random_vgg19
from launch import train

NARROW = {name: (max(3, channels_in // 8), channels_out // 8) for name, (channels_in, channels_out) in LAYERS.items()}


@contextlib.contextmanager
def narrow_vgg19() -> Iterator[None]:
    """Within the block, VGG-19 is narrow."""
    with mock.patch.dict(LAYERS, NARROW):
        yield


def write_random_vgg19(path: Path) -> Path:
    """Writes random weights in Keras' layout."""
    with h5py.File(path, "w") as file:
        for name, layer in random_vgg19(3).items():
            if name != "mean":
                keras = f"block{name[4]}_conv{name[6]}"
                file[f"{keras}/kernel:0"], file[f"{keras}/bias:0"] = layer["kernel"], layer["bias"]
    return path


def main(seconds: str, *arguments: str) -> None:
    """Trains, or runs another command."""
    if seconds.startswith("launch."):
        with narrow_vgg19():
            return importlib.import_module(seconds).main(list(arguments))

    def slow_batches(*given):
        for batch in training_batches(*given):
            time.sleep(float(seconds))
            yield batch

    with narrow_vgg19(), mock.patch.object(train, "training_batches", slow_batches):
        train.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
