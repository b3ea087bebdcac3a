"""The scripts and manifests of `launch/`, and the commands in `configs.py`: well formed, with flags that exist."""

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import tyro
import yaml

from launch import ablate
from launch.ablation.tasks import Budget
from launch.common.command_line import parse_stages
from launch.common.exit_status import FAILED, LOST, TRY_AGAIN, UNREPEATABLE, USER_ERROR
from tests.support.commands import PATIENCE, wait_for
from tests.support.record_jobset import reduced

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = sorted((ROOT / "launch").glob("*.yaml"))
JOBSET_SCHEMAS = sorted((ROOT / "tests" / "data").glob("jobset-*.json"))
SCRIPTS = [ROOT / "launch" / name for name in ("slurm.sbatch", "ablate.sbatch", "tpu_vm.sh")]


def commands(path: Path) -> list[list[str]]:
    """The arguments of every training that a file shows, with its shell variables filled in."""
    text = path.read_text()
    if path.suffix == ".yaml":  # the comments, and what is started
        comments = [line for line in text.splitlines() if line.startswith("#")]
        text = "\n".join([*comments, *(arg for container in containers(path) for arg in container["args"])])
    text = re.sub(r"\\\n[#\s]*", " ", text)
    shown = re.findall(r"(?:python -m launch\.train|sbatch [^\n]*slurm\.sbatch|tpu_vm\.sh NAME ZONE) ([^\n`|)#;'\"]+)", text)
    filled = (re.sub(r"\$\w+|%p", "3", arguments) for arguments in shown if "EXPERIMENT" not in arguments)
    return [shlex.split(arguments) for arguments in filled if arguments[0].islower()]


def containers(path: Path) -> list[dict]:
    jobs = yaml.safe_load(path.read_text())["spec"]["replicatedJobs"]
    return [c for job in jobs for c in job["template"]["spec"]["template"]["spec"]["containers"]]


@pytest.mark.quick
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(path):
    subprocess.run(["bash", "-n", path], check=True)


