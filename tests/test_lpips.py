"""Against the lpips package with the same weights: `record_references.py` has recorded the distances."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from crn_jax.errors import UserError
from crn_jax.scores.lpips import NETWORKS, load_lpips, lpips
from tests.support.named_weights import image, named_weights

pytestmark = pytest.mark.quick

CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def linear_weights(channels: tuple[int, ...]) -> dict[str, np.ndarray]:
    return named_weights({f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(channels)})


def backbone_weights(net: str) -> dict[str, np.ndarray]:
    shapes, width = {}, 3
    for conv in NETWORKS[CHANNELS[net]].layers:
        shapes[f"features.{conv.number}.weight"] = (conv.channels, width, conv.kernel, conv.kernel)
        shapes[f"features.{conv.number}.bias"] = (conv.channels,)
        width = conv.channels
    return named_weights(shapes)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """The linear weights and the backbone of each network."""
    folder = tmp_path_factory.mktemp("lpips")
    for net, channels in CHANNELS.items():
        safetensors.numpy.save_file(linear_weights(channels), folder / f"{net}.safetensors")
        safetensors.numpy.save_file(backbone_weights(net), folder / f"{net}_features.safetensors")
    return {net: (folder / f"{net}.safetensors", folder / f"{net}_features.safetensors") for net in CHANNELS}


def pairs() -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.stack([image(seed + s, 33, 47) for s in range(3)]) for seed in (10, 20))
    b[1], b[2] = a[1] // 2 + 30, a[2]
    return np.float32(a), np.float32(b)


@pytest.mark.parametrize("net", CHANNELS)
def test_distances_are_those_of_the_package(net, files):
    recorded = np.load(Path(__file__).parent / "data" / "lpips_reference.npz")[net]
    assert recorded[0] > recorded[1] > recorded[2] == 0
    np.testing.assert_allclose(jax.jit(lpips)(load_lpips(*files[net]), *pairs()), recorded, rtol=1e-5)


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16)])
def test_images_too_small_for_the_network_are_refused(net, smallest, files):
    params = load_lpips(*files[net])

    def distance(h: int, w: int) -> jax.ShapeDtypeStruct:
        images = jax.ShapeDtypeStruct((5, h, w, 3), np.uint8)
        return jax.eval_shape(lpips, params, images, images)

    assert distance(smallest, smallest).shape == (5,) and distance(smallest, 99).dtype == np.float32
    for size in (smallest - 1, 99), (99, smallest - 1):
        with pytest.raises(
            ValueError, match=rf"takes images of at least {smallest}x{smallest} pixels, got \(5, {size[0]}, {size[1]}, 3\)"
        ):
            distance(*size)


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    with pytest.raises(
        UserError, match=r"vgg_features\.safetensors: .* of AlexNet: features\.0\.weight is \(64, 3, 3, 3\), expected"
    ):
        load_lpips(files["alex"][0], files["vgg"][1])
    with pytest.raises(UserError, match=r"alex_features\.safetensors: .* linear weights of LPIPS: they have \(\) channels"):
        load_lpips(files["alex"][1], files["alex"][0])
    with pytest.raises(UserError, match=r"none\.pth: there is no such file\. Fetch https://.*vgg16-397923af\.pth"):
        load_lpips(files["vgg"][0], tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"none\.pth: there is no such file\. Fetch alex\.pth or vgg\.pth from https://"):
        load_lpips(tmp_path / "none.pth", files["vgg"][1])
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(linear_weights((64, 128, 256, 384, 384, 512, 512)), path)  # SqueezeNet's
    with pytest.raises(
        UserError,
        match=r"other\.safetensors: .*have \(64, 128, 256, 384, 384\) channels, expected \(64, 192, 384, 256, 256\) or",
    ):
        load_lpips(path, files["alex"][1])
    safetensors.numpy.save_file({k: w for k, w in backbone_weights("vgg").items() if k != "features.28.bias"}, path)
    with pytest.raises(
        UserError, match=r"other\.safetensors: these are not the weights of VGG-16: features\.28\.bias is missing"
    ):
        load_lpips(files["vgg"][0], path)
