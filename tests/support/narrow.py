"""Trainings against a narrow VGG-19, for runs whose images do not matter.

The network of the loss has an eighth of its channels, so that a step takes no time and a weight file is small. All convolutions
are XLA's, as on accelerators, because the forms for CPUs take longer to trace and to compile; test_convolution.py and
test_train.py are about those.

`python -m tests.support.narrow SECONDS ...` is `python -m launch.train ...`, but that it pauses so long before each step. The
variable CRN_JAX_TEST_FAULT names what befalls the process before its fourth step. `python -m tests.support.narrow
launch.evaluate ...` is that command.
"""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import h5py
import numpy as np

import launch
from crn_jax.kernels import convolution
from crn_jax.vgg import LAYERS
from crn_jax.vgg_weights import random_vgg19

NARROW = {name: (max(3, channels_in // 8), channels_out // 8) for name, (channels_in, channels_out) in LAYERS.items()}

XLAS = {"SMALL": 0, "NARROW": np.inf, "NARROW_KERNEL": np.inf}
"""Sizes for which no convolution on a single CPU becomes matrix products."""

FAULTS = {"": lambda: None, "crash": lambda: 1 / 0, "sleep": lambda: time.sleep(1e6)}


@contextlib.contextmanager
def narrow_vgg19() -> Iterator[None]:
    """Within the block, VGG-19 is narrow, and convolutions are XLA's."""
    with mock.patch.dict(LAYERS, NARROW), mock.patch.multiple(convolution, **XLAS):
        yield


@contextlib.contextmanager
def narrow_processes() -> Iterator[None]:
    """Within the block, VGG-19 is narrow in all Python processes that are started."""
    here = Path(__file__).parent
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, [here / "narrow_processes", here.parents[1]]))):
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
    from crn_jax.data.pipeline import training_batches
    from launch import train
    from launch.training import session

    def slow_batches(*given):
        for i, batch in enumerate(training_batches(*given)):
            time.sleep(float(seconds))
            if i == 3:
                FAULTS[os.environ.get("CRN_JAX_TEST_FAULT", "")]()
            yield batch

    with narrow_vgg19(), mock.patch.object(session, "training_batches", slow_batches):
        sys.argv[1:] = arguments
        train.main()


if __name__ == "__main__":
    launch.prepare()
    main(*sys.argv[1:])