def validate_manifest(jobset: dict, schema: dict) -> None:
    """Raises ValidationError unless JobSet's schema allows the manifest, and that of Kubernetes each job in it."""
    jsonschema.validate(jobset, schema, jsonschema.Draft202012Validator)
    for job in jobset["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, "spec": job["template"]["spec"]}
        kubernetes_validate.validate(whole, "1.31", strict=True)


@pytest.mark.parametrize("schema", JOBSET_SCHEMAS, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_jobsets(path, schema):
    jobset = yaml.safe_load(path.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    validate_manifest(jobset, json.loads(schema.read_text()))


def test_manifests_are_jobsets_by_the_published_definition(shared_data):
    schema = reduced(yaml.safe_load((shared_data / "jobset" / "jobset_crd.yaml").read_text()))
    for path in MANIFESTS:
        validate_manifest(yaml.safe_load(path.read_text()), schema)


def without_name(jobset: dict) -> None:
    del jobset["spec"]["failurePolicy"]["rules"][0]["name"]


def misspelt_in_the_jobset(jobset: dict) -> None:
    jobset["spec"]["failurePolicy"]["maxRestart"] = 3


def misspelt_in_a_job(jobset: dict) -> None:
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0


@pytest.mark.parametrize("spoil", [without_name, misspelt_in_the_jobset, misspelt_in_a_job], ids=lambda spoil: spoil.__name__)
def test_a_wrong_manifest_would_be_noticed(spoil):
    jobset = yaml.safe_load(MANIFESTS[0].read_text())
    spoil(jobset)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate_manifest(jobset, json.loads(JOBSET_SCHEMAS[0].read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_may_run_on_spot_nodes(path):
    (job,) = yaml.safe_load(path.read_text())["spec"]["replicatedJobs"]
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert spot in job["template"]["spec"]["template"]["spec"]["tolerations"]


@pytest.mark.parametrize("path", [*MANIFESTS, *SCRIPTS, ROOT / "configs.py"], ids=lambda path: path.name)
def test_the_flags_that_are_shown_exist(path):
    shown = commands(path)
    assert len(shown) >= {"configs.py": 6}.get(path.name, 1)
    for arguments in shown:
        for stage in parse_stages(arguments):
            data, spatial = stage.experiment.sharding.mesh
            assert data == -1 or stage.experiment.batch_size % data == 0
            assert spatial == -1 or stage.experiment.size[0] % spatial == 0


@pytest.mark.parametrize("name", ["launch/ablate.sbatch", "configs.py"])
def test_the_ablations_that_are_shown_can_be_asked_for(name):
    text = (ROOT / name).read_text()
    shown = re.findall(r"(?:python -m launch\.ablate|sbatch [^\n]*ablate\.sbatch) ([^\n`|#)]+)", text)
    shown = [arguments for arguments in shown if not arguments.startswith(("SUITE", '"$@"'))]
    assert len(shown) >= (1 if name.endswith("sbatch") else 3)
    for arguments in shown:
        asked = tyro.cli(ablate.Arguments, args=shlex.split(arguments), use_underscores=True)
        ablate.suite(asked)
        Budget.parse(asked.budget)


OUT_OF_TIME, TERMINATE = signal.SIGUSR1, signal.SIGTERM


@pytest.mark.quick
@pytest.mark.parametrize(
    ("told", "reason", "ended", "requeued"),
    [
        ([OUT_OF_TIME], "None", 75, True),
        ([OUT_OF_TIME], "None", 0, False),
        ([OUT_OF_TIME], "None", 1, False),
        ([TERMINATE], "None", 75, False),
        ([OUT_OF_TIME, TERMINATE], "None", 75, False),
        ([OUT_OF_TIME, TERMINATE], "TimeLimit", 75, True),
    ],
    ids=["out of time", "done meanwhile", "failed", "cancelled", "out of time and cancelled", "saved late"],
)
def test_an_ablation_is_requeued_if_it_was_saved_because_its_time_is_over(tmp_path, told, reason, ended, requeued):
    """The ablation takes its time to save, and the pretended SLURM notes what it is asked."""
    programs = {
        "python": f"trap 'touch told; until [ -e save ]; do sleep 0.05; done; touch saved; exit {ended}' TERM; touch begun; "
        "while true; do sleep 0.05; done",
        "scontrol": 'echo "$@" > asked',
        "squeue": f"echo {reason}; touch answered",
    }
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{program}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    with subprocess.Popen(["bash", ROOT / "launch" / "ablate.sbatch"], cwd=tmp_path, env=environment) as job:
        wait_for(job, (tmp_path / "begun").exists)
        for number in told:
            job.send_signal(number)
            wait_for(job, (tmp_path / ("told" if number == OUT_OF_TIME else "answered")).exists)
        (tmp_path / "save").touch()
        assert job.wait(timeout=PATIENCE) == (0 if requeued else ended)
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "asked").exists() == requeued
    assert not requeued or (tmp_path / "asked").read_text().split() == ["requeue", "17"]


@pytest.mark.parametrize(
    ("ended", "requeued"),
    [([0], 0), ([1], 0), ([2], 0), ([75] * 12, 12), ([76, 139] * 6, 9)],
    ids=["done", "crash", "error", "stopped", "lost"],
)
def test_a_job_is_requeued_whenever_it_was_stopped_and_nine_times_if_a_process_was_lost(tmp_path, ended, requeued):
    for name, program in {"srun": 'exit "$ENDED"', "scontrol": 'echo "$@" >> asked'}.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{program}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    for i, status in enumerate(ended):
        job = subprocess.run(
            ["bash", ROOT / "launch" / "slurm.sbatch"], cwd=tmp_path, env={**environment, "ENDED": str(status)}
        )
        assert job.returncode == (0 if i < requeued else status)
    asked = (tmp_path / "asked").read_text().splitlines() if requeued else []
    assert asked == ["requeue 17"] * requeued


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_does_not_start_again_what_a_person_has_to_mend(path):
    (job,) = yaml.safe_load(path.read_text())["spec"]["replicatedJobs"]
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    assert {FAILED, USER_ERROR, UNREPEATABLE} <= set(rule["onExitCodes"]["values"])
    assert not {0, TRY_AGAIN, LOST, 134, 137, 143} & set(rule["onExitCodes"]["values"])


def test_a_manifest_starts_the_processes_that_its_command_counts():
    job = yaml.safe_load((ROOT / "launch" / "gke_gpu.yaml").read_text())
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    *_, arguments = commands(ROOT / "launch" / "gke_gpu.yaml")
    asked = parse_stages(arguments)[0]
    assert asked.processes.num_processes == spec["parallelism"] == spec["completions"]
    assert asked.processes.coordinator == "crn-workers-0-0.crn:1234"  # JobSet, job, its index, the pod's; JobSet
    gpus = spec["parallelism"] * containers(ROOT / "launch" / "gke_gpu.yaml")[0]["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == asked.experiment.sharding.mesh[0] * asked.experiment.sharding.mesh[1]
