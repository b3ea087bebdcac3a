"""Several real processes on this machine, joined over its loopback."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from crn_jax.checksums import sealed, unsealed
from crn_jax.errors import UserError
from launch import train
from launch.common import jax_setup, processes, stop_signals, terminal
from launch.common.exit_status import FAILED, LOST, TRY_AGAIN, USER_ERROR
from launch.common.processes import Processes, join
from launch.common.stop_signals import Stop
from launch.common.terminal import console
from launch.training.metrics_log import read_metrics
from tests.support.commands import PATIENCE, ROOT, final_state, free_port, start, trained_lines, wait_for
from tests.support.profiles import events
from tests.support.rounding import assert_same_training

RUN = (
    "--cascade.base 24 8 --cascade.widths 8 8 --batch_size 2 --data.num_scenes 12 --optimizer.learning_rate 1e-4 --epochs 3 "
    "--run.checkpoint_every 2 --run.log_every 3"
)
STEPS = 18
LOST_WORDS = "Another process of this run has ended"


@contextlib.contextmanager
def started(each: list[list[str]], folder: Path, before: Sequence[str] = ()):
    """The processes of one run, with the arguments of each; none is left when the block ends.

    `before` has a shell command for each, which sets it up.
    """
    meeting = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(len(each))]
    together = [
        start([*arguments, *meeting, "--process-id", str(i)], folder, f"export JAX_NUM_CPU_DEVICES=1; {setup}", pause=0.2)
        for i, (arguments, setup) in enumerate(zip(each, before or ["true"] * len(each)))
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
    """Two processes, one told to stop; three, which find that checkpoint damaged, one killed; four devices; one device."""
    arguments, folder = [*tiny, *RUN.split()], tmp_path / "run"
    with started([[*arguments, "--sharding.mesh", "1", "2", "--profile", "2:3"]] * 2, folder) as together:
        wait_for(together[0], lambda: trained_lines(folder))
        together[1].send_signal(signal.SIGTERM)
        texts = outputs(together)
    assert [process.returncode for process in together] == [TRY_AGAIN, TRY_AGAIN]
    assert "on 2 x cpu (data 1 x spatial 2, 2 processes)" in texts[0] and "on 2 x cpu" not in texts[1]  # the first speaks
    stopped = int(re.search(r"Stopped and saved at step (\d+)", texts[0]).group(1))
    assert int(final_state(folder).step) == stopped < STEPS - 8
    for process in (0, 1):
        assert any("module_1/conv1" in event["name"] for event in events(folder / "tensorboard", "steps_2_3", process))

    def saved_steps() -> list[int]:
        return [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]

    part = folder / "checkpoints" / str(stopped) / "checksums" / "process_1.json"  # of what the second process held
    fields = unsealed(json.loads(part.read_text()))
    fields["arrays"]["params/to_rgb/kernel"]["blocks"][-1][2] ^= 1
    part.write_text(json.dumps(sealed(fields)))
    whole = max(step for step in saved_steps() if step < stopped)

    with started([[*arguments, "--sharding.mesh", "1", "3"]] * 3, folder) as together:
        wait_for(together[0], lambda: max(saved_steps()) > stopped)
        together[1].kill()
        texts = outputs(together)
    assert together[1].returncode == -signal.SIGKILL
    for i in (0, 2):  # if they wait for each other, JAX aborts both once the lost one has been silent for long
        assert together[i].returncode in (LOST, -signal.SIGABRT), texts[i]
        assert together[i].returncode != LOST or LOST_WORDS in texts[i]
    assert "by their checksums: params/to_rgb/kernel." in texts[0] and f"at step {whole}." in texts[0]
    assert (folder / "damaged" / str(stopped)).exists()
    saved = int(final_state(folder).step)
    assert stopped < saved < STEPS

    with console.capture() as capture:
        train.main([*arguments, "--run.folder", str(folder), "--sharding.mesh", "2", "2"])
    assert f"at step {saved}." in capture.get()
    train.main([*arguments, "--run.folder", str(tmp_path / "undisturbed")])
    assert_same_training(final_state(folder), final_state(tmp_path / "undisturbed"), learning_rate=1e-4)
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(3, STEPS + 1, 3))


def test_a_survivor_that_waits_for_another_one_hears_of_a_loss():
    """Process 1 is lost, which process 0 notices. Process 2 waits for process 0, and would never notice."""
    program = """
