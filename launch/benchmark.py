"""Measures speed and memory on this machine: `python -m launch.benchmark EXPERIMENT [EXPERIMENT ...]`.

Each case runs in its own process, on one device or on a mesh of this machine's devices. Weights, layouts and photographs are
random, because their values do not change the time.
"""

import concurrent.futures.process
import dataclasses
import functools
import importlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import grain
import jax
import numpy as np
import rich.table
import tyro
from jax.sharding import Mesh
from PIL import Image

from crn_jax.data.cache import cached
from crn_jax.data.pipeline import training_batches, validation_batches
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.data.streets import render_street
from crn_jax.errors import UserError
from crn_jax.experiment import Experiment
from crn_jax.files import replace_text
from crn_jax.objective import Objective
from crn_jax.settings import Remat, ShardingConfig
from crn_jax.sharding import make_mesh, put, put_batch
from crn_jax.synthesize import synthesize
from crn_jax.train import abstract_state, init_state, make_train_step
from crn_jax.vgg_weights import random_vgg19
from launch.common.catalogue import experiments, take_configs
from launch.common.command_line import experiment_of_kind
from launch.common.exit_status import FAILED
from launch.common.jax_setup import collect_garbage_rarely, compile_fewer_kernels, set_up_jax, use_cache
from launch.common.names import command_line
from launch.common.options import read_options
from launch.common.profiler import Profiler
from launch.common.terminal import command, console, show_error
from launch.cost.dry_run import lower_step, total_bytes
from launch.cost.flops import forward_flops, step_flops
from launch.evaluation.score_tables import number


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measures synthesis and the training step for every combination of the given settings, and how fast input is read."""

    experiments: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names of experiments, as launch.train lists them. Options that are not given take the experiment's value."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ()
    """Dtypes of the convolutions."""
    remats: tuple[Remat, ...] = ()
    """What the backward pass computes again: none, images, conv, full."""
    num_images: tuple[int, ...] = ()
    """Numbers of images k per layout."""
    batch_sizes: tuple[int, ...] = ()
    """Numbers of layouts per step."""
    meshes: tuple[tuple[int, int], ...] = ((1, 1),)
    """Numbers of devices along data and spatial, one pair after the other: 1 1 8 1 2 4 means three meshes."""
    widths: tuple[int, ...] = ()
    """Numbers of feature maps d_i of the modules. How many modules there are sets the resolution."""
    steps: int = 5
    """Number of measurements, after one to warm up. On accelerators, each is the mean of ten steps in a row."""
    against: str | None = None
    """A module whose make_train_step(objective) is measured in turns with this one, such as tests.plain, the plain step."""
    compile_only: bool = False
    """Run nothing. Count operations, and let the compiler tell the memory."""
    input: bool = False
    """Also measure how fast examples of each size are read from 1024x2048 PNGs, from PNGs of that size, and from a cache."""
    profile: str | None = None
    """FIRST:LAST, such as 2:3: a profile of these measurements of each case, for xprof, TensorBoard and Perfetto, in a folder
    in profiles/. Recording takes time, which is measured, too."""
    json: Path | None = None
    """JSON file for the results."""
    configs: Path | None = None
    """A file of experiments of your own. Default: $CRN_JAX_CONFIGS."""


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, measures case by case, and prints a table."""
    with command():
        given = sys.argv[1:] if arguments is None else arguments
        asked: Arguments = read_options(Arguments, "benchmark", take_configs(given))
        if asked.compile_only:
            compile_fewer_kernels()
        set_up_jax()
        report: dict[str, Any] = {"command": command_line("benchmark", *given)}
        report |= {"machine": describe_machine(), "cases": [], "input": []}
        for case in cases_of(asked):
            setting = identity(case)
            with console.status(" ".join(str(setting[key]) for key in ("name", "dtype", "remat", "k", "batch", "mesh"))):
                try:
                    measured = analyse(case) if asked.compile_only else measure(case, asked)
                except (UserError, jax.errors.JaxRuntimeError, concurrent.futures.process.BrokenProcessPool) as error:
                    measured = {"error": str(error)}  # mostly for want of memory; other cases may fit
                    show_error(f"{setting}: {error}")
            report["cases"].append(setting | measured)
            save(asked, report)
        for size in sorted({case.cascade.size for case in cases_of(asked)}) if asked.input else ():
            report["input"].append(in_own_process(input_rates, size))
            save(asked, report)
        console.print(table_of(report["cases"]))
        if report["input"]:
            console.print(input_table(report["input"]))
        if all("error" in case for case in report["cases"]):
            sys.exit(FAILED)


