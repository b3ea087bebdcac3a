"""Knows when JAX compiles: whether it does just now, and how many seconds a thread has spent on it.

Tracing, lowering and looking for what was compiled before belong to it.
"""

import functools
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import jax


@dataclass
class _Spent:
    """What a thread has spent on compiling."""

    depth: int = 0
    since: float = 0.0
    seconds: float = 0.0


class Compiling:
    """Follows JAX's own events, in all threads of this process."""

    def __init__(self):
        self.depth = 0
        """How many compilations there are just now, each within another one or beside it; 0 if JAX does not compile."""
        self._mutex, self._spent = threading.Lock(), defaultdict[int, _Spent](_Spent)
        jax.monitoring.register_scalar_listener(self._begins)
        jax.monitoring.register_event_duration_secs_listener(self._ends)

    def seconds(self, thread: int) -> float:
        """Returns how many seconds a thread has spent on compiling until now, by the thread's number."""
        with self._mutex:
            spent = self._spent[thread]
            return spent.seconds + (time.monotonic() - spent.since if spent.depth else 0.0)

    def _begins(self, event: str, value: float | int, **_) -> None:
        self._count(event, 1)

    def _ends(self, event: str, duration_secs: float, **_) -> None:
        self._count(event, -1)

    def _count(self, event: str, change: int) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        now, thread = time.monotonic(), threading.get_ident()
        with self._mutex:
            spent = self._spent[thread]
            if spent.depth + change < 0:
                return  # that one had begun before this listener
            if spent.depth == 0:
                spent.since = now
            self.depth += change
            spent.depth += change
            if spent.depth == 0:
                spent.seconds += now - spent.since


@functools.cache
def compiling() -> Compiling:
    """Returns the one listener of this process: JAX cannot be told to forget one."""
    return Compiling()
