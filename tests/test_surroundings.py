"""What a machine may be like around a command: its terminal, its signals, its folders, and a person's names."""

import codecs
import json
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import rich.table
from hypothesis import given, settings
from hypothesis import strategies as st

from crn_jax.checkpoint import Checkpoints
from crn_jax.data.labels.published import find_label_space
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.errors import UserError
from crn_jax.files import cache_folder, expanded
from crn_jax.vgg_weights import ENVIRONMENT_VARIABLE, find_vgg19
from launch import synthesize, train
from launch.common import interruption, jax_setup, standard_streams
from launch.common.exit_status import INTERRUPTED
from launch.common.jax_setup import compile_fewer_kernels, keep_compiled, unwritable
from launch.common.names import COMMANDS, command_line, quoted
from launch.common.options import read_options
from launch.common.terminal import command, console, progress_bar
from tests.support.commands import PATIENCE, ROOT, start


def listing(before: str, **environment: str) -> subprocess.CompletedProcess:
    """What the list of commands is when a shell command, in which "$@" stands for it, starts it. It imports next to nothing."""
    line = ["bash", "-c", before, "bash", sys.executable, "-m", "launch", "--help"]
    return subprocess.run(line, cwd=ROOT, env=os.environ | environment, capture_output=True, timeout=PATIENCE)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("before", "environment", "printed", "problem"),
    [
        ('"$@"', {"PYTHONIOENCODING": "ascii"}, True, b""),
        ('"$@"', {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, True, b""),
        ('"$@" | head -1; exit ${PIPESTATUS[0]}', {}, True, b""),
        ('"$@" >&-', {}, False, b""),
        ('"$@" >&- 2>&- <&-', {}, False, b""),
        ('"$@" > /dev/full', {}, False, b"<stdout> cannot be written (No space left on device)"),
        ('"$@" > /dev/full 2>&1', {}, False, b""),
    ],
)
def test_output_goes_wherever_it_can(before, environment, printed, problem):
    ended = listing(before, **environment)
    assert ended.returncode == 0, ended.stderr
    assert (b"Cascaded Refinement Networks" in ended.stdout) == printed
    assert problem in ended.stderr and b"Traceback" not in ended.stderr
    assert problem or not ended.stderr


@pytest.mark.quick
def test_a_closed_stream_gives_its_number_to_no_file(tmp_path):
    program = "import launch; launch.prepare(); file = open('out', 'w'); print('lost'); print(file.fileno(), file=file)"
    line = ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-c", program]
    subprocess.run(line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=PATIENCE)
    assert int((tmp_path / "out").read_text()) > 2


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "λ x elements, 3·4, 5 ± 1 ━╸", b"lambda x elements, 3*4, 5 +- 1 --"),
        ("ascii", "caf\u00e9 \u4e2d", rb"caf\xe9 \u4e2d"),
        ("latin-1", "caf\u00e9 λ", b"caf\xe9 lambda"),
        ("utf-8", "λ caf\udce9", "λ caf".encode() + b"\xe9"),  # the byte of a file's name that is no UTF-8
        ("ascii", "caf\udce9", b"caf\xe9"),
    ],
)
def test_what_an_encoding_lacks_is_replaced(encoding, text, expected):
    codecs.register_error(standard_streams.ERRORS, standard_streams.replaced)
    assert text.encode(encoding, standard_streams.ERRORS) == expected


def test_a_training_of_any_name_runs_on_a_terminal_that_knows_ascii_alone(tiny, tmp_path):
    """λ is rescaled after step 3; brackets, colons and quotes are shown. The terminal is dumb and narrow."""
    name, folder = "lr1e-4[/ema] :car:", tmp_path / "moved [v2] 'ue'\u00e9"
    arguments = [*tiny, "--data.num_scenes", "3", "--steps", "4", "--lambdas.rescale_epoch", "1", "--name", name]
    told, _ = start(arguments, folder, "export PYTHONIOENCODING=ascii TERM=dumb COLUMNS=20 NO_COLOR=1").communicate(
        timeout=PATIENCE
    )
    assert "\x1b" not in told
    assert told.startswith(name) or f"\n{name}: 48x64" in told
    assert "lambda x elements rescaled" in told
    shown = str(folder).replace("\u00e9", r"\xe9")
    assert f"Contact sheet: {shown}/contact_sheets" in told
    next_line = told[told.index("Next: ") :].splitlines()[0].replace(r"\xe9", "\u00e9")
    assert shlex.split(next_line)[-3:] == [str(folder), f"{folder}/layouts", "--sheet"]
    (folder / "-dash").mkdir()
    assert command_line("synthesize", Path("-dash"), "a b").endswith("synthesize ./-dash 'a b'")


