"""A run that is stuck ends and says where; one that compiles, validates for long or is suspended goes on."""

import re
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from launch.common import ending
from launch.common.exit_status import LOST
from launch.training import watchdog
from launch.training.watchdog import FACTOR, FIRST, Watchdog
from tests.support.commands import PATIENCE, ROOT


@pytest.fixture
def ended(monkeypatch) -> list[tuple[int, str]]:
    """The statuses and messages that processes have ended with, which they do not here."""
    ends: list[tuple[int, str]] = []

    monkeypatch.setattr(ending, "end_all", lambda status, message, stacks: ends.append((status, message)))
    return ends


def wait_until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pass_phases(dog: Watchdog, phase="step", count=3) -> None:
    for step in range(1, count + 1):
        dog.begin(phase, step)


@pytest.mark.parametrize("phase", ["step", "validation", "save"])
def test_a_phase_that_never_ends_is_noticed_with_the_stacks_of_all_threads(ended, phase, capfd):
    said = []
    with Watchdog(0.6, said.append) as dog:
        pass_phases(dog, phase)
        wait_until(lambda: ended)
    (status, message), stacks = ended[0], capfd.readouterr().err
    assert status == LOST and said == [message]
    assert re.search(rf"the {phase} at step 3 has taken [01] s, and its bound is 1 s", message)
    assert "wait_until" in stacks and "_alarm" in stacks  # this thread and the watchdog's


def test_bounds_come_from_the_median_of_the_kind(ended):
    dog = Watchdog(2, print)
    assert dog.bound("start") == float("inf") and dog.bound("step") == FIRST * 2
    for seconds in (0.0, 500.0, 0.1, 0.1, 0.2, 3.0):  # the second one reads files that are not in memory yet
        dog.begin("step", 1)
        dog.current.spent = seconds
    dog.begin("validation", 1)
    assert dog.bound("step") == 2.0 and dog.bound("validation") == FIRST * 2 and dog.took["step"][0] == 500.0
    dog.current.spent = 7.0
    dog.begin("step", 2)
    assert dog.bound("validation") == FACTOR * 7.0


def test_the_first_step_of_a_start_may_take_long_although_the_second_one_waits_for_it(ended):
    """JAX returns as soon as a step is given to the devices. The next step waits until they have computed it."""
    dog = Watchdog(2, print)
    for seconds in (0.01, 30.0):
        dog.begin("step", 1)
        assert dog.bound("step") == FIRST * 2
        dog.current.spent = seconds
    dog.begin("step", 3)
    assert dog.bound("step") == FACTOR * 30.0


def test_a_checkpoint_may_take_long_however_short_the_waits_before(ended):
    """A checkpoint is usually complete before the next one begins, so that nobody waits for it. The last one is waited for."""
    dog = Watchdog(2, print)
    pass_phases(dog, "wait")
    assert dog.bound("wait") == FIRST * 2 and not dog.took["wait"]


def test_compiling_takes_no_time(ended):
    """As long as JAX compiles, in any thread, the clock stands still."""
    with Watchdog(0.6, print) as dog:
        pass_phases(dog)
        seen = []

        @jax.jit
        def traced(x):  # tracing belongs to it
            before = dog.ticks
            seen.append(dog.compiling.depth)
            wait_until(lambda: dog.ticks > before + 120)  # twice the bound
            return x + 1

        traced(jnp.zeros(()))
        assert seen[0] > 0 and dog.compiling.depth == 0 and not ended
        wait_until(lambda: ended)


def test_the_backend_s_compiler_is_seen_at_work(monkeypatch):
    from jax._src import compiler

    seen, compiling = [], watchdog.compiling()
    original = compiler.compile_or_get_cached

    def looking(*args, **kwargs):
        seen.append(compiling.depth)
        return original(*args, **kwargs)

    monkeypatch.setattr(compiler, "compile_or_get_cached", looking)
    jax.jit(lambda x: x * 3 + 17)(jnp.zeros((3, 7)))
    assert seen and min(seen) > 0 and compiling.depth == 0


