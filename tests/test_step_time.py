"""Predicted times: against sums by hand, and against steps that were measured (tests/support/record_step_time.py)."""

import dataclasses
import functools
import json
import lzma
import math

import jax
import pytest

from configs import EXPERIMENTS
from crn_jax.data.sources import DataConfig
from crn_jax.errors import UserError
from crn_jax.sharding import ShardingConfig, make_mesh
from launch import train
from launch.benchmark import write_streets
from launch.common.terminal import console
from launch.cost import dry_run, meshes
from launch.cost.hlo import CONVOLUTIONS, OTHER, PRODUCT, Exchange, Kernel, Wait
from launch.cost.meshes import Costs, fits, node_size, steps_of, time_table, to_compare
from launch.cost.rates import RATES, Rates, rates_of
from launch.cost.step_time import (
    LATENCY,
    LATENCY_BETWEEN_NODES,
    MANY_CHANNELS,
    SHARE_OF_BANDWIDTH,
    SHARE_OF_LINK,
    SHARE_OF_RATE,
    SHORTEST,
    StepTime,
    exchange_time,
    moving_time,
    multiplying_time,
    step_time,
)
from tests.support.narrow import narrow_vgg19
from tests.support.record_step_time import FILE

DEVICE = Rates(("slow",), 1000, 500, 100, 8000, 200, 40, 4, 10, "this test")
ALL = tuple(range(8))


@functools.cache
def recorded() -> dict:
    """The programs that were measured, by what they are, with their schedules."""
    halves = json.loads(lzma.decompress(FILE.read_bytes()))
    kinds = {kind.__name__: kind for kind in (Kernel, Exchange, Wait)}
    for program in [program for half in halves.values() for program in half]:
        program["work"] = [kinds[kind](*fields) for kind, *fields in program["work"]]
    return halves


def predicted(program: dict, rates: Rates = RATES["h200"]) -> float:
    """Milliseconds."""
    return step_time(program["work"], rates).total * 1e3


# By hand


@pytest.mark.quick
def test_a_kernel_is_as_slow_as_the_slower_of_its_two_limits():
    wide = Kernel("convolution, by input", 7400, 76_000, "bf16", 128)
    assert multiplying_time(wide, DEVICE) == pytest.approx(76_000 / 1000 / 0.76)
    assert moving_time(wide, DEVICE) == pytest.approx(7400 / 200 / 0.74)
    assert step_time([wide], DEVICE) == pytest.approx((100, 0, 0))
    assert step_time([wide._replace(operations=760)], DEVICE) == pytest.approx((0, 50, 0))
    assert step_time([Kernel(OTHER, 0)], DEVICE) == pytest.approx((0, SHORTEST, 0))


@pytest.mark.parametrize(
    ("kind", "factors", "channels", "rate"),
    [
        ("convolution, y", "bf16", 96, 1000 * 0.73),
        ("convolution, y", "bf16", 24, 1000 * 0.73 / 4),
        ("convolution, by kernel", "f32", 512, 500 * 0.63),
        (PRODUCT, "exact", 0, 100 * 0.73),
    ],
)
def test_the_rate_of_multiplying(kind, factors, channels, rate):
    assert multiplying_time(Kernel(kind, 1, 10**6, factors, channels), DEVICE) == pytest.approx(10**6 / rate)


def exchange(kind: str, size: int, *groups: tuple[int, ...]) -> Exchange:
    return Exchange(kind, kind, [], size, groups)


@pytest.mark.parametrize(
    ("found", "seconds", "doublings"),
    [
        # Within a node of four, each receives three quarters, at 40 bytes a second.
        (exchange("all-gather", 3200, (0, 1, 2, 3), (4, 5, 6, 7)), 2400 / 40, 0),
        (exchange("reduce-scatter", 800, (0, 1, 2, 3), (4, 5, 6, 7)), 2400 / 40, 0),
        (exchange("all-reduce", 3200, (0, 1, 2, 3), (4, 5, 6, 7)), 2 * 2400 / 40, 0),
        # Over both nodes, the other half comes by the networks of four devices, at 10 bytes a second each.
        (exchange("all-gather", 3200, ALL), 2800 / 40 + 1600 / 4 / 10, 1),
        (exchange("all-reduce", 3200, ALL), 2 * (2800 / 40 + 1600 / 4 / 10), 1),
        # One of each node: everything comes by the network of one.
        (exchange("all-gather", 3200, (0, 4), (1, 5), (2, 6), (3, 7)), 1600 / 40 + 1600 / 10, 1),
        (exchange("collective-permute", 400, (0, 1), (1, 2), (2, 3)), 400 / 40, 0),
        (exchange("collective-permute", 400, (2, 3), (3, 4)), 400 / 10, 1),
    ],
)
def test_what_an_exchange_takes(found, seconds, doublings):
    expected = seconds / SHARE_OF_LINK + LATENCY + doublings * LATENCY_BETWEEN_NODES
    assert exchange_time(found, DEVICE, 4) == pytest.approx(expected)


