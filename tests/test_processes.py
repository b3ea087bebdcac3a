"""Several real processes on this machine, joined over its loopback."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from crn_jax.errors import UserError
from launch import train
from launch.common import processes, stop_signals, terminal
from launch.common.exit_status import LOST, TRY_AGAIN
from launch.common.processes import Processes
from launch.common.stop_signals import Stop
from launch.common.terminal import console
from launch.training.metrics_log import read_metrics
from tests.support.commands import PATIENCE, ROOT, final_state, start, trained_lines, wait_for
from tests.support.rounding import assert_same_training

RUN = (
    "--cascade.base 24 8 --cascade.widths 8 8 --batch_size 2 --data.num_scenes 12 --optimizer.learning_rate 1e-4 --epochs 3 "
    "--run.checkpoint_every 2 --run.log_every 3"
)
STEPS = 18


@contextlib.contextmanager
def started(each: list[list[str]], folder: Path):
    """The processes of one run, with the arguments of each; none is left when the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num-processes", str(len(each))]
    together = [
        start([*arguments, *meeting, "--process-id", str(i)], folder, "export JAX_NUM_CPU_DEVICES=1", pause=0.2)
        for i, arguments in enumerate(each)
    ]
    try:
        yield together
    finally:
        for process in together:
            process.kill()
            process.communicate()


def outputs(together: list[subprocess.Popen]) -> list[str]:
    """What the processes have said by their end."""
    deadline = time.monotonic() + PATIENCE
    return [process.communicate(timeout=max(0.1, deadline - time.monotonic()))[0] for process in together]


def test_stopped_killed_and_resumed_on_other_devices_it_ends_like_an_undisturbed_run(tiny, tmp_path, xlas_convolution):
    """Two processes, one told to stop; three, one killed; four devices; against one device."""
    arguments, folder = [*tiny, *RUN.split()], tmp_path / "run"
    with started([[*arguments, "--sharding.mesh", "1", "2"]] * 2, folder) as together:
        wait_for(together[0], lambda: trained_lines(folder))
        together[1].send_signal(signal.SIGTERM)
        texts = outputs(together)
    assert [process.returncode for process in together] == [TRY_AGAIN, TRY_AGAIN]
    assert "on 2 x cpu (data 1 x spatial 2, 2 processes)" in texts[0] and "on 2 x cpu" not in texts[1]  # the first speaks
    stopped = int(re.search(r"Stopped and saved at step (\d+)", texts[0]).group(1))
    assert int(final_state(folder).step) == stopped < STEPS - 8

    def saved_steps() -> list[int]:
        return [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]

    with started([[*arguments, "--sharding.mesh", "1", "3"]] * 3, folder) as together:
        wait_for(together[0], lambda: max(saved_steps()) > stopped)
        together[1].kill()
        texts = outputs(together)
    assert [process.returncode for process in together] == [LOST, -signal.SIGKILL, LOST]
    assert f"at step {stopped}." in texts[0]
    assert "error in process 2: Another process of this run has ended" in texts[2]
    saved = int(final_state(folder).step)
    assert stopped < saved < STEPS

    with console.capture() as capture:
        train.main([*arguments, "--run.folder", str(folder), "--sharding.mesh", "2", "2"])
    assert f"at step {saved}." in capture.get()
    train.main([*arguments, "--run.folder", str(tmp_path / "undisturbed")])
    assert_same_training(final_state(folder), final_state(tmp_path / "undisturbed"), learning_rate=1e-4)
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(3, STEPS + 1, 3))


def test_processes_that_do_not_agree_say_on_what(tiny, tmp_path):
    with started([[*tiny, "--sharding.mesh", "1", "2", "--seed", seed] for seed in "12"], tmp_path) as together:
        texts = outputs(together)
    assert 2 in [process.returncode for process in together]
    assert any("experiment.seed: 1 on process 0, 2 on process 1" in text for text in texts)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.quick
def test_half_an_address_is_refused():
    with pytest.raises(UserError, match="--coordinator HOST:PORT, --num_processes N and --process_id I go together"):
        processes.join(Processes(coordinator="here:1"))