def save(asked: Arguments, report: dict[str, Any]) -> None:
    """Writes what is measured so far to the file that `--json` names, if any."""
    if asked.json:
        replace_text(asked.json, json.dumps(report, indent=1))


def cases_of(asked: Arguments) -> list[Experiment]:
    """Returns every combination of the given settings.

    Raises:
      UserError: if no experiment is named, one is not known, or options do not fit each other.
    """
    if not asked.experiments:
        raise UserError(f"Name at least one experiment of: {', '.join(experiments())}.")
    if asked.steps < 1:
        raise UserError(f"--steps must be at least 1, got {asked.steps}.")
    if asked.json and (asked.json.is_dir() or not asked.json.parent.is_dir()):
        raise UserError(f"--json {asked.json}: no file can be written there. Name a file in a folder that exists.")
    if asked.profile and asked.compile_only:
        raise UserError("--profile records what is run, and --compile_only runs nothing. Leave out one of them.")
    if asked.against and set(asked.meshes) != {(1, 1)}:
        raise UserError(f"--against {asked.against} is measured on one device; leave out --meshes.")
    if asked.against:
        try:
            importlib.import_module(asked.against).make_train_step  # noqa: B018
        except (ImportError, AttributeError) as error:
            raise UserError(f"--against {asked.against}: {error}. Name a module with a function make_train_step.") from error
    try:
        return list(combinations(asked))
    except ValueError as error:  # of a config
        raise UserError(str(error)) from error


def combinations(asked: Arguments) -> Iterator[Experiment]:
    """Yields every combination of the given settings. A ValueError of a config says what cannot be."""
    for experiment in (experiment_of_kind(name, Experiment) for name in asked.experiments):
        cascade = dataclasses.replace(experiment.cascade, widths=asked.widths or experiment.cascade.widths)
        axes = itertools.product(
            asked.num_images or (cascade.num_images,),
            asked.batch_sizes or (experiment.batch_size,),
            asked.dtypes or (cascade.dtype,),
            asked.remats or (experiment.remat,),
            map(ShardingConfig, asked.meshes),
        )
        for num_images, batch_size, dtype, remat, sharding in axes:
            model = dataclasses.replace(cascade, num_images=num_images, dtype=dtype)
            case = dataclasses.replace(experiment, cascade=model, batch_size=batch_size, remat=remat, sharding=sharding)
            profiler_of(case, asked.profile)  # a wrong range is told at once
            yield case


def describe_machine() -> dict[str, Any]:
    """Returns the processor and versions, which the figures depend on."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def _lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8", errors="replace").splitlines() if Path(path).exists() else []


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """Calls a function in a fresh process, so that its peak of memory is its own. Returns what the function returns."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        # Ctrl-C reaches the new process, too, unless it inherits that the signal is blocked. This process ends it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        future = pool.submit(function, *arguments)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            return future.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def measure(case: Experiment, asked: Arguments) -> dict[str, Any]:
    """Measures the time to the first step with an empty and a filled compilation cache, and all that `measure_steps` does.

    On CPUs, a process of its own measures synthesis, because trainings are compiled with other flags.
    """
    with tempfile.TemporaryDirectory() as cache:
        began = time.time()
        cold = in_own_process(first_step, case, cache) - began
        began = time.time()
        result = in_own_process(measure_steps, case, cache, asked.steps, asked.against, asked.profile)
        warm = result.pop("first_step_at") - began
        if result["device"] == "cpu":
            result = in_own_process(measure_synthesis, case, asked.steps) | result
    return {**result, "first_step_cold_s": cold, "first_step_warm_s": warm}


def identity(case: Experiment) -> dict[str, Any]:
    """Returns the settings of a case, and its floating-point operations."""
    height, width = case.cascade.size
    fields = {
        "height": height,
        "width": width,
        "widths": case.cascade.widths,
        "k": case.cascade.num_images,
        "batch": case.batch_size,
        "mesh": case.sharding.mesh,
    }
    counts = {
        "forward_flops": forward_flops(case.cascade, case.batch_size),
        "step_flops": step_flops(objective_of(case), case.batch_size),
    }
    return {"name": case.name, "dtype": case.cascade.dtype, "remat": case.remat, **fields, **counts}


