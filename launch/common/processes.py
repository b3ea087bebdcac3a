"""Several processes on one run: how they join, agree, and end when one of them is lost.

JAX's distributed runtime does the work. The first process alone writes; all of them run the same steps. stop_signals.py stops
them together, and exit_status.py says what they end with.
"""

import dataclasses
import json
import os
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from crn_jax.errors import UserError

JOIN_SECONDS = 300
"""How long the processes wait for each other at the start."""

LOST_SECONDS = 60
"""A process that has not been heard of for this long is lost, and the others end."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Where the processes of a run meet. Found by itself under SLURM (srun), Open MPI 4, and on TPUs (VMs, GKE)."""

    coordinator: str | None = None
    """HOST:PORT of process 0, the same for all; any free port."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which one this is, from 0."""


def join(config: Processes) -> None:
    """Connects this process with the others; does nothing where it is the only one, which has all devices then.

    If the others do not come within `JOIN_SECONDS`, JAX's runtime aborts this process.

    Raises:
      UserError: if the settings are incomplete or wrong.
    """
    given = [value is not None for value in dataclasses.astuple(config)]
    if any(given) and not all(given):
        raise UserError("--coordinator HOST:PORT, --num_processes N and --process_id I go together: give all three or none.")
    if not any(given) and os.environ.get("SLURM_NTASKS") == "1":
        return
    patience = threading.Timer(
        15, print, [f"Waiting for the other processes; if they do not come within {JOIN_SECONDS} s, this one aborts."]
    )
    patience.start()
    try:
        jax.distributed.initialize(
            *dataclasses.astuple(config),
            local_device_ids=None if all(given) else gpus_of_a_node(),
            cluster_detection_method="deactivate" if all(given) else None,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=LOST_SECONDS,
            shutdown_timeout_seconds=LOST_SECONDS,
        )
    except ValueError as error:
        if not any(given) and "coordinator_address should be defined" in str(error):
            refuse_undetected()
            return
        raise UserError(f"The processes cannot be connected: {error}") from error
    finally:
        patience.cancel()


def gpus_of_a_node() -> list[int] | None:
    """All GPUs of this node, where SLURM has started one process on each node: JAX would give that the first one alone."""
    variables = [os.environ.get(name, "") for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE")]
    processes, nodes, gpus = (int(value) if value.isdecimal() else 0 for value in variables)
    return list(range(gpus)) if gpus and processes == nodes else None


def refuse_undetected() -> None:
    """JAX has found no other processes; raises UserError if a launcher started some nevertheless (Open MPI 5, say).

    Each of them would train alone, in the same folder.
    """
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        if int(os.environ.get(variable, "1")) > 1:
            raise UserError(
                f"{variable} says that there are {os.environ[variable]} processes, but JAX does not know how they meet: give "
                f"--coordinator HOST:PORT, --num_processes N and --process_id I."
            )


def several_processes() -> bool:
    """Whether there are others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process has come here."""
    multihost_utils.sync_global_devices(where)


def agree(facts: dict[str, Any]) -> None:
    """Checks, on every process, that all of them hold the same facts.

    Raises:
      UserError: naming the facts that differ, and what the processes hold.
    """
    everywhere = [json.loads(text) for text in _gather(json.dumps(facts))]
    problems = []
    for key in sorted(set().union(*everywhere)):
        held = [str(other.get(key)) for other in everywhere]
        if len(set(held)) > 1:
            odd = next(i for i, value in enumerate(held) if value != held[0])
            problems.append(f"{key}: {held[0]} on process 0, {held[odd]} on process {odd}")
    if problems:
        raise UserError(
            "The processes do not hold the same: " + "; ".join(problems) + ". They need the same code, settings, data and "
            "weights, and one run folder that all of them reach."
        )


def _gather(text: str) -> list[str]:
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths)]


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of an int32 array over all processes."""
    return multihost_utils.process_allgather(values).sum(0)
