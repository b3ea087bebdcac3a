"""README.md, CONTRIBUTING.md and the guides: commands can be given, links lead somewhere, names exist, words are plain."""

import ast
import contextlib
import functools
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from configs import EXPERIMENTS
from launch import ablate
from launch.ablation.tasks import Budget
from launch.common.command_line import parse_stages
from launch.common.terminal import console
from tests.support.commands import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()
]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
COMMANDS = sorted(path.stem for path in (ROOT / "launch").glob("*.py") if not path.stem.startswith("_"))
SHOWN = ("train", "synthesize", "evaluate", "inspect", "ablate", "benchmark", "convert")
IN_A_WHEEL = {"crn_jax/_commands"}
WEAK_OPENINGS = ("Of ", "Likewise", "That of ", "So: ")

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_IN_THE_REPOSITORY = re.compile(r"(?:crn_jax|launch|tests|docs|\.ci)/[\w./*-]*|(?:configs\.py|pyproject\.toml|[A-Z]+\.md)")


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def fenced(page: Path, *languages: str) -> list[str]:
    return [body for _, language, body in _FENCE.findall(page.read_text("utf-8")) if language in languages]


def code_spans(page: Path) -> list[str]:
    """What stands in backticks."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a block: comments left out, continued lines joined, `a && b` taken apart."""
    for line in text.replace("\\\n", " ").splitlines():
        command = []
        for word in shlex.split(line, comments=True):
            if word == "&&":
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def launched(words: list[str]) -> tuple[str, list[str]] | None:
    """The command of `launch` that a command line starts, if it starts one, and its arguments."""
    for position, word in enumerate(words):
        name, arguments = word.removeprefix("launch."), words[position + 1 :]
        if word.startswith("launch.") and words[position - 1] == "-m":
            return name, arguments
        if position == 0 and word == "crn" and arguments and arguments[0] in COMMANDS:
            return arguments[0], arguments[1:]
        if word in ("launch/slurm.sbatch", "launch/ablate.sbatch"):
            return ("train" if "slurm" in word else "ablate"), arguments
        if word == "launch/tpu_vm.sh":
            return "train", arguments[2:]
    return None


def check(name: str, arguments: list[str]) -> None:
    """Reads the arguments of a command as the command itself does; what cannot be read ends the test with its message."""
    hyphens = [word for word in arguments if re.match(r"--\w+-\w", word)]
    assert not hyphens, f"write {hyphens} with underscores, as messages do"
    if {"--help", "--configs"} & set(arguments) or arguments[:1] and arguments[0].startswith("runs/") and name == "train":
        return  # experiments of a file of one's own, and of a run that a reader has made: test_own_configs.py
    if name == "train":
        for stage in parse_stages(arguments):
            data, spatial = stage.experiment.sharding.mesh
            assert data == -1 or stage.experiment.batch_size % data == 0
            assert spatial == -1 or stage.experiment.size[0] % spatial == 0
        return
    if name == "ablate" and arguments[0] in ("verify", "join"):
        tyro.cli(ablate.Verify if arguments[0] == "verify" else ablate.Join, args=arguments[1:], use_underscores=True)
        return
    module = importlib.import_module(f"launch.{name}")
    asked = tyro.cli(module.Asked if name == "convert" else module.Arguments, args=arguments, use_underscores=True)
    if name == "ablate":
        ablate.suite(asked)
        Budget.parse(asked.budget)
    if name == "benchmark":
        assert set(asked.experiments) <= set(EXPERIMENTS)


@EACH_PAGE
def test_the_commands_that_a_page_shows_can_be_given(page):
    shown = [words for block in fenced(page, "bash", "sh", "") for words in commands(block)]
    shown += [shlex.split(span) for span in code_spans(page) if re.match(r"(python -m launch\.|sbatch |crn )\S+ [^[]+$", span)]
    for words in shown:
        if command := launched(words):
            check(*command)
        else:
            for word in words:
                if _IN_THE_REPOSITORY.fullmatch(word):
                    assert (ROOT / word).exists(), f"{page.name}: {shlex.join(words)}: there is no {word}"


def test_the_guides_show_commands_of_every_kind():
    """A change of the pages' form must not leave their commands unread."""
    shown = [
        command for page in PAGES for block in fenced(page, "bash") for words in commands(block) if (command := launched(words))
    ]
    counts = {name: sum(name == other for other, _ in shown) for name in SHOWN}
    assert counts["train"] >= 15 and min(counts.values()) >= 1, counts


