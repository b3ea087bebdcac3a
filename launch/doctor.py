"""Prints what a bug report needs: `python -m launch.doctor`.

It prints versions, devices, memory, the compilation cache and the state of VGG-19's weights, and trains a tiny cascade for two
steps. Paste the whole output into the report. The exit status is 0 if the training works here, and 1 if not.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import jax
import jax.extend
import numpy as np
import tyro

from crn_jax.errors import UserError
from crn_jax.files import cache_folder
from crn_jax.objective import Objective
from crn_jax.settings import CascadeConfig, LambdaConfig, OptimizerConfig
from crn_jax.train import init_state, make_train_step
from crn_jax.vgg_weights import (
    ENVIRONMENT_VARIABLE,
    PUBLISHED_HASH,
    PUBLISHED_NAME,
    find_vgg19,
    load_vgg19,
    random_vgg19,
)
from launch.common.exit_status import FAILED
from launch.common.jax_setup import set_up_jax
from launch.common.names import version
from launch.common.options import read_options
from launch.common.terminal import command, console, missing_platform

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

ACCELERATOR_PACKAGES = (
    *(f"jax-cuda{major}-{part}" for major in (12, 13) for part in ("plugin", "pjrt")),
    *(f"nvidia-cudnn-cu{major}" for major in (12, 13)),
    "libtpu",
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prints what a bug report needs, and tries a training step of a tiny cascade."""

    vgg: Annotated[str | None, tyro.conf.arg(aliases=["--vgg.weights"])] = None
    """File of VGG-19 weights. Default: the file that launch.train would find; nothing is downloaded."""


def main(arguments: list[str] | None = None) -> None:
    """Prints one line for each fact. Ends with status 1 if JAX has no devices, or the training step fails."""
    with command():
        asked: Arguments = read_options(Arguments, "doctor", arguments)
        set_up_jax()
        for lines in (software(), environment(), cache_line(), [f"VGG-19: {vgg19_state(asked.vgg)}"]):
            for line in lines:
                console.print(line)
        if problem := missing_platform():
            console.print(f"devices: none. {problem}")
            sys.exit(FAILED)
        try:
            for line in hardware():
                console.print(line)
            with console.status("compiling and running a training step, which takes up to a minute"):
                done = training_step()
            console.print(done)
        except Exception as error:  # whatever goes wrong is what the report is about
            console.print(f"training step: failed, {type(error).__name__}: {error}")
            console.print(traceback.format_exc())
            sys.exit(FAILED)


def software() -> Iterator[str]:
    """Yields the versions of crn_jax, Python, the operating system and the packages, a line each."""
    yield f"crn_jax: {version()}"
    yield f"Python: {platform.python_version()} ({sys.executable})"
    yield f"platform: {platform.platform()}"
    for package in PACKAGES:
        yield f"{package}: {installed_version(package) or 'not installed'}"
    for package in ACCELERATOR_PACKAGES:
        if found := installed_version(package):
            yield f"{package}: {found}"


def installed_version(package: str) -> str | None:
    """Returns a package's version, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment() -> Iterator[str]:
    """Yields the environment variables that JAX, XLA and the commands read, a line each."""
    prefixes = ("JAX_", "XLA_", "CRN_JAX_", "CUDA_VISIBLE_DEVICES", "TPU_", "LIBTPU_")
    for name in sorted(os.environ):
        if name.startswith(prefixes):
            yield f"{name}={os.environ[name]}"


def hardware() -> Iterator[str]:
    """Yields memory, processor cores, JAX's backend and its devices, a line each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield f"memory: {memory / 2**30:.1f} GiB, {len(os.sched_getaffinity(0))} processor cores"
    platform_version = jax.extend.backend.get_backend().platform_version
    yield f"backend: {jax.default_backend()} ({' '.join(platform_version.split()) or 'no version'})"
    limits = [(device.device_kind, (device.memory_stats() or {}).get("bytes_limit")) for device in jax.local_devices()]
    for (kind, limit), count in collections.Counter(limits).items():
        yield f"devices: {count} x {kind}" + (f", {limit / 2**30:.1f} GiB each for JAX" if limit else "")


def cache_line() -> Iterator[str]:
    """Yields the folder of compiled programs, and whether it can be written."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder:
        yield "compilation cache: none"
    elif "://" in folder:
        yield f"compilation cache: {folder}"
    else:
        yield f"compilation cache: {folder}, {writable(Path(folder))}"


def writable(folder: Path) -> str:
    """Says whether a folder, or the one that it would be made in, can be written. It tries a file that leaves no trace."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return "writable" if folder == existing else "to be made, writable"
    except OSError as error:
        return f"not writable ({error})"


def vgg19_state(named: str | None) -> str:
    """Says where VGG-19's weights are, and whether the file can be read and is the published one."""
    folder = cache_folder()
    downloaded = folder / PUBLISHED_NAME if folder else None
    origin = "--vgg.weights" if named else ENVIRONMENT_VARIABLE
    try:
        path = find_vgg19(named)
    except UserError as error:
        return f"not usable ({origin}): {error}"
    if path is None:
        if downloaded is None:
            return "not found, and there is no home directory to download them to"
        if not downloaded.is_file():
            return f"not found, and would be downloaded to {downloaded}"
        path, origin = downloaded, "downloaded"
    try:
        load_vgg19(path)
    except UserError as error:
        return f"not usable ({origin}): {error}"
    with open(path, "rb") as file:
        published = f"md5:{hashlib.file_digest(file, 'md5').hexdigest()}" == PUBLISHED_HASH
    return f"{path} ({origin}), read, {'verified: the published file' if published else 'not the published Keras file'}"


def training_step() -> str:
    """Trains a cascade of 16x32 pixels for two steps, and says how long compiling and a step take.

    Raises:
      ValueError: if the loss is not finite.
    """
    config = CascadeConfig(num_classes=3, widths=(8, 8, 8))
    objective = Objective(config, LambdaConfig(), OptimizerConfig(), "average", steps_per_epoch=1)
    height, width = config.size
    layout = np.arange(height * width, dtype=np.uint8).reshape(1, height, width) % 3
    batch = {"layout": layout, "photograph": np.repeat(layout[..., None] * 100, 3, axis=-1)}
    state, frozen, step = init_state(objective, 0), jax.device_put(random_vgg19(0)), make_train_step(objective)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, frozen, batch))
        seconds.append(time.perf_counter() - start)
    loss = float(metrics["loss"])
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return f"training step: {height}x{width}, {seconds[0]:.1f} s with compiling, then {seconds[1]:.3f} s; loss {loss:.1f}"


if __name__ == "__main__":
    main()