def analyse(case: Experiment) -> dict[str, Any]:
    """Returns what the compiler tells about a case, without allocating anything."""
    return {"mesh": mesh_of(case).devices.shape, **memory_of(lower_step(case, mesh_of(case)).compile())}


def mesh_of(case: Experiment) -> Mesh:
    """Returns the mesh that a case runs on."""
    return make_mesh(case.sharding, case.batch_size, case.cascade.size[0])


def objective_of(case: Experiment) -> Objective:
    """Returns the static part of a case's step; the length of the epoch does not matter."""
    return case.objective(steps_per_epoch=1000)


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes that the compiler says a step needs."""
    analysis: Any = compiled.memory_analysis()
    return {
        "argument_bytes": analysis.argument_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
        "total_bytes": total_bytes(analysis),
    }


def random_batch(case: Experiment) -> dict[str, np.ndarray]:
    """Returns a batch of layouts and photographs of noise."""
    shape, rng = (case.batch_size, *case.cascade.size), np.random.default_rng(0)
    dtype = np.uint8 if case.cascade.num_classes <= 256 else np.uint16
    batch = {
        "layout": rng.integers(0, case.cascade.num_classes, shape, dtype),
        "photograph": rng.integers(0, 256, (*shape, 3), np.uint8),
    }
    return batch | ({"instances": rng.integers(0, 1 << 16, shape, np.uint16)} if case.cascade.boundaries else {})


def prepare(case: Experiment, cache: str) -> tuple:
    """Returns a case's compiled step, and its arguments. It is called in the case's own process."""
    compile_fewer_kernels()
    collect_garbage_rarely()
    use_cache(cache)
    mesh, objective = mesh_of(case), objective_of(case)
    abstract = abstract_state(objective, mesh)
    state, vgg_params = init_state(objective, 0, abstract), put(mesh, random_vgg19(0))
    batch = put_batch(mesh, case.batch_size, random_batch(case))
    with jax.set_mesh(mesh):
        step: Any = make_train_step(objective, abstract)
        return step.lower(state, vgg_params, batch).compile(), state, vgg_params, batch


def first_step(case: Experiment, cache: str) -> float:
    """Returns the time at which a fresh process has done its first step, in seconds since 1970."""
    step, *arguments = prepare(case, cache)
    jax.block_until_ready(step(*arguments))
    return time.time()


def measure_steps(case: Experiment, cache: str, count: int, against: str | None, profile: str | None = None) -> dict[str, Any]:
    """Measures the time of the step, the reference's step, a matrix product and, on accelerators, synthesis, in turns.

    On accelerators it runs ten of each in a row, so that the host starts one while the device computes the one before, as in a
    training.
    """
    step, state, vgg_params, batch = prepare(case, cache)
    state, _ = jax.block_until_ready(step(state, vgg_params, batch))
    result = {
        "first_step_at": time.time(),
        "device": jax.devices()[0].device_kind,
        "mesh": mesh_of(case).devices.shape,  # without the -1 that may be asked for
        **memory_of(step),
        "peak_bytes": peak_bytes(),
    }

    steps, states = {"step": step}, {"step": state}
    if against:
        reference = importlib.import_module(against).make_train_step(objective_of(case))
        state = init_state(objective_of(case), 0)
        steps["reference"], states["reference"] = reference.lower(state, vgg_params, batch).compile(), state

    def next_step(name: str) -> dict:
        states[name], metrics = steps[name](states[name], vgg_params, batch)
        return metrics

    measured: dict[str, Callable[[], Any]] = {name: functools.partial(next_step, name) for name in steps}
    if jax.default_backend() != "cpu":
        params = put(mesh_of(case), jax.tree.map(np.asarray, state.params))
        measured["forward"] = forward_of(case, params, batch)
    return result | times_of(case, measured, count, profile)


def measure_synthesis(case: Experiment, count: int) -> dict[str, Any]:
    """Measures the time of synthesis in turns with a matrix product."""
    params = init_state(objective_of(case), 0, abstract_state(objective_of(case), mesh_of(case))).params
    batch = put_batch(mesh_of(case), case.batch_size, random_batch(case))
    return times_of(case, {"forward": forward_of(case, params, batch)}, count)


def forward_of(case: Experiment, params: dict, batch: dict[str, jax.Array]) -> Callable[[], jax.Array]:
    """Returns a function that synthesizes a batch."""
    return lambda: synthesize(case.cascade, params, batch["layout"], batch.get("instances"))


def times_of(
    case: Experiment, measured: dict[str, Callable[[], Any]], count: int, profile: str | None = None
) -> dict[str, Any]:
    """Returns the times of functions, which run in turns with a matrix product, and their shares of its rate."""
    side, in_a_row = (2048, 1) if jax.default_backend() == "cpu" else (8192, 10)
    matrix = jax.random.normal(jax.random.key(0), (side, side), case.cascade.dtype)
    product = jax.jit(lambda a: a @ a)
    runs = {"product": lambda: [product(matrix) for _ in range(3)], **measured}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with profiler_of(case, profile) as profiler, jax.set_mesh(mesh_of(case)):
        for number in range(count + 1):
            with profiler.step(number):
                for name, run in runs.items():
                    began = time.perf_counter()
                    for _ in range(in_a_row):
                        done = run()
                    jax.block_until_ready(done)
                    seconds[name].append((time.perf_counter() - began) / in_a_row)
    result: dict[str, Any] = {}
    for name, values in seconds.items():
        values = values[1:]  # the first was to warm up
        result[f"{name}_s"] = {"median": float(np.median(values)), "least": min(values), "most": max(values)}
    result["matrix_flops_per_s"] = 3 * 2 * side**3 / result.pop("product_s")["median"]
    flops = identity(case)
    for part in measured.keys() & {"forward", "step"}:
        rate = flops[f"{part}_flops"] / result[f"{part}_s"]["median"] / mesh_of(case).size  # per device
        result[f"{part}_of_matrix_rate"] = rate / result["matrix_flops_per_s"]
    return result


def profiler_of(case: Experiment, profile: str | None) -> Profiler:
    """Returns the recorder of a case's measurements.

    Raises:
      UserError: if `profile` is no range of measurements.
    """
    shape, mesh = case.cascade, "x".join(map(str, case.sharding.mesh))
    name = f"{case.name}_{shape.size[0]}x{shape.size[1]}_{shape.dtype}_{case.remat}_k{shape.num_images}"
    return Profiler(profile, Path("profiles") / f"{name}_batch{case.batch_size}_mesh{mesh}", "measurements")


def peak_bytes() -> int:
    """Returns the peak of the device's memory by its own counter; for CPUs, the largest resident size of this process."""
    counted = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return counted or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def input_rates(size: tuple[int, int], stored: tuple[int, int] = (1024, 2048), count: int = 256) -> dict[str, Any]:
    """Measures how many examples of `size` are read in a second, from three sources in turns.

    They are PNGs of size `stored` that have to be shrunk (`large`), PNGs of `size` (`png`), and a `cache`. Examples are read
    one at a time (`example`) and as in a training, shuffled by Grain in one or two threads (`stream_1`, `stream_2`). `count` is
    the number of examples of a small data set. Fewer would stay in the processor's cache, and an epoch costs Grain 20 ms.
    """
    with tempfile.TemporaryDirectory() as folder:
        roots = {"large": Path(folder, "large"), "png": Path(folder, "png")}
        size_on_disk = write_streets(roots["large"], stored, count)
        write_streets(roots["png"], size, count)
        sources = {
            name: open_source(DataConfig("cityscapes", str(root), fit="stretch"), "train", size) for name, root in roots.items()
        }
        sources["cache"] = cached(sources["png"], Path(folder, "cache"))
        rates: dict[str, dict[str, list[float]]] = {name: {"example": [], "stream_1": [], "stream_2": []} for name in sources}
        for _ in range(3):
            for (name, source), number in zip(sources.items(), (8, 32, 400)):
                indices = [i % count for i in range(2 * number)]
                rates[name]["example"].append(rate(validation_batches(source, 1, indices), number))
                for threads in (1, 2):
                    batches = training_batches(source, 1, seed=0, threads=threads)
                    rates[name][f"stream_{threads}"].append(rate(batches, number))
    medians = {name: {way: float(np.median(values)) for way, values in ways.items()} for name, ways in rates.items()}
    return {"height": size[0], "width": size[1], "photograph_bytes": size_on_disk, **medians}