def test_a_process_that_is_stopped_and_goes_on_raises_no_alarm():
    """So it is with a laptop that was suspended. Stuck without that, the same process is ended."""
    program = """
import sys, time
from launch.training.watchdog import Watchdog
with Watchdog(4, print) as dog:
    for step in (1, 2, 3):
        dog.begin("step", step)
    print("ready", flush=True)
    sys.stdin.readline()
    dog.begin("step", 4)
    print("went on", flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(6)  # longer than the bound
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "went on\n"
        process.wait(PATIENCE)
        output, stacks = process.stdout.read(), process.stderr.read()
    assert process.returncode == LOST and "the step at step 4" in output
    assert "most recent call first" in stacks


class Coordinator:
    """The coordinator of several processes, whose texts the tests write."""

    def __init__(self):
        self.texts: dict[str, str] = {}
        self.answers = threading.Event()
        self.answers.set()

    def key_value_set(self, key, text, allow_overwrite=False):
        self.answers.wait()
        self.texts[key] = text

    def key_value_dir_get(self, key):
        self.answers.wait()
        return [(name, text) for name, text in self.texts.items() if name.startswith(key)]

    def other(self, **changes) -> None:
        """Process 1 tells how far it is."""
        told = {"tick": time.monotonic(), "step": 3, "phase": "step", "late": False, "waits": True, "where": "f (a.py:1)"}
        self.key_value_set("crn_jax/progress/1", watchdog.json.dumps(told | changes))


@pytest.fixture
def coordinator(monkeypatch) -> Coordinator:
    made = Coordinator()
    monkeypatch.setattr(ending, "coordinator", lambda: made)
    yield made
    made.answers.set()


@pytest.fixture
def never_silent(monkeypatch):
    """The threads of this process may get no processor for many of the short ticks."""
    monkeypatch.setattr(watchdog, "SILENT_TICKS", 1_000_000)


def test_a_process_waits_for_one_that_is_less_far_and_at_work(ended, coordinator, never_silent):
    """The other validates, compiles or draws a contact sheet."""
    coordinator.other(step=2, phase="validation")
    with Watchdog(0.6, print) as dog:
        pass_phases(dog)
        wait_until(lambda: ended or dog.ticks > 200)
        assert not ended
        coordinator.other(step=2, phase="validation", late=True, waits=False, where="sleep (slow.py:7)")
        wait_until(lambda: ended)
    assert "Process 1 holds up the others" in ended[0][1]
    assert "process 1: validation at step 2, in sleep (slow.py:7)" in ended[0][1]


def test_a_process_that_is_silent_is_named(ended, coordinator):
    coordinator.other(step=2)
    with Watchdog(0.6, print) as dog:
        pass_phases(dog)
        wait_until(lambda: ended)
    assert "Process 1 holds up the others" in ended[0][1]


def test_of_several_that_are_equally_far_those_that_do_not_wait_for_devices_are_named(ended, coordinator, never_silent):
    coordinator.other(late=True)
    with Watchdog(0.6, print) as dog:
        pass_phases(dog)
        wait_until(lambda: ended)
    assert "Process 0 holds up the others" in ended[0][1]


def test_a_coordinator_that_does_not_answer_is_named(ended, coordinator):
    with Watchdog(0.6, print) as dog:
        pass_phases(dog)
        coordinator.answers.clear()
        wait_until(lambda: ended)
    assert "Process 0 holds up the others" in ended[0][1]


def test_a_folder_that_does_not_answer_is_said_once(ended):
    said, writing = [], [0]
    with Watchdog(2, said.append, lambda: writing[0], "runs/x") as dog:
        for count, ticks in ((1, 3), (2, 3), (3, 60)):  # written, and begun anew
            writing[0], until = count, dog.ticks + ticks
            wait_until(lambda until=until: dog.ticks > until)
    assert len(said) == 1 and said[0].startswith("runs/x has not answered for")


def test_a_process_ends_although_nobody_takes_its_words():
    begun = threading.Event()
    assert not ending.within(0.01, lambda: (begun.set(), time.sleep(5)))
    assert begun.is_set() and ending.within(60, lambda: None)
