"""The launchers of clusters, for real: SLURM with two nodes on this machine, and Open MPI. Skipped where there is none."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.training.ledger import FILE, account_of, read_ledger
from launch.training.metrics_log import last_step
from tests.support.commands import PATIENCE, ROOT, final_state, wait_for
from tests.support.rounding import assert_identical
from tests.support.slurm import Lab, laboratory

NARROW = f'[ "$2" != launch.train ] || set -- -m tests.support.narrow "$(cat pause)" "${{@:3}}"\nexec {sys.executable} "$@"'
"""A shell program: `python`, for which VGG-19 is narrow, and which pauses before each step for the seconds in a file."""

RUN = (
    "--cascade.base 24 8 --cascade.widths 8 8 --batch_size 2 --data.num_scenes 12 --optimizer.learning_rate 1e-4 "
    "--run.checkpoint_every 5 --run.log_every 1 --sharding.mesh 1 2 --steps 100"
)

pytestmark = pytest.mark.usefixtures("one_device_each")


@pytest.fixture(scope="module")
def one_device_each() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def lab(one_device_each, tmp_path_factory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp("slurm")) as lab:
        yield lab


def steps_of(folder: Path) -> int:
    return last_step(folder / "metrics.jsonl")


def processes_of(folder: Path) -> list[int]:
    """The trainings in a folder that are running."""
    words = {path.parent.name: path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    return [int(pid) for pid, each in words.items() if b"python" in each[0] and os.fsencode(folder) in each]


def test_a_training_goes_on_after_all_that_slurm_does_to_it(lab, tiny, tmp_path):
    """Killed, preempted with and without grace, cancelled, and out of time, it ends as an undisturbed run does, bit for bit."""
    lab.python(NARROW)
    (lab.work / "pause").write_text("1")  # so that it is not over before all has befallen it
    script = [ROOT / "launch" / "slurm.sbatch", *tiny, *RUN.split(), "--run.folder"]
    two = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1"]
    folder, calm = tmp_path / "run", tmp_path / "calm"

    def until_it_trains(job: str, restarts: int) -> None:
        lab.wait_for(job, JobState="RUNNING", Restarts=str(restarts))
        before = steps_of(folder)
        lab.wait(lambda: steps_of(folder) > before + 1, job)

    job = lab.submit(*two, *script, folder)
    until_it_trains(job, restarts=0)
    os.kill(processes_of(folder)[0], signal.SIGKILL)
    until_it_trains(job, restarts=1)
    lab.preempt("127.0.0.1", "127.0.0.2")
    until_it_trains(job, restarts=2)
    lab.ask("scancel", job)
    lab.wait_for(job, JobState="CANCELLED", Restarts="2")
    assert not processes_of(folder)
    assert int(final_state(folder).step) == steps_of(folder)  # it was saved nevertheless

    job = lab.submit("-p", "nograce", "--time=60", "--signal=TERM@110", *two, *script, folder)
    until_it_trains(job, restarts=0)
    lab.preempt("127.0.0.2")
    until_it_trains(job, restarts=1)
    lab.end_soon(job)
    lab.wait_for(job, Restarts="2")
    (lab.work / "pause").write_text("0")
    lab.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    undisturbed = lab.submit(*two, *script, calm)
    for each in (job, undisturbed):
        lab.wait_for(each, JobState="COMPLETED")
    assert_identical(final_state(folder), final_state(calm))


def test_the_tasks_of_an_array_train_at_the_same_time_and_are_cancelled_at_once(lab, tiny, tmp_path):
    """Three trainings on one node, each on a GPU of its own, by launch.ablate as it is."""
    lab.python(f'exec {sys.executable} "$@"')
    suite = f"Ablation('?', tuple(Variant(name, {' '.join(tiny)!r}, '', None) for name in 'abc'))"
    (lab.work / "suites.py").write_text(
        "from crn_jax.ablation import Ablation, Variant\nfrom crn_jax.vgg import LAYERS\n"
        "from tests.support.narrow import NARROW\n"
        f"LAYERS.update(NARROW)\nEXPERIMENTS, ABLATIONS = {{}}, {{'three': {suite}}}\n"
    )
    asked = ["three", "--budget", "100000", "--out", tmp_path, "--configs", lab.work / "suites.py"]
    array = lab.submit("--array=0-2", "-w", "127.0.0.1", "--cpus-per-task=1", ROOT / "launch" / "ablate.sbatch", *asked)
    runs = [tmp_path / name / "seed_0" for name in "abc"]
    lab.wait(lambda: all(map(steps_of, runs)), *[f"{array}_{task}" for task in range(3)])
    assert all(map(processes_of, runs))
    lab.ask("scancel", array)
    for task in range(3):
        lab.wait_for(f"{array}_{task}", JobState="CANCELLED", Restarts="0")
    assert not any(map(processes_of, runs))
    for run in runs:
        assert int(final_state(run).step) >= steps_of(run) > 0


def test_an_ablation_is_requeued_when_it_is_out_of_time_or_preempted_and_not_when_it_is_cancelled(lab, tmp_path):
    """The ablation is pretended: it saves for a moment when it is told to. The second time, it finds everything done."""
    lab.python('[ ! -e "$3.saved" ] || exit 0; trap \'sleep 1; touch "$3.saved"; exit 75\' TERM; touch "$3.begun"; '
               "while true; do sleep 0.1; done")  # fmt: skip
    jobs = {}
    for name, options in {
        "cancelled": [],
        "preempted": ["-p", "nograce", "-w", "127.0.0.2"],
        "out of time": ["--time=1", "--signal=B:USR1@50"],
    }.items():
        asked = [ROOT / "launch" / "ablate.sbatch", tmp_path / name]
        jobs[name] = lab.submit("-w", "127.0.0.1", "--cpus-per-task=1", *options, *asked)
    lab.wait(lambda: all((tmp_path / f"{name}.begun").exists() for name in jobs))
    lab.ask("scancel", jobs["cancelled"])
    lab.preempt("127.0.0.2")
    lab.wait_for(jobs["cancelled"], JobState="CANCELLED", Restarts="0")
    for name in ("preempted", "out of time"):
        lab.wait_for(jobs[name], JobState="COMPLETED", Restarts="1")
    assert all((tmp_path / f"{name}.saved").exists() for name in jobs)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI (apt install openmpi-bin)")
def test_open_mpi_ends_when_one_of_two_processes_is_killed_and_the_same_command_goes_on(tiny, tmp_path):
    def command(pause: float) -> list[str]:
        started = ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe", "--allow-run-as-root", sys.executable]
        settings = [*tiny, *RUN.split(), "--steps", "12", "--run.folder", str(tmp_path / "run")]
        return [*started, "-m", "tests.support.narrow", str(pause), *settings]

    with subprocess.Popen(command(1), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        wait_for(first, lambda: steps_of(tmp_path / "run") > 5)
        trainings = processes_of(tmp_path / "run")
        assert len(trainings) == 2 and first.poll() is None
        os.kill(trainings[1], signal.SIGKILL)
        text = first.communicate(timeout=PATIENCE)[0]
    assert first.returncode != 0 and "(data 1 x spatial 2, 2 processes)" in text and not processes_of(tmp_path / "run")
    saved = int(final_state(tmp_path / "run").step)
    assert saved in (5, 10)

    second = subprocess.run(command(0), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"at step {saved}." in second.stdout and second.stdout.count("Trained to step 12") == 1
    account = account_of(read_ledger(tmp_path / "run" / FILE))  # of the first process alone
    assert account.starts == 2 and account.seconds["lost"] > 0
