"""Several processes of one run: how they join and agree, and how they end when one of them is lost.

JAX's distributed runtime does the work. All processes run the same steps, and only the first one writes. stop_signals.py stops
them together, and exit_status.py lists the statuses that they end with.
"""

import dataclasses
import io
import json
import os
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from crn_jax.errors import UserError

JOIN_SECONDS = 300
"""Seconds that the processes wait for each other at the start."""

LOST_SECONDS = 60
"""Seconds of silence after which a process counts as lost, and the others end."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Where the processes of a run meet. JAX finds out by itself under SLURM (srun) and Open MPI 4, and on TPUs (VMs, GKE)."""

    coordinator: str | None = None
    """HOST:PORT where process 0 listens, the same for all processes. Take any free port of its host."""
    num_processes: int | None = None
    """Number of processes of the run."""
    process_id: int | None = None
    """Number of this process, counted from 0."""


def join(config: Processes) -> None:
    """Connects this process with the others. Does nothing if it is the only one, which then has all devices of the machine.

    JAX's runtime aborts this process if the others do not come within `JOIN_SECONDS`.

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
            config.coordinator,
            config.num_processes,
            config.process_id,
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


def join_apart(config: Processes) -> None:
    """Connects this process with others that share out files, and that run no common program.

    Does nothing where JAX is in use already, as in a notebook, unless the settings name the others.
    """
    try:
        join(config)
    except (RuntimeError, UserError) as error:
        if config != Processes() or "must be called before any JAX calls" not in str(error):
            raise
        return
    if jax.distributed.is_initialized():  # else processes on GPUs try out kernels for each other, and one alone would wait
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_shard_autotuning=false".strip()


def gpus_of_a_node() -> list[int] | None:
    """Returns the numbers of all GPUs of this node if SLURM has started one process on each node, else None.

    JAX alone would give such a process only the first GPU.
    """
    variables = [os.environ.get(name, "") for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE")]
    processes, nodes, gpus = (int(value) if value.isdecimal() else 0 for value in variables)
    return list(range(gpus)) if gpus and processes == nodes else None


def refuse_undetected() -> None:
    """Raises UserError if a launcher that JAX does not know, such as Open MPI 5, has started several processes.

    Each of them would train alone, in the same folder.
    """
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        if int(os.environ.get(variable, "1")) > 1:
            raise UserError(
                f"{variable} says that there are {os.environ[variable]} processes, but JAX does not know how they meet. Give "
                f"--coordinator HOST:PORT, --num_processes N and --process_id I."
            )


def several_processes() -> bool:
    """Returns whether the run has several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Waits until every process has come to this call; `where` names it in JAX's errors."""
    multihost_utils.sync_global_devices(where)


def agree(facts: dict[str, Any]) -> None:
    """Checks that all processes hold the same facts; every process has to call it.

    Raises:
      UserError: on every process, if facts differ; the message names them and what two processes hold.
    """
    everywhere = [json.loads(text) for text in _gather(json.dumps(facts).encode())]
    problems = []
    for key in sorted(set().union(*everywhere)):
        held = [str(other.get(key)) for other in everywhere]
        if len(set(held)) > 1:
            odd = next(i for i, value in enumerate(held) if value != held[0])
            problems.append(f"{key}: {held[0]} on process 0, {held[odd]} on process {odd}")
    if problems:
        raise UserError(
            "The processes do not hold the same: " + "; ".join(problems) + ". All processes need the same code, settings, data "
            "and weights, and one run folder that all of them can reach."
        )


def first_says(text: str) -> str:
    """Returns the text that the first process gives; every process has to call it."""
    return _gather(text.encode())[0].decode() if several_processes() else text


def gather(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns the arrays of all processes, in order; every process has to call it."""
    if not several_processes():
        return [arrays]
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    return [dict(np.load(io.BytesIO(data))) for data in _gather(file.getvalue())]


def _gather(given: bytes) -> list[bytes]:
    data = np.frombuffer(given, np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]) for row, length in zip(rows, lengths)]


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Returns the sum of an array over all processes. Its integers have to fit into int32; every process has to call it."""
    return multihost_utils.process_allgather(values).sum(0)