@pytest.fixture
def asked_of_jax(monkeypatch) -> list[dict]:
    """What `join` asks of JAX, which does not do it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **settings: calls.append(settings))
    return calls


@pytest.mark.quick
def test_the_only_task_of_slurm_has_all_devices(asked_of_jax, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    processes.join(Processes())
    assert not asked_of_jax
    processes.join(Processes("here:1", 2, 0))  # two such tasks may meet, and have all of theirs
    assert (asked_of_jax[0]["local_device_ids"], asked_of_jax[0]["cluster_detection_method"]) == (None, "deactivate")


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "expected"),
    [("4", "4", "8", list(range(8))), ("32", "4", "8", None), ("4", "4", None, None)],  # None: the one that JAX chooses
)
def test_a_task_that_is_alone_on_its_node_has_all_gpus(asked_of_jax, monkeypatch, tasks, nodes, gpus, expected):
    for name, value in {"SLURM_NTASKS": tasks, "SLURM_STEP_NUM_NODES": nodes, "SLURM_GPUS_ON_NODE": gpus}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    processes.join(Processes())
    assert (asked_of_jax[0]["local_device_ids"], asked_of_jax[0]["cluster_detection_method"]) == (expected, None)


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_processes_that_were_started_together_but_not_detected_do_not_train_alone(variable, monkeypatch):
    monkeypatch.setenv(variable, "4")
    with pytest.raises(UserError, match=f"{variable} says that there are 4 processes"):
        processes.refuse_undetected()
    monkeypatch.setenv(variable, "1")
    processes.refuse_undetected()


def test_a_signal_before_the_first_step_counts():
    """A signal may come before a resumed run's first step, or between two runs of one recipe."""
    program = """
import os, signal, socket, time
from launch.common.processes import Processes, join
from launch.common.stop_signals import Stop
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
join(Processes(f"127.0.0.1:{port}", 1, 0))
Stop.listen_from(1000)
with Stop() as stop:
    print([stop.requested_at(step) for step in (1001, 1002)])
Stop.listen_from(0)  # the next stage of a recipe
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(3)  # JAX looks once a second
with Stop() as stop:
    print([stop.requested_at(step) for step in (1, 2)])
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert result.stdout.split("\n")[:2] == ["[False, False]", "[True, False]"], result.stderr


@pytest.mark.parametrize(("given", "several", "kept"), [(None, True, True), ("elsewhere", True, False), (None, False, False)])
def test_several_processes_keep_what_they_compile_with_the_run(tmp_path, monkeypatch, given, several, kept):
    monkeypatch.setattr(terminal, "several_processes", lambda: several)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    before = jax.config.jax_compilation_cache_dir
    try:
        terminal.keep_compiled_in(tmp_path)
        assert jax.config.jax_compilation_cache_dir == (str(tmp_path / "compiled") if kept else before)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.quick
def test_a_terminal_that_is_closed_ends_a_run_between_two_steps(monkeypatch):
    """A run that was started with nohup ignores the signal and goes on."""
    monkeypatch.setattr(os, "isatty", lambda _: False)
    before = signal.getsignal(signal.SIGHUP)
    for handler, stops in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
        signal.signal(signal.SIGHUP, handler)
        with Stop() as stop:
            assert not stop.requested_at(1)
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested_at(2) == stops
    signal.signal(signal.SIGHUP, before)


@pytest.mark.quick
def test_sigterms_together_are_one_request_and_a_later_one_ends_the_process(monkeypatch):
    """SLURM sends two within milliseconds."""
    now = [100.0]
    monkeypatch.setattr(stop_signals.time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        for now[0] in (100.0, 100.1, 104.9):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested_at(1)
        monkeypatch.setattr(os, "kill", lambda _, number: killed.append((number, signal.getsignal(number))))
        now[0], killed = 105.1, list[tuple]()
        signal.raise_signal(signal.SIGTERM)
        assert killed == [(signal.SIGTERM, signal.SIG_DFL)]
    assert signal.getsignal(signal.SIGTERM) == before


def test_output_that_nobody_reads_ends_nothing(tmp_path):
    program = """
from pathlib import Path
import launch
launch.prepare()
from launch.common.terminal import console
for i in range(2000):
    console.print("line", i, "x" * 100)
Path("done").touch()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("line 0")
        process.stdout.close()
        assert process.wait(timeout=PATIENCE) == 0
    assert (tmp_path / "done").exists()