def write_streets(folder: Path, size: tuple[int, int], count: int, drawn: int = 4) -> float:
    """Writes streets into folders like those of Cityscapes. Returns the mean size of a photograph's file in bytes.

    `drawn` streets differ, and the others are links to them. Noise makes the files as large as Cityscapes' photographs, 2.3 MB.
    """
    rng = np.random.default_rng(0)
    photographs, layouts = (folder / part / "train" / "x" for part in ("leftImg8bit", "gtFine"))
    photographs.mkdir(parents=True)
    layouts.mkdir(parents=True)
    for i in range(count):
        files = photographs / f"x_{i}_0_leftImg8bit.png", layouts / f"x_{i}_0_gtFine_labelIds.png"
        if i < drawn:
            street = render_street(i, size)
            noisy = street.photograph + rng.normal(0, 3, street.photograph.shape)
            images = noisy.clip(0, 255).astype(np.uint8), street.layout
            for image, file in zip(images, files):
                Image.fromarray(image).save(file)
        else:
            for file in files:
                file.symlink_to(file.name.replace(f"x_{i}_", f"x_{i % drawn}_"))
    return sum(file.stat().st_size for file in photographs.iterdir()) / count


def rate(items: Generator | grain.DatasetIterator, number: int) -> float:
    """Returns items a second over `number` items. As many are taken before, because they may have been read ahead."""
    for _ in range(number):
        next(items)
    began = time.perf_counter()
    for _ in range(number):
        next(items)
    seconds = time.perf_counter() - began
    items.close()  # or it would go on reading ahead during the next measurement
    return number / seconds


