"""What a wheel brings, and the command `crn`: the same commands under the names that a person types."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import hatchling.build
import pytest
from rich.console import Console

import crn_jax.__main__
import launch.__main__
from launch.common import names
from launch.common.completion import write_completion
from launch.common.terminal import console

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder / hatchling.build.build_wheel(str(folder))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel, unpacked as an installation does."""
    folder = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder of other people's `launch` and `configs`, which nothing may import."""
    for name in ("launch", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong module')")
    return tmp_path


def run(arguments: list[str], path: Path, folder: Path) -> str:
    """What a command of Python prints in a folder, with `path` in front of what is installed."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_wheel_has_one_name_at_the_top_and_every_file(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    assert {file.partition("/")[0] for file in files} == {"crn_jax", "crn_jax-0.1.0.dist-info"}
    patterns = ("crn_jax/**/*.py", "crn_jax/**/*.txt", "crn_jax/py.typed", "crn_jax/packaged_runs/**/*.*")
    patterns += ("launch/**/*.py", "launch/pages/**/*", "configs.py")
    sources = [file.relative_to(ROOT).as_posix() for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()]
    assert len(sources) > 100
    expected = {file if file.startswith("crn_jax/") else f"crn_jax/_commands/{file}" for file in sources}
    assert {file for file in files if file.startswith("crn_jax/")} == expected


def test_a_wheel_says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read("crn_jax-0.1.0.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0\n" in metadata and "Version: 0.1.0\n" in metadata
    assert archive.read("crn_jax-0.1.0.dist-info/entry_points.txt").decode().split() == [
        *("[console_scripts]", "crn", "=", "crn_jax.__main__:main")
    ]
    assert archive.read("crn_jax-0.1.0.dist-info/licenses/LICENSE").decode().startswith(" " * 33 + "Apache License")


def test_an_installed_crn_lists_its_commands_and_knows_its_experiments(installed, elsewhere):
    listed = run(["-m", "crn_jax", "--help"], installed, elsewhere)
    assert "Usage: crn COMMAND" in listed
    for name in names.COMMANDS:
        assert f"  {name:<16}{names.summary(name)}\n" in listed
    trained = run(["-m", "crn_jax", "train", "--help"], installed, elsewhere)
    assert "cityscapes_1024p" in trained and "crn train EXPERIMENT --help" in trained and "python -m" not in trained


def test_a_clone_finds_its_own_configs_whatever_lies_in_the_folder(elsewhere):
    (elsewhere / "launch" / "__init__.py").unlink()
    (elsewhere / "launch").rmdir()
    assert "cityscapes_1024p" in run(["-m", "launch.train", "--help"], ROOT, elsewhere)


@pytest.mark.quick
def test_every_command_has_a_line_of_its_own():
    assert {"ablate", "benchmark", "convert", "doctor", "evaluate", "inspect", "synthesize", "train"} <= set(names.COMMANDS)
    summaries = [names.summary(name) for name in names.COMMANDS]
    assert len(set(summaries)) == len(summaries)
    for summary in summaries:
        assert 10 < len(summary) < 100 and summary.endswith(".") and "`" not in summary


@pytest.mark.parametrize(
    "arguments, status, told",
    [
        (["--version"], None, f"crn_jax {names.version()}\n"),
        (["--help"], 0, "Scores runs and folders of images"),
        ([], 2, "Scores runs and folders of images"),
        (["trian"], 2, "There is no command 'trian'. Did you mean 'train'?"),
        (["synthesize"], 2, "RUN"),
        (["--tyro-write-completion", "tcsh", "file"], 2, "name a shell of bash, zsh, fish"),
    ],
)
def test_crn_from_its_command_line(arguments, status, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["crn", *arguments])
    if status is None:
        launch.__main__.main()
    else:
        with pytest.raises(SystemExit) as ended:
            launch.__main__.main()
        assert ended.value.code == status
    printed = capsys.readouterr()
    assert told in printed.out + printed.err


@pytest.mark.quick
def test_crn_starts_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["crn", "--version"])
    monkeypatch.setattr(launch, "prepare", lambda: None)  # it is for a process of its own
    crn_jax.__main__.main()
    assert capsys.readouterr().out.startswith("crn_jax ")


@pytest.mark.parametrize("program", ["/home/me/bin/crn", "launch/train.py"])
def test_what_is_printed_names_commands_as_they_are_typed(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    text = "Next: python -m launch.synthesize runs/launch.train launch.trainer; a run of launch.train; launch.validation"
    as_crn = "Next: crn synthesize runs/launch.train launch.trainer; a run of crn train; launch.validation"
    with console.capture() as capture:
        console.print(text, markup=False)
    assert capture.get().strip() == (as_crn if program.endswith("crn") else text)
    assert isinstance(console, Console)


@pytest.fixture(scope="module")
def completions(tmp_path_factory) -> dict[str, Path]:
    """The scripts of all shells."""
    folder = tmp_path_factory.mktemp("completions")
    for shell in ("bash", "zsh", "fish"):
        with pytest.raises(SystemExit) as ended:
            write_completion([shell, str(folder / "made" / shell)])
        assert ended.value.code in (0, None)
    return {shell: folder / "made" / shell for shell in ("bash", "zsh", "fish")}


@pytest.mark.parametrize(
    "words, expected",
    [
        (["crn", "syn"], {"synthesize"}),
        (["crn", "train", "camvid_g"], {"camvid_gan_segmentation", "camvid_grow"}),
        (["crn", "train", "camvid_grow", "--cascade.wid"], {"--cascade.widths"}),
        (["crn", "train", "segmenter_camvid", "--segmenter.wid"], {"--segmenter.widths"}),
        (["crn", "convert", "ex"], {"export"}),
    ],
)
def test_bash_completes_commands_experiments_and_options(completions, words, expected):
    program = (
        f"source {completions['bash']}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        "function=$(complete -p crn | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $function crn; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    found = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout
    assert {line.strip() for line in found.splitlines()} == expected


def test_scripts_of_the_other_shells_know_the_commands(completions):
    assert completions["zsh"].read_text().startswith("#compdef crn")
    assert "--command 'crn'" in completions["fish"].read_text()
    for shell in ("zsh", "fish"):
        assert all(name in completions[shell].read_text() for name in (*names.COMMANDS, "camvid_grow", "--cascade.widths"))
