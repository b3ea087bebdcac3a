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

    With several processes, JAX's preemption service catches SIGTERM, tells all processes, and names the number at which they
    stop: the one after the greatest that it has been told. It does so once, perhaps while a run is still starting, at any step.
    So the service is not told the step, but how often a process has asked, in all runs that it trains in turn. All processes
    ask equally often, so the number that the service names always lies ahead of them.
    """

    _asked = 0
    came = False
    """Whether a signal came while the last run of a single process trained, perhaps too late for it, in its last validation."""

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
        Stop.came = bool(self._noted) and not self._by_jax

    def requested(self) -> bool:
        """Returns whether to stop now. Every process has to ask after every step."""
        if not self._by_jax:
            return bool(self._noted)
        Stop._asked += 1
        return multihost_utils.reached_preemption_sync_point(Stop._asked)

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
