"""What a training step would take, without allocating or running anything: `launch.train EXPERIMENT --dry_run`.

The compiler tells: memory per device, and what the devices exchange.
"""

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import rich.table
from jax.sharding import Mesh

from crn_jax.experiment import Experiment
from crn_jax.sharding import MIN_ROWS, abstract_batch, activation_spec, make_mesh, replicated
from crn_jax.train import TrainState, abstract_state, make_train_step
from crn_jax.vgg import LAYERS, abstract_vgg19
from launch.common.terminal import console, describe_devices
from launch.cost.flops import step_flops
from launch.cost.topologies import bandwidth, devices_of
from launch.cost.traffic import ITEMSIZE, traffic


def dry_run(experiment: Experiment, topology: str | None) -> None:
    """Compiles the step for this machine's devices, or for others (`topologies.devices_of`), and prints what it would take."""
    devices = devices_of(topology) if topology else None
    mesh = make_mesh(experiment.sharding, experiment.batch_size, experiment.cascade.size[0], devices)
    setting = f"batch {experiment.batch_size}, {experiment.cascade.dtype}, remat {experiment.remat}"
    console.print(f"[bold]{experiment.name}[/], {setting}, on {describe_devices(mesh)}")
    console.print(splitting(experiment, mesh))
    with console.status("compiling the step"):
        compiled = lower_step(experiment, mesh).compile()
    console.print(memory_table(experiment, mesh, compiled.memory_analysis()))
    device = mesh.devices.flat[0]
    on_cpu = device.platform == "cpu"
    if on_cpu and jnp.dtype(experiment.cascade.dtype) == jnp.bfloat16:
        console.print("The CPU's compiler widens bfloat16: its temporaries say nothing about an accelerator.")
    console.print(collective_table(collectives(compiled.as_text())))
    if rate := bandwidth(device):
        console.print(traffic_table(traffic(compiled.as_text()), rate))
    tera = step_flops(experiment.objective(steps_per_epoch=1000), experiment.batch_size) / 1e12
    one_by_one = experiment.cascade.num_images > 1 and experiment.remat != "none"
    if one_by_one:
        console.print("(VGG-19's exchanges are those of one image; it takes them one after the other.)")
    counted = compiled.cost_analysis()  # none from a GPU's compiler without a GPU
    # The compiler counts a loop once: over images, or a CPU's convolution.
    if one_by_one or (mesh.size == 1 and on_cpu) or not counted:
        console.print(f"{tera:.3g} TFLOP a step")
    else:
        counted = counted["flops"] / 1e12
        console.print(
            f"{tera:.3g} TFLOP a step; by the compiler's count each device does {counted:.3g}, all that is done twice included"
        )


def lower_step(experiment: Experiment, mesh: Mesh) -> jax.stages.Lowered:
    """The training step, ready to be compiled."""
    config, batch_size = experiment.cascade, experiment.batch_size
    objective = experiment.objective(steps_per_epoch=1000)  # any number: it does not change the program's size
    abstract = abstract_state(objective, mesh, experiment.sharding.shard_state)
    batch = {
        "layout": jax.ShapeDtypeStruct((batch_size, *config.size), jnp.uint8),
        "photograph": jax.ShapeDtypeStruct((batch_size, *config.size, 3), jnp.uint8),
    }
    with jax.set_mesh(mesh):
        step = make_train_step(objective, abstract)
        return step.lower(abstract, replicated(mesh, abstract_vgg19()), abstract_batch(mesh, batch))


def splitting(experiment: Experiment, mesh: Mesh) -> rich.table.Table:
    """How each level's activations lie on the mesh."""
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


def memory_table(experiment: Experiment, mesh: Mesh, analysis) -> rich.table.Table:
    """Bytes on each device: what the step is given, by kind, and what it needs besides."""
    state = abstract_state(experiment.objective(1000), mesh, experiment.sharding.shard_state)
    table = rich.table.Table("memory per device", "GB", box=None, header_style="dim")
    trees = {"parameters": state.params, "Adam's moments": state.opt_state, "moving average": state.ema}
    for name, tree in {**trees, "VGG-19": replicated(mesh, abstract_vgg19())}.items():
        if tree is not None:
            table.add_row(name, f"{bytes_per_device(tree) / 1e9:.2f}")
    table.add_row("arguments, in all", f"{analysis.argument_size_in_bytes / 1e9:.2f}")
    table.add_row("temporaries", f"{analysis.temp_size_in_bytes / 1e9:.2f}")
    table.add_row("[bold]total[/]", f"[bold]{total_bytes(analysis) / 1e9:.2f}[/]")
    return table


def bytes_per_device(tree: TrainState | dict) -> int:
    """The size of a tree of placed `ShapeDtypeStruct`s on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def total_bytes(analysis) -> int:
    """Peak bytes of a compiled step: arguments, temporaries, and results that do not take the arguments' place."""
    return (
        analysis.argument_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def traffic_table(found: dict[str, tuple[int, int]], rate: int) -> rich.table.Table:
    """Kernels, what they move, and how long that takes at the device's bandwidth, in bytes a second."""
    table = rich.table.Table("kernels", "number", "GB moved", f"ms at {rate / 1e12:.3g} TB/s", box=None, header_style="dim")
    for kind, (number, moved) in sorted(found.items()):
        table.add_row(kind, str(number), f"{moved / 1e9:.2f}", f"{moved / rate * 1e3:.2f}")
    return table


class Collective(NamedTuple):
    """One exchange between the devices: its kind, the arrays that a device receives, and their bytes."""

    kind: str
    arrays: list[tuple[str, tuple[int, ...]]]  # (dtype, shape)
    size: int


_KINDS = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"


def collectives(hlo: str) -> list[Collective]:
    """The exchanges in a compiled program, each once."""
    found: dict[str, Collective] = {}
    for line in hlo.splitlines():
        if not (match := re.search(rf"%?([\w.-]+) = (.*?) ({_KINDS})(-start)?\(", line)):
            continue
        name, result, kind, started = match.groups()
        arrays = [
            (dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        ]
        if started and kind != "all-reduce":  # operands, results, and scalars that the backend keeps beside them
            arrays = [array for array in arrays if array[1]]
            arrays = arrays[len(arrays) // 2 :]
        size = sum(math.prod(shape) * ITEMSIZE[dtype] for dtype, shape in arrays)
        # A program may repeat one exchange's text. Those that JAX's own functions make (`jax.lax.ppermute`) all have channel 1.
        channel = re.search(r"channel_id=(?!1\b)(\d+)", line)
        found[f"{kind} {channel.group(1) if channel else name}"] = Collective(kind, arrays, size)
    return list(found.values())


def collective_table(found: list[Collective]) -> rich.table.Table:
    """Number and size of the exchanges by kind."""
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
