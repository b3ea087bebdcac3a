"""Several processes on one run: how they join, agree, stop together, and end when one of them is lost.

JAX's distributed runtime does the work. The first process alone writes; all of them run the same steps.
"""

import dataclasses
import json
import os
import signal
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

TRY_AGAIN = 75
"""Exit status (EX_TEMPFAIL of sysexits.h) of a run that was stopped, and saved: the same command goes on."""

LOST = 76
"""Exit status of a process that has lost another one: the same command goes on from the last checkpoint."""


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


def silence(descriptor: int) -> None:
    """From now on, what is written to it goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Stop:
    """Notes a SIGTERM, SIGINT or SIGHUP, so that the run can end between two steps, the same two on every process.

    JAX's preemption service, where it runs, catches SIGTERM, tells all processes of one to any, and names the step: the one
    behind the latest that it has been told of. So it is told of `first_step` before the first step is done (else it could
    name one that a resumed run has passed), and of ever larger numbers, also where one process trains several runs in turn.
    """

    _told = 0

    @classmethod
    def listen_from(cls, first_step: int) -> None:
        """Makes a SIGTERM count from here on, before the step behind this one; the same number on all processes."""
        cls._offset = max(0, cls._told - first_step)
        cls._reached(first_step)

    @classmethod
    def _reached(cls, step: int) -> bool:
        cls._told = step + cls._offset
        return jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(cls._told)

    def __enter__(self):
        self._noted, self._by_jax = False, jax.distributed.is_initialized()
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} - ({signal.SIGTERM} if self._by_jax else set())
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # by nohup
            numbers.remove(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested_at(self, step: int) -> bool:
        """Whether to stop behind this step; to be asked at every step."""
        return self._reached(step) if self._by_jax else self._noted

    def _note(self, number, _frame) -> None:
        """A second signal ends at once. Where the terminal is gone, nothing can be written to it any more."""
        self._noted = True
        if number == signal.SIGHUP:
            for terminal in self._terminals:
                silence(terminal)
        signal.signal(number, signal.SIG_DFL)
        if self._by_jax:
            os.kill(os.getpid(), signal.SIGTERM)