def test_a_tpu_slice_is_one_node_and_one_device_exchanges_nothing():
    gathered = exchange("all-gather", 3200, tuple(range(256)))
    assert exchange_time(gathered, RATES["v5e"], None) == pytest.approx(LATENCY + 3200 * 255 / 256 / 200e9 / SHARE_OF_LINK)
    assert exchange_time(exchange("all-reduce", 3200, (0,)), DEVICE, 4) == 0


@pytest.mark.quick
def test_exchanges_run_beside_kernels_until_they_are_needed():
    """Kernels of 50, 100 and 10 s; two exchanges of 60 s, begun after 0 and 50 s, the second of which waits for the first."""
    kernel = lambda seconds: Kernel(OTHER, round(200 * 0.74 * seconds))  # noqa: E731
    first, second = (exchange("all-gather", round((60 - LATENCY) * 32 * 2), (0, 1))._replace(name=name) for name in "ab")
    found = step_time([first, kernel(50), second, Wait("a"), kernel(30), Wait("b"), kernel(10)], DEVICE)
    # "a" comes at 60, "b" at 120; the kernels wait from 50 to 60 and from 90 to 120.
    assert found == pytest.approx((0, 90, 40), abs=0.1)
    hidden = step_time([first, kernel(100), Wait("a")], DEVICE)
    assert hidden.exchange == 0 and hidden.largest == "memory"


# As measured


@pytest.mark.parametrize("number", range(4))
def test_the_h200_takes_the_predicted_time(number):
    """Only the first, a step at 1024p, is what the shares were fitted to."""
    program = recorded()["h200"][number]
    assert predicted(program) == pytest.approx(program["milliseconds"], rel=0.15), program["name"]


PROFILE = {  # milliseconds of a step at 1024p (docs/performance_log.md, "On a GPU")
    ("cascade", "convolution, y", range(96, 2000)): 4.2,
    ("cascade", "convolution, by input", range(96, 2000)): 3.8,
    ("cascade", "convolution, by kernel", range(96, 2000)): 4.7,
    ("VGG-19", "convolution, y", range(64, 2000)): 4.3,
    ("VGG-19", "convolution, by input", range(64, 2000)): 2.2,
    ("VGG-19", "convolution, y", range(1, 64)): 0.357 + 0.357 + 0.159,
    ("norm", None, range(1)): 3.0,
    ("Adam", None, range(1)): 2.3 - 1.0,  # one millisecond of it runs beside convolutions
    ("VGG-19", None, range(1)): 2.0,
    ("upsampling", None, range(1)): 1.2,
    ("derivative", None, range(1)): 0.8,
    ("projection", None, range(1)): 0.8,
}


@pytest.mark.parametrize("group", PROFILE, ids=lambda group: f"{group[0]} {group[1] or 'others'} {group[2][0]}")
def test_kernels_of_each_kind_take_the_predicted_time(group):
    part, kind, channels = group
    kernels = [kernel for kernel in recorded()["h200"][0]["work"] if kernel.origin == part and kernel.channels in channels]
    chosen = [kernel for kernel in kernels if kernel.kind == kind or kind is None and kernel.kind not in CONVOLUTIONS]
    assert step_time(chosen, RATES["h200"]).total * 1e3 == pytest.approx(PROFILE[group], rel=0.15)