import os, signal, sys, time
import jax
from launch.common.ending import coordinator, listen
from launch.common.processes import Processes, join
from launch.common.terminal import command, show_error
join(Processes(sys.argv[1], 3, int(sys.argv[2])))
assert jax.process_count() == 3
listen(show_error)
coordinator().wait_at_barrier("all listen", 200_000)
if jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
with command():
    if jax.process_index() == 0:
        raise RuntimeError("UNAVAILABLE: Connection reset by peer")
    time.sleep(1000)
"""
    meeting = f"127.0.0.1:{free_port()}"
    together = [
        subprocess.Popen(
            [sys.executable, "-c", program, meeting, str(i)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(3)
    ]
    try:
        texts = outputs(together)
    finally:
        for process in together:
            process.kill()
    assert [process.returncode for process in together] == [LOST, -signal.SIGKILL, LOST], texts
    assert f"error in process 0: {LOST_WORDS}" in texts[0]
    assert "error in process 2: Process 0 has ended this run" in texts[2] and LOST_WORDS in texts[2]


def test_processes_that_do_not_agree_say_on_what(tiny, tmp_path):
    with started([[*tiny, "--sharding.mesh", "1", "2", "--seed", seed] for seed in "12"], tmp_path) as together:
        texts = outputs(together)
    assert [process.returncode for process in together] == [USER_ERROR, USER_ERROR]
    assert all("experiment.seed: 1 on process 0, 2 on process 1" in text for text in texts)
    assert not (tmp_path / "run.json").exists()


def test_two_processes_start_from_a_smaller_run_with_its_moving_average(tiny, tmp_path):
    """The moving average of a fresh module is a copy of parameters that are spread over both processes."""
    trained, folder = tmp_path / "small", tmp_path / "grown"
    short = [*tiny, "--steps", "1", "--sharding.mesh"]
    train.main([*short, "1", "1", "--cascade.widths", "8", "8", "8", "--run.folder", str(trained)])
    with started([[*short, "1", "2", "--init_from", str(trained)]] * 2, folder) as together:
        texts = outputs(together)
    assert [process.returncode for process in together] == [0, 0], texts
    assert "Fresh: module_3, to_rgb." in texts[0]
    state = final_state(folder)
    assert int(state.step) == 1 and state.ema["module_3"].keys() == state.params["module_3"].keys()


def test_an_error_that_one_process_meets_ends_all_with_its_status(tiny, tmp_path):
    """A person has to mend it, so that no launcher may start the run again."""
    arguments = [*tiny, "--sharding.mesh", "1", "2"]
    with started([arguments, [*arguments, "--vgg.weights", str(tmp_path / "no.h5")]], tmp_path / "run") as together:
        texts = outputs(together)
    assert [process.returncode for process in together] == [USER_ERROR, USER_ERROR]
    assert all(f"{tmp_path / 'no.h5'}" in text for text in texts)
    assert "error in process 0: Process 1 has ended this run, and this process ends with it." in texts[0]


def test_a_crash_of_the_first_process_between_two_steps_ends_both_as_a_crash(tiny, tmp_path):
    """The other one waits for it within a step, where Python does not run. JAX's coordinator is in the first one."""
    faults = ["export CRN_JAX_TEST_FAULT=crash", "true"]
    with started([[*tiny, *RUN.split(), "--sharding.mesh", "1", "2"]] * 2, tmp_path, faults) as together:
        texts = outputs(together)
    assert [process.returncode for process in together] == [FAILED, FAILED]
    assert "Traceback" in texts[0] and "Process 0 has ended this run" in texts[1] and "ZeroDivisionError" in texts[1]


