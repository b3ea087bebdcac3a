"""A whole ablation through the command line: what it leaves behind, and what survives being stopped and killed."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import configs
from crn_jax.ablation import Ablation, Variant
from crn_jax.checksums import unsealed
from crn_jax.errors import UserError
from launch import ablate
from launch.ablation.record import FILE, read_record, write_record
from launch.common.exit_status import TRY_AGAIN
from launch.training.metrics_log import read_metrics
from tests.support.commands import PATIENCE, ROOT, wait_for
from tests.support.narrow import narrow_processes

STEPS = 40  # not whole epochs, which have six
COMMANDS = ["launch.train", "launch.evaluate", "launch.synthesize"]


@pytest.fixture(scope="module")
def suite(tiny) -> Iterator[Ablation]:
    """Two trainings of seconds, one of them of collections, and one that cannot begin."""
    arguments = " ".join([*tiny, "--cascade.base 8 16 --cascade.widths 8 8", "--run.checkpoint_every", "10"])
    ablation = Ablation(
        "Which?",
        (
            Variant("as it is", arguments, "the first", None),
            Variant("two & images", f"{arguments} --cascade.num_images 2", "the <second>", {"Cityscapes": 60.0}),
            Variant("broken", f"{arguments} --vgg.weights missing.h5", "", {"Cityscapes": 70.0}),
        ),
    )
    with narrow_processes():
        yield ablation


def arguments(out: Path) -> list[str]:
    return ["tiny", "--budget", str(STEPS), "--examples", "2", "--out", str(out)]


def start(suite: Ablation, out: Path) -> subprocess.Popen:
    """The command in a process of its own, to which configs.py has this suite."""
    program = (
        "import configs; from crn_jax.ablation import Ablation, Variant; "
        f"configs.ABLATIONS['tiny'] = {suite!r}; from launch import ablate; ablate.main({arguments(out)!r})"
    )
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def carry_out(suite: Ablation, out: Path) -> int:
    """Carries out an ablation in this process, and returns its exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setitem(configs.ABLATIONS, "tiny", suite)
        ablate.main(arguments(out))
    return exit_.value.code


@pytest.fixture(scope="module")
def whole(suite, tmp_path_factory) -> tuple[Path, int]:
    """The folder of an ablation that nothing disturbed, and its exit status."""
    out = tmp_path_factory.mktemp("ablations") / "whole"
    return out, carry_out(suite, out)


def ran(folder: Path) -> list[str]:
    """The modules of the commands that were begun in a run folder, by its log."""
    return re.findall(r"^\$ python -m (\S+)", (folder / "log.txt").read_text(), re.MULTILINE)


def trained(folder: Path) -> int:
    return max((line["step"] for line in read_metrics(folder / "metrics.jsonl")), default=0)


def table(out: Path) -> dict:
    """What must not depend on interruptions: all but the times, of ablation.json."""
    results = unsealed(json.loads((out / "ablation.json").read_text()))
    for variant in results["variants"]:
        variant["figures"] = {key: variant["figures"].get(key) for key in ("parameters", "step_flop", "synthesis_flop")}
        for run in variant["runs"]:
            run["curve"] = [[step, distance] for step, _, distance in run["curve"]]
            run["problem"] = run["problem"] and run["problem"].replace(str(out), "OUT")
            run["commands"] = [command.replace(str(out), "OUT") for command in run["commands"]]
    return {key: value for key, value in results.items() if key != "command"}


def test_a_whole_suite(whole):
    out, status = whole
    assert status == 1  # as one of them failed
    results = json.loads((out / "ablation.json").read_text())
    first, collections, broken = results["variants"]
    for variant, folder in ((first, "as_it_is"), (collections, "two_images")):
        (run,) = variant["runs"]
        assert run["status"] == "finished" and ran(out / folder / "seed_0") == COMMANDS
        steps = [step for step, *_ in run["curve"]]
        assert steps[0] == 0 and steps[-1] == STEPS and len(steps) >= 6
        evaluation = json.loads((out / folder / "seed_0" / "evaluation" / "evaluation.json").read_text())
        assert variant["scores"]["distance"] == evaluation["candidates"][1]["scores"]["distance"]
        assert variant["figures"]["seconds_per_step"] > 0 and variant["figures"]["step_flop"] > 0
    assert {"best_distance", "assembled_distance", "between"} <= {score["key"] for score in results["scores"]}
    assert collections["differs"] == ["cascade.num_images: 1, now 2"]
    assert "between" in collections["scores"].keys() - first["scores"].keys()
    assert collections["scores"]["best_distance"]["value"] < collections["scores"]["distance"]["value"]
    assert first["scores"]["best_distance"] == first["scores"]["assembled_distance"] == first["scores"]["distance"]
    assert broken["runs"][0]["status"] == "failed" and "missing.h5" in broken["runs"][0]["problem"]
    assert any("broken (seed 0)" in sentence for sentence in results["conclusions"])
    markdown = (out / "ablation.md").read_text()
    assert "| two & images |" in markdown and "40 steps" in markdown


