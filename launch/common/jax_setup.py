"""How a command sets JAX up: what it and Orbax log, and where compiled programs are kept for the next start."""

import gc
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
import warnings
from pathlib import Path

import absl.logging
import jax

from crn_jax.buckets import BucketFolder, is_bucket
from crn_jax.files import cache_folder, expanded
from launch.common.processes import several_processes
from launch.common.terminal import console


def set_up_jax() -> None:
    """Sets up JAX and Orbax. A command calls it when it has read its options."""
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each failure many times before it raises it
    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("xla_bridge", "distributed"):  # they also tell of a GPU that is not used
        logging.getLogger(f"jax._src.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="orbax")
    collect_garbage_rarely()
    keep_compiled()


def collect_garbage_rarely() -> None:
    """Makes Python look for garbage rarely: what is imported stays, and tracing makes few objects that are garbage."""
    if not gc.get_freeze_count():
        gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def compile_fewer_kernels() -> None:
    """Lets XLA for CPUs write several arrays in one kernel: a training step compiles in two thirds of the time.

    A command calls this before JAX starts, and only to train: a step takes the same time, but synthesis a fifth longer
    (docs/performance_log.md). `jax.jit` has no such option. Nothing changes if this process is asked for several devices, whose
    gradients would be summed one by one, or if XLA_FLAGS has extra options already.
    """
    flags, devices = os.environ.get("XLA_FLAGS", ""), os.environ.get("JAX_NUM_CPU_DEVICES") or "1"
    several = devices != "1" or "xla_force_host_platform_device_count" in flags
    if _on_cpus_alone() and not several and "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true".strip()


def _on_cpus_alone() -> bool:
    """Returns whether JAX will find no accelerator, as far as this can be told before it starts."""
    if asked := os.environ.get("JAX_PLATFORMS"):
        return asked == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None


def use_cache(folder: str | None) -> None:
    """Makes JAX keep compiled programs in a folder, or nowhere. By default it leaves out those that compile within a second."""
    jax.config.update("jax_compilation_cache_dir", folder)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_compiled() -> None:
    """Makes JAX keep what it compiles, where JAX_COMPILATION_CACHE_DIR says or in the home directory.

    Where nothing can be kept, it says so, and the command goes on. What others have compiled there is used in any case.
    """
    downloads = cache_folder()
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or (str(downloads / "xla") if downloads else None)
    problem = "there is no home directory"
    if folder and "://" not in folder:
        problem = unwritable(Path(folder := expanded(folder)))
    elif folder:
        problem = ""
    usable = folder if not problem or (folder and os.path.isdir(folder)) else None
    use_cache(usable)
    if problem:
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
        console.print(
            f"What is compiled is not kept for the next time: {problem}. JAX_COMPILATION_CACHE_DIR can name another folder.",
            style="dim",
        )


def unwritable(folder: Path) -> str:
    """Returns the reason why no file can be written in a folder, which is made if it is missing; an empty text if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return ""


def keep_compiled_in(folder: str) -> None:
    """Makes several processes keep what they compile in a run's folder, unless JAX_COMPILATION_CACHE_DIR says where.

    Only the first process writes to the cache. If the processes had different caches, one of them could compile a program
    alone, and on GPUs it would then wait for hours for the first to tell it the fastest kernels.
    """
    if several_processes() and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        place = BucketFolder(folder).address if is_bucket(folder) else folder
        jax.config.update("jax_compilation_cache_dir", f"{place}/compiled")
