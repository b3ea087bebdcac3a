import hashlib
import json
import zlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from crn_jax import vgg_weights
from crn_jax.errors import UserError
from crn_jax.vgg import LAYERS, vgg19_features
from tests.support import narrow, reference
from tests.support.limits import memory_for
from tests.support.static_server import serving


def test_keras_and_matconvnet_files_convert_to_identical_parameters(imagenet_vgg19, shared_data):
    oxford = vgg_weights.load_vgg19(shared_data / "vgg19" / "imagenet-vgg-verydeep-19.mat")
    assert jax.tree.structure(oxford) == jax.tree.structure(imagenet_vgg19)
    jax.tree.map(np.testing.assert_array_equal, imagenet_vgg19, oxford)


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    """A file as torchvision lays it out: OIHW, numbered by position in a Sequential."""
    rng, tensors, index = np.random.default_rng(0), {}, 0
    for block, convs in enumerate((2, 2, 4, 4, 4), 1):
        for n in range(1, convs + 1):
            shape = LAYERS.get(f"conv{block}_{n}", (512, 512))[::-1] + (3, 3)
            tensors[f"features.{index}.weight"] = rng.normal(0, np.sqrt(2 / 9 / shape[1]), shape).astype(np.float32)
            tensors[f"features.{index}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
            index += 2
        index += 1
    path = tmp_path_factory.mktemp("weights") / "vgg19.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path, tensors


def test_torchvision_weights_take_the_same_images(torchvision_file):
    """Images 0..255 through our tree equal normalized images through the file's own convolutions, borders included."""
    path, tensors = torchvision_file
    params = vgg_weights.load_vgg19(path)
    image = np.random.default_rng(1).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    normalized = (image / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernels = [tensors[f"features.{i}.weight"].transpose(2, 3, 1, 0).astype(float) for i in (0, 2)]
    biases = [tensors[f"features.{i}.bias"] for i in (0, 2)]
    expected = normalized
    for kernel, bias in zip(kernels, biases):
        expected = np.maximum(reference.conv_same(expected, kernel) + bias, 0)
    np.testing.assert_allclose(vgg19_features(params, jnp.asarray(image))["conv1_2"], expected, atol=1e-4)


def test_keras_files_with_nested_groups_and_half_precision(tmp_path):
    """Writes weights as tf.keras' save_weights does."""
    path, expected = tmp_path / "nested.h5", vgg_weights.random_vgg19(0)
    with h5py.File(path, "w") as file:
        for name in LAYERS:
            keras = f"block{name[4]}_conv{name[6]}"
            kernel = expected[name]["kernel"].astype(np.float16)
            file[f"{keras}/{keras}/kernel:0"] = kernel[:, :, ::-1] if name == "conv1_1" else kernel
            file[f"{keras}/{keras}/bias:0"] = expected[name]["bias"].astype(np.float16)
    params = vgg_weights.load_vgg19(path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, expected)


def test_numbers_that_numpy_does_not_have_are_named(tmp_path):
    """Shapes and types alone, for a file of bfloat16, which safetensors' own NumPy functions do not write."""
    header, size = {}, 0
    for index, (channels_in, channels_out) in ((0, LAYERS["conv1_1"]), (2, LAYERS["conv1_2"])):
        for part, shape in (("weight", [channels_out, channels_in, 3, 3]), ("bias", [channels_out])):
            begin, size = size, size + 2 * int(np.prod(shape))
            header[f"features.{index}.{part}"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, size]}
    text = json.dumps(header).encode()
    (tmp_path / "half.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with pytest.raises(UserError, match=r"half\.safetensors: features\.0\.weight holds BF16, .* Save the weights as float32"):
        vgg_weights.load_vgg19(tmp_path / "half.safetensors")


def test_torchvision_and_keras_trees_have_the_same_structure(torchvision_file):
    shapes = [jax.tree.map(np.shape, p) for p in (vgg_weights.load_vgg19(torchvision_file[0]), vgg_weights.random_vgg19(0))]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("ending", [".h5", ".mat", ".safetensors"])
def test_a_truncated_file_is_named(ending, tmp_path, request):
    if ending == ".safetensors":
        source = request.getfixturevalue("torchvision_file")[0]
    else:
        source = next((request.getfixturevalue("shared_data") / "vgg19").glob(f"*{ending}"))
    broken = tmp_path / f"broken{ending}"
    broken.write_bytes(source.read_bytes()[:-200_000])
    with pytest.raises(UserError, match=rf"broken\{ending}: the file is damaged or truncated"):
        vgg_weights.load_vgg19(broken)


def test_weights_of_another_network_are_refused(tmp_path):
    lacking, wide = tmp_path / "vgg11.h5", tmp_path / "wide.h5"
    with h5py.File(lacking, "w") as file:
        file["block1_conv1/kernel:0"], file["block1_conv1/bias:0"] = np.zeros((3, 3, 3, 64)), np.zeros(64)
    with pytest.raises(UserError, match=r"vgg11\.h5: these are not VGG-19's weights: block1_conv2 is missing"):
        vgg_weights.load_vgg19(lacking)
    with h5py.File(wide, "w") as file:
        for name, (channels_in, channels_out) in LAYERS.items():
            keras = f"block{name[4]}_conv{name[6]}"
            file[f"{keras}/kernel:0"] = np.zeros((1, 1, channels_in, channels_out), np.float32)
            file[f"{keras}/bias:0"] = np.zeros(channels_out, np.float32)
    with pytest.raises(UserError, match=r"conv1_1 is \(\(1, 1, 3, 64\), \(64,\)\), expected \(\(3, 3, 3, 64\), \(64,\)\)"):
        vgg_weights.load_vgg19(wide)
    with h5py.File(wide, "a") as file:
        del file["block1_conv1/bias:0"]
    with pytest.raises(UserError, match=r"wide\.h5: these are not VGG-19's weights: bias is missing"):
        vgg_weights.load_vgg19(wide)
    with pytest.raises(UserError, match=r"not from '\.pth'"):
        vgg_weights.load_vgg19("vgg19.pth")


@pytest.fixture
def server(tmp_path):
    """A web server of this process for a folder; yields the folder and its address."""
    folder = tmp_path / "published"
    folder.mkdir()
    with serving(folder) as server:
        yield folder, server.address


def test_download(server, tmp_path):
    folder, address = server
    (folder / "weights.h5").write_bytes(b"weights")
    digest = f"md5:{hashlib.md5(b'weights').hexdigest()}"
    cache = tmp_path / "cache"
    path = vgg_weights.download_vgg19(cache, f"{address}weights.h5", digest, progressbar=False)
    assert path == cache / vgg_weights.PUBLISHED_NAME and path.read_bytes() == b"weights"
    path.write_bytes(b"wights")  # a file with another checksum is fetched again
    assert vgg_weights.download_vgg19(cache, f"{address}weights.h5", digest, progressbar=False) == path
    assert path.read_bytes() == b"weights"
    (folder / "weights.h5").unlink()  # a good one is not
    assert vgg_weights.download_vgg19(cache, f"{address}weights.h5", digest, progressbar=False) == path


def test_a_download_with_a_wrong_checksum_leaves_nothing(server, tmp_path):
    folder, address = server
    (folder / "weights.h5").write_bytes(b"something else")
    with pytest.raises(UserError, match="wrong checksum"):
        vgg_weights.download_vgg19(tmp_path / "cache", f"{address}weights.h5", "md5:" + "0" * 32, progressbar=False)
    assert not list((tmp_path / "cache").iterdir())


def test_offline_says_which_file_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(UserError) as error:
        vgg_weights.download_vgg19(tmp_path, "http://127.0.0.1:9/weights.h5", "md5:" + "0" * 32, progressbar=False)
    for needed in (vgg_weights.PUBLISHED_URL, str(tmp_path / vgg_weights.PUBLISHED_NAME), "CRN_JAX_VGG19", "--vgg.weights"):
        assert needed in str(error.value)


def test_weights_are_found_by_path_then_variable(monkeypatch):
    assert vgg_weights.find_vgg19() is None
    monkeypatch.setenv("CRN_JAX_VGG19", "/elsewhere.mat")
    assert str(vgg_weights.find_vgg19()) == "/elsewhere.mat"
    assert str(vgg_weights.find_vgg19("/here.h5")) == "/here.h5"


def test_only_an_experiment_that_allows_it_goes_on_with_random_weights(monkeypatch):
    def offline(**_):
        raise UserError("no network")

    monkeypatch.setattr(vgg_weights, "download_vgg19", offline)
    with pytest.raises(UserError, match="no network"):
        vgg_weights.obtain_vgg19(vgg_weights.VGGConfig())
    params, source = vgg_weights.obtain_vgg19(vgg_weights.VGGConfig(allow_random=True))
    assert source == {"weights": "random", "because": "no network"} and params["conv5_2"]["kernel"].shape == (3, 3, 512, 512)


def test_a_file_that_was_named_wrongly_is_no_reason_for_random_weights(monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    for named in ("$NOPE/x.h5", "none.h5"):
        with pytest.raises(UserError):
            vgg_weights.obtain_vgg19(vgg_weights.VGGConfig(weights=named, allow_random=True))


def test_where_the_weights_come_from_is_recorded(keras_file):
    _, source = vgg_weights.obtain_vgg19(vgg_weights.VGGConfig(weights=str(keras_file)))
    digest = hashlib.sha256(keras_file.read_bytes()).hexdigest()
    assert source == {"weights": "file", "file": keras_file.name, "sha256": digest}


@pytest.fixture
def small():
    """VGG-19 is narrow in a test, and so are its files."""
    with narrow.narrow_vgg19():
        yield


@pytest.mark.parametrize("number", [np.nan, np.inf, 2e36, -1e4])
@pytest.mark.parametrize("part", ["kernel:0", "bias:0"])
def test_weights_that_cannot_be_are_refused(tmp_path, small, number, part):
    path = narrow.write_random_vgg19(tmp_path / "odd.h5")
    with h5py.File(path, "r+") as file:
        file[f"block4_conv2/{part}"][..., 1] = number
    with pytest.raises(UserError, match=r"odd\.h5: the file is damaged: conv4_2 has a number of magnitude"):
        vgg_weights.load_vgg19(path)


def of_gigabytes(file, kernel):
    file.create_dataset(
        "block1_conv1/kernel:0", (1 << 16, 1 << 16, 3, 8), np.float32, chunks=(256, 256, 3, 8), compression="gzip"
    )


def bomb(file, kernel):
    """A chunk that unpacks to more than it may."""
    data = file.create_dataset("block1_conv1/kernel:0", kernel.shape, np.float32, chunks=kernel.shape, compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(1 << 26)))


def hollow(file, kernel):
    """Nothing is stored, so that zeros would be read."""
    file.create_dataset("block1_conv1/kernel:0", kernel.shape, np.float32)


def hollow_chunks(file, kernel):
    file.create_dataset("block1_conv1/kernel:0", kernel.shape, np.float32, chunks=(1, 3, 3, 8), compression="gzip")


def elsewhere(file, kernel):
    file["block1_conv1/kernel:0"] = h5py.ExternalLink("other.h5", "kernel")


def soft(file, kernel):
    file["block1_conv1/kernel:0"] = h5py.SoftLink("/block1_conv1/bias:0")


def external(file, kernel):
    file.create_dataset("block1_conv1/kernel:0", kernel.shape, np.float32, external=[("other.bin", 0, kernel.nbytes)])


def virtual(file, kernel):
    layout = h5py.VirtualLayout(kernel.shape, np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "kernel", kernel.shape)
    file.create_virtual_dataset("block1_conv1/kernel:0", layout)


def other_filter(file, kernel):
    file.create_dataset("block1_conv1/kernel:0", data=kernel, chunks=kernel.shape, compression="lzf")


def integers(file, kernel):
    file["block1_conv1/kernel:0"] = kernel.astype(np.int32)


def texts(file, kernel):
    file["block1_conv1/kernel:0"] = np.full(kernel.shape, b"x")


def crowd(file, kernel):
    for n in range(2000):
        file[f"block1_conv1/{n}"] = n


@pytest.mark.parametrize(
    "make",
    [of_gigabytes, bomb, hollow, hollow_chunks, elsewhere, soft, external, virtual, other_filter, integers, texts, crowd],
)
def test_hdf5_files_that_are_not_what_they_say(tmp_path, small, make):
    path = narrow.write_random_vgg19(tmp_path / "odd.h5")
    with h5py.File(path, "r+") as file:
        kernel = file["block1_conv1/kernel:0"][()]
        del file["block1_conv1/kernel:0"]
        make(file, kernel)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel"] = kernel
    (tmp_path / "other.bin").write_bytes(kernel.tobytes())
    with memory_for(1 << 29), pytest.raises(UserError, match=r"odd\.h5: "):
        vgg_weights.load_vgg19(path)


def test_a_file_of_the_published_size_has_the_published_contents(tmp_path, small, monkeypatch):
    path = narrow.write_random_vgg19(tmp_path / "own.h5")
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(vgg_weights, "_PUBLISHED_MD5", {path.stat().st_size: digest})
    vgg_weights.load_vgg19(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"own\.h5: the file is damaged: its MD5 is .*published file {digest}"):
        vgg_weights.load_vgg19(path)