def verify(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        ablate.main(["verify", *map(str, arguments)])
    return exit_.value.code


def test_others_can_verify_its_record(whole, tmp_path, capsys):
    """The record alone gives the page's results, and the runs give its scores."""
    out, _ = whole
    record = read_record(out / FILE)
    shown = unsealed(json.loads((out / "ablation.json").read_text()))
    assert record["results"] | {"examples": record["examples"]} == shown
    assert verify(out / FILE) == 0
    assert re.search(r"\b\d\d+ numbers computed again, 0 differ", capsys.readouterr().out)
    assert verify(out / FILE, "--runs", out) == 0
    assert capsys.readouterr().out.count("the same scores of all images") == 2
    assert verify(out / FILE, "--runs", tmp_path) == 1
    assert capsys.readouterr().out.count("there is no run") == 2


def test_a_record_that_was_changed_does_not_verify(whole, tmp_path, capsys):
    out, _ = whole
    record = read_record(out / FILE)
    record["results"]["variants"][1]["scores"]["psnr"]["value"] += 0.01
    write_record(tmp_path / "results.gz", record)
    assert verify(tmp_path / "results.gz") == 1
    assert re.search(r"1 differ.*\n +variants\[1\].scores.psnr.value: [\d.]+, now", capsys.readouterr().out)
    record = read_record(out / FILE)
    record["trainings"][0]["evaluation"]["candidates"][1]["per_image"]["distance"][0] += 1
    write_record(tmp_path / "images.gz", record)
    assert verify(tmp_path / "images.gz") == 1
    printed = capsys.readouterr().out
    assert "as_it_is/seed_0: seed_0.distance.value" in printed and "variants[1].difference.value" in printed
    assert verify(tmp_path / "images.gz", "--runs", out) == 1
    assert "as it is, seed 0: distance of seed_0 differs" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [["--study_page", "page.html"], ["--segmenter", "os:abort"], ["-x"]])
def test_nothing_that_a_record_names_is_executed(whole, tmp_path, capsys, asked):
    out, _ = whole
    record = read_record(out / FILE)
    record["trainings"][0]["score"] = asked
    write_record(tmp_path / FILE, record)
    assert verify(tmp_path / FILE, "--runs", out) == 2
    assert f"the record asks for {asked[-1] if ':' in asked[-1] else asked[0]!r}" in capsys.readouterr().out


def test_a_folder_that_a_record_names_is_never_an_option(whole, tmp_path, monkeypatch, capsys):
    out, _ = whole
    record = read_record(out / FILE)
    shutil.copytree(out / record["trainings"][0]["folder"], tmp_path / "--segmenter=evil:judge")
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    record["trainings"] = record["trainings"][:1]
    record["trainings"][0]["folder"] = "--segmenter=evil:judge"
    write_record(tmp_path / FILE, record)
    monkeypatch.chdir(tmp_path)
    assert verify(FILE, "--runs", ".") == 1  # its results are those of two trainings
    assert "as it is, seed 0: now photographs, --segmenter=evil:judge are scored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda data: data[: len(data) // 2], "it is cut short"),
        (lambda data: b"no record", "this is no record"),
        (lambda data: gzip.compress(b"{}"), "suite"),
        (lambda data: gzip.compress(gzip.decompress(data).replace(b"Which?", b"Whose?")), "the file is damaged"),
    ],
)
def test_a_damaged_record_is_refused(whole, tmp_path, content, problem):
    damaged = tmp_path / FILE
    damaged.write_bytes(content((whole[0] / FILE).read_bytes()))
    with pytest.raises(UserError, match=f"{FILE}.*{problem}"):
        read_record(damaged)


def test_the_same_layouts_side_by_side(whole):
    out, _ = whole
    results = json.loads((out / "ablation.json").read_text())
    assert len(results["examples"]) == 2
    for n, example in enumerate(results["examples"]):
        assert set(example["images"]) == {"as it is", "two & images"}
        sizes = []
        for folder in ("as_it_is", "two_images"):
            with Image.open(out / folder / "seed_0" / "synthesized" / f"{n}.png") as image:
                sizes.append(image.size)
        assert sizes[0] == (32, 16) and sizes[1][0] > 2 * 32  # the collection's is one picture of both images
    assert "<second>" not in (out / "ablation.html").read_text()


def test_stopped_and_killed_it_repeats_nothing_and_ends_with_the_same_table(suite, whole, tmp_path):
    """Ctrl-C within the first training, which goes to a whole group of processes and must reach it once; killed within the
    second, whose own process lives on; then left in peace."""
    out = tmp_path / "disturbed"
    first, second = out / "as_it_is" / "seed_0", out / "two_images" / "seed_0"
    process = start(suite, out)
    wait_for(process, lambda: trained(first))
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == TRY_AGAIN
    assert ran(first) == ["launch.train"] and not second.exists()
    assert "Stopped and saved" in (first / "log.txt").read_text()
    process = start(suite, out)
    wait_for(process, lambda: trained(second))
    assert process.poll() is None
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file() and path.name != "lock"}
    assert carry_out(suite, out) == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing of the first is touched again
    assert ran(first) == ["launch.train", *COMMANDS]
    assert table(out) == table(whole[0])
