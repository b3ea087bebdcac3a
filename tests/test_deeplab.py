"""Against the original DeepLabV2 with the same weights: `record_segmenters.py` has recorded what that makes of three images."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from crn_jax.errors import UserError
from crn_jax.scores import deeplab
from crn_jax.scores.metrics import confusion, pixels_by_class, scores_of_pixels
from crn_jax.scores.residual import interpolated
from tests.support.named_weights import image, named_weights
from tests.support.recorded_logits import check_classes, check_logits, photograph


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "data" / "deeplab_reference.npz"))


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    tensors = named_weights(deeplab.tensor_shapes())
    tensors["base.layer1.conv1.bn.running_var"] *= 3600  # as for images of 0..255
    return tensors


@pytest.fixture(scope="module")
def params(tensors, tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("deeplab") / "deeplab.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return deeplab.load_deeplab(path)


def check(params: dict, recorded: dict[str, np.ndarray], number: int, pixels: np.ndarray) -> None:
    coarse = deeplab.coarse_logits(params, pixels[None])
    check_logits(np.asarray(coarse)[0, ..., ::7], recorded[f"coarse{number}"])
    logits = np.asarray(interpolated(coarse, pixels.shape[:2]))[0]
    check_logits(logits[::3, ::5, ::13], recorded[f"some{number}"])
    check_classes(logits.argmax(-1), recorded[f"classes{number}"], logits, margin=1e-3)


@pytest.mark.quick
def test_logits_are_those_of_the_original(params, recorded):
    """The sides are odd, so that scaled images are cut, and the pooling reaches beyond the edge."""
    check(params, recorded, 1, image(1, 33, 47))


def test_a_photographs_logits_are_those_of_the_original(params, recorded, shared_data):
    pixels = photograph(shared_data)
    check(params, recorded, 2, pixels)
    found = np.asarray(deeplab.deeplab_segment(params, pixels[None]))[0]
    assert found.dtype == np.uint8 and (found == recorded["classes2"]).mean() > 0.99


def test_scores_are_those_of_the_originals_program(recorded):
    """A class that is predicted, but in no layout, lowers no mean. Void is left out."""
    label, predicted = recorded["labels"]
    counted = pixels_by_class(confusion(np.where(label == 255, 182, label), predicted, 183))
    np.testing.assert_allclose(scores_of_pixels(counted, mean_over="in layouts"), recorded["scores"])
    assert scores_of_pixels(counted).miou < recorded["scores"][0]


def test_files_are_read_with_every_prefix_and_precision(tensors, params, monkeypatch):
    """Programs that wrap a network put a prefix before its names, and some save halves."""
    for prefix in ("", "module.scale."):
        renamed = {prefix + name.removeprefix("base."): tensor for name, tensor in tensors.items()}
        renamed[f"{prefix}layer1.conv1.bn.num_batches_tracked"] = np.array(3)
        monkeypatch.setattr(deeplab, "read_weights", lambda *_, renamed=renamed: renamed)
        found = deeplab.load_deeplab("x.pth")
        assert found.keys() == params.keys()
        np.testing.assert_array_equal(found["layer1.conv1.conv"]["kernel"], params["layer1.conv1.conv"]["kernel"])
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    monkeypatch.setattr(deeplab, "read_weights", lambda *_: halves)
    kernel = deeplab.load_deeplab("x.pth")["aspp.c3"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, params["aspp.c3"]["kernel"], atol=1e-4)


def test_files_of_other_networks_are_refused(tensors, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"none\.pth: there is no such file\. Fetch it from https://github\.com/kazuto1011/"):
        deeplab.load_deeplab(tmp_path / "none.pth")
    of_voc = {name: tensor[:21] if ".aspp." in name else tensor for name, tensor in tensors.items()}
    cut = {name: tensor for name, tensor in tensors.items() if "layer5.block3" not in name}
    others = [
        (of_voc, r"aspp\.c0\.weight is \(21, 2048, 3, 3\), expected \(182, 2048, 3, 3\)"),
        (cut, r"layer5\.block3\.reduce\.conv\.weight is missing"),
        ({"seg.weight": np.zeros(1, np.float32)}, r"layer1\.conv1\.conv\.weight is missing"),
    ]
    for other, message in others:
        monkeypatch.setattr(deeplab, "read_weights", lambda *_, other=other: other)  # the file has 177 MB
        with pytest.raises(UserError, match=rf"deeplab\.pth: these are not the weights of DeepLabV2-ResNet101 .*{message}"):
            deeplab.load_deeplab("deeplab.pth")
