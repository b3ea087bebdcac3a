"""Instance maps: as files of every kind, as examples of every source, through the cache, and as launch.inspect sees them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.boundaries import boundaries_of
from crn_jax.data.cache import cached
from crn_jax.data.detailed_streets import render_detailed_street
from crn_jax.data.geometry import view
from crn_jax.data.instances import MARGIN, decoded, instance_files, numbered, read_instances
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.pipeline import training_batches
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.data.streets import CLASS, FIRST_INSTANCE, THINGS, render_street
from crn_jax.errors import UserError
from launch import inspect
from launch.common.command_line import parse
from launch.common.terminal import console
from tests.support.commands import refused

SIZE = (16, 32)
CAR = 26  # Cityscapes' labelId


def save(pixels: np.ndarray, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def ids_of(seed: int, most: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Random ids in blocks, four below and eight beside each other."""
    blocks, edge = np.random.default_rng(seed).integers(0, most, (4, 8)), size[0] // 4
    return blocks.repeat(edge, 0).repeat(edge, 1)


# Files


@pytest.mark.quick
def test_every_kind_of_file_that_tells_its_ids_is_read(tmp_path):
    for dtype, most in ((np.uint8, 256), (np.uint16, 1 << 16)):
        ids = ids_of(0, most).astype(dtype)
        np.testing.assert_array_equal(decoded(save(ids, tmp_path / "grey.png")), ids)
    panoptic = ids_of(1, 1 << 24)
    rgb = np.stack([panoptic & 255, panoptic >> 8 & 255, panoptic >> 16], -1).astype(np.uint8)
    np.testing.assert_array_equal(decoded(save(rgb, tmp_path / "rgb.png")), panoptic)
    opaque = np.concatenate([rgb, np.full((*SIZE, 1), 255, np.uint8)], -1)
    np.testing.assert_array_equal(decoded(save(opaque, tmp_path / "rgba.png")), panoptic)
    picture = Image.fromarray(ids_of(2, 200).astype(np.uint8))
    picture.putpalette(np.random.default_rng(3).permutation(768).astype(np.uint8).tobytes())
    picture.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(decoded(tmp_path / "palette.png"), ids_of(2, 200))


def with_twins(path: Path) -> None:
    picture = Image.fromarray(ids_of(0, 4).astype(np.uint8))
    picture.putpalette(bytes([0, 0, 0, 9, 9, 9, 7, 7, 7, 9, 9, 9]))
    picture.save(path)


REFUSED = {
    "the indices 1 and 3 of its palette have one colour": with_twins,
    "lossy JPEG blends ids": lambda path: Image.fromarray(ids_of(0, 9).astype(np.uint8)).save(path, format="JPEG"),
    "pixels are transparent": lambda path: Image.fromarray(np.full((*SIZE, 4), 200, np.uint8)).save(path),
    "grey PNG of 1 bit": lambda path: Image.fromarray(ids_of(0, 2).astype(bool)).save(path),
    "not of mode LA": lambda path: Image.new("LA", SIZE).save(path),
    "truncated or damaged": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "no such file": lambda path: None,
}


@pytest.mark.quick
@pytest.mark.parametrize("reason", REFUSED)
def test_what_does_not_tell_its_ids_is_refused(reason, tmp_path):
    REFUSED[reason](tmp_path / "ids.png")
    with pytest.raises(UserError, match=f"ids.png.*{reason}"):
        decoded(tmp_path / "ids.png")


@pytest.mark.quick
def test_an_instance_map_belongs_to_a_layout_of_its_size(tmp_path):
    layout = save(ids_of(0, 9).astype(np.uint8), tmp_path / "layout.png")
    path = save(ids_of(1, 9, (8, 16)).astype(np.uint8), tmp_path / "ids.png")
    with pytest.raises(UserError, match=r"ids.png is 8x16, but its layout .*layout.png is 16x32"):
        read_instances(path, layout, SIZE)
    with pytest.raises(UserError, match=r"layout.png is the layout itself"):
        read_instances(layout, layout, SIZE)
    path.unlink()
    path.symlink_to(layout)
    with pytest.raises(UserError, match=r"ids.png is the layout itself"):
        read_instances(path, layout, SIZE)