def test_the_order_of_meshes_on_cpu_devices():
    """Eight devices that share the cores, each with an eighth of what a machine was measured to do (docs/performance.md)."""
    eighth = Rates(("cpu",), *[0.16e12 / 8] * 3, 1e9, 20e9 / 8, 5e9 / 8, None, None, "measured")
    programs = recorded()["cpu"]
    assert {tuple(program["mesh"]) for program in programs} == {(8, 1), (4, 2), (2, 4), (1, 8)}
    by_measurement = sorted(programs, key=lambda program: program["milliseconds"])
    assert sorted(programs, key=lambda program: predicted(program, eighth)) == by_measurement


# Devices and meshes


def test_every_device_has_rates_and_a_source():
    assert {"a100", "h100", "h200", "b200", "rtx4090", "v4", "v5e", "v5p", "v6e"} <= set(RATES)
    for name, rates in RATES.items():
        assert rates.bf16 >= rates.float32 >= rates.exact > 1e13 and rates.source, name
        assert rates.bandwidth > rates.link > (rates.network or 0) and rates.memory > 1e10, name
        assert rates.is_gpu == (rates.network is not None)
    assert rates_of(jax.devices()[0]) is None


def cascade(batch_size: int, mesh: tuple[int, int] = (-1, -1), **fields):
    return dataclasses.replace(EXPERIMENTS["demo"], batch_size=batch_size, sharding=ShardingConfig(mesh), **fields)


def compared(batch_size: int, mesh: tuple[int, int] = (-1, -1), count: int = 8) -> list[tuple[tuple[int, int], int, int]]:
    """The mesh, batch and number of devices of each step that is compiled beside the first."""
    experiment, devices = cascade(batch_size, mesh), jax.devices()[:count]
    first = make_mesh(experiment.sharding, batch_size, experiment.size[0], devices)
    return [(e.sharding.mesh, e.batch_size, len(d)) for e, d in to_compare(experiment, first, devices)]


def test_which_meshes_are_compared():
    assert compared(8) == [((1, 1), 1, 1), ((4, 2), 8, 8), ((2, 4), 8, 8), ((1, 8), 8, 8)]  # 8 x 1 is the first
    assert compared(1) == [((1, 1), 1, 1)]  # 1 x 8 is the only one
    assert compared(16, (2, 4)) == [((1, 1), 2, 1)]  # the experiment names its mesh
    assert compared(1, count=1) == []
    # 64 rows do not split over three or six devices: three examples do.
    assert compared(3, count=6) == [((1, 1), 1, 1)]
    with pytest.raises(UserError, match="64 rows cannot be split into 3"):
        compared(1, (1, 3))


def test_nodes_are_as_large_as_hosts_but_not_larger_than_usual():
    device = jax.devices()[0]
    mesh = make_mesh(ShardingConfig((8, 1)), 8, 64)
    assert node_size(mesh, RATES["h100"]) == 8 and node_size(mesh, DEVICE) == 4 and node_size(mesh, RATES["v4"]) is None
    assert device.process_index == 0
    assert node_size(make_mesh(ShardingConfig((2, 1)), 2, 64), RATES["h100"]) == 2


def test_the_steps_of_a_whole_run(tmp_path):
    cityscapes = EXPERIMENTS["cityscapes_1024p"]
    published = "of 2,975 photographs, as the authors of cityscapes publish"
    assert steps_of(cityscapes) == (200 * 2975, f"for 200 epochs {published}")
    assert steps_of(dataclasses.replace(cityscapes, batch_size=8)) == (200 * 371, f"for 200 epochs {published}")
    assert steps_of(dataclasses.replace(cityscapes, steps=7)) == (7, "as --steps says")
    drawn = EXPERIMENTS["demo"].data.num_scenes
    assert steps_of(cascade(1, epochs=3)) == (3 * drawn, f"for 3 epochs of {drawn:,} photographs, as streets has")
    assert steps_of(dataclasses.replace(cityscapes, data=DataConfig("folder", labels="cityscapes"))) == (
        0,
        "add --data.root DIR or --steps N",
    )


