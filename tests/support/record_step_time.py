"""Records what tests/test_step_time.py compares predicted times with: `python -m tests.support.record_step_time [cpu]`.

Without a word, it compiles the programs whose times were measured on an H200 (docs/performance.md), which needs the GPU's
compiler, but no GPU. With `cpu`, it runs a step on eight CPU devices in four meshes, and measures it. Each writes its half of
tests/data/step_time.json.xz.
"""

import dataclasses
import json
import lzma
import os
import sys
import time
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "data" / "step_time.json.xz"

MEASURED = {  # milliseconds on an H200, in bfloat16 with `--remat none`
    "cityscapes_1024p step": 31.9,
    "cityscapes_1024p synthesis": 8.2,
    "cityscapes_256p step": 13.7,
    "cityscapes_256p synthesis": 4.6,
}


def work_of(hlo: str) -> list[list[Any]]:
    """Returns a program's schedule as JSON has it. Of a kernel's origin, only the part of the step remains."""
    from launch.cost.hlo import CONVOLUTIONS, Kernel, schedule

    parts = {"adam": "Adam", "to_rgb": "projection", "norm": "norm", "leaky_relu": "norm", "concatenate": "upsampling"}
    parts |= {"upsampling": "derivative"}  # upsampling itself is one kernel with the concatenation of its result and the layout
    parts |= {name: "VGG-19" for name in ("vgg19", "term", "photograph")}

    def part(kernel: Kernel) -> str:
        if kernel.kind in CONVOLUTIONS:
            return "VGG-19" if "vgg19" in kernel.origin else "cascade"
        return next((part for name, part in parts.items() if name in kernel.origin), "")

    rows = []
    for item in schedule(hlo):
        item = item._replace(origin=part(item)) if isinstance(item, Kernel) else item
        rows.append([type(item).__name__, *item])
    return rows


def write(half: dict[str, Any]) -> None:
    """Replaces one half of the file."""
    before = json.loads(lzma.decompress(FILE.read_bytes())) if FILE.exists() else {}
    FILE.write_bytes(lzma.compress(json.dumps({**before, **half}, separators=(",", ":")).encode(), preset=9))


def record_h200() -> None:
    """Compiles the programs that ran on the H200."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from configs import EXPERIMENTS
    from crn_jax.generator import init_params
    from crn_jax.sharding import make_mesh, replicated
    from crn_jax.synthesize import _synthesize
    from launch.cost.dry_run import lower_step
    from launch.cost.topologies import devices_of

    programs = []
    for name, measured in MEASURED.items():
        experiment, what = EXPERIMENTS[name.split()[0]], name.split()[1]
        config = dataclasses.replace(experiment.cascade, dtype="bfloat16")
        experiment = dataclasses.replace(experiment, cascade=config, remat="none")
        mesh = make_mesh(experiment.sharding, 1, config.size[0], devices_of("h200"))
        if what == "step":
            compiled = lower_step(experiment, mesh).compile()
        else:
            params = replicated(mesh, jax.eval_shape(lambda config=config: init_params(config, jax.random.key(0))))
            everywhere = NamedSharding(mesh, PartitionSpec())
            layout = jax.ShapeDtypeStruct((1, *config.size), jnp.uint8, sharding=everywhere)
            with jax.set_mesh(mesh):
                compiled = _synthesize.lower(config, params, layout).compile()
        programs.append({"name": name, "milliseconds": measured, "work": work_of(compiled.as_text())})
    write({"h200": programs})


def record_cpu() -> None:
    """Runs a step of eight small images on eight CPU devices, in four meshes, in turns.

    The devices share the cores, so a step's time is the work of all of them. It is measured as the processor time of all
    threads, which other programs on the machine disturb less.
    """
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    import jax
    import numpy as np

    from configs import EXPERIMENTS
    from crn_jax.sharding import ShardingConfig, put
    from crn_jax.train import abstract_state
    from crn_jax.vgg_weights import random_vgg19
    from launch.benchmark import mesh_of, objective_of, put_batch, random_batch
    from launch.cost.dry_run import lower_step

    steps: dict[tuple[int, int], list[Any]] = {}
    for shape in [(8, 1), (4, 2), (2, 4), (1, 8)]:
        case = dataclasses.replace(EXPERIMENTS["demo"], batch_size=8, sharding=ShardingConfig(shape))
        mesh = mesh_of(case)
        step = lower_step(case, mesh).compile()
        abstract = abstract_state(objective_of(case), mesh, case.sharding.shard_state)
        state = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), abstract)
        steps[shape] = [step, state, put(mesh, random_vgg19(0)), put_batch(mesh, 8, random_batch(case))]
        print("compiled", *shape, flush=True)
    seconds: dict[tuple[int, int], list[float]] = {shape: [] for shape in steps}
    for _ in range(3):
        for shape, (step, state, vgg, batch) in steps.items():
            wall, began = time.perf_counter(), time.process_time()
            steps[shape][1], metrics = step(state, vgg, batch)
            jax.block_until_ready((steps[shape][1], metrics))
            seconds[shape].append(time.process_time() - began)
            print(*shape, f"{seconds[shape][-1]:.2f} s of processors, {time.perf_counter() - wall:.1f} s", flush=True)
    programs = []
    for shape, (step, *_) in steps.items():
        median = float(np.median(seconds[shape][1:]))  # the first was to warm up
        programs.append({"mesh": shape, "milliseconds": median * 1e3, "work": work_of(step.as_text())})
    write({"cpu": programs})


if __name__ == "__main__":
    record_cpu() if sys.argv[1:] == ["cpu"] else record_h200()