@pytest.mark.quick
def test_ids_are_kept_in_16_bits_or_numbered_anew():
    ids = ids_of(0, 1 << 16)
    np.testing.assert_array_equal(numbered(ids, ""), ids)
    large = np.array([[MARGIN, 1 << 23, 70_000], [70_000, 0, MARGIN]])
    found = numbered(large, "")
    assert found.dtype == np.uint16 and found.tolist() == [[0, 3, 2], [2, 1, 0]]
    with pytest.raises(UserError, match=r"ids.png: 65,537 different ids are too many"):
        numbered(np.arange(-1, 1 << 16)[None], "ids.png")


@pytest.mark.quick
def test_files_belong_to_layouts_by_name(tmp_path):
    for name in ("a", "b", "caf\u00e9", "bonn_0_1_gtFine_instanceIds", "bonn_0_1_gtFine_labelIds", "bonn_0_1_gtFine_color"):
        save(ids_of(0, 9).astype(np.uint8), tmp_path / f"{name}.png")
    found = instance_files(["b", "cafe\u0301", "bonn_0_1", "bonn_0_1_gtFine_labelIds"], tmp_path, "--instances")
    assert [path.stem for path in found.values()] == ["b", "caf\u00e9", *["bonn_0_1_gtFine_instanceIds"] * 2]
    assert list(found) == ["b", "cafe\u0301", "bonn_0_1", "bonn_0_1_gtFine_labelIds"]
    with pytest.raises(UserError, match="2 layouts have no instance map there: c, d"):
        instance_files(["a", "c", "d"], tmp_path, "--instances")
    with pytest.raises(UserError, match="--instances X: there is no folder"):
        instance_files(["a"], tmp_path / "none", "--instances X")


# Sources


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    """Two frames of Cityscapes for each split, of 32x64. Two cars touch in each."""
    for split in ("train", "val"):
        for i in range(2):
            frame = f"bonn_00000{i}_000019"
            labels = np.full((32, 64), 7, np.uint8)
            labels[8:24, 8:40] = CAR
            instances = labels.astype(np.uint16)
            instances[8:24, 8:24], instances[8:24, 24:40] = 1000 * CAR, 1000 * CAR + 1
            annotations = tmp_path / "gtFine" / split / "bonn"
            save(labels, annotations / f"{frame}_gtFine_labelIds.png")
            save(instances, annotations / f"{frame}_gtFine_instanceIds.png")
            photograph = np.random.default_rng(i).integers(0, 256, (32, 64, 3), np.uint8)
            save(photograph, tmp_path / "leftImg8bit" / split / "bonn" / f"{frame}_leftImg8bit.png")
    return tmp_path


def test_cityscapes_instances_separate_cars_that_touch(cityscapes):
    source = open_source(DataConfig("cityscapes", str(cityscapes)), "train", SIZE, instances=True)
    example = source[1]
    assert source.has_instances and example["instances"].dtype == np.uint16
    assert np.unique(example["instances"]).tolist() == [7, 26000, 26001]
    car = example["layout"] == CLASS["car"]
    within = boundaries_of(example["instances"][None])[0] & ~boundaries_of(example["layout"][None])[0]
    np.testing.assert_array_equal(np.argwhere(within), [[y, x] for y in range(5, 11) for x in (11, 12)])
    assert car[within].all()
    assert "instances" not in open_source(DataConfig("cityscapes", str(cityscapes)), "train", SIZE)[1]
    (missing,) = (cityscapes / "gtFine" / "train").rglob("*1_000019_gtFine_instanceIds.png")
    missing.unlink()
    with pytest.raises(UserError, match="1 layout has no instance map there: bonn_000001_000019"):
        open_source(DataConfig("cityscapes", str(cityscapes)), "train", SIZE, instances=True)


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder of one's own: four pairs, with instance maps."""
    for i in range(4):
        save(ids_of(i, 4, (32, 64)).astype(np.uint8), tmp_path / "layouts" / f"{i}.png")
        save(ids_of(10 + i, 300, (32, 64)).astype(np.uint16), tmp_path / "instances" / f"{i}.png")
        photograph = np.random.default_rng(i).integers(0, 256, (32, 64, 3), np.uint8)
        save(photograph, tmp_path / "photographs" / f"{i}.png")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"classes": ["a", "b", "c", "d"]}))
    return tmp_path


