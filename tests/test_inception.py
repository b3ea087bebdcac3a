"""Against pytorch-fid with the same weights: `record_references.py` has recorded what that makes of three images."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from crn_jax.errors import UserError
from crn_jax.scores import inception
from tests.support.named_weights import image, named_weights

pytestmark = pytest.mark.quick

SIZES = (96, 128), (299, 299), (320, 400)
NORM = "weight", "bias", "running_mean", "running_var"
trunk = jax.jit(inception.inception_trunk)  # compiled once


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "data" / "inception_reference.npz"))


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    shapes = {"fc.weight": (1008, 2048)}
    for name, (h, w, c, d) in inception.kernel_shapes().items():
        shapes[f"{name}.conv.weight"] = (d, c, h, w)
        shapes |= {f"{name}.bn.{key}": (d,) for key in NORM}
    return named_weights(shapes)


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    images = [image(seed, *size)[None] for seed, size in enumerate(SIZES)]
    return np.concatenate([inception.inception_input(x) for x in images])


def saved(tensors: dict[str, np.ndarray], folder: Path) -> Path:
    safetensors.numpy.save_file(tensors, folder / "inception.safetensors")
    return folder / "inception.safetensors"


def test_images_are_resized_as_torch_does(inputs, recorded):
    kept = recorded["kept"]
    assert {0, inception.SIZE - 1} < set(kept.tolist())
    np.testing.assert_allclose(inputs[:, kept][:, :, kept], recorded["inputs"], atol=2e-6)


def test_features_are_those_of_pytorch_fid(weights, inputs, recorded, tmp_path):
    params = inception.load_inception(saved(weights, tmp_path))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    features = np.asarray(trunk(params, inputs))
    apart = np.linalg.norm(recorded["features"][1] - recorded["features"][2])
    assert apart > 0.01 * np.linalg.norm(recorded["features"][1])  # the images make a difference
    error = np.linalg.norm(features - recorded["features"], axis=1) / np.linalg.norm(recorded["features"], axis=1)
    assert error.max() < 1e-5


def test_images_of_any_size_and_type_have_features(weights, tmp_path):
    params = inception.load_inception(saved(weights, tmp_path))
    for dtype, size in (np.uint8, (33, 47)), (np.float32, (400, 299)):
        features = jax.eval_shape(inception.inception_features, params, jax.ShapeDtypeStruct((2, *size, 3), dtype))
        assert features.shape == (2, 2048) and features.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (7, 2)])
def test_the_range_of_an_image_is_kept(size):
    for value, expected in (0, -1), (255, 1):
        np.testing.assert_allclose(inception.inception_input(np.full((1, *size, 3), value, np.uint8)), expected, atol=1e-6)


def test_files_of_other_networks_are_refused(weights, tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: there is no such file\. Fetch https://.*6726825d\.pth"):
        inception.load_inception(tmp_path / "none.pth")
    for key, shape, message in [
        ("fc.weight", (1000, 2048), r"fc\.weight is \(1000, 2048\), expected \(1008, 2048\)"),  # torchvision's
        ("fc.weight", None, "fc.weight is missing"),
        ("Mixed_6b.branch7x7_2.conv.weight", (128, 128, 7, 1), r"branch7x7_2\.conv\.weight is \(128, 128, 7, 1\), expected"),
        ("Mixed_7c.branch_pool.bn.running_var", None, r"Mixed_7c\.branch_pool\.bn\.running_var is missing"),
    ]:
        other = {name: tensor for name, tensor in weights.items() if name != key}
        other |= {} if shape is None else {key: np.zeros(shape, np.float32)}
        path = saved(other, tmp_path)
        with pytest.raises(UserError, match=rf"inception\.safetensors: these are not the weights of the Inception.*{message}"):
            inception.load_inception(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"inception\.safetensors: the file is damaged"):
        inception.load_inception(path)


CLEAN = dict(np.load(Path(__file__).parent / "data" / "clean_fid_reference.npz"))


def check_resized(name: str, picture: np.ndarray) -> None:
    kept = CLEAN["kept"]
    clean = inception.clean_input(picture[None])[0] * 128 + 128
    np.testing.assert_allclose(clean[kept][:, kept], CLEAN[f"{name}_clean"], atol=1e-4)
    aliased = (np.asarray(inception.inception_input(picture[None]))[0] + 1) * 127.5
    np.testing.assert_allclose(aliased[kept][:, kept], CLEAN[f"{name}_legacy_pytorch"], atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_images_are_resized_as_clean_fid_does(seed):
    """Both ways are clean-fid's: `clean`, and `legacy_pytorch`, which is pytorch-fid's."""
    size = [(96, 128), (299, 299), (400, 700)][seed]
    check_resized(f"drawn{seed}", image(seed, *size))
    if size != (299, 299):
        apart = np.abs(CLEAN[f"drawn{seed}_clean"] - CLEAN[f"drawn{seed}_legacy_pytorch"])
        assert apart.mean() > 1  # the two differ


def test_photographs_are_resized_as_clean_fid_does(shared_data):
    for i, file in enumerate(sorted((shared_data / "camvid" / "val").iterdir())[:2]):
        check_resized(f"photograph{i}", np.asarray(Image.open(file).convert("RGB")))
