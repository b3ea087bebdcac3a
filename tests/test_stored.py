"""Runs, a cache, an artifact and an ablation that the code of 812cfbe stored (tests/support/record_stored.py): still read."""

import hashlib
import importlib.util
import itertools
import json
import shutil
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

import configs
from crn_jax.ablation import Ablation, Variant
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.errors import UserError
from crn_jax.experiment import BaselineExperiment, Experiment, GANExperiment, SegmenterExperiment, from_json, to_json
from crn_jax.generator import Generator, layout_of
from crn_jax.images import to_uint8
from crn_jax.run import load_run, read_description
from crn_jax.scores.statistics import few_images
from crn_jax.synthesize import synthesize
from launch import ablate, convert, train
from launch.common.terminal import console

STORED = Path(__file__).parent / "data" / "stored.tar.xz"
KINDS = {
    "cascade": Experiment,
    "encoder_decoder": BaselineExperiment,
    "full_resolution": BaselineExperiment,
    "pix2pix": GANExperiment,
    "gan_segmentation": GANExperiment,
    "segmenter": SegmenterExperiment,
    "released": Experiment,
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(STORED) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def recorded(unpacked, monkeypatch) -> dict:
    """How all was made; the working directory is the one where it lies, and no VGG-19 is to be had, as then."""

    def offline(**_):
        raise UserError("offline")

    monkeypatch.chdir(unpacked)
    monkeypatch.setattr("crn_jax.vgg_weights.download_vgg19", offline)
    return json.loads(Path("recorded.json").read_text())


def leaves_of(tree) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def expected_of(name: str, part: str) -> dict[str, np.ndarray]:
    """The leaves of a tree, as the code before loaded it."""
    with np.load(f"expected/{name}.npz") as arrays:
        return {key.removeprefix(part): arrays[key] for key in arrays if key.startswith(f"{part}[")}


def assert_same(tree, expected: dict[str, np.ndarray]) -> None:
    """Bit for bit, signed zeros included."""
    found = leaves_of(tree)
    assert found.keys() == expected.keys() and len(expected) > 0
    for path, leaf in expected.items():
        assert (found[path].dtype, found[path].shape, found[path].tobytes()) == (leaf.dtype, leaf.shape, leaf.tobytes()), path


def digest_of(opt_state) -> str:
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves_of(opt_state).items()):
        digest.update(f"{path} {leaf.dtype.str} {leaf.shape}\n".encode() + leaf.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", KINDS)
def test_a_run_is_loaded_bit_for_bit(name, recorded):
    """A run is loaded as what it is, with its parameters, moving average and moments; its images are the same."""
    experiment, label_space, description = read_description(name)
    assert type(experiment) is KINDS[name] and from_json(to_json(experiment)) == experiment
    assert experiment.num_classes == label_space.num_classes
    assert description["experiment"]["data"]["num_scenes"] == experiment.data.num_scenes
    trained, shown = (load_run(name, kind=KINDS[name], moments=moments) for moments in (True, False))
    assert shown.step == (0 if name == "released" else recorded["steps"])
    assert_same(trained.params, expected_of(name, "params"))
    averaged = experiment.optimizer.ema_decay is not None
    whole = {"generator": shown.params} if isinstance(experiment, GANExperiment) else shown.params
    wanted = expected_of(name, "shown" if averaged else "params")
    assert_same(whole, {path: leaf for path, leaf in wanted.items() if not path.startswith("['discriminator']")})
    with np.load(f"expected/{name}.npz") as arrays:
        assert digest_of(trained.opt_state) == arrays["opt_state"]
        if "images" in arrays:
            assert_same_images(images_of(experiment.generator, shown.params, arrays["layouts"]), arrays["images"])


def images_of(generator: Generator, params: dict, layouts: np.ndarray) -> jax.Array:
    """Returns images as the former code made them. It gave a GAN's network, which mixes the images of a batch, all at once."""
    if not generator.mixes_batch:
        return synthesize(generator, params, layouts)
    return to_uint8(generator.network().apply({"params": params}, layout_of(generator, layouts)))


def assert_same_images(found: jax.Array, expected: np.ndarray) -> None:
    """Processors order sums differently, which turns one colour of a hundred into its neighbour at most."""
    off = np.abs(np.asarray(found).astype(int) - expected)
    assert off.shape == expected.shape and off.max() <= 1 and np.count_nonzero(off) <= off.size / 100


def test_the_best_checkpoint_is_still_known(recorded):
    assert load_run("cascade", "best").step == recorded["steps"]


def parameters_of(name: str) -> dict[str, np.ndarray]:
    return leaves_of(load_run(name, kind=KINDS[name], moments=True).params)


@pytest.mark.parametrize("name", ["cascade", "gan_segmentation", "segmenter"])
def test_a_training_goes_on(name, recorded, tmp_path):
    """To the parameters that the code before reached: bit for bit on the processor where they were recorded.

    Another one orders sums otherwise. Where a gradient is nothing but rounding, Adam makes a whole step of it, so there a few
    parameters may be some steps away.
    """
    shutil.copytree(name, tmp_path / name)
    before, steps = parameters_of(name), recorded["steps"] + recorded["further"]
    with console.capture() as capture:
        train.main([*recorded["runs"][name].split(), "--run.folder", str(tmp_path / name), "--steps", str(steps)])
    assert f"at step {recorded['steps']}" in capture.get()
    expected = expected_of(name, "resumed/params")
    run = load_run(tmp_path / name, kind=KINDS[name], moments=True)
    assert run.step == steps and leaves_of(run.params).keys() == expected.keys()
    off = np.concatenate([np.abs(leaf - expected[path]).ravel() for path, leaf in leaves_of(run.params).items()])
    moved = np.concatenate([np.abs(leaf - expected[path]).ravel() for path, leaf in before.items()])
    rate = run.experiment.optimizer.learning_rate
    assert np.median(moved[moved > 0]) > rate / 10  # what is compared has been trained
    assert np.quantile(off, 0.95) < rate / 100 and off.max() <= 2 * rate * recorded["further"]


def states(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*.npy")}


def test_a_cache_is_made_anew_beside_the_old_one(recorded, monkeypatch):
    """Since then, photographs are converted to sRGB, so that an old cache could hold other pixels. Here it holds the same."""
    monkeypatch.setattr("crn_jax.data.cache.PIL.__version__", recorded["pillow"])
    places = {folder.name: states(folder) for folder in Path("caches").iterdir()}
    assert len(places) == 2  # training and held-out
    caches = Path("caches").absolute()
    with monkeypatch.context() as patch:
        patch.setattr("os.getcwd", lambda: recorded["here"])
        train.main([*recorded["cached"].split(), "--data.cache", str(caches)])
    new = {folder.name: states(folder) for folder in caches.iterdir()}
    assert len(new) == 4 and {name: new[name] for name in places} == places
    data = DataConfig("folder", root="own", labels="cityscapes")
    for split in ("train", "val"):
        source = open_source(data, split, (16, 16))
        both = [place for place in caches.iterdir() if len(np.load(place / "layout.npy")) == len(source)]
        assert len(both) == 2
        for place, key in itertools.product(both, ("layout", "photograph")):
            np.testing.assert_array_equal(
                np.load(place / f"{key}.npy"), [example[key] for example in map(source.__getitem__, range(len(source)))]
            )


def test_an_artifact_is_loaded_by_its_own_loader(recorded, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("stored_load", "artifact/load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function, about = module.load("artifact")
    assert about["num_images"] == 2 and about["step"] == recorded["steps"]
    with np.load("expected/cascade.npz") as arrays:
        assert_same_images(function(arrays["layouts"]), arrays["images"])


def test_one_file_becomes_a_run_again(recorded, tmp_path):
    convert.main(["run", "cascade.safetensors", str(tmp_path / "run")])
    run = load_run(tmp_path / "run")
    assert_same(run.params, expected_of("cascade", "shown"))
    assert run.step == recorded["steps"] and run.experiment == read_description("cascade")[0]
    assert run.label_space == read_description("cascade")[1]


def test_an_evaluation_is_read_by_the_model_card_of_an_export(recorded, tmp_path):
    stored = json.loads(Path("cascade/evaluation/evaluation.json").read_text())
    convert.main(["export", "cascade", str(tmp_path / "artifact")])
    card = (tmp_path / "artifact" / "README.md").read_text()
    (cascade,) = (candidate for candidate in stored["candidates"] if candidate["name"] == "cascade")
    for key in ("distance", "psnr", "ssim"):
        assert f"| {cascade['scores'][key]['value']:.4g} (" in card


def test_an_ablation_repeats_nothing(recorded, monkeypatch):
    """Its tasks are finished, and the same figures are collected from them."""
    suite = Ablation("Which?", tuple(Variant(name, arguments) for name, arguments in recorded["suite"].items()))
    monkeypatch.setitem(configs.ABLATIONS, "tiny", suite)
    then, logs = json.loads(Path("ablation/ablation.json").read_text()), [*Path("ablation").glob("*/*/log.txt")]
    printed = [log.read_text() for log in logs]
    assert len(logs) == 2
    with pytest.raises(SystemExit) as exit_:
        ablate.main(recorded["ablation"].split())
    assert exit_.value.code == 0 and [log.read_text() for log in logs] == printed
    now = json.loads(Path("ablation/ablation.json").read_text())
    for found, expected in zip(now["variants"], then["variants"], strict=True):
        for part in ("name", "differs", "scores", "runs"):
            assert found[part] == expected[part], part
        # Since then, the mean is summed in another order, the probability of improvement has come, and intervals over few
        # images are wider.
        if expected["difference"] is None:
            assert found["difference"] is None
        else:
            middle = expected["difference"]["value"]
            for key, value in expected["difference"].items():
                if key in ("low", "high"):
                    value = middle + few_images(2) * (value - middle)
                assert found["difference"][key] == pytest.approx(value, rel=1e-12), key
    assert now["examples"] == then["examples"] and len(then["examples"]) == 1
