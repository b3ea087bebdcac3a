"""What a training would cost, without allocating or running anything: `launch.train EXPERIMENT --dry_run`.

The compiler tells the memory per device, what kernels move and multiply, and what the devices exchange. The time is predicted.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import rich.table
from jax.sharding import Mesh
from rich.text import Text

from crn_jax.experiment import Experiment
from crn_jax.sharding import MIN_ROWS, abstract_batch, activation_spec, make_mesh, replicated
from crn_jax.train import TrainState, abstract_batch_of, abstract_state, make_train_step
from crn_jax.vgg import abstract_vgg19
from crn_jax.vgg_layers import LAYERS
from launch.common.terminal import console, describe_devices
from launch.cost.flops import step_flops
from launch.cost.hlo import Exchange, collectives, schedule, traffic
from launch.cost.meshes import LEFT_OUT, Costs, costs_of, steps_of, time_table, to_compare
from launch.cost.rates import Rates, rates_of
from launch.cost.topologies import bandwidth, devices_of
from launch.training.failures import is_out_of_memory


def dry_run(experiment: Experiment, topology: str | None) -> None:
    """Compiles the training step, prints what it would cost, and compares the meshes that the training could run on.

    `topology` names the devices to compile for (see `topologies.devices_of`); None means the devices of this machine.

    Raises:
      UserError: if the mesh does not fit the devices, or there is no compiler for them.
    """
    devices = devices_of(topology) if topology else jax.devices()
    mesh = make_mesh(experiment.sharding, experiment.batch_size, experiment.cascade.size[0], devices)
    setting = f"batch {experiment.batch_size}, {experiment.cascade.dtype}, remat {experiment.remat}"
    console.print(Text.assemble((experiment.name, "bold"), f", {setting}, on {describe_devices(mesh)}"))
    console.print(splitting(experiment, mesh))
    with console.status("compiling the step"):
        compiled = lower_step(experiment, mesh).compile()
    console.print(memory_table(experiment, mesh, compiled.memory_analysis()))
    device = mesh.devices.flat[0]
    on_cpu = device.platform == "cpu"
    if on_cpu and jnp.dtype(experiment.cascade.dtype) == jnp.bfloat16:
        console.print("The CPU's compiler widens bfloat16, so its temporaries say nothing about an accelerator.")
    hlo = compiled.as_text() or ""
    console.print(collective_table(collectives(hlo)))
    if rate := bandwidth(device):
        console.print(traffic_table(traffic(schedule(hlo)), rate))
    tera = step_flops(experiment.objective(steps_per_epoch=1000), experiment.batch_size) / 1e12
    one_by_one = experiment.cascade.num_images > 1 and experiment.remat != "none"
    if one_by_one:
        console.print("VGG-19 takes one image after the other. Its exchanges are shown for one image.")
    counted = compiled.cost_analysis()  # none from a GPU's compiler without a GPU
    # The compiler counts the body of a loop once; the loop may go over images, or be a CPU's convolution.
    if one_by_one or (mesh.size == 1 and on_cpu) or not counted:
        console.print(f"{tera:.3g} TFLOP a step")
    else:
        counted = counted["flops"] / 1e12
        console.print(
            f"{tera:.3g} TFLOP a step. The compiler counts {counted:.3g} on each device, with what is computed twice."
        )
    if rates := rates_of(device):
        print_times(experiment, mesh, devices, compiled, rates)
    else:
        console.print(f"No time is predicted for {device.device_kind}. Name other devices, for instance --topology h100:8.")


def print_times(
    experiment: Experiment, mesh: Mesh, devices: Sequence[jax.Device], compiled: jax.stages.Compiled, rates: Rates
) -> None:
    """Prints a table of the predicted times on `mesh`, for which the step is compiled, and on the meshes beside it."""

    def of(mesh: Mesh, batch_size: int, compiled: jax.stages.Compiled) -> Costs:
        return costs_of(mesh, batch_size, compiled.as_text() or "", total_bytes(compiled.memory_analysis()), rates)

    costs = [of(mesh, experiment.batch_size, compiled)]
    others = to_compare(experiment, mesh, devices)
    for number, (other, its_devices) in enumerate(others):
        its_mesh = make_mesh(other.sharding, other.batch_size, other.cascade.size[0], its_devices)
        shape = " x ".join(map(str, its_mesh.devices.shape))
        try:
            with console.status(f"compiling the step for {shape} (mesh {number + 1} of {len(others)})"):
                costs.append(of(its_mesh, other.batch_size, lower_step(other, its_mesh).compile()))
        except jax.errors.JaxRuntimeError as error:  # a compiler may refuse what does not fit
            if not is_out_of_memory(error):
                raise
            console.print(f"On the mesh {shape}, the step needs more memory than a device has.")
    costs.sort(key=lambda each: (each.devices, each.spatial))
    steps, why = steps_of(experiment)
    console.print(time_table(costs, rates, steps * experiment.batch_size))
    console.print(f"Hours are those of {steps:,} steps, {why}." if steps else f"Hours are not known: {why}.")
    console.print(
        f"Times are predicted from operations, bytes, exchanges and published rates ({rates.source}). What kernels reach "
        f"of these rates was fitted to one step on one H200. No exchange was measured. Left out: {LEFT_OUT}."
    )


def lower_step(experiment: Experiment, mesh: Mesh) -> jax.stages.Lowered:
    """Returns the training step on a mesh, ready to be compiled."""
    objective = experiment.objective(steps_per_epoch=1000)  # the program is the same for any number
    abstract = abstract_state(objective, mesh, experiment.sharding.shard_state)
    batch = abstract_batch_of(objective, experiment.batch_size)
    with jax.set_mesh(mesh):
        step: Any = make_train_step(objective, abstract)
        return step.lower(abstract, replicated(mesh, abstract_vgg19()), abstract_batch(mesh, batch))


def splitting(experiment: Experiment, mesh: Mesh) -> rich.table.Table:
    """Returns a table of how the activations of each level are sharded over the mesh."""
    config, batch = experiment.cascade, experiment.batch_size
    table = rich.table.Table("", "size", "maps", "examples a device", "rows a device", box=None, header_style="dim")

    def add(name: str, examples: int, height: int, width: int, maps: int, min_rows: int) -> None:
        spec = activation_spec(mesh, (examples, height), min_rows)
        each = [n // (mesh.shape[axis] if axis else 1) for n, axis in zip((examples, height), spec)]
        whole = mesh.shape[activation_spec(mesh, (mesh.size, mesh.size))[1]] > 1 and spec[1] is None
        table.add_row(name, f"{height}x{width}", str(maps), str(each[0]), f"{each[1]}{' (all)' if whole else ''}")

    for i, maps in enumerate(config.widths):
        add(f"module {i}", batch, config.base[0] << i, config.base[1] << i, maps, MIN_ROWS)
    for block in range(1, 6):
        height, width = (math.ceil(n / 2 ** (block - 1)) for n in config.size)
        add(
            f"VGG-19 block {block}",
            batch * (config.num_images if experiment.remat == "none" else 1),
            height,
            width,
            LAYERS[f"conv{block}_1"][1],
            1,
        )
    return table


def memory_table(experiment: Experiment, mesh: Mesh, analysis: Any) -> rich.table.Table:
    """Returns a table of the memory on each device: the step's arguments by kind, and its temporaries.

    `analysis` is what `Compiled.memory_analysis` returns.
    """
    state = abstract_state(experiment.objective(1000), mesh, experiment.sharding.shard_state)
    table = rich.table.Table("memory per device", "GB", box=None, header_style="dim")
    trees = {"parameters": state.params, "Adam's moments": state.opt_state, "moving average": state.ema}
    for name, tree in {**trees, "VGG-19": replicated(mesh, abstract_vgg19())}.items():
        if tree is not None:
            table.add_row(name, f"{bytes_per_device(tree) / 1e9:.2f}")
    table.add_row("arguments, in all", f"{analysis.argument_size_in_bytes / 1e9:.2f}")
    table.add_row("temporaries", f"{analysis.temp_size_in_bytes / 1e9:.2f}")
    table.add_row("total", f"{total_bytes(analysis) / 1e9:.2f}", style="bold")
    return table


def bytes_per_device(tree: TrainState | dict) -> int:
    """Returns the bytes that a tree of `ShapeDtypeStruct`s with shardings takes on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def total_bytes(analysis: Any) -> int:
    """Returns the peak bytes of a compiled step: arguments, temporaries, and results that are not written over arguments."""
    return (
        analysis.argument_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def traffic_table(found: dict[str, tuple[int, int]], rate: int) -> rich.table.Table:
    """Returns a table of kernels, the bytes that they move, and the time that this takes.

    `found` is what `traffic` returns, and `rate` is the device's bandwidth in bytes a second.
    """
    table = rich.table.Table("kernels", "number", "GB moved", f"ms at {rate / 1e12:.3g} TB/s", box=None, header_style="dim")
    for kind, (number, moved) in sorted(found.items()):
        table.add_row(kind, str(number), f"{moved / 1e9:.2f}", f"{moved / rate * 1e3:.2f}")
    return table


def collective_table(found: list[Exchange]) -> rich.table.Table:
    """Returns a table of the number and size of the exchanges of each kind."""
    table = rich.table.Table("exchanged per step", "number", "MB", "largest", box=None, header_style="dim")
    for kind in sorted({collective.kind for collective in found}):
        these = [collective for collective in found if collective.kind == kind]
        largest = max(these, key=lambda collective: collective.size)
        dtype, shape = max(largest.arrays, key=lambda array: math.prod(array[1]))
        more = f" and {len(largest.arrays) - 1} more" if len(largest.arrays) > 1 else ""
        size = sum(collective.size for collective in these) / 1e6
        table.add_row(kind, str(len(these)), f"{size:.1f}", f"{dtype}{list(shape)}{more}, {largest.size / 1e6:.2f} MB")
    if not found:
        table.add_row("nothing", "", "", "")
    return table
