"""One of several processes that save a small state after each step, as a training does, and go on from the last checkpoint:

    python -m tests.support.savers FOLDER PORT PROCESSES PROCESS LAST_STEP [KILLED_AT]

The state is the same float32 numbers on any number of processes (`expected`). The last process kills itself while it saves step
KILLED_AT, in place of writing its manifest: without that, no process can commit the checkpoint.
"""

import os
import signal
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crn_jax import checkpoint
from crn_jax.checkpoint import Checkpoints
from crn_jax.manifest import ManifestWriter
from crn_jax.train import TrainState

SHAPE = (8, 1000)


def expected(step: int) -> np.ndarray:
    """Returns the parameters after so many steps."""
    numbers = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    for _ in range(step):
        numbers = numbers * np.float32(0.75)  # no rounding depends on the order of operations
    return numbers


class Killed(ManifestWriter):
    """Kills this process when the manifest is to be written."""

    async def save(self, directory):
        async def kill() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        return kill()


def main(folder: str, port: str, processes: str, process: str, last: str, killed_at: str = "0") -> None:
    """Saves until the last step."""
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process))
    mesh = Mesh(np.array(jax.devices()), "data")
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    shapes = {"step": ((), np.int32, whole), "w": (SHAPE, np.float32, split)}
    abstract = {name: jax.ShapeDtypeStruct(shape, kind, sharding=place) for name, (shape, kind, place) in shapes.items()}

    def placed(name: str, value: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(value.shape, shapes[name][2], lambda index: value[index])

    def state_of(leaves: dict) -> TrainState:
        return TrainState(leaves["step"], {"w": leaves["w"]}, {}, None, None)

    following = jax.jit(lambda w: w * np.float32(0.75), out_shardings=split)
    with Checkpoints(f"{folder}/checkpoints", keep_last=2) as checkpoints:
        first = checkpoints.latest_step() or 0
        w = checkpoints.load(first, state_of(abstract)).params["w"] if first else placed("w", expected(0))
        for step in range(first + 1, int(last) + 1):
            w = following(w)
            if step == int(killed_at) and process == str(int(processes) - 1):
                checkpoint.ManifestWriter = Killed
            checkpoints.save(step, state_of({"step": placed("step", np.array(step, np.int32)), "w": w}), None, {"step": step})
            checkpoints.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
