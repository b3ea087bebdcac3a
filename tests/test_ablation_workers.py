"""Who carries out an ablation, and in which order; the commands are pretended here (test_ablate.py runs them)."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crn_jax.errors import UserError
from launch.ablation.tasks import Budget, Task, shown
from launch.ablation.workers import Workers, accelerator, check_jobs, claimed, lock_name, own, take_cores
from launch.common.output import write_json
from tests.support.commands import PATIENCE

pytestmark = pytest.mark.quick

MODULES = ("launch.train", "launch.evaluate", "launch.synthesize")


class Pretended(Workers):
    """Notes the commands and runs none: those in the folder `fails` end with an error, in `stops` with a stop meanwhile."""

    def __init__(self, folder: Path, jobs: int = 1, fails: str = "", stops: str = "", status: int = 75):
        super().__init__(jobs, folder / "accelerators")
        self.ran, self.fails, self.stops, self.status = [], fails, stops, status
        self._meet = threading.Barrier(jobs, timeout=PATIENCE)

    def run_command(self, command, log, locks, environment):
        self.ran.append((log.parent.name, command[0], environment.get("CUDA_VISIBLE_DEVICES")))
        if command[0] == "launch.train":
            self._meet.wait()  # as many at a time as there are jobs, or this times out
        if log.parent.name == self.stops:
            self.stop()
            return self.status
        log.write_text("\n$ python\nerror: it did not work")
        leave_scores(log.parent, command)
        return int(log.parent.name == self.fails)


def leave_scores(folder: Path, command: list[str]) -> None:
    """Writes what launch.evaluate writes, as far as it matters here."""
    if command[0] == "launch.evaluate":
        (folder / "evaluation").mkdir(exist_ok=True)
        write_json(folder / "evaluation" / "evaluation.json", {"command": shown(command)})


def tasks_of(folder: Path, count: int) -> list[Task]:
    return [Task(f"task {i}", folder / str(i), ("demo",), Budget(steps=80), ()) for i in range(count)]


def test_a_folder_is_claimed_by_one_alone(tmp_path):
    with claimed(tmp_path / "it") as first, claimed(tmp_path / "it") as second:
        assert first is not None and second is None
    with claimed(tmp_path / "it") as third:
        assert third is not None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another folder with --out"), claimed(tmp_path / "file" / "it"):
        pass


def test_each_job_has_an_equal_share_of_the_cores(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6, 8, 9}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: taken.append(cores), raising=False)
    take_cores(0, jobs=1)
    assert taken == []
    for slot in range(2):
        take_cores(slot, jobs=2)
    assert taken == [[3, 5], [6, 8, 9]]
    for slot in range(7):
        take_cores(slot, jobs=7)
    assert all(len(cores) == 1 for cores in taken[2:]) and {core for (core,) in taken[2:]} == {3, 5, 6, 8, 9}


def test_commands_have_the_cores_of_their_job(tmp_path):
    """A process has the cores of the thread that starts it."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not confine threads to cores")
    program = "import os; print(len(os.sched_getaffinity(0)))"

    def started() -> int:
        take_cores(0, jobs=1 << 10)
        return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)

    before = os.sched_getaffinity(0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(started).result() == 1
    assert os.sched_getaffinity(0) == before


def test_accelerators(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert accelerator(0, jobs=1) == {}
    assert [accelerator(slot, jobs=2)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)] == ["0", "1"]
    assert accelerator(1, jobs=2)["TPU_VISIBLE_CHIPS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [accelerator(slot, jobs=2)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)] == ["4", "7"]
    check_jobs(2)
    for hidden in ("-1", "", "-1,4"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        check_jobs(2)
        given = [accelerator(slot, jobs=2)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)]
        assert given == ["-1,0", "-1,1"]  # CUDA shows nothing from -1 on; each job needs a lock of its own
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(UserError, match="--jobs 3, but CUDA_VISIBLE_DEVICES lists fewer GPUs: 4,7"):
        check_jobs(3)


def test_a_command_is_alone_whatever_the_ablation_is_part_of(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    environment = own({"CUDA_VISIBLE_DEVICES": "3"})
    assert "SLURM_STEP_NODELIST" not in environment
    assert (environment["SLURM_JOB_ID"], environment["CUDA_VISIBLE_DEVICES"]) == ("5", "3")


def test_the_lock_of_an_accelerator_is_named_by_what_slurm_has_given(monkeypatch):
    """Jobs on one host get locks of their own, though with cgroups each sees its GPUs as 0, 1, ...; so do steps of one job."""
    for variable in ("SLURM_JOB_ID", "SLURM_STEP_GPUS"):
        monkeypatch.delenv(variable, raising=False)
    names = [lock_name("all"), lock_name("0")]
    for job in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        names += [lock_name("all"), lock_name("0"), lock_name("1")]
    for gpus in ("0", "1,2"):
        monkeypatch.setenv("SLURM_STEP_GPUS", gpus)
        names.append(lock_name("all"))
    assert len(set(names)) == len(names)
    assert all("/" not in name for name in names)


def test_jobs_run_side_by_side_each_on_its_accelerator(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tasks, workers, reports = tasks_of(tmp_path, 4), Pretended(tmp_path, jobs=2), []
    workers.work(tasks, lambda: reports.append(dict(workers.outcomes)))
    assert workers.outcomes == {task.folder: "finished" for task in tasks}
    assert sorted(ran[:2] for ran in workers.ran) == sorted((str(i), module) for i in range(4) for module in MODULES)
    gpus = [{gpu for folder, _, gpu in workers.ran if folder == str(i)} for i in range(4)]
    assert all(len(each) == 1 for each in gpus) and set().union(*gpus) == {"0", "1"}
    assert len(reports) == 4


def test_one_that_fails_does_not_keep_the_others(tmp_path, capsys):
    tasks, workers = tasks_of(tmp_path, 3), Pretended(tmp_path, fails="1")
    workers.work(tasks, lambda: None)
    assert [workers.outcomes[task.folder] for task in tasks] == ["finished", "failed", "finished"]
    assert [module for folder, module, _ in workers.ran if folder == "1"] == ["launch.train"]
    said = capsys.readouterr().out
    assert "error: it did not work" in said and "log.txt" in said


def test_when_it_is_stopped_nothing_more_is_begun(tmp_path):
    tasks, workers = tasks_of(tmp_path, 3), Pretended(tmp_path, stops="1")
    workers.work(tasks, lambda: None)
    assert [workers.outcomes.get(task.folder) for task in tasks] == ["finished", "stopped", None]
    assert {folder for folder, *_ in workers.ran} == {"0", "1"}
    assert tasks[1].outstanding()[0] == "launch.train"


def test_what_is_finished_when_it_is_stopped_is_not_run_again(tmp_path):
    tasks, workers = tasks_of(tmp_path, 1), Pretended(tmp_path, stops="0", status=0)
    pretended = workers.run_command
    workers.run_command = lambda *given: 75 if workers.stopped.is_set() else pretended(*given)
    workers.work(tasks, lambda: None)
    assert workers.outcomes[tasks[0].folder] == "stopped"
    assert [command[0] for command in tasks[0].finished()] == ["launch.train"]


def test_what_another_ablation_has_begun_is_waited_for(tmp_path, capsys):
    """Its accelerator and its task are held; the rest is done first, where there is another accelerator."""
    (task,), workers = tasks_of(tmp_path, 1), Pretended(tmp_path)
    held = threading.Event()

    def other() -> None:
        with claimed(task.folder):
            held.set()
            finished.wait()
            for command in list(task.commands()):
                leave_scores(task.folder, command)
                task.done(command)

    finished, thread = threading.Event(), threading.Thread(target=other)
    thread.start()
    held.wait()
    threading.Timer(0.5, finished.set).start()
    workers.work([task], lambda: None)
    thread.join()
    assert workers.outcomes[task.folder] == "finished" and workers.ran == []


def test_an_accelerator_that_is_in_use_is_waited_for(tmp_path, capsys):
    tasks, first, second = tasks_of(tmp_path, 1), Pretended(tmp_path), Pretended(tmp_path)
    with first.device({}) as lock:
        assert lock is not None
        threading.Timer(0.5, second.stop).start()
        second.work(tasks, lambda: None)
    assert second.ran == [] and "Waiting for what an ablation that was killed" in capsys.readouterr().out


def test_an_error_of_the_report_ends_all(tmp_path):
    def report() -> None:
        raise UserError("the disk is full")

    tasks, workers = tasks_of(tmp_path, 3), Pretended(tmp_path)
    with pytest.raises(UserError, match="the disk is full"):
        workers.work(tasks, report)
    assert {folder for folder, *_ in workers.ran} == {"0"}
