"""How a run stops: a SIGTERM, SIGINT or SIGHUP ends it between two steps, on all of its processes behind the same step."""

import os
import signal

import jax
from jax.experimental import multihost_utils

from launch.common.terminal import silence


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