def test_photographs_are_counted_where_they_are(tmp_path, monkeypatch):
    """Somebody who chooses a mesh on a laptop may give the folders of the cluster."""
    cityscapes = dataclasses.replace(EXPERIMENTS["cityscapes_256p"], epochs=2)

    def steps(root: str, batch_size: int = 1) -> tuple[int, str]:
        data = DataConfig("cityscapes", root, cache=str(tmp_path / "cache"))
        return steps_of(dataclasses.replace(cityscapes, data=data, batch_size=batch_size))

    elsewhere = (2 * 2975, "for 2 epochs of 2,975 photographs, as the authors of cityscapes publish")
    assert steps("/not/on/this/machine") == steps("gs://bucket/cityscapes") == steps(str(tmp_path)) == elsewhere
    write_streets(tmp_path, (256, 512), 5, drawn=1)
    assert steps(str(tmp_path)) == (2 * 5, f"for 2 epochs of 5 photographs, as {tmp_path} has")
    assert steps(str(tmp_path), 6) == (0, f"a batch of 6 does not fit a data set of 5 photographs, as {tmp_path} has")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(meshes, "open_source", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    assert steps(str(tmp_path)) == elsewhere


def shown(table) -> list[list[str]]:
    """The cells of a table by row."""
    return list(map(list, zip(*(column.cells for column in table.columns))))


@pytest.mark.quick
def test_the_table_of_meshes():
    alone = Costs(1, 1, 1, 6 * 10**9, StepTime(0.03, 0.01, 0))
    whole, split, large = (
        Costs(8, 1, 8, 5 * 10**9, StepTime(0.03, 0.01, 0.01)),
        Costs(1, 8, 8, 2 * 10**9, StepTime(0.02, 0.03, 0.05)),
        Costs(4, 2, 8, 130 * 10**9, StepTime(0.02, 0.01, 0.0)),
    )
    rows = shown(time_table([alone, whole, split, large], RATES["h200"], 3600 * 25))
    assert rows == [
        ["1 x 1, batch 1", "40.0", "25.0", "1.00", "1.00", "100%", "6.0", "yes", "compute"],
        ["8 x 1", "50.0", "160.0", "0.16", "1.25", "80%", "5.0", "yes", "compute"],
        ["1 x 8", "100.0", "80.0", "0.31", "2.50", "40%", "2.0", "yes", "exchange"],
        ["4 x 2", "30.0", "266.7", "0.09", "0.75", "133%", "130.0", "no", "compute"],
    ]
    table = time_table([alone, whole, split, large], RATES["h200"], 0)
    assert [row.style for row in table.rows] == ["", "bold", "", "dim"]
    assert shown(table)[1][3:5] == ["", ""]
    assert shown(time_table([whole], RATES["v6e"], 1))[0][5] == ""  # nothing to compare with
    assert [row.style for row in time_table([alone], RATES["h200"], 1).rows] == ["bold"]
    assert not fits(large, RATES["h200"]) and fits(large._replace(bytes=90 * 10**9), RATES["v5p"])


def test_the_dry_run_tells_the_time(monkeypatch):
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: two)
    monkeypatch.setattr(dry_run, "rates_of", lambda device: RATES["h200"])
    options = "demo --cascade.base 4 8 --cascade.widths 8 8 8 --batch_size 2 --dry_run --steps 10".split()
    with narrow_vgg19(), console.capture() as capture:
        train.main(options)
    printed = capture.get()
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith(("1 x 1,", "2 x 1", "1 x 2"))]
    assert len(rows) == 3, printed
    assert "Hours are those of 10 steps, as --steps says." in printed
    for left_out in ("reading the data", "compiling", "validations", "checkpoints", "lag behind", "power"):
        assert left_out in printed
    assert "fitted to one step on one H200" in printed and "No exchange was measured" in printed


def test_no_time_is_predicted_for_devices_without_rates(monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    options = "demo --cascade.base 4 8 --cascade.widths 8 8 8 --dry_run".split()
    with narrow_vgg19(), console.capture() as capture:
        train.main(options)
    assert "No time is predicted for cpu. Name other devices, for instance --topology h100:8." in capture.get()


def test_the_fitted_shares_are_shares():
    assert set(SHARE_OF_RATE) == set(CONVOLUTIONS) and all(0 < share < 1 for share in SHARE_OF_RATE.values())
    assert all(0 < share < 1 for share in SHARE_OF_BANDWIDTH.values())
    assert 0 < SHARE_OF_LINK < 1 and MANY_CHANNELS > 1
    assert math.isfinite(meshes.USABLE_MEMORY)
