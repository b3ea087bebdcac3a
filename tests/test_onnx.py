"""ONNX files: every generator's images, as onnxruntime computes them, against those of `synthesize`."""

import dataclasses
import functools
import json
import os

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from crn_jax.baselines.full_resolution import FullResolutionConfig
from crn_jax.baselines.gan import GANConfig
from crn_jax.cascade import CascadeConfig
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.errors import UserError
from crn_jax.formats.onnx_file import onnx_model, save_onnx
from crn_jax.generator import Generator, init_params
from crn_jax.run import describe_run
from crn_jax.synthesize import synthesize
from crn_jax.unet import EncoderDecoderConfig
from launch import convert
from launch.common.command_line import parse
from tests.support import commands

CASCADE = CascadeConfig(5, widths=(16, 12, 8), base=(4, 6))
GENERATORS = {
    "cascade": CASCADE,
    "cascade of the paper, k = 9": dataclasses.replace(CASCADE, variant="paper", num_images=9),
    "cascade of the ablations": dataclasses.replace(CASCADE, norm=False, upsampling="half_pixel", layout_at="first"),
    "encoder-decoder": EncoderDecoderConfig(5, (16, 24), (8, 12, 16), num_images=2),
    "full-resolution": FullResolutionConfig(5, (16, 24), maps=8, layers=6),
    "pix2pix": GANConfig(5, (16, 24), "pix2pix", widths=(8, 12, 16, 16), discriminator_widths=(4, 4)),
    "GAN with a segmenter": GANConfig(5, (24, 48), "dcgan", widths=(8, 12, 16)),
}


@functools.cache
def params_of(config: Generator) -> dict:
    """Returns random parameters, in which norms and biases count, too."""
    rng = np.random.default_rng(0)
    fresh = init_params(config, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(leaf + (leaf.ndim == 1) * rng.normal(0, 0.1, leaf.shape), np.float32), fresh)


def images_of(model: onnx.ModelProto | str, layouts: np.ndarray) -> np.ndarray:
    """Returns the images that onnxruntime computes."""
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content).run(None, {"layout_ids": layouts})[0]


def layouts_of(batch: int, size: tuple[int, int], classes: int = 5) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, classes, (batch, *size)).astype(np.uint8)


def assert_same_images(images: np.ndarray, expected: np.ndarray, differing: float = 0.001) -> None:
    """Allows one level, in this share of the numbers."""
    assert images.shape == expected.shape and images.dtype == np.uint8 and expected.std() > 5
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() <= differing


@pytest.mark.parametrize("name", GENERATORS)
def test_images_of_every_generator(name):
    config = GENERATORS[name]
    model = onnx_model(config, params_of(config), np.uint8)
    onnx.checker.check_model(model, full_check=True)
    for batch in (1,) if config.mixes_batch else (1, 3):
        layouts = layouts_of(batch, config.size)
        assert_same_images(images_of(model, layouts), np.asarray(synthesize(config, params_of(config), layouts)))


@pytest.mark.parametrize("name", ["cascade", "encoder-decoder"])
def test_height_and_width_are_free(name):
    config = GENERATORS[name]
    model = onnx_model(config, params_of(config), np.uint8)
    for size in ((8, 4), (32, 12)):
        layouts = layouts_of(1, size)
        assert_same_images(images_of(model, layouts), np.asarray(synthesize(config, params_of(config), layouts)))


@pytest.mark.parametrize("name", ["full-resolution", "cascade"])
def test_one_size_on_request(name):
    config = GENERATORS[name]
    model = onnx_model(config, params_of(config), np.uint8, (8, 16))
    layouts = layouts_of(2, (8, 16))
    assert_same_images(images_of(model, layouts), np.asarray(synthesize(config, params_of(config), layouts)))
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        images_of(model, layouts_of(2, (16, 24)))


@pytest.mark.parametrize("name", GENERATORS)
def test_half_precision(name):
    """The kernels take half of the bytes, and few levels change. Norms stay exact, or large sums would overflow."""
    config = GENERATORS[name]
    whole, half = (onnx_model(config, params_of(config), np.uint8, half=half) for half in (False, True))
    kernels = sum(weight.ByteSize() for weight in half.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16)
    assert 0.45 < kernels / sum(weight.ByteSize() for weight in whole.graph.initializer) < 0.55
    layouts = layouts_of(1, config.size)
    assert_same_images(images_of(half, layouts), np.asarray(synthesize(config, params_of(config), layouts)), differing=0.1)


