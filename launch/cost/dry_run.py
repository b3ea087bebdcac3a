"""What a training step would cost, without allocating or running anything: `launch.train EXPERIMENT --dry_run`.

The compiler tells the memory per device and what the devices exchange.
"""

import math
import re
from typing import Any, NamedTuple

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
from launch.cost.topologies import bandwidth, devices_of
from launch.cost.traffic import ITEMSIZE, traffic


def dry_run(experiment: Experiment, topology: str | None) -> None:
    """Compiles the training step and prints what it would cost.

    `topology` names the devices to compile for (see `topologies.devices_of`); None means the devices of this machine.

    Raises:
      UserError: if the mesh does not fit the devices, or there is no compiler for them.
    """
    devices = devices_of(topology) if topology else None
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
        console.print(traffic_table(traffic(hlo), rate))
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


class Collective(NamedTuple):
    """One exchange between the devices."""

    kind: str
    arrays: list[tuple[str, tuple[int, ...]]]  # (dtype, shape) of what a device receives
    size: int  # bytes of those arrays


_KINDS = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"


def collectives(hlo: str) -> list[Collective]:
    """Returns the exchanges in the HLO text of a compiled program, each once."""
    found: dict[str, Collective] = {}
    for line in hlo.splitlines():
        if not (match := re.search(rf"%?([\w.-]+) = (.*?) ({_KINDS})(-start)?\(", line)):
            continue
        name, result, kind, started = match.groups()
        arrays = [
            (dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        ]
        if started and kind != "all-reduce":  # the result lists operands, results, and the backend's scalars
            arrays = [array for array in arrays if array[1]]
            arrays = arrays[len(arrays) // 2 :]
        size = sum(math.prod(shape) * ITEMSIZE[dtype] for dtype, shape in arrays)
        # A program may repeat the text of one exchange, which its channel tells. Channel 1 tells nothing, because all exchanges
        # of JAX's own functions (`jax.lax.ppermute`) have it.
        channel = re.search(r"channel_id=(?!1\b)(\d+)", line)
        found[f"{kind} {channel.group(1) if channel else name}"] = Collective(kind, arrays, size)
    return list(found.values())


def collective_table(found: list[Collective]) -> rich.table.Table:
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