def test_one_of_four_processes_that_sleeps_for_ever_ends_all_and_is_named_by_each(tiny, tmp_path):
    arguments = [*tiny, *RUN.split(), "--batch_size", "4", "--sharding.mesh", "4", "1", "--run.stuck_seconds", "15"]
    faults = [f"export CRN_JAX_TEST_FAULT={'sleep' if i == 2 else ''}" for i in range(4)]
    with started([arguments] * 4, tmp_path, faults) as together:
        texts = outputs(together)
    assert [process.returncode for process in together] == [LOST] * 4
    for text in texts:
        assert "The run is stuck: the step at step" in text and "Process 2 holds up the others" in text
        assert re.search(r"process 2: step at step 4, in <lambda> \(narrow.py:\d+\)", text)
    assert "most recent call first" in texts[2] and "narrow.py" in texts[2]


def test_a_disk_that_is_full_in_the_middle_of_a_save_ends_both_and_keeps_the_last_good_checkpoint(tiny, tmp_path):
    """A limit on file sizes, of one process alone, makes its writes fail as a full disk does."""
    arguments, folder = [*tiny, *RUN.split(), "--sharding.mesh", "1", "2"], tmp_path / "run"
    with started([[*arguments, "--epochs", "1"]] * 2, folder) as together:
        outputs(together)
    with started([arguments] * 2, folder, ["true", "ulimit -f 10"]) as together:
        began = time.monotonic()
        texts = outputs(together)
        took = time.monotonic() - began
    assert [process.returncode for process in together] == [USER_ERROR, USER_ERROR]
    assert all(f"{folder} could not be written" in text and "goes on from step 6" in text for text in texts)
    assert took < 300  # Orbax alone would wait for twenty minutes
    assert int(final_state(folder).step) == 6


@pytest.mark.quick
def test_a_traceback_of_one_of_several_processes_is_written_at_once(monkeypatch):
    """Lines of other processes, which share the terminal, do not come between its lines."""
    written: list[str] = []
    monkeypatch.setattr(terminal, "_one_of_several", lambda: True)
    monkeypatch.setattr(terminal, "_leave", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", SimpleNamespace(write=written.append))
        with terminal.command():
            raise KeyError("a fault in the program")
    (text,) = written
    assert text.startswith("Traceback") and text.endswith("KeyError: 'a fault in the program'\n")


@pytest.mark.quick
def test_half_an_address_is_refused():
    with pytest.raises(UserError, match="--coordinator HOST:PORT, --num_processes N and --process_id I go together"):
        join(Processes(coordinator="here:1"))


@pytest.mark.quick
def test_a_port_that_another_run_uses_is_refused():
    """JAX's coordinators share a port, so that the processes of one run would meet those of another."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("", 0))
        other.listen()
        there = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"{there}: process 0 cannot listen at this port .* Give another port"):
            processes.refuse_used_port(there, patience=0)
    processes.refuse_used_port(there, patience=0)
    with pytest.raises(UserError, match="99999: process 0 cannot listen at this port"):
        processes.refuse_used_port("localhost:99999")


@pytest.fixture
def asked_of_jax(monkeypatch) -> list[dict]:
    """What `join` asks of JAX, which does not do it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **settings: calls.append(settings))
    return calls


@pytest.mark.quick
def test_the_only_task_of_slurm_has_all_devices(asked_of_jax, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    join(Processes())
    assert not asked_of_jax
    join(Processes(f"here:{free_port()}", 2, 0))  # two such tasks may meet, and have all of theirs
    assert (asked_of_jax[0]["local_device_ids"], asked_of_jax[0]["cluster_detection_method"]) == (None, "deactivate")


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "expected"),
    [("4", "4", "8", list(range(8))), ("32", "4", "8", None), ("4", "4", None, None)],  # None: the one that JAX chooses
)
def test_a_task_that_is_alone_on_its_node_has_all_gpus(asked_of_jax, monkeypatch, tasks, nodes, gpus, expected):
    for name, value in {"SLURM_NTASKS": tasks, "SLURM_STEP_NUM_NODES": nodes, "SLURM_GPUS_ON_NODE": gpus}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    join(Processes())
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
with Stop() as stop:
    print([stop.requested(), stop.requested()])
