"""What the library's small parts import, and what its surface names."""

import importlib
import json
import subprocess
import sys

import pytest

import crn_jax
from crn_jax import settings
from tests.support.commands import PATIENCE, ROOT

SELDOM = {"orbax", "h5py", "scipy", "pooch", "grain", "tensorboardX"}
HEAVY = {*SELDOM, "cattrs", "optax", "safetensors", "tyro"}
JAX = {"jax", "jaxlib", "flax", "optax", "absl"}
UNIX = {"fcntl", "resource", "pwd", "grp", "termios"}


def imports(statement: str) -> tuple[list[str], dict[str, list[str]]]:
    """The modules that a fresh process has after a statement; and for each of ours among them, what its own file imports."""
    program = f"""
import ast, json, sys
{statement}
ours = {{}}
for name, module in list(sys.modules.items()):
    if name.split(".")[0] == "crn_jax":
        nodes = list(ast.walk(ast.parse(open(module.__file__).read())))
        ours[name] = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        ours[name] += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
print(json.dumps([list(sys.modules), ours]))
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return json.loads(result.stdout)


@pytest.mark.quick
@pytest.mark.parametrize(
    "statement", ["from crn_jax.synthesize import synthesize", "from crn_jax.cascade import Cascade, CascadeConfig"]
)
def test_a_model_alone_imports_no_more_than_it_needs(statement):
    loaded, ours = imports(statement)
    assert "crn_jax.cascade" in ours or "crn_jax.synthesize" in ours
    assert not HEAVY & {name.split(".")[0] for name in loaded}
    assert not {name: UNIX & set(imported) for name, imported in ours.items() if UNIX & set(imported)}


def said(program: str) -> tuple[list[str], list[str]]:
    """What a fresh process prints, before the modules that it has at its end; and the packages of these."""
    program += "\nimport sys\nprint('modules', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    *lines, modules = ended.stdout.splitlines()
    return lines, sorted({name.split(".")[0] for name in modules.split()[1:]})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "cityscapes_1024p"),
        (["demo", "--help"], 0, "--cascade.widths"),
        (["camvid_pix2pix", "--help"], 0, "--gan.networks"),
        (["streets_grow", "--help"], 0, "--cascade.widths"),
        (["demo", "--cascade.num_image", "2"], 2, "--cascade.num_images"),
        (["demo", "--epochs", "many"], 2, "--epochs"),
        (["demoo"], 2, "Did you mean 'demo'"),
    ],
)
def test_help_and_wrong_options_come_without_jax(arguments, status, words):
    program = f"""
import contextlib, io
from launch import train
with contextlib.redirect_stderr(io.StringIO()) as errors:
    try:
        train.main({arguments})
    except SystemExit as ended:
        assert ended.code == {status}, ended.code
print(errors.getvalue())
"""
    lines, packages = said(program)
    assert words in "\n".join(lines)
    assert not (JAX | SELDOM) & {*packages}


@pytest.mark.quick
@pytest.mark.parametrize("statement", ["import configs", "import crn_jax.settings", "import crn_jax.experiment"])
def test_naming_an_experiment_needs_no_jax(statement):
    assert not (JAX | SELDOM) & {*said(statement)[1]}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("cascade", "CascadeConfig PAPER_WIDTHS"),
        ("unet", "EncoderDecoderConfig"),
        ("baselines.full_resolution", "FullResolutionConfig"),
        ("baselines.gan", "GANConfig GANLossConfig"),
        ("scores.segmenter", "SegmenterConfig"),
        ("lambdas", "LambdaConfig"),
        ("losses", "LossConfig RELEASED_WEIGHTS"),
        ("train", "OptimizerConfig"),
        ("sharding", "ShardingConfig"),
    ],
)
def test_settings_are_still_found_beside_what_they_set(module, names):
    """Files of experiments that people wrote for an older version import them from there."""
    beside = importlib.import_module(f"crn_jax.{module}")
    for name in names.split():
        assert getattr(beside, name) is getattr(settings, name)


@pytest.mark.parametrize("command", ["ablate", "check", "convert", "doctor", "inspect", "paint", "segment", "synthesize"])
def test_a_command_waits_for_no_library_that_it_may_not_need(command):
    found = {*said(f"import launch.{command}")[1]}
    assert not {"h5py", "scipy", "grain", "pooch", "tensorboardX"} & found


@pytest.mark.quick
def test_every_name_of_the_surface_is_there():
    for name in crn_jax.__all__:
        assert getattr(crn_jax, name) is not None
    assert set(crn_jax.__all__) <= set(dir(crn_jax))
    with pytest.raises(AttributeError, match="crn_jax.*no_such_name"):
        crn_jax.no_such_name  # noqa: B018


@pytest.mark.quick
def test_synthesize_is_the_function_whatever_was_imported_before():
    program = """
import crn_jax.synthesize
import crn_jax
from crn_jax import synthesize
assert callable(synthesize) and synthesize.__module__ == "crn_jax.synthesize"
assert all(callable(getattr(crn_jax, name)) or name.isupper() for name in crn_jax.__all__)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=PATIENCE)
