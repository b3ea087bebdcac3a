"""Strict settings, and the fixtures that several files share. Nothing here is timed, and nothing is downloaded."""

import importlib.metadata
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = [
    # Most of the time here goes into compiling.
    "--xla_backend_optimization_level=0",
    # XLA aborts the process if one of the eight devices keeps a collective waiting too long, as it may on a busy machine.
    "--xla_cpu_collective_call_terminate_timeout_seconds=300",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # it halves the time to compile; later versions abort at it
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(_FLAGS)
os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # also for the commands that tests start: sums depend on it in the last bit
for name in ("CRN_JAX_VGG19", "JAX_COMPILATION_CACHE_DIR"):
    os.environ.pop(name, None)

from jaxtyping import install_import_hook  # noqa: E402

import tests.support.typecheck  # noqa: E402, F401  # the hook finds it by its name

# Shapes and dtypes in the signatures of these modules are checked whenever a test calls, or traces, one of their functions.
_CHECKED = [
    "crn_jax.data.geometry",
    "crn_jax.data.labels.label_space",
    "crn_jax.data.nyu",
    "crn_jax.data.streets",
    "crn_jax.data.vivid",
    "crn_jax.lambdas",
    "crn_jax.scores.frechet",
    "crn_jax.scores.inception",
    "crn_jax.scores.lpips",
    "crn_jax.scores.metrics",
    "crn_jax.scores.segmenter",
]
install_import_hook(_CHECKED, "tests.support.typecheck.checked")

import h5py  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from crn_jax import authors, vgg_weights  # noqa: E402
from crn_jax.kernels import convolution  # noqa: E402
from launch import train  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def alone():
    """JAX is running here already, so commands called in this process join no others (test_processes.py does that)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.train.join", lambda processes: None)
        yield


@pytest.fixture
def xlas_convolution(monkeypatch):
    """For tests that compare several devices with one, which would compute matrix products instead and round otherwise."""
    monkeypatch.setattr(convolution, "_SMALL", 0)
    monkeypatch.setattr(convolution, "_NARROW", np.inf)
    monkeypatch.setattr(convolution, "_NARROW_KERNEL", np.inf)


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


@pytest.fixture(scope="session")
def random_vgg_file(tmp_path_factory) -> Path:
    """A weight file in Keras' layout with random values, for runs whose images do not matter."""
    path = tmp_path_factory.mktemp("vgg19") / "random.h5"
    with h5py.File(path, "w") as file:
        for name, layer in vgg_weights.random_vgg19(3).items():
            if name != "mean":
                keras = f"block{name[4]}_conv{name[6]}"
                file[f"{keras}/kernel:0"], file[f"{keras}/bias:0"] = layer["kernel"], layer["bias"]
    return path


def keep_compiled(tmp_path_factory) -> None:
    """Commands of this session, in all of its workers, share what they compile; with no other session."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        worker = tmp_path_factory.getbasetemp()
        session = worker.parent if "PYTEST_XDIST_WORKER" in os.environ else worker
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(session / "compiled")


@pytest.fixture(scope="session")
def tiny(random_vgg_file, tmp_path_factory) -> list[str]:
    """Arguments of launch.train for a run of a few seconds: 48x64 streets, six steps an epoch, one device."""
    keep_compiled(tmp_path_factory)
    return (
        "demo --cascade.base 6 8 --cascade.widths 8 8 8 8 --data.num_scenes 6 --run.validation_examples 2 "
        f"--run.sheet_examples 2 --optimizer.learning_rate 1e-3 --optimizer.ema_decay 0.9 --vgg.weights {random_vgg_file} "
        "--sharding.mesh 1 1"
    ).split()


@pytest.fixture(scope="session")
def tiny_segmenter(tmp_path_factory) -> tuple[list[str], Path]:
    """Arguments of launch.train for a segmenter of 48x64 streets, and the folder of its run, three steps an epoch."""
    keep_compiled(tmp_path_factory)
    folder = tmp_path_factory.mktemp("segmenter")
    arguments = (
        "segmenter_camvid --data.source streets --data.num_scenes 6 --data.clear_days --segmenter.num_classes 20 "
        "--segmenter.size 48 64 --segmenter.widths 8 12 16 --batch_size 2 --run.validation_examples 4 --run.sheet_examples 2 "
        f"--run.validate_every 60 --sharding.mesh 1 1 --run.folder {folder}"
    ).split()
    train.main([*arguments, "--epochs", "40"])
    return arguments, folder