@functools.cache
def flags() -> frozenset[str]:
    """Every flag of every command of `launch`, as their help shows them, and those of the cluster files."""
    kinds = {type(entry[-1] if isinstance(entry, tuple) else entry): name for name, entry in EXPERIMENTS.items()}
    asked = [("train", [name]) for name in kinds.values()]
    asked += [("convert", [kind]) for kind in ("authors", "safetensors", "run", "export", "onnx", "web")]
    asked += [("ablate", ["verify"]), ("ablate", ["join"])]
    asked += [(name, []) for name in COMMANDS if name not in ("train", "convert")]
    found = set()
    for name, arguments in asked:
        found |= set(re.findall(r"--[\w.]+", help_of(name, arguments)))
    files = [path.read_text() for pattern in ("*.sbatch", "*.sh", "*.yaml") for path in (ROOT / "launch").glob(pattern)]
    return frozenset(found | set(re.findall(r"--[\w.-]+", " ".join(files))))


def help_of(name: str, arguments: list[str]) -> str:
    """What a command prints when it is asked for help."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), console.capture(), pytest.raises(SystemExit) as exit_:
        importlib.import_module(f"launch.{name}").main([*arguments, "--help"])
    assert exit_.value.code == 0
    return printed.getvalue()


@EACH_PAGE
def test_the_flags_that_a_page_names_exist(page):
    named = {flag for span in code_spans(page) for flag in re.findall(r"^--[\w.-]+|(?<=\s)--[\w.-]+", span)}
    of_others = {flag for flag in named if flag.startswith(("--xla_", "--tyro-"))} | {
        "--version",
        "--bind-to",
        "--data-binary",
        "--logdir",
        "--pack-destination",
        "--vfs-cache-mode",
    }  # mpirun, curl, tensorboard, npm, rclone
    groups = {flag for flag in named if flag.endswith(".") and any(other.startswith(flag) for other in flags())}
    assert sorted(named - of_others - groups - flags()) == []


@EACH_PAGE
def test_the_links_of_a_page_lead_somewhere(page):
    text = prose(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert [target for target in targets if not re.match(r"\w+:", target) and not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether the file of a relative link exists, and its heading, if the link names one."""
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """The names by which GitHub lets one link to a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+?) *$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


@EACH_PAGE
def test_the_code_that_a_page_names_exists(page):
    for span in code_spans(page):
        if _IN_THE_REPOSITORY.fullmatch(span) and span not in IN_A_WHEEL:
            assert list(ROOT.glob(span)), f"{page.name}: {span}"
        elif re.fullmatch(r"(?:crn_jax|configs|launch)(?:\.\w+)+(?:\(.*\))?", span) and not span.endswith((".py", ".json")):
            resolve(span.partition("(")[0])


def resolve(name: str) -> None:
    """Imports a module, and looks up what follows its name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:end])
        if folder.is_dir() or folder.with_suffix(".py").is_file():
            found = importlib.import_module(".".join(parts[:end]))
            for part in parts[end:]:
                found = getattr(found, part)
            return
    raise AssertionError(f"there is no {name}")


def test_the_design_names_every_module():
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    listed = subprocess.run(
        ["git", "ls-files", "crn_jax", "launch"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    modules = [name for name in listed.split() if name.endswith(".py") and not name.endswith("/__init__.py")]
    assert modules and [name for name in modules if f"](../{name})" not in design] == []


@EACH_PAGE
def test_no_sentence_of_a_page_leans_on_the_one_before(page):
    text = re.sub(r"^[ >]*(?:[-*]|\d+\.) +", "", prose(page), flags=re.MULTILINE)
    cells = [cell.strip() for line in text.splitlines() for cell in (line.split("|") if line.lstrip().startswith("|") else [])]
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if not paragraph.lstrip().startswith("|")]
    sentences = [s.lstrip("*_([") for whole in (*cells, *paragraphs) for s in re.split(r"(?<=[.!?:])\**\)?\s+", whole)]
    assert [sentence for sentence in sentences if sentence.startswith(WEAK_OPENINGS)] == []


def test_the_readme_can_be_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1000


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Every docstring of a file, of its module, classes, functions and fields, behind the place where it begins."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield f"{path.relative_to(ROOT)}:{statement.lineno}", text


@pytest.mark.parametrize("room", ["crn_jax", "launch"])
def test_no_docstring_leans_on_the_one_before(room):
    weak = [
        f"{where}: {text.splitlines()[0]}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for where, text in docstrings(path)
        if text.startswith(WEAK_OPENINGS)
    ]
    assert weak == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "records").glob("*.gz")), ids=lambda path: path.name)
def test_the_records_behind_the_tables_verify(path):
    """This version of the code computes the records of ablations again. Its process has the networks in their full widths."""
    command = [sys.executable, "-m", "launch.ablate", "verify", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0 and "numbers computed again, 0 differ" in " ".join(ended.stdout.split()), ended.stdout