@pytest.mark.quick
def test_names_in_tables_and_bars_are_no_markup_and_no_emoji():
    name = "[bold]x[/] [/ema] :car: [link=a]"
    table = rich.table.Table(name, title=name)
    table.add_row(name)
    with console.capture() as capture:
        console.print(name)
        console.print(table, width=200)
        with progress_bar() as progress:
            progress.add_task(name, total=1)
            console.print(progress.get_renderable(), width=200)
    assert capture.get().count(name) == 5
    sources = [path.read_text("utf-8") for path in (ROOT / "launch").rglob("*.py")]
    assert not [text for text in sources if re.search(r"rich\.markup|\[/|\[(bold|dim)[\] ]", text)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=())), min_size=40, max_size=80))
def test_every_command_that_is_printed_can_be_pasted(words):
    words = [os.fsdecode(word.encode("utf-8", "replace")) for word in words] + ["-x", "a\nb", "c'd", "~", "$HOME", "caf\udce9"]
    script = "printf '%s\\0' " + " ".join(map(quoted, words))
    printed = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, check=True, timeout=PATIENCE).stdout
    assert printed.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_a_command_is_imported_is_told_in_a_word(name, tmp_path):
    """A module that is imported early stands for all: it is interrupted, as by a person."""
    (tmp_path / "numpy.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(600)\n")
    for words in ([f"launch.{name}"], ["crn_jax", name]):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        # The tests may run in the background of a shell, which ignores Ctrl-C for all that it starts there.
        heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
        line = [sys.executable, "-S", "-c", heed, sys.executable, "-m", *words]
        ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert (ended.returncode, ended.stdout, ended.stderr) == (INTERRUPTED, "Interrupted.\n", "")


@pytest.fixture
def ctrl_c():
    """The handler of Ctrl-C as it was, afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_in_a_command_is_told_in_a_word(name, ctrl_c, monkeypatch):
    def interrupt(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    module = __import__(f"launch.{name}", fromlist=["main"])
    signal.signal(signal.SIGINT, interruption.leave)  # as in a process of its own
    monkeypatch.setattr(module, "parse_stages" if name == "train" else "read_options", interrupt)
    with console.capture() as capture, pytest.raises(SystemExit) as ended:
        module.main(["anything"])
    assert (ended.value.code, capture.get()) == (INTERRUPTED, "Interrupted.\n")


@pytest.fixture
def compile_cache():
    """JAX's setting as it was, afterwards."""
    before = jax.config.jax_compilation_cache_dir
    with warnings.catch_warnings():
        yield
    jax.config.update("jax_compilation_cache_dir", before)


def said_of_the_cache() -> str:
    with console.capture() as capture:
        keep_compiled()
    return capture.get()


def test_without_a_home_directory_nothing_is_kept_and_it_is_said_once(compile_cache, monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    for variable in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_folder() is None
    assert said_of_the_cache().count("there is no home directory") == 1
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(UserError, match="where ~ lies is not known"):
        expanded("~/x")


def test_a_cache_that_cannot_be_written_is_not_used_and_said_once(compile_cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    said = said_of_the_cache()
    assert f"{tmp_path}/file/cache cannot be written (Not a directory)" in said and said.count("\n") == 1
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "$CACHES/xla")
    monkeypatch.setenv("CACHES", str(tmp_path))
    assert said_of_the_cache() == "" and jax.config.jax_compilation_cache_dir == str(tmp_path / "xla")
    assert "No space left" in unwritable_disk(monkeypatch, tmp_path)


def unwritable_disk(monkeypatch, folder: Path) -> str:
    """What is said of a disk that is full."""
    monkeypatch.setattr(jax_setup.tempfile, "TemporaryFile", lambda dir: open("/dev/full", "wb"))
    return unwritable(folder)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home directory, and a working folder beside it."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", str(tmp_path / "home"))
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("written", "there", "expected"),
    [
        ("~/x", "", "{home}/x"),
        ("$PLACE/x", "", "{home}/x"),
        ("${PLACE}/x", "", "{home}/x"),
        ("a/~", "", "a/~"),
        ("./~/x", "", "./~/x"),
        ("~/x", "~/x", "~/x"),  # it exists as it is written, and only so
        ("cost$5", "", "cost$5"),
        ("$NOWHERE/x", "$NOWHERE/x", "$NOWHERE/x"),
        ("plain [v2]", "", "plain [v2]"),
    ],
)
def test_paths_are_read_as_a_shell_reads_them(home, written, there, expected):
    if there:
        Path(there).mkdir(parents=True)
    assert expanded(written) == expected.format(home=home)
    if there == "~/x":
        (home / "x").mkdir()
        assert expanded(written) == f"{home}/x"