def input_table(lines: list[dict[str, Any]]) -> rich.table.Table:
    """Returns a table of how fast input of each size is read, and how much faster a cache is than large PNGs and than PNGs."""
    columns = "large PNGs", "PNGs", "cache", "times as fast"
    table = rich.table.Table("examples a second", *columns, box=None, header_style="dim")
    ways = {"example": "one at a time", "stream_1": "Grain, 1 thread", "stream_2": "Grain, 2 threads"}
    for line in lines:
        for way, words in ways.items():
            large, png, cache = (line[source][way] for source in ("large", "png", "cache"))
            what, ratios = f"{line['height']}x{line['width']}, {words}", f"{cache / large:,.0f} and {cache / png:,.0f}"
            table.add_row(what, f"{large:.1f}", f"{png:.0f}", f"{cache:,.0f}", ratios)
    return table


def table_of(cases: list[dict[str, Any]]) -> rich.table.Table:
    """Returns a table with one column for each case. Lines that no case has measured are left out."""
    lines: dict[str, Callable[[dict], str]] = {
        "images": lambda c: f"{c['height']}x{c['width']}, k = {c['k']}, batch {c['batch']}",
        "data x spatial": lambda c: "" if c["mesh"] == (1, 1) else f"{c['mesh'][0]} x {c['mesh'][1]}",
        "feature maps": lambda c: " ".join(map(str, c["widths"])),
        "dtype, remat": lambda c: f"{c['dtype']}, {c['remat']}",
        "TFLOP a step": lambda c: f"{c['step_flops'] / 1e12:.3g}",
        "GB, by the compiler": lambda c: f"{c['total_bytes'] / 1e9:.2f}",
        "GB, at the peak": lambda c: f"{c['peak_bytes'] / 1e9:.2f}",
        "synthesis, s": lambda c: _spread(c["forward_s"]),
        "step, s": lambda c: _spread(c["step_s"]),
        "images a second": lambda c: number(c["batch"] / c["step_s"]["median"], 3),
        "reference's step, s": lambda c: _spread(c["reference_s"]),
        "matrix product, TFLOP/s": lambda c: f"{c['matrix_flops_per_s'] / 1e12:.3g}",
        "synthesis, of that rate": lambda c: f"{c['forward_of_matrix_rate']:.0%}",
        "step, of that rate": lambda c: f"{c['step_of_matrix_rate']:.0%}",
        "first step, s, cold": lambda c: f"{c['first_step_cold_s']:.1f}",
        "first step, s, compiled before": lambda c: f"{c['first_step_warm_s']:.1f}",
    }
    table = rich.table.Table("", *(case["name"] for case in cases), box=None, header_style="dim")
    for title, cell in lines.items():
        cells = [_cell(cell, case) for case in cases]
        if any(cells):
            table.add_row(title, *cells)
    return table


def _cell(cell: Callable[[dict], str], case: dict[str, Any]) -> str:
    try:
        return cell(case)
    except KeyError:
        return ""


def _spread(seconds: dict[str, float]) -> str:
    median, least, most = (f"{seconds[key]:.3g}" for key in ("median", "least", "most"))
    return f"{median} ({least}-{most})"


if __name__ == "__main__":
    main()
