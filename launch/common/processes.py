"""Several processes of one run: how they join and agree, and how they end when one of them is lost.

JAX's distributed runtime does the work. All processes run the same steps, and only the first one writes. stop_signals.py stops
them together, and exit_status.py lists the statuses that they end with.

JAX finds the other processes by what a launcher leaves in the environment. Some of these variables stay behind where nothing is
launched: in a shell of `salloc`, in any pod of Kubernetes, after a `module load`. JAX sees a launcher here only if all that it
would read is there.
"""

import contextlib
import errno
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from crn_jax.errors import UserError
from launch.common.ending import listen
from launch.common.options import Processes
from launch.common.terminal import show_error

JOIN_SECONDS = 300
"""Seconds that the processes wait for each other at the start."""

LOST_SECONDS = 60
"""Seconds of silence after which a process counts as lost, and the others end."""


_SLURM = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
_WAY_OUT = (
    "Give --coordinator HOST:PORT, --num_processes N and --process_id I to each process, or --alone if this is the only one."
)


def join(config: Processes) -> None:
    """Connects this process with the others. Does nothing if it is the only one, which then has all devices of the machine.

    JAX's runtime aborts this process if the others do not come within `JOIN_SECONDS`.

    Raises:
      UserError: if the settings are incomplete or wrong.
    """
    given = [value is not None for value in (config.coordinator, config.num_processes, config.process_id)]
    if any(given) and (config.alone or not all(given)):
        raise UserError(
            "--coordinator HOST:PORT, --num_processes N and --process_id I go together: give all three or none. --alone goes "
            "without them."
        )
    if config.alone:
        return
    if config.coordinator and not config.coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator {config.coordinator}: HOST:PORT is needed, such as {config.coordinator}:1234.")
    if not any(given) and is_only_one():
        refuse_undetected()
        return
    if config.coordinator and config.process_id == 0:
        refuse_used_port(config.coordinator)
    patience = threading.Timer(
        15, print, [f"Waiting for the other processes; if they do not come within {JOIN_SECONDS} s, this one aborts."]
    )
    patience.start()
    try:
        with without_leftovers():
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
    except jax.errors.JaxRuntimeError:
        raise  # they know of each other, and do not meet
    except Exception as error:  # what finds them may be the client of Kubernetes or of Google's metadata, with their own errors
        if not any(given) and "coordinator_address should be defined" in str(error):
            refuse_undetected()
            return
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"The processes cannot be connected: {reason}. {_WAY_OUT}") from error
    finally:
        patience.cancel()


def refuse_used_port(coordinator: str, patience: float = 20.0) -> None:
    """Raises UserError if another program listens at the port where the first process is to listen.

    JAX's coordinator would share the port with that of another run. Processes of both runs then meet, and abort.
    An earlier start of this run may still be ending, so the function waits for `patience` seconds.
    """
    port, end = int(coordinator.rpartition(":")[2]), time.monotonic() + patience
    while True:
        try:
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier start may still close
                return trial.bind(("", port))
        except (OSError, OverflowError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if not in_use or time.monotonic() > end:
                raise UserError(
                    f"--coordinator {coordinator}: process 0 cannot listen at this port ({error}). Another run may use it. "
                    "Give another port to all processes."
                ) from error
            time.sleep(0.5)


def number_in(variable: str) -> int | None:
    """Returns the whole number that an environment variable holds, or None if it holds none."""
    value = os.environ.get(variable, "").strip()
    return int(value) if value.isascii() and value.isdecimal() else None


def processes_of_slurm() -> int | None:
    """Returns the number of processes of this SLURM step, or None outside of a step.

    A shell that `salloc` opens is a step of one process, whatever the number of tasks of its job.
    """
    if not os.environ.get("SLURM_STEP_NODELIST") or None in map(number_in, _SLURM):
        return None
    return number_in("SLURM_STEP_NUM_TASKS") or number_in("SLURM_NTASKS")


def processes_of_open_mpi() -> int | None:
    """Returns the number of processes that Open MPI 4 has started, or None if it has not started this one."""
    if not os.environ.get("OMPI_MCA_orte_hnp_uri") or None in map(number_in, _OPEN_MPI):
        return None
    return number_in("OMPI_COMM_WORLD_SIZE")


def is_only_one() -> bool:
    """Returns whether SLURM or Open MPI says that it has started this process alone. Other launchers are for JAX to find."""
    found = processes_of_open_mpi() or processes_of_slurm() or number_in("SLURM_NTASKS")
    return found == 1


def leftovers() -> list[str]:
    """Returns the variables by which JAX would take for a launcher what is none."""
    found = []
    if processes_of_open_mpi() is None:
        found.append("OMPI_MCA_orte_hnp_uri")
    if processes_of_slurm() is None:
        found.append("SLURM_STEP_NODELIST")
    if number_in("JOB_COMPLETION_INDEX") is None:  # every pod has the host's variable, but only indexed jobs have processes
        found.append("KUBERNETES_SERVICE_HOST")
    return [variable for variable in found if variable in os.environ]


@contextlib.contextmanager
def without_leftovers() -> Iterator[None]:
    """Hides within the block the variables that `leftovers` names."""
    hidden = {variable: os.environ.pop(variable) for variable in leftovers()}
    try:
        yield
    finally:
        os.environ |= hidden


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
    if several_processes():
        listen(show_error)


def gpus_of_a_node() -> list[int] | None:
    """Returns the numbers of all GPUs of this node if SLURM has started one process on each node, else None.

    JAX alone would give such a process only the first GPU.
    """
    processes, nodes, gpus = map(number_in, ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE"))
    return list(range(gpus)) if gpus and processes and processes == nodes else None


def refuse_undetected() -> None:
    """Raises UserError if a launcher that JAX does not know, such as Open MPI 5, has started several processes.

    Each of them would train alone, in the same folder.
    """
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        if (count := number_in(variable) or 1) > 1:
            raise UserError(
                f"{variable} says that there are {count} processes, but JAX does not know how they meet. {_WAY_OUT}"
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