os.kill(os.getpid(), signal.SIGTERM)  # while the next stage of a recipe starts
time.sleep(3)  # JAX looks once a second
with Stop() as stop:
    print([stop.requested(), stop.requested()])
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert result.stdout.split("\n")[:2] == ["[False, False]", "[True, False]"], result.stderr


@pytest.mark.parametrize(("given", "several", "kept"), [(None, True, True), ("elsewhere", True, False), (None, False, False)])
def test_several_processes_keep_what_they_compile_with_the_run(tmp_path, monkeypatch, given, several, kept):
    monkeypatch.setattr(jax_setup, "several_processes", lambda: several)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax_setup.keep_compiled_in(tmp_path)
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
            assert not stop.requested()
            for _ in range(2):  # the shell sends one, and the kernel another
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.requested() == stops
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
            assert stop.requested()
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


@pytest.mark.parametrize("unbuffered", [["-u"], []])
def test_a_pipe_that_does_not_block_gets_everything(tmp_path, unbuffered):
    """Another program that holds the same pipe may have made it so."""
    program = """
import os
import launch
os.set_blocking(1, False)
launch.prepare()
from launch.common.terminal import console
for i in range(2000):
    console.print("line", i, "x" * 100)
"""
    command = [sys.executable, *unbuffered, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        lines = process.stdout.read().splitlines()
        assert process.wait(timeout=PATIENCE) == 0
    assert len(lines) == 1999 and lines[-1].startswith("line 1999 ")


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.0.0.1:34911"} | dict.fromkeys(
    (f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "LOCAL_RANK")), "0"
)
POD = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
SURROUNDINGS = {
    "a pod with the client of Kubernetes": (POD, "alone"),
    "a pod of an indexed job that may not read tokens": (POD | {"JOB_COMPLETION_INDEX": "0"}, "no token. Give --coordinator"),
    "a pod of an indexed job that may not list pods": (
        POD | {"JOB_COMPLETION_INDEX": "0", "RIGHTS": "none", "HOSTNAME": "localhost"},
        "Kubernetes API Error: 403 - Forbidden",
    ),
    "a stray variable of Open MPI": ({"OMPI_MCA_orte_hnp_uri": "x"}, "alone"),
    "Open MPI with one process": (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, "alone"),
    "Open MPI 5": ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE says that there are 4 processes"),
    "Open MPI 5 in a shell of salloc": (
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "4"},
        "OMPI_COMM_WORLD_SIZE says that there are 4 processes",
    ),
    "empty variables of SLURM": (dict.fromkeys([*SLURM, "SLURM_STEP_NUM_TASKS", "PMI_SIZE"], ""), "alone"),
    "words where SLURM has numbers": (SLURM | {"SLURM_NTASKS": "many", "SLURM_STEP_NUM_TASKS": "x"}, "alone"),
    "a shell of salloc, an interactive step": (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, "alone"),
    "a script of sbatch without srun": ({**SLURM, "SLURM_STEP_NODELIST": ""}, "alone"),
    "half an address": (
        {"JAX_COORDINATOR_ADDRESS": "here:1"},
        "Number of processes must be defined. Give",
    ),
}


PRETENDED_CLUSTER = """
import os
from types import SimpleNamespace as Thing

from jax._src.clusters.k8s_cluster import K8sCluster


class ApiException(Exception):
    status, reason = 403, "Forbidden"


def allowed():
    if os.environ["RIGHTS"] == "none":
        raise ApiException


class config:
    def load_incluster_config():
        if "RIGHTS" not in os.environ:
            raise OSError("no token")  # as outside of a cluster
        K8sCluster._namespace = lambda: "default"


class client:
    exceptions = Thing(ApiException=ApiException)

    class CoreV1Api:
        def list_namespaced_pod(self, namespace, field_selector):
            allowed()
            owner = Thing(controller=True, kind="Job")
            return Thing(items=[Thing(metadata=Thing(labels={"job-name": "crn-workers-0"}, owner_references=[owner]))])

    class BatchV1Api:
        def read_namespaced_job(self, name, namespace):
            allowed()
            metadata = Thing(name=name, labels={"jobset.sigs.k8s.io/jobset-name": "crn"})
            return Thing(metadata=metadata, spec=Thing(parallelism=2))
"""


