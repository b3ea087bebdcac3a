"""Synthesis and evaluation on all devices and processes: who computes what, and that the images are those of one device."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from crn_jax.cascade import CascadeConfig
from crn_jax.data.streets import render_street
from crn_jax.generator import init_params
from crn_jax.run import load_run
from crn_jax.synthesize import synthesize
from launch import evaluate
from launch import synthesize as command
from launch.common.exit_status import USER_ERROR
from launch.common.terminal import console
from launch.synthesis import record, stream
from tests.support.commands import PATIENCE, ROOT, free_port
from tests.support.rounding import assert_same_images

CONFIG = CascadeConfig(num_classes=5, widths=(8, 8, 4), base=(8, 12), num_images=2)
LAYOUTS = 10


@pytest.fixture(scope="module")
def eight():
    """Parameters, eight layouts, and the images that one device makes of one layout at a time."""
    params = init_params(CONFIG, jax.random.key(0))
    layouts = np.random.default_rng(0).integers(0, 5, (8, *CONFIG.size)).astype(np.uint8)
    return params, layouts, np.concatenate([synthesize(CONFIG, params, layouts[i : i + 1]) for i in range(8)])


@pytest.mark.parametrize("names", [("data", "spatial"), ("x", "y")])
@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_sharded_layouts_give_the_images_of_one_device(eight, shape, names):
    """Whatever a caller calls the axes. Without split rows the images are equal bit for bit."""
    params, layouts, expected = eight
    mesh = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    images = synthesize(CONFIG, params, jax.device_put(layouts, NamedSharding(mesh, PartitionSpec(*names))))
    assert len(images.sharding.device_set) == 8
    if shape[1] == 1:
        assert [shard.data.shape[0] for shard in images.addressable_shards] == [1] * 8
        np.testing.assert_array_equal(images, expected)
    else:
        assert_same_images(np.asarray(images), expected)


def test_layouts_that_are_copied_to_all_devices_are_as_those_of_one(eight):
    params, layouts, expected = eight
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    images = synthesize(CONFIG, params, jax.device_put(layouts[:1], NamedSharding(mesh, PartitionSpec())))
    np.testing.assert_array_equal(images, expected[:1])


@pytest.mark.parametrize("count", [1, 8])
def test_parameters_of_one_device_follow_the_layouts_to_others(eight, count):
    """They lie on the first device, as those of `load_run` do, and the instances of a generator with boundaries may do so."""
    params, layouts, expected = eight
    params = jax.device_put(params, jax.devices()[0])
    mesh = jax.sharding.Mesh(np.array(jax.devices()[: -1 - count : -1]), ("x",))
    there = NamedSharding(mesh, PartitionSpec()) if count > 1 else jax.devices()[-1]
    images = synthesize(CONFIG, params, jax.device_put(layouts[:1], there))
    assert images.sharding.device_set == set(mesh.devices.flat)
    np.testing.assert_array_equal(images, expected[:1])
    split = dataclasses.replace(CONFIG, boundaries=True)
    params, instances = init_params(split, jax.random.key(0)), layouts[:1].astype(np.int32)
    alone = synthesize(split, params, layouts[:1], instances)
    placed = jax.device_put((params, instances), jax.devices()[0])
    images = synthesize(split, placed[0], jax.device_put(layouts[:1], there), placed[1])
    np.testing.assert_array_equal(images, alone)


@pytest.fixture(scope="module")
def trained(trained_streets, tmp_path_factory) -> tuple[Path, Path]:
    """A run folder, and a folder of layouts."""
    folder = shutil.copytree(trained_streets, tmp_path_factory.mktemp("run") / "streets")
    layouts = tmp_path_factory.mktemp("layouts")
    run = load_run(folder)
    for i in range(LAYOUTS):
        layout = np.asarray(render_street(i, (48, 64)).layout)
        Image.fromarray(run.label_space.draw(layout)).save(layouts / f"{i}.png")
    return folder, layouts


def images_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("[!.]*.png")}


@pytest.fixture
def some_devices(monkeypatch):
    """A function that leaves a command only the first devices."""

    def leave(count: int) -> None:
        devices = jax.devices()[:count]
        monkeypatch.setattr(jax, "local_devices", lambda: devices)
        monkeypatch.setattr(jax, "local_device_count", lambda: count)

    return leave


@pytest.fixture(scope="module")
def by_one_device(trained, tmp_path_factory) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        command.main([*map(str, trained), "--out", str(out)])
    images = images_in(out)
    assert len(images) == LAYOUTS
    return images


@pytest.mark.parametrize("count", [2, 4, 8])
def test_devices_share_the_layouts_and_the_images_stay_the_same(trained, by_one_device, some_devices, tmp_path, count):
    some_devices(count)
    command.main([*map(str, trained), "--out", str(tmp_path)])
    for name, image in images_in(tmp_path).items():
        np.testing.assert_array_equal(image, by_one_device[name])


def test_devices_share_the_rows_of_what_does_not_fit_into_one(trained, tmp_path, monkeypatch):
    """Two devices take a half of the image each, and so on, until it fits."""
    asked, of_one, compile_one = [], tmp_path / "one", stream.total_bytes

    def memory(analysis) -> int:
        asked.append(compile_one(analysis))
        return asked[-1]

    monkeypatch.setattr(stream, "total_bytes", memory)
    command.main([*map(str, trained), "--out", str(of_one)])
    whole = asked[0]
    monkeypatch.setattr(stream, "device_bytes", lambda: 8 * (whole - 1))
    command.main([*map(str, trained), "--out", str(tmp_path / "rows")])
    assert len(asked) > 2 and asked[-1] < whole
    expected = images_in(of_one)
    for name, image in images_in(tmp_path / "rows").items():
        assert_same_images(image, expected[name])


def test_threads_that_write_a_batch_fetch_it_one_after_the_other():
    """JAX fails now and then if two threads fetch one array that lies on several devices."""
    inside, together, images = [], [], np.arange(4)[:, None]

    class OnDevices:
        def __array__(self, dtype=None, copy=None) -> np.ndarray:
            inside.append(1)
            time.sleep(0.05)
            together.append(len(inside))
            inside.pop()
            return images

    batch = stream.Batch(OnDevices())
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda row: stream.Synthesized(None, None, batch, row).images(), range(4)))
    np.testing.assert_array_equal(got, images)
    assert together == [1] * 4


def test_a_folder_goes_on_without_opening_what_is_there(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "FEWEST", LAYOUTS)
    folder, layouts = trained[0], shutil.copytree(trained[1], tmp_path / "layouts")
    asked = [str(folder), str(layouts), "--out", str(tmp_path / "out")]
    command.main(asked)

    def again() -> tuple[str, list[str]]:
        """What a call says, and which layouts and images it opens."""
        opened, open_image, read_bytes = [], Image.open, Path.read_bytes
        with monkeypatch.context() as patch, console.capture() as capture:
            patch.setattr(Image, "open", lambda path, *more: opened.append(path) or open_image(path, *more))
            patch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read_bytes(path))
            command.main(asked)
        names = {Path(path).name for path in opened if isinstance(path, str | Path)}
        return capture.get(), sorted(name for name in names if name.endswith(".png"))

    said, opened = again()
    assert f"of which {LAYOUTS} existed already" in said and opened == []
    Image.open(layouts / "3.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(layouts / "3.png")
    (tmp_path / "out" / "4.png").unlink()
    said, opened = again()
    assert f"of which {LAYOUTS - 2} existed already" in said and opened == ["3.png", "4.png"]
    records = list((tmp_path / "out").glob(".synthesized.*"))
    records[0].write_text(records[0].read_text()[:-40])  # killed while it wrote
    said, opened = again()
    assert f"of which {LAYOUTS} existed already" in said and len(opened) == 1
    records[0].unlink()  # as an older version leaves a folder
    said, opened = again()
    assert f"of which {LAYOUTS} existed already" in said and len(opened) == LAYOUTS
    assert again()[1] == []


def together(module: str, arguments: list[str], count: int = 2, status: int = 0) -> list[str]:
    """What the processes of one command say, which all end with this status."""
    meeting = ["--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", str(count), "--process_id"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.narrow", module, *arguments, *meeting, str(i)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        for i in range(count)
    ]
    texts = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [status] * count, texts
    return texts


def test_two_processes_share_the_layouts(trained, by_one_device, tmp_path):
    arguments = [*map(str, trained), "--out", str(tmp_path)]
    texts = together("launch.synthesize", arguments)
    assert f"{LAYOUTS} images in" in texts[0] and "images in" not in texts[1]
    found = images_in(tmp_path)
    assert found.keys() == by_one_device.keys()
    for name, image in found.items():
        np.testing.assert_array_equal(image, by_one_device[name])
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}  # few layouts leave no record


def test_a_layout_that_one_process_cannot_read_ends_both_with_its_words(trained, tmp_path):
    layouts = shutil.copytree(trained[1], tmp_path / "layouts")
    for file in sorted(layouts.iterdir())[: LAYOUTS // 2]:
        file.write_bytes(file.read_bytes()[:-30])  # its size can be read, its pixels cannot
    texts = together("launch.synthesize", [str(trained[0]), str(layouts), "--out", str(tmp_path / "out")], status=USER_ERROR)
    assert all(re.search(r"layouts/\d.png: the image is truncated", text) for text in texts), texts
    assert any(re.search(r"error in process \d: Process \d has ended this run", text) for text in texts)


def test_devices_and_processes_share_the_examples_of_an_evaluation(trained, random_vgg_file, some_devices, tmp_path):
    folder, arguments = trained[0], ["--vgg.weights", str(random_vgg_file), "--examples", "5", "--save_images"]

    def results(out: Path) -> dict:
        evaluation = json.loads((out / "evaluation.json").read_text())
        for candidate in evaluation["candidates"]:
            del candidate["resources"]
        return {key: evaluation[key] for key in ("names", "candidates", "scores", "notes")}

    for count in (1, 2):
        some_devices(count)
        evaluate.main([str(folder), *arguments, "--out", str(tmp_path / str(count))])
    together("launch.evaluate", [str(folder), *arguments, "--out", str(tmp_path / "processes")])
    expected = results(tmp_path / "1")
    for other in ("2", "processes"):
        assert results(tmp_path / other) == expected
        images = {path.name: path.read_bytes() for path in (tmp_path / other / "images" / "streets").iterdir()}
        assert images == {path.name: path.read_bytes() for path in (tmp_path / "1" / "images" / "streets").iterdir()}
        assert (tmp_path / other / "report.html").exists()