@pytest.mark.quick
@pytest.mark.parametrize("written", ["$NOWHERE/x", "${NOWHERE}", "~nobody_of_this_name/x"])
def test_a_path_that_cannot_be_read_so_is_refused(home, written):
    with pytest.raises(UserError, match="has no variable|is not known"):
        expanded(written)


def test_every_kind_of_path_is_expanded(home, monkeypatch):
    (home / "own.json").write_text('{"classes": ["lawn"]}')
    assert find_label_space("~/own.json").classes == ("lawn", "void")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "~/vgg19.h5")
    assert find_vgg19() == home / "vgg19.h5" and find_vgg19("$PLACE/b.H5") == home / "b.H5"
    with pytest.raises(UserError, match=f"{home}/data"):
        open_source(DataConfig("folder", "~/data", labels="camvid"), "train", (16, 16))
    asked = read_options(synthesize.Arguments, "synthesize", ["~/run", "a.png", "$PLACE/b", "--out=~/c"])
    assert (asked.run, asked.layouts, asked.out) == (home / "run", (Path("a.png"), home / "b"), home / "c")
    experiment = train.parse_stages(["demo", "--run.folder=~/x", "--init_from", "$PLACE/y"])[0].experiment
    assert experiment.folder == f"{home}/x" and experiment.start.folder == f"{home}/y"
    assert not Path("~").exists()


def test_a_run_folder_whose_name_is_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="no text in utf-8"):
        Checkpoints(tmp_path / "caf\udce9", keep_last=1)
    assert not list(tmp_path.iterdir())


def test_an_error_shows_names_as_they_are(capsys):
    with console.capture() as capture, pytest.raises(SystemExit) as ended, command():
        raise UserError("runs/[v2] :car: 'x'")
    assert ended.value.code == 2 and capture.get() == "error: runs/[v2] :car: 'x'\n"


FEWER_KERNELS = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"


@pytest.mark.parametrize(
    "given, platforms, plugins, expected",
    [
        ("", None, [], FEWER_KERNELS),
        ("--xla_cpu_enable_fast_math=false", None, [], f"--xla_cpu_enable_fast_math=false {FEWER_KERNELS}"),
        ("", "cpu", ["cuda12"], FEWER_KERNELS),
        ("", None, ["cuda12"], ""),  # GPUs have no such option
        ("", "cuda,cpu", [], ""),
        ("--xla_backend_extra_options=mine=1", None, [], "--xla_backend_extra_options=mine=1"),
        ("--xla_force_host_platform_device_count=2", None, [], "--xla_force_host_platform_device_count=2"),
    ],
)
def test_trainings_on_cpus_alone_compile_fewer_kernels(given, platforms, plugins, expected, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: plugins if group == "jax_plugins" else [])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    compile_fewer_kernels()
    assert os.environ["XLA_FLAGS"] == expected
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    compile_fewer_kernels()
    assert os.environ["XLA_FLAGS"] == given


def test_several_arrays_in_one_kernel_are_the_same_arrays():
    """Whether this version of XLA still knows the option, which it would ignore otherwise; and a convolution's gradients."""
    program = """
import json
import sys
import jax, jax.numpy as jnp, numpy as np
from crn_jax.kernels.convolution import trained_conv3x3
from crn_jax.kernels.resize import double_bilinear
from launch.common.jax_setup import compile_fewer_kernels

if sys.argv[1:]:
    compile_fewer_kernels()

def loss(k, x):
    return (trained_conv3x3((double_bilinear(jax.nn.leaky_relu(x)),), k) ** 2).mean()

rng = np.random.default_rng(0)
k, x = (jnp.asarray(rng.normal(size=shape), "float32") for shape in ((3, 3, 130, 128), (1, 8, 16, 130)))
step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(k, x).compile()
value, (by_k, by_x) = step(k, x)
numbers = [float(value), *np.ravel(by_k)[::1000].tolist(), *np.ravel(by_x)[::1000].tolist()]
print(json.dumps([step.as_text().count(" fusion("), numbers]))
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    (kernels, numbers), (fewer, same) = (
        json.loads(subprocess.run([sys.executable, "-c", program, *a], env=environment, check=True, capture_output=True).stdout)
        for a in ((), ("fewer",))
    )
    assert fewer < 0.8 * kernels
    np.testing.assert_allclose(same, numbers, rtol=1e-4, atol=1e-6)