def test_more_classes_than_a_byte():
    config = dataclasses.replace(CASCADE, num_classes=300)
    layouts = layouts_of(1, config.size, 300).astype(np.uint16) % 300
    layouts[0, 0, :2] = 299, 43  # 299 is 43 in eight bits
    model = onnx_model(config, params_of(config), np.uint16)
    assert_same_images(images_of(model, layouts), np.asarray(synthesize(config, params_of(config), layouts)))


def test_large_weights_lie_beside_the_file(tmp_path):
    model = onnx_model(CASCADE, params_of(CASCADE), np.uint8)
    save_onnx(tmp_path / "one.onnx", model)
    save_onnx(tmp_path / "two.onnx", model, largest=10_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.onnx", "two.onnx", "two.onnx.data"]
    with pytest.raises(FileNotFoundError):
        save_onnx(tmp_path / "missing" / "x.onnx", onnx_model(CASCADE, params_of(CASCADE), np.uint8))
    assert (tmp_path / "two.onnx").stat().st_size < (tmp_path / "one.onnx").stat().st_size / 2
    layouts = layouts_of(2, CASCADE.size)
    np.testing.assert_array_equal(*(images_of(str(tmp_path / name), layouts) for name in ("one.onnx", "two.onnx")))


@pytest.mark.parametrize(
    ["name", "size", "message"],
    [
        ("cascade", (10, 12), "--size 10 12 does not fit: this network makes multiples of 4x4."),
        ("pix2pix", (32, 48), "--size 32 48 does not fit: this network makes 16x24 only."),
    ],
)
def test_sizes_that_do_not_fit(name, size, message):
    with pytest.raises(UserError, match=message):
        onnx_model(GENERATORS[name], params_of(GENERATORS[name]), np.uint8, size)


def test_the_command(tiny, tmp_path, capsys, monkeypatch):
    """A run becomes a file that says what its ids mean."""
    experiment = parse([*tiny, "--cascade.num_images", "2", "--run.folder", str(tmp_path / "run")]).experiment
    description = describe_run(experiment, CITYSCAPES, {"weights": "file", "file": "vgg19.h5"}, {"examples": 6})
    params = params_of(experiment.cascade)
    convert.write_run(tmp_path / "run", experiment, description, params, 7)
    file = tmp_path / "run.onnx"
    convert.main(["onnx", str(tmp_path / "run"), str(file)])
    assert "Input: layout_ids, uint8 ['batch', 'height', 'width']" in " ".join(capsys.readouterr().out.split())
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(metadata["classes"])[:2] == ["road", "sidewalk"]
    assert json.loads(metadata["colors"])[0] == [128, 64, 128]
    assert json.loads(metadata["size"]) == list(experiment.size) and metadata["step"] == "7"
    assert "Creative Commons" in metadata["licences"] and 'InferenceSession("run.onnx")' in metadata["model_card"]
    layouts = layouts_of(1, experiment.size, 20)
    assert_same_images(images_of(str(file), layouts), np.asarray(synthesize(experiment.cascade, params, layouts)))
    (tmp_path / "wide.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".unfinished.1").mkdir()  # of a command that was killed
    convert.main(["onnx", str(tmp_path / "run"), str(tmp_path / "wide.onnx"), "--size", "48", "128"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.onnx", "wide.onnx"]
    assert not (tmp_path / "wide.onnx").is_symlink()
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "wide.onnx").metadata_props}
    assert json.loads(metadata["size"]) == [48, 128] and "layout of 48x128 pixels" in metadata["model_card"]
    no_text = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    assert "this name is no text" in commands.refused(convert.main, "onnx", tmp_path / "run", no_text)
    no_text_folder = tmp_path / os.fsdecode(b"caf\xe9")
    no_text_folder.mkdir()
    monkeypatch.chdir(no_text_folder)
    convert.main(["onnx", str(tmp_path / "run"), "here.onnx"])
    assert (no_text_folder / "here.onnx").is_file()
    assert f"{file} exists already" in commands.refused(convert.main, "onnx", tmp_path / "run", file)
