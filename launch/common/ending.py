"""How the processes of a run end together: the first error that ends one of them ends all, with its status and its words.

A process that met an error cannot go on, and the others would wait for it until JAX took it for lost. It therefore tells them
through JAX's coordinator, which lives in the first process. A thread of every process waits for such news, because the main
thread may be waiting for the process that has failed. A process that notices the loss of another one tells the others, too: not
all of them exchange data with the lost one.
"""

import atexit
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

_FAILURE, _HEARD = "crn_jax/failure", "crn_jax/heard/"
_LISTENING_MILLISECONDS = 1000
"""How long the listening thread waits at a time, and therefore how long it may hold up the end of the process."""

_TO_END_SECONDS = 2.0
"""How long the first process leaves the others, which have heard that the run is over, to end."""

PATIENCE = 20.0
"""Seconds that a process waits for the coordinator and for the others before it ends anyway."""


def coordinator() -> Any:
    """Returns the client of JAX's coordinator, which keeps small texts of processes for each other; None for one process."""
    from jax._src import distributed  # jax.distributed has no public name for it

    return distributed.global_state.client


def listen(say: Callable[[str], None]) -> None:
    """Ends this process, from now on, when another one tells that it has failed; `say` prints why."""

    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            try:
                news = coordinator().blocking_key_value_get(_FAILURE, _LISTENING_MILLISECONDS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    continue
                return  # the coordinator is gone, which JAX notices
            failure = json.loads(news)
            if failure["process"] != jax.process_index():
                whose = f"Process {failure['process']} has ended this run, and this process ends with it."
                if failure["stacks"]:
                    dump_stacks()
                _last_words(say, f"{whose} It says: {failure['message']}")
                part(failure["status"], failure["lost"])
            return

    listener = threading.Thread(target=wait, name="news of other processes", daemon=True)

    def finish() -> None:
        over.set()
        listener.join(PATIENCE)

    listener.start()
    atexit.register(finish)  # a thread that returns to Python from C++ while Python ends would abort the process


def end_all(status: int, message: str, stacks: bool = False, lost: int = 0) -> None:
    """Ends all processes of the run with a status, this one included, whether or not the others can still be told why.

    Args:
      status: the exit status.
      message: why the run ends.
      stacks: whether each of the others prints the stacks of its threads first.
      lost: how many processes are known to be gone already.
    """
    if coordinator() is None:
        os._exit(status)
    failure = json.dumps({"process": jax.process_index(), "status": status, "message": message, "stacks": stacks, "lost": lost})

    if not within(PATIENCE, lambda: coordinator().key_value_set(_FAILURE, failure)):
        let_news_come_first()  # another process was first, and all end with its status; or the coordinator is gone
    part(status, lost)


def let_news_come_first() -> None:
    """If another process has told why it ends the run, waits for `listen` to end this one in the same way.

    Else the main thread, whose connection to that process breaks, could end this process as if the other one were lost.
    """
    if within(PATIENCE, lambda: coordinator().key_value_try_get(_FAILURE)):
        time.sleep(3 * PATIENCE)


def dump_stacks() -> None:
    """Prints the stacks of all threads."""
    within(PATIENCE, lambda: faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True))


def part(status: int, lost: int) -> None:
    """Ends this process. The first one, where the coordinator lives, lets the others go before it.

    Without the coordinator, JAX would abort those that have not ended yet.

    Args:
      status: the exit status.
      lost: how many processes are known to be gone already.
    """

    def leave() -> None:
        client = coordinator()
        client.key_value_set(f"{_HEARD}{jax.process_index()}", "", allow_overwrite=True)
        if jax.process_index() != 0:
            os._exit(status)  # at once, as the first process ends soon after it has read this
        while len(client.key_value_dir_get(_HEARD)) < jax.process_count() - lost:
            time.sleep(0.1)
        time.sleep(_TO_END_SECONDS)

    within(PATIENCE, leave)
    os._exit(status)  # without JAX's shutdown, which waits for processes that may be waiting for this one


def _last_words(say: Callable[[str], None], message: str) -> None:
    """Prints a message, unless the main thread holds the output or nobody takes it."""

    def speak() -> None:
        say(message)
        sys.stdout.flush()
        sys.stderr.flush()

    within(PATIENCE, speak)


def within(seconds: float, act: Callable[[], object]) -> bool:
    """Acts in a thread, and returns after so many seconds at the latest. Returns whether it was done without an error."""
    done = []

    def thread() -> None:
        try:
            act()
            done.append(True)
        except Exception:
            pass  # the process is about to end; there is nobody left to tell

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    worker.join(seconds)
    return bool(done)