def config_of(own: Path, **options) -> DataConfig:
    return DataConfig("folder", str(own), labels=str(own / "labels.json"), **options)


def test_instances_lie_beside_layouts_or_in_a_folder_of_their_own(own, tmp_path_factory):
    source = open_source(config_of(own), "train", SIZE, instances=True)
    assert source.names == ["1", "2", "3"]
    np.testing.assert_array_equal(source[0]["instances"], ids_of(11, 300, (32, 64))[::2, ::2])
    elsewhere = tmp_path_factory.mktemp("maps")
    for split in ("train", "val"):
        shutil.copytree(own / "instances", elsewhere / split)
    shutil.rmtree(own / "instances")
    with pytest.raises(UserError, match=r"instances/ beside layouts/, or in --data.instances FOLDER: there is no folder"):
        open_source(config_of(own), "train", SIZE, instances=True)
    again = open_source(config_of(own, instances=str(elsewhere)), "val", SIZE, instances=True)
    np.testing.assert_array_equal(again[0]["instances"], ids_of(10, 300, (32, 64))[::2, ::2])
    with pytest.raises(UserError, match=r"is the layout itself"):
        open_source(config_of(own, instances=str(own / "layouts")), "val", SIZE, instances=True)[0]


@pytest.mark.parametrize("fit", ["resize", "crop", "random_crop", "pad", "stretch"])
def test_instances_are_seen_through_the_window_of_their_layout(own, fit):
    """In maps that are the layouts once more, every pixel has the id of its class. Margins have an id of their own."""
    for i in range(4):
        save((1 + ids_of(i, 4, (32, 64))).astype(np.uint16), own / "instances" / f"{i}.png")
    size = (16, 32) if fit == "resize" else (16, 16)
    source = open_source(config_of(own, fit=fit), "train", size, instances=True)
    seen = 0
    for batch in training_batches(source, 3, seed=0, flip=True):
        layout, instances = batch["layout"].astype(int), batch["instances"]
        margin = layout == 4
        np.testing.assert_array_equal(instances[~margin], layout[~margin] + 1)
        assert margin.any() == (fit == "pad") and not instances[margin].any()
        seen += 1
        if seen == 3:
            break
    assert view((32, 64), size, fit).size == instances.shape[1:]


def test_a_source_without_instances_says_what_to_do(own):
    for source in ("camvid", "gta5", "ade20k", "cocostuff"):
        with pytest.raises(UserError, match=rf"{source} has no instances of its own. .*--data.instances FOLDER"):
            open_source(DataConfig(source, str(own)), "train", SIZE, instances=True)
    with pytest.raises(UserError, match="instances of nyu are not read"):
        open_source(DataConfig("nyu", str(own)), "train", SIZE, instances=True)
    with pytest.raises(UserError, match="streets know their instances"):
        open_source(DataConfig("streets", instances="maps"), "train", SIZE, instances=True)
    with pytest.raises(UserError, match="camvid has no instances of its own"):
        parse(["camvid_96x128", "--cascade.boundaries"])
    with pytest.raises(UserError, match="--data.instances maps is for cascades with instance boundaries"):
        parse(["camvid_96x128", "--data.instances", "maps"])
    assert parse(["camvid_96x128", "--cascade.boundaries", "--data.instances", "maps"]).experiment.boundaries


@pytest.mark.parametrize("render", [render_street, render_detailed_street])
def test_each_car_and_person_of_a_street_is_an_instance(render):
    touching = 0
    for index in range(12):
        street = render(index, (64, 128))
        things = np.isin(street.layout, [CLASS[name] for name in THINGS])
        np.testing.assert_array_equal(street.instances >= FIRST_INSTANCE, things)
        np.testing.assert_array_equal(street.instances[~things], street.layout[~things])
        for number in np.unique(street.instances[things]):
            assert len(np.unique(street.layout[street.instances == number])) == 1
        cars = street.layout == CLASS["car"]
        aside = cars[:, 1:] & cars[:, :-1] & (street.instances[:, 1:] != street.instances[:, :-1])
        touching += aside.any()
    assert touching >= 3


