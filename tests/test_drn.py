"""Against the original DRN-D-105 with the same weights: `record_drn.py` has recorded what that makes of two images."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from crn_jax.errors import UserError
from crn_jax.scores import drn
from crn_jax.scores.metrics import class_iou, confusion, segmentation_scores
from tests.support.named_weights import image, named_weights

pytestmark = pytest.mark.quick

SIZES = (40, 56), (33, 47)  # sides of the second are no multiples of 8


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "data" / "drn_reference.npz"))


@pytest.fixture(scope="module")
def file(recorded, tmp_path_factory) -> Path:
    weights = named_weights({name: shape for name, shape in drn.tensor_shapes().items() if name != "up.weight"})
    weights["up.weight"] = np.tile(recorded["up"], (19, 1, 1, 1))
    path = tmp_path_factory.mktemp("drn") / "drn.safetensors"
    safetensors.numpy.save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def params(file) -> dict:
    return drn.load_drn(file)


logits = jax.jit(drn.drn_logits)  # compiled once a size


def test_logits_are_those_of_the_original(params, recorded):
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    for seed, (height, width) in enumerate(SIZES):
        check(params, recorded, seed, image(seed, height, width))


def test_a_photographs_logits_are_those_of_the_original(params, recorded, shared_data):
    with Image.open(shared_data / "camvid" / "val" / "0016E5_07959.jpg") as picture:
        check(params, recorded, 2, np.asarray(picture)[150:198, 200:264])


def check(params: dict, recorded: dict[str, np.ndarray], number: int, pixels: np.ndarray) -> None:
    found, expected = np.asarray(logits(params, pixels[None]))[0], recorded[f"some{number}"]
    assert found.shape == (*pixels.shape[:2], 19)
    kept = found[::3, ::5]
    assert expected.std() > 0.1 and recorded[f"coarse{number}"].std(axis=(0, 1)).min() > 1e-3  # the image makes a difference
    np.testing.assert_allclose(kept, expected[: kept.shape[0], : kept.shape[1]], atol=1e-4)
    classes = recorded[f"classes{number}"][: pixels.shape[0], : pixels.shape[1]]
    first, second = np.sort(found, axis=-1)[..., :-3:-1].transpose(2, 0, 1)
    clear = first - second > 1e-3
    assert clear.mean() > 0.9 and len(np.unique(classes)) > 2
    np.testing.assert_array_equal(found.argmax(-1)[clear], classes[clear])


def test_mean_iou_is_that_of_the_originals_program(recorded):
    """It counts neither void pixels nor classes that occur nowhere."""
    label, predicted = recorded["labels"]
    counted = confusion(np.where(label == 255, 19, label), predicted, 20)
    np.testing.assert_array_equal(counted[:19, :19], recorded["hist"])
    np.testing.assert_allclose(class_iou(counted), recorded["iou"])
    assert np.isnan(recorded["iou"]).sum() == 1
    assert segmentation_scores(counted).miou == pytest.approx(np.nanmean(recorded["iou"]))


def test_files_of_other_networks_are_refused(file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"none\.pth: there is no such file\. Fetch it from http://go\.yf\.io/drn-cityscapes"):
        drn.load_drn(tmp_path / "none.pth")
    whole, of_camvid = safetensors.numpy.load_file(file), np.zeros((11, 512, 1, 1), np.float32)
    others = [
        ({name: tensor for name, tensor in whole.items() if "base.5.22" not in name}, r"base\.5\.22\.conv1\.weight is missing"),
        (whole | {"seg.weight": of_camvid}, r"seg\.weight is \(11, 512, 1, 1\), expected \(19, 512, 1, 1\)"),
        (whole | {"up.weight": whole["up.weight"] + 0.01}, r"up\.weight is no bilinear enlargement"),
        (whole | {"base.8.1.running_var": -whole["base.8.1.running_var"]}, r"base\.8\.1\.running_var has negative variances"),
    ]
    for tensors, message in others:
        monkeypatch.setattr(drn, "read_weights", lambda *_, tensors=tensors: tensors)  # the file has 218 MB
        with pytest.raises(UserError, match=rf"drn\.pth: .*{message}"):
            drn.load_drn("drn.pth")
