"""How a run stops: a SIGTERM, SIGINT or SIGHUP ends it between two steps, on all of its processes after the same step."""

import os
import signal
import time

import jax
from jax.experimental import multihost_utils

from launch.common.standard_streams import silence

REPEATED_SECONDS = 5.0
"""Seconds after the first SIGTERM or SIGHUP in which another one is the same request. When SLURM preempts a job without grace,
it sends SIGTERM twice within some milliseconds: to each process, and through srun. When a terminal is closed, its shell and
the kernel both send SIGHUP."""


class Stop:
    """Notes a SIGTERM, SIGINT or SIGHUP, so that the run can end between two steps, the same two on every process.

    With several processes, JAX's preemption service catches SIGTERM, tells all processes, and names the step after which they
    stop: the one after the latest step that it has been told of. `listen_from` tells it of `first_step`, because it could
    otherwise name a step that a resumed run has passed. The service only accepts growing numbers, also where one process trains
    several runs in turn, so the class adds an offset to each run's steps.
    """

    _told = 0
    _offset = 0

    @classmethod
    def listen_from(cls, first_step: int) -> None:
        """Makes a SIGTERM count from now on. `first_step`, the steps done so far, is the same on all processes."""
        cls._offset = max(0, cls._told - first_step)
        cls._reached(first_step)

    @classmethod
    def _reached(cls, step: int) -> bool:
        cls._told = step + cls._offset
        return jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(cls._told)

    def __enter__(self):
        self._noted, self._by_jax = dict[int, float](), jax.distributed.is_initialized()
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
        """Returns whether to stop after this step. Every process has to ask at every step."""
        return self._reached(step) if self._by_jax else bool(self._noted)

    def _note(self, number, _frame) -> None:
        """Notes a signal, and lets a second one end the process at once, unless it is a repeated SIGTERM or SIGHUP."""
        if number in self._noted:
            if time.monotonic() - self._noted[number] > REPEATED_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._noted[number] = time.monotonic()
        if number == signal.SIGHUP:
            for terminal in self._terminals:  # it is gone, and writing to it would fail
                silence(terminal)
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        if self._by_jax:
            os.kill(os.getpid(), signal.SIGTERM)