def test_a_cache_keeps_instances_and_notices_damage(own, tmp_path_factory, caplog):
    source = open_source(config_of(own), "train", SIZE, instances=True)
    caches = tmp_path_factory.mktemp("caches")
    plain = cached(open_source(config_of(own), "train", SIZE), caches)
    kept = cached(source, caches)
    assert plain.folder != kept.folder and "instances" not in plain[0]
    for i in range(3):
        for key, array in source[i].items():
            np.testing.assert_array_equal(kept[i][key], array)
            assert kept[i][key].dtype == array.dtype
    file = kept.folder / "instances.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # in the last example
    file.write_bytes(data)
    reopened = cached(source, caches)
    np.testing.assert_array_equal(reopened[2]["instances"], source[2]["instances"])
    assert "damaged" in caplog.text
    file.unlink()
    with pytest.raises(UserError, match="the cache is damaged"):
        cached(source, caches)
    save(ids_of(99, 300, (32, 64)).astype(np.uint16), own / "instances" / "1.png")
    assert cached(open_source(config_of(own), "train", SIZE, instances=True), caches).folder != kept.folder


# launch.inspect


def inspected(*arguments) -> tuple[int, str]:
    status = 0
    with console.capture() as capture:
        try:
            inspect.main([*map(str, arguments)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return status, " ".join(capture.get().split())


def test_inspect_counts_instances_and_proposes_a_training(cityscapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    status, said = inspected(cityscapes, "--boundaries", "--out", out, "--size", "16", "32")
    assert status == 0 and "8 instances in 4 instance maps: 2.0 on average, 2 at most" in said
    assert "--cascade.boundaries" in said and "separate nothing" not in said
    found = json.loads((out / "inspection.json").read_text())
    assert found["instances"] == {"maps": 4, "instances": 8, "most": 2, "mean": 2.0}
    page = (out / "inspection.html").read_text()
    assert page.count('"instances":"data:image/') + page.count('"instances": "data:image/') == 4
    status, said = inspected(cityscapes, "--out", out, "--size", "16", "32")
    assert status == 0 and "instance map" not in said and "--cascade.boundaries" not in said


def test_inspect_refuses_what_a_training_would_refuse(own, tmp_path_factory):
    out, options = tmp_path_factory.mktemp("out"), ("--labels", own / "labels.json", "--boundaries")
    (own / "instances" / "2.png").unlink()
    status, said = inspected(own, "--out", out, *options)
    assert status == 1 and "train: instance maps are missing" in said and "1 layout has no instance map there: 2" in said
    save(ids_of(0, 9).astype(np.uint8), own / "instances" / "2.png")
    status, said = inspected(own, "--out", out, *options)
    assert status == 1 and "2.png is 16x32, but its layout layouts/2.png is 32x64" in said
    noise = np.random.default_rng(0).integers(0, 256, (32, 64), np.uint8)
    save(noise, own / "instances" / "2.png")
    status, said = inspected(own, "--out", out, *options)
    assert status == 0 and "1 instance map with boundaries in more than half of the pixels" in said
    for i in range(4):
        shutil.copy(own / "layouts" / f"{i}.png", own / "instances")
    status, said = inspected(own, "--out", out, *options)
    assert status == 0 and "separate nothing that the layouts do not separate" in said
    assert "--instances maps is for --boundaries" in refused(inspect.main, own, "--instances", "maps").replace("\n", " ")
    assert "has no instances of its own" in refused(inspect.main, own, "--source", "camvid", "--boundaries").replace("\n", " ")


def test_shared_cityscapes_have_instances(shared_data):
    data = DataConfig("cityscapes", str(shared_data / "cityscapes"))
    source = open_source(data, "train", (128, 256), instances=True)
    for i in range(len(source)):
        example = source[i]
        things = example["instances"] >= 1000
        labels = CITYSCAPES.from_ids(np.where(things, example["instances"] // 1000, example["instances"]), "")
        np.testing.assert_array_equal(labels, example["layout"])
    assert len(source) == 3
