"""Compares the meshes that a training could run on: the predicted time of a step and of the whole run, and the memory."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import rich.table
from jax.sharding import Mesh

from crn_jax.data.sources import DRAWN, open_source
from crn_jax.errors import UserError
from crn_jax.experiment import Experiment
from crn_jax.files import expanded
from crn_jax.sharding import fitting_meshes
from launch.cost.hlo import schedule
from launch.cost.rates import Rates
from launch.cost.step_time import StepTime, step_time

TRAINING_PHOTOGRAPHS = {
    "ade20k": 20210, "camvid": 367, "cityscapes": 2975, "cocostuff": 118287, "gta5": 12403, "nyu": 1200,
}  # fmt: skip
"""The number of training photographs, as each data set's authors publish it (NYU: as the paper splits it)."""
USABLE_MEMORY = 0.75
"""The share of a GPU's memory that JAX reserves for itself, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""
LEFT_OUT = "reading the data, compiling, validations, checkpoints, devices that lag behind the others, and limits of power"


class Costs(NamedTuple):
    """What the compiler tells about a step on one mesh."""

    data: int
    spatial: int
    batch_size: int
    bytes: int  # on each device
    time: StepTime

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.data * self.spatial

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch_size / self.time.total


def costs_of(mesh: Mesh, batch_size: int, hlo: str, size: int, rates: Rates) -> Costs:
    """Returns the costs of a step.

    Args:
      mesh: the mesh that the step was compiled for.
      batch_size: the number of images in the step, on all devices together.
      hlo: the compiled step's text.
      size: the bytes that the step needs on each device.
      rates: the published rates of the devices.
    """
    data, spatial = mesh.devices.shape
    return Costs(data, spatial, batch_size, size, step_time(schedule(hlo), rates, node_size(mesh, rates)))


def node_size(mesh: Mesh, rates: Rates) -> int | None:
    """Returns how many devices of a mesh are in a node: as many as usual, or fewer if hosts have fewer. None: all."""
    first = mesh.devices.flat[0]
    on_first_host = sum(device.process_index == first.process_index for device in mesh.devices.flat)
    return min(rates.node, on_first_host) if rates.node else None


def to_compare(
    experiment: Experiment, mesh: Mesh, devices: Sequence[jax.Device]
) -> list[tuple[Experiment, Sequence[jax.Device]]]:
    """Returns what else to compile beside the step on `mesh`: one device alone, and the other meshes that are possible.

    One device alone has its share of the batch, at least one image. The other meshes are left out if the experiment names its
    mesh, and both are left out for TPUs, whose compiler takes minutes for each.
    """
    if mesh.size == 1 or mesh.devices.flat[0].platform == "tpu":
        return []

    def on(shape: tuple[int, int], batch_size: int) -> Experiment:
        sharding = dataclasses.replace(experiment.sharding, mesh=shape)
        return dataclasses.replace(experiment, sharding=sharding, batch_size=batch_size)

    alone = on((1, 1), max(1, experiment.batch_size // mesh.size))
    if experiment.sharding.mesh != (-1, -1):
        return [(alone, devices[:1])]
    shapes = fitting_meshes(len(devices), experiment.batch_size, experiment.cascade.size[0])
    others = [shape for shape in reversed(shapes) if shape != mesh.devices.shape]
    return [(alone, devices[:1]), *((on(shape, experiment.batch_size), devices) for shape in others)]


def steps_of(experiment: Experiment) -> tuple[int, str]:
    """Returns the number of steps of the whole run, and in words where it comes from. It is 0 if it is not known, and why.

    The photographs are counted if their folder is on this machine. Otherwise they are as many as the data set's authors
    publish. Nothing is copied, and no cache is built.
    """
    data = experiment.data
    if experiment.steps is not None:
        return experiment.steps, "as --steps says"
    photographs, where = TRAINING_PHOTOGRAPHS.get(data.source, 0), f"as the authors of {data.source} publish"
    if data.source in DRAWN or data.root and os.path.isdir(expanded(data.root)):
        with contextlib.suppress(UserError, OSError):  # a training would say what is wrong
            photographs = len(open_source(dataclasses.replace(data, cache=None), "train", experiment.size))
            where = f"as {data.root or data.source} has"
    if not photographs:
        return 0, "add --data.root DIR or --steps N"
    steps = experiment.last_step(photographs // experiment.batch_size)
    if not steps:
        return 0, f"a batch of {experiment.batch_size} does not fit a data set of {photographs:,} photographs, {where}"
    return steps, f"for {experiment.epochs} epochs of {photographs:,} photographs, {where}"


def time_table(costs: list[Costs], rates: Rates, images: int) -> rich.table.Table:
    """Returns a table of what each mesh costs, the fastest in bold.

    Args:
      costs: those of one device alone come first, if they are known; efficiency compares with them.
      rates: the published rates of the devices.
      images: the number of images in all steps of the training; 0 if nobody knows it.
    """
    alone = costs[0] if costs[0].devices == 1 else None
    columns = "step,\nms", "images a\nsecond", "\nhours", "device-\nhours", "effi-\nciency", "GB\neach", "\nfits", "\nmostly"
    table = rich.table.Table("data x\nspatial", *columns, box=None, header_style="dim")
    choice = [each for each in costs if fits(each, rates) and (each is not alone or len(costs) == 1)]
    fastest = min(choice, key=lambda each: each.time.total, default=None)
    for each in costs:
        hours = images / each.rate / 3600
        table.add_row(
            f"{each.data} x {each.spatial}" + (f", batch {each.batch_size}" if each is alone and len(costs) > 1 else ""),
            f"{each.time.total * 1e3:.1f}",
            f"{each.rate:.1f}",
            f"{hours:.2f}" if images else "",
            f"{hours * each.devices:.2f}" if images else "",
            f"{each.rate / each.devices / alone.rate:.0%}" if alone else "",
            f"{each.bytes / 1e9:.1f}",
            "yes" if fits(each, rates) else "no",
            each.time.largest,
            style="bold" if each is fastest else "" if fits(each, rates) else "dim",
        )
    return table


def fits(costs: Costs, rates: Rates) -> bool:
    """Returns whether a step's memory suffices."""
    return costs.bytes <= rates.memory * (USABLE_MEMORY if rates.is_gpu else 1)