def test_two_pretended_pods_with_rights_find_each_other(tmp_path):
    """JAX asks the cluster for their number and for the name of the first one, which a pretended name server knows."""
    (tmp_path / "kubernetes.py").write_text(PRETENDED_CLUSTER)
    program = """
import socket
import jax
from jax._src import distributed
from launch.common.processes import Processes, agree, join
lookup, connect = socket.gethostbyname, distributed._jax.get_distributed_runtime_client
first = "crn-workers-0-0.crn"
socket.gethostbyname = lambda name: "127.0.0.1" if name == first else lookup(name)
distributed._jax.get_distributed_runtime_client = lambda address, *more, **options: connect(
    address.replace(first, "127.0.0.1"), *more, **options
)
join(Processes())
agree({"met": True})
print(f"process {jax.process_index()} of {jax.process_count()}")
"""
    foreign = ("SLURM_", "OMPI_", "PMI_", "KUBERNETES_", "JOB_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment |= POD | {"RIGHTS": "all", "HOSTNAME": "localhost", "JAX_COORDINATOR_PORT": str(free_port())}
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "JAX_NUM_CPU_DEVICES": "1"}
    pods = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**environment, "JOB_COMPLETION_INDEX": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        for i in range(2)
    ]
    for i, text in enumerate(outputs(pods)):
        assert f"process {i} of 2" in text, text


def test_what_is_left_of_a_launcher_is_no_launcher(tmp_path):
    """JAX's own detection, in one process for all surroundings, because none of them may join anything."""
    (tmp_path / "kubernetes.py").write_text(PRETENDED_CLUSTER)
    program = f"""
import os
import jax
from launch.common.processes import Processes, join
for variables, _ in {list(SURROUNDINGS.values())!r}:
    os.environ |= variables
    try:
        join(Processes())
        print("joined" if jax.distributed.is_initialized() else "alone")
    except ValueError as error:
        print(" ".join(str(error).split()))
    assert all(os.environ.pop(name) == value for name, value in variables.items())
"""
    foreign = ("SLURM_", "OMPI_", "PMI_", "KUBERNETES_", "JOB_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environment["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    line = [sys.executable, "-c", program]
    ended = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    answers = ended.stdout.splitlines()
    assert len(answers) == len(SURROUNDINGS), ended.stderr
    for (name, (_, expected)), answer in zip(SURROUNDINGS.items(), answers):
        assert answer == expected if expected == "alone" else expected in answer, name


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, {"SLURM_STEP_NODELIST"}),
        (SLURM | {"OMPI_MCA_orte_hnp_uri": "x"}, {"SLURM_STEP_NODELIST"}),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "2", "SLURM_NTASKS": "1"}, {"OMPI_MCA_orte_hnp_uri"}),
        (POD | {"JOB_COMPLETION_INDEX": "3"}, {"KUBERNETES_SERVICE_HOST"}),
        (POD | SLURM, {"SLURM_STEP_NODELIST"}),
    ],
)
def test_a_launcher_is_seen_beside_what_is_left_of_another(variables, seen, monkeypatch):
    signs = {"SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"}
    for name in signs | {"SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    there = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: there.append(signs & os.environ.keys()))
    join(Processes())
    assert there == [seen]
    join(Processes(alone=True))
    assert there == [seen] and signs & os.environ.keys() == signs & variables.keys()


@pytest.mark.quick
@pytest.mark.parametrize("config", [Processes("here", 2, 0), Processes("here:1", 2, 0, alone=True)])
def test_addresses_that_make_no_sense_are_refused(config):
    with pytest.raises(UserError, match="--coordinator"):
        join(config)
