import dataclasses
import itertools
import os
from pathlib import Path

import cattrs
import numpy as np
import pytest
import scipy.io
from PIL import Image

from crn_jax.data.folders import by_name
from crn_jax.data.labels.published import CAMVID
from crn_jax.data.photographs import open_photograph
from crn_jax.data.pipeline import spread, steps_per_epoch, training_batches, validation_batches
from crn_jax.data.sources import DataConfig, label_space_of, open_source, pairs_of
from crn_jax.data.vivid import vivid
from crn_jax.errors import UserError


@pytest.fixture
def camvid(tmp_path):
    """Four pairs in CamVid's folders, 12x16; the photograph's first pixel tells which one it is."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        for i in range(4):
            Image.fromarray(np.full((12, 16, 3), 10 * i, np.uint8)).save(tmp_path / split / f"{i}.png")
            Image.fromarray(np.full((12, 16), i, np.uint8)).save(tmp_path / f"{split}annot" / f"{i}.png")
    return tmp_path


def opened(root, source="camvid", size=(6, 8)):
    return open_source(DataConfig(source, str(root)), "train", size)


def photograph(path: Path, value: int, shape=(12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(path, lossless=True)


def ids(path: Path, value: int, shape=(12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def one_class(source, index: int) -> str:
    """The class of a layout that has one only."""
    (found,) = np.unique(source[index]["layout"])
    return source.label_space.classes[found]


def test_camvid_pairs_by_name(shared_data):
    for split, count in (("train", 367), ("val", 101)):
        source = open_source(DataConfig("camvid", str(shared_data / "camvid")), split, (96, 128))
        assert len(source) == count and source.label_space == CAMVID
        example = source[count // 2]
        assert example["layout"].shape == (96, 128) and example["photograph"].shape == (96, 128, 3)


def test_cityscapes_in_its_official_folders(shared_data):
    source = open_source(DataConfig("cityscapes", str(shared_data / "cityscapes")), "train", (64, 128))
    assert source.names == [f"aachen_{i:06d}_000019" for i in range(3)]
    assert {0, 2, 10} <= set(np.unique(source[0]["layout"]))  # road, building, sky


def test_cityscapes_by_city_and_frame_as_the_authors_number_files(tmp_path):
    """The released layouts are numbered in the order of the file names: cities, then sequences and frames."""
    frames = (
        "zurich_000001_000019",
        "aachen_000010_000019",
        "bochum_000000_000313",
        "aachen_000002_000019",
        "bochum_000000_000019",
    )
    for i, frame in enumerate(frames):
        city = frame.split("_")[0]
        photograph(tmp_path / "leftImg8bit/train" / city / f"{frame}_leftImg8bit.png", 10 * i)
        ids(tmp_path / "gtFine/train" / city / f"{frame}_gtFine_labelIds.png", 7)  # road
        ids(tmp_path / "gtFine/train" / city / f"{frame}_gtFine_labelTrainIds.png", 13)  # car
        ids(tmp_path / "gtFine/train" / city / f"{frame}_gtFine_instanceIds.png", 99)
    source = opened(tmp_path, "cityscapes")
    assert source.names == [frames[i] for i in (3, 1, 4, 2, 0)]
    assert [example["photograph"][0, 0, 0] for example in map(source.__getitem__, range(5))] == [30, 10, 40, 20, 0]
    assert one_class(source, 0) == "road"
    data = DataConfig("cityscapes", str(tmp_path), labels="cityscapes_trainids")
    assert one_class(open_source(data, "train", (6, 8)), 0) == "car"


@pytest.fixture
def original_camvid(tmp_path):
    """A frame of each sequence and split, in the folders of the original release."""
    for name in (
        "0001TP_006690",
        "0001TP_008550",
        "0006R0_f00930",
        "0016E5_07920",
        "0016E5_07961",
        "0016E5_08190",
        "Seq05VD_f00000",
    ):
        photograph(tmp_path / "701_StillsRaw_full" / f"{name}.png", 50)
        path = tmp_path / "LabeledApproved_full" / f"{name}_L.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((12, 16, 3), (64, 128, 64), np.uint8)).save(path)  # Animal
    return tmp_path


def test_the_original_camvid_is_split_as_the_eleven_classes(original_camvid):
    data = DataConfig("camvid", str(original_camvid), labels="camvid32")
    train, val = (open_source(data, split, (6, 8)) for split in ("train", "val"))
    assert train.names == ["0001TP_006690", "0006R0_f00930", "0016E5_07920", "0016E5_08190"] and val.names == ["0016E5_07961"]
    assert one_class(val, 0).lower() == "animal" and "no train.txt" in train.notes[0]


def test_that_split_is_the_published_one(original_camvid, shared_data):
    published = {part: {file.stem for file in (shared_data / "camvid" / part).iterdir()} for part in ("train", "val")}
    for name in published["train"] | published["val"]:
        (original_camvid / "701_StillsRaw_full" / f"{name}.png").touch()
    for part, names in published.items():
        photographs, _ = pairs_of(DataConfig("camvid", str(original_camvid), labels="camvid32"), part)
        assert photographs.keys() == names


def test_lists_split_the_original_camvid(original_camvid):
    (original_camvid / "train.txt").write_text("/SegNet/CamVid/train/Seq05VD_f00000.png /SegNet/CamVid/trainannot/x.png\n\n")
    (original_camvid / "val.txt").write_text("0006R0_f00930.png\n0001TP_006690\n")
    data = DataConfig("camvid", str(original_camvid), labels="camvid32")
    assert open_source(data, "train", (6, 8)).names == ["Seq05VD_f00000"]
    assert open_source(data, "val", (6, 8)).names == ["0001TP_006690", "0006R0_f00930"]
    windows = "\ufeff701_StillsRaw_full\\0006R0_f00930.png\r\n701_StillsRaw_full\\0001TP_006690.png\r\n"
    (original_camvid / "val.txt").write_text(windows, encoding="utf-8", newline="")
    assert open_source(data, "val", (6, 8)).names == ["0001TP_006690", "0006R0_f00930"]
    (original_camvid / "val.txt").write_text("0006R0_f00931.png\n")
    with pytest.raises(UserError, match=r"val\.txt names 1 frame missing from .*: 0006R0_f00931"):
        open_source(data, "val", (6, 8))


def test_the_two_camvids_are_told_apart(original_camvid, shared_data):
    with pytest.raises(UserError, match=r"32 colours; read it with --data\.labels camvid32"):
        open_source(DataConfig("camvid", str(original_camvid)), "train", (6, 8))
    with pytest.raises(UserError, match=r"there is no 701_StillsRaw_full"):
        open_source(DataConfig("camvid", str(shared_data / "camvid"), labels="camvid32"), "train", (6, 8))


def test_ade20k_of_all_sizes(tmp_path):
    for part, stem in (("training", "ADE_train_0000000"), ("validation", "ADE_val_0000000")):
        for i, shape in enumerate([(20, 30), (41, 17), (12, 16)]):
            photograph(tmp_path / "images" / part / f"{stem}{i}.jpg", 10 * i, shape)
            ids(tmp_path / "annotations" / part / f"{stem}{i}.png", i, shape)
    data = DataConfig("ade20k", str(tmp_path), fit="crop")
    source = open_source(data, "train", (16, 16))
    assert source.names == [f"ADE_train_0000000{i}" for i in range(3)]
    assert all(source[i][key].shape[:2] == (16, 16) for i in range(3) for key in ("layout", "photograph"))
    assert [one_class(source, i) for i in range(3)] == ["void", *source.label_space.classes[:2]]
    assert open_source(data, "val", (16, 16)).names[0] == "ADE_val_00000000"
    with pytest.raises(UserError, match=r"ADE_train_00000001\.png: 41x17 has another aspect ratio"):
        open_source(DataConfig("ade20k", str(tmp_path)), "train", (16, 16))[1]


@pytest.mark.parametrize("folders", [("", "stuffthingmaps_trainval2017"), ("images", "annotations")])
def test_cocostuff(tmp_path, folders):
    for split in ("train", "val"):
        for i, label in enumerate((0, 181, 255)):
            photograph(tmp_path / folders[0] / f"{split}2017" / f"00000000000{i}.jpg", 10 * i)
            ids(tmp_path / folders[1] / f"{split}2017" / f"00000000000{i}.png", label)
    for split in ("train", "val"):
        source = open_source(DataConfig("cocostuff", str(tmp_path)), split, (6, 8))
        assert [one_class(source, i) for i in range(3)] == [source.label_space.classes[i] for i in (0, -2, -1)]


@pytest.fixture
def gta5(tmp_path):
    """20 frames, of which 2 have no layout and 1 has no photograph; layouts are palette PNGs of labelIds."""
    layout = Image.fromarray(np.tile(np.array([7, 26, 0, 23], np.uint8), (8, 4))).convert("P")
    layout.putpalette([0, 0, 0] * 7 + [128, 64, 128] * 16 + [70, 130, 180] * 3 + [0, 0, 142])
    (tmp_path / "labels").mkdir()
    for i in range(1, 21):
        if i != 4:
            photograph(tmp_path / "images" / f"{i:05d}.png", 10 * i, (8, 16))
        if i not in (2, 20):
            layout.save(tmp_path / "labels" / f"{i:05d}.png")
    return tmp_path


def test_gta5_leaves_out_what_lacks_its_partner_and_says_so(gta5):
    train, val = (open_source(DataConfig("gta5", str(gta5)), split, (8, 16)) for split in ("train", "val"))
    assert train.names == [f"{i:05d}" for i in (1, 3, *range(5, 19))] and val.names == ["00019"]
    assert train.notes[0].endswith("no split.mat, so the last tenth, 2 names, is held out.")
    assert train.notes[1].startswith("Left out: 1 photograph without a layout: ") and "00002.png" in train.notes[1]
    assert train.notes[2].startswith("Left out: 1 layout without a photograph: ") and "00004.png" in train.notes[2]
    assert [train.label_space.classes[i] for i in train[0]["layout"][0, :4]] == ["road", "car", "void", "sky"]
    photographs, layouts = pairs_of(DataConfig("gta5", str(gta5)), "train")
    assert "00002" in photographs and "00002" not in layouts and "00004" in layouts


def test_the_authors_gta5_layout(gta5, shared_data):
    authors = next((shared_data / "authors" / "layouts" / "GTA256Full").glob("*.png"))
    (gta5 / "labels" / "00001.png").write_bytes(authors.read_bytes())
    photograph(gta5 / "images" / "00001.png", 0, (256, 512))
    source = open_source(DataConfig("gta5", str(gta5)), "train", (128, 256))
    with Image.open(authors) as image:
        indices = np.asarray(image)
    by_index = np.array([source.label_space.ids[i] for i in range(34)])[indices]
    np.testing.assert_array_equal(source[0]["layout"], by_index[1::2, 1::2])


def test_gta5_by_its_published_split(gta5):
    scipy.io.savemat(gta5 / "split.mat", {"trainIds": [[1], [2], [7]], "valIds": [[3], [19], [24]], "testIds": [[5]]})
    data = DataConfig("gta5", str(gta5))
    assert open_source(data, "train", (8, 16)).names == ["00001", "00007"]
    assert "are not here" not in str(open_source(data, "train", (8, 16)).notes)
    val = open_source(data, "val", (8, 16))
    assert val.names == ["00003", "00019"] and val.notes[0].startswith("1 of the 3 frames that ")
    for damaged in (b"", b"not MATLAB's" * 50, (gta5 / "split.mat").read_bytes()[:-40]):
        (gta5 / "split.mat").write_bytes(damaged)
        with pytest.raises(UserError, match=r"split\.mat: trainIds cannot be read"):
            open_source(data, "train", (8, 16))


def own(root: Path, folder: str, count: int) -> None:
    for i in range(count):
        photograph(root / folder / "photographs" / f"{i:02d}.{('png', 'jpg', 'JPEG', 'webp')[i % 4]}", 10 * i)
        ids(root / folder / "layouts" / f"{i:02d}.png", 7)
    (root / folder / "photographs" / "Thumbs.db").touch()


@pytest.mark.parametrize("folder", ["", "train"])
def test_a_folder_of_ones_own_holds_out_every_tenth(tmp_path, folder):
    own(tmp_path, folder, 20)
    data = DataConfig("folder", str(tmp_path), labels="cityscapes")
    train, val = (open_source(data, split, (6, 8)) for split in ("train", "val"))
    assert val.names == ["00", "10"] and train.names == [f"{i:02d}" for i in range(20) if i % 10]
    assert [abs(int(train[i]["photograph"][0, 0, 0]) - 10 * int(name)) < 3 for i, name in enumerate(train.names)] == [True] * 18
    assert one_class(val, 1) == "road" and "every 10th name, 2 in all, is held out" in val.notes[0]


def test_photographs_beside_the_splits_are_named(tmp_path):
    for folder, count in (("train", 20), ("validation", 3), ("test", 3)):
        own(tmp_path, folder, count)
    data = DataConfig("folder", str(tmp_path), labels="cityscapes")
    beside = f"{tmp_path}: photographs in test, validation are not read. The splits are train and val."
    assert beside in open_source(data, "val", (6, 8)).notes
    (tmp_path / "validation").rename(tmp_path / "val")
    assert open_source(data, "val", (6, 8)).notes == (beside.replace(", validation", ""),)


def test_annotations_are_named_where_layouts_are_missing(tmp_path):
    own(tmp_path, "", 12)
    for path in (tmp_path / "layouts").glob("*.png"):
        path.rename(path.with_suffix(".json"))
    with pytest.raises(UserError, match=r"Annotations, such as 00\.json, .* are not read\. Export layouts from them"):
        open_source(DataConfig("folder", str(tmp_path), labels="cityscapes"), "train", (6, 8))


def test_pictures_within_a_folder_of_pictures_are_not_left_out_without_a_word(tmp_path):
    own(tmp_path, "", 20)
    photograph(tmp_path / "photographs" / "day2" / "20.png", 9)
    (tmp_path / "layouts" / "notes").mkdir()
    notes = open_source(DataConfig("folder", str(tmp_path), labels="cityscapes"), "train", (6, 8)).notes
    (note,) = (note for note in notes if "are not read" in note)
    assert note.startswith(f"The pictures in {tmp_path / 'photographs' / 'day2'} are not read. Bring them into ")


@pytest.mark.parametrize("hidden", ["photographs", "photographs/ulm"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch, hidden):
    """Python's glob leaves out what it may not list. The superuser may list everything, so the system's answer is pretended."""
    photograph(tmp_path / "photographs" / "ulm" / "0.png", 9)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / hidden and real(path, mode))
    with pytest.raises(UserError, match=f"{hidden}: the folder may not be read"):
        by_name(tmp_path / "photographs", "*/*")


def test_a_data_set_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    own(tmp_path, "", 20)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}: the folder may not be read. Change its permissions"):
        open_source(DataConfig("folder", str(tmp_path), labels="cityscapes"), "train", (6, 8))


def test_a_folder_beside_the_splits_that_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    """The root of a disk of its own has such a folder, lost+found, in which Python 3.11 cannot even look for another one."""
    own(tmp_path, "", 20)
    hidden = tmp_path / "lost+found"
    hidden.mkdir()
    real_access, real_is_dir = os.access, Path.is_dir

    def is_dir(path):
        if hidden in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real_is_dir(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != hidden and real_access(path, mode))
    assert len(open_source(DataConfig("folder", str(tmp_path), labels="cityscapes"), "val", (6, 8))) == 2


def test_a_folder_of_ones_own_with_a_split(tmp_path):
    own(tmp_path, "train", 3)
    own(tmp_path, "val", 2)
    data = DataConfig("folder", str(tmp_path), labels="cityscapes")
    assert [open_source(data, split, (6, 8)).names for split in ("train", "val")] == [["00", "01", "02"], ["00", "01"]]
    assert open_source(data, "train", (6, 8)).notes == ()
    photograph(tmp_path / "val" / "photographs" / "00.jpg", 0)
    with pytest.raises(UserError, match=r"00\.jpg and .*00\.png have one name"):
        open_source(data, "val", (6, 8))


def test_names_are_matched_however_their_letters_are_put_together(tmp_path):
    """macOS writes one form of the name, other systems the other."""
    own(tmp_path, "train", 2)
    own(tmp_path, "val", 1)
    photograph(tmp_path / "train" / "photographs" / "B\u00e4ume.png", 50)
    ids(tmp_path / "train" / "layouts" / "Ba\u0308ume.png", 7)
    source = open_source(DataConfig("folder", str(tmp_path), labels="cityscapes"), "train", (6, 8))
    assert source.names == ["00", "01", "B\u00e4ume"] and source[2]["photograph"][0, 0, 0] == 50


def test_a_single_pair_is_too_few(tmp_path):
    own(tmp_path, "", 1)
    with pytest.raises(UserError, match=r"there is no pair to train on\..* every 10th pair is held out, so at least 2"):
        open_source(DataConfig("folder", str(tmp_path), labels="cityscapes"), "train", (6, 8))


def test_classes_of_a_source(tmp_path):
    with pytest.raises(UserError, match=r"folder needs its classes: --data\.labels NAME, or a JSON file"):
        label_space_of(DataConfig("folder", str(tmp_path)))
    with pytest.raises(UserError, match=r"--data\.labels camvid: streets are made with Cityscapes' classes"):
        label_space_of(DataConfig("streets", labels="camvid"))
    assert label_space_of(DataConfig("folder", labels="camvid")) == CAMVID


def test_configs_from_before_there_were_labels_and_fits():
    old = {"source": "camvid", "root": "x", "num_scenes": 5, "clear_days": False, "flip": True, "threads": 3}
    data = cattrs.structure(old, DataConfig)
    assert data == DataConfig("camvid", "x", num_scenes=5, flip=True, threads=3)
    assert cattrs.structure(cattrs.unstructure(data), DataConfig) == data


def test_layouts_are_resized_to_nearest_and_photographs_antialiased(camvid):
    stripes = np.tile(np.array([0, 255], np.uint8), (12, 8))
    Image.fromarray(stripes[..., None].repeat(3, -1)).save(camvid / "train" / "0.png")
    Image.fromarray((stripes > 0).astype(np.uint8) * 11).save(camvid / "trainannot" / "0.png")
    example = opened(camvid)[0]
    assert set(np.unique(example["layout"])) <= {0, 11}
    assert abs(int(example["photograph"][3, 4, 0]) - 127) < 3


def test_streets_need_no_files():
    source = open_source(DataConfig("streets", num_scenes=5), "train", (16, 32))
    held_out = open_source(DataConfig("streets"), "val", (16, 32))
    assert len(source) == 5
    assert all((source[i]["layout"] != held_out[i]["layout"]).any() for i in range(5))
    with pytest.raises(IndexError):
        source[5]


def test_missing_partners_are_named(camvid):
    (camvid / "train" / "1.png").unlink()
    (camvid / "trainannot" / "2.png").unlink()
    with pytest.raises(UserError) as error:
        opened(camvid)
    assert "1 photograph without a layout: " in str(error.value) and "train/2.png" in str(error.value)
    assert "1 layout without a photograph: " in str(error.value) and "trainannot/1.png" in str(error.value)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"train: there is no such folder"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"--data.root"):
        open_source(DataConfig("camvid"), "train", (6, 8))
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="no files match"):
        opened(tmp_path)


def test_a_layout_of_another_size_is_named(camvid):
    Image.fromarray(np.zeros((12, 20), np.uint8)).save(camvid / "trainannot" / "3.png")
    with pytest.raises(UserError, match=r"3\.png is 12x16, but its layout .*3\.png is 12x20"):
        opened(camvid)[3]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_photograph_that_viewers_turn_or_mirror_is_refused(tmp_path, kind):
    path, image = tmp_path / f"3.{kind}", Image.fromarray(np.full((12, 12, 3), 50, np.uint8))
    exif = image.getexif()
    for orientation in range(10):
        exif[0x0112] = orientation
        image.save(path, exif=exif)
        if 2 <= orientation <= 8:
            with pytest.raises(UserError, match=rf"3\.{kind}: .* EXIF orientation is {orientation}\. Save it upright"):
                open_photograph(path)
        else:
            assert abs(np.asarray(open_photograph(path)).astype(int) - 50).max() < 3
    image.save(path, exif=b"Exif\0\0not EXIF at all")
    assert open_photograph(path).size == (12, 12)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_photograph_with_transparent_pixels_is_refused(tmp_path, mode):
    image = Image.fromarray(np.full((12, 16, 4), 255, np.uint8)).convert(mode)
    image.save(tmp_path / "opaque.png", transparency=b"\xff" if mode == "P" else None)
    assert open_photograph(tmp_path / "opaque.png").mode == "RGB"
    if mode != "P":
        image.putpixel((3, 4), (*[9] * (len(mode) - 1), 127))
    image.save(tmp_path / "clear.png", transparency=b"\x7f" * 256 if mode == "P" else None)
    pixels = 12 * 16 if mode == "P" else 1
    with pytest.raises(UserError, match=rf"clear\.png: {pixels} pixels are transparent\. Save the photograph without"):
        open_photograph(tmp_path / "clear.png")


def test_another_aspect_ratio_is_refused_with_the_remedy(camvid):
    with pytest.raises(UserError, match=r"12x16 has another aspect ratio than the cascade's 8x16.*--cascade\.base"):
        opened(camvid, size=(8, 16))[0]


def order(source, first_step, steps, batch_size=2, seed=3, threads=2):
    batches = training_batches(source, batch_size, seed, first_step, threads)
    return [batch["photograph"][:, 0, 0, 0].tolist() for batch in itertools.islice(batches, steps)]


def test_the_order_is_a_function_of_seed_and_step(camvid):
    source = opened(camvid)
    whole = order(source, 0, 12)
    assert order(source, 5, 7) == whole[5:]
    assert order(source, 0, 12, threads=1) == whole
    assert order(source, 0, 12, seed=4) != whole
    epochs = [sorted(itertools.chain(*whole[i : i + 2])) for i in range(0, 12, 2)]
    assert epochs == [[0, 10, 20, 30]] * 6  # every epoch sees everything once
    assert len({str(whole[i : i + 2]) for i in range(0, 12, 2)}) > 1  # in another order


def test_a_process_decodes_only_its_rows_of_the_same_batches(camvid):
    source = opened(camvid)
    whole, opened_indices = order(source, 0, 6, batch_size=4), []

    class Recording(type(source)):
        def __getitem__(self, index):
            opened_indices.append(index)
            return super().__getitem__(index)

    recording = Recording(**vars(source))
    batches = training_batches(recording, 4, 3, threads=0, rows=[1, 2])
    part = [next(batches)["photograph"][:, 0, 0, 0].tolist() for _ in range(6)]
    assert part == [batch[1:3] for batch in whole]
    assert [10 * index for index in opened_indices] == list(itertools.chain(*part))


def test_mirrored_examples_are_drawn_anew_and_follow_from_the_step():
    source = open_source(DataConfig("streets", num_scenes=4), "train", (16, 32))
    plain, pair = training_batches(source, 4, 3), lambda **where: training_batches(source, 4, 3, flip=True, **where)
    drawn = []
    for straight, flipped in itertools.islice(zip(plain, pair()), 6):
        for row in range(4):
            mirrored = not (straight["photograph"][row] == flipped["photograph"][row]).all()
            drawn.append(mirrored)
            for key in straight:
                expected = straight[key][row, :, ::-1] if mirrored else straight[key][row]
                np.testing.assert_array_equal(flipped[key][row], expected)
    assert 4 <= sum(drawn) <= 20 and drawn[:4] != drawn[4:8] != drawn[8:12]
    later, part = list(itertools.islice(pair(), 6))[5], next(pair(first_step=5, rows=[1, 3]))
    np.testing.assert_array_equal(part["photograph"], later["photograph"][[1, 3]])


@pytest.fixture
def wide(tmp_path):
    """Three pairs of 8x64, whose columns are of their own class and brightness."""
    columns = np.tile(np.arange(64, dtype=np.uint8), (8, 1))
    for split, i in itertools.product(("train", "val"), range(3)):
        for folder, array in (("photographs", (columns * 4)[..., None].repeat(3, -1)), ("layouts", columns)):
            (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / split / folder / f"{i}.png")
    return lambda split, fit: open_source(DataConfig("folder", str(tmp_path), labels="ade20k", fit=fit), split, (8, 8))


def test_random_crops_follow_from_the_step_and_photographs_from_their_layouts(wide):
    def drawn(steps, **where):
        batches = training_batches(wide("train", "random_crop"), 3, 5, **where)
        return [batch for batch in itertools.islice(batches, steps)]

    whole, later, part = drawn(6, threads=8), drawn(2, first_step=4, threads=0), drawn(6, rows=[2], threads=1)
    for batch, again in zip(whole[4:], later, strict=True):
        np.testing.assert_array_equal(batch["photograph"], again["photograph"])
    for batch, again in zip(whole, part):
        np.testing.assert_array_equal(batch["layout"][2:], again["layout"])
    first = np.array([batch["layout"][:, 0, 0] for batch in whole])
    assert len(np.unique(first)) > 9 and first.min() < 15 and first.max() > 40
    for batch in whole:  # pixel by pixel, to a fraction of the column
        column = batch["photograph"][..., 0] / 4
        assert np.abs(column - (batch["layout"] + 1)).max() <= 1  # class i is id i + 1
    mirrored = drawn(6, flip=True)
    for straight, flipped in zip(whole, mirrored):  # of the same crops
        for row in range(3):
            assert (flipped["layout"][row] == straight["layout"][row]).all() or (
                flipped["layout"][row] == straight["layout"][row, :, ::-1]
            ).all()


def test_held_out_examples_are_cropped_in_the_middle(wide):
    for source in (wide("val", "random_crop"), wide("val", "crop"), wide("train", "random_crop")):
        np.testing.assert_array_equal(source[1]["layout"], np.tile(np.arange(28, 36, dtype=np.uint8) - 1, (8, 1)))
    (batch,) = validation_batches(wide("val", "random_crop"), 1, [0])
    assert batch["layout"][0, 0, 0] == 27
    np.testing.assert_array_equal(wide("val", "random_crop").placed(0, (0, 0))["layout"], batch["layout"][0])
    assert (wide("train", "pad")[0]["layout"][0] == 150).all()


def test_an_error_in_a_thread_reaches_the_caller(camvid):
    Image.fromarray(np.full((12, 16), 99, np.uint8)).save(camvid / "trainannot" / "2.png")
    with pytest.raises(UserError, match=r"2\.png: label id 99 \(192 pixels\)"):
        order(opened(camvid), 0, 4)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 9])
def test_validation_sees_the_same_examples_in_full_batches_of_any_size(camvid, batch_size):
    source, seen = opened(camvid), []
    for batch in validation_batches(source, batch_size, spread(source, limit=50)):
        assert len(batch["layout"]) == batch_size
        seen += batch["photograph"][:, 0, 0, 0].tolist()
    assert seen == [0, 10, 20, 30] + [30] * (len(seen) - 4)
    assert spread(source, limit=2) == [0, 3]


def test_a_photograph_of_16_bits_is_refused(camvid):
    Image.fromarray(np.zeros((12, 16), np.uint16)).save(camvid / "train" / "0.png")
    with pytest.raises(UserError, match=r"0\.png: the photograph has more than 8 bits"):
        opened(camvid)[0]


def test_batches_come_whole(camvid):
    source = opened(camvid)
    assert steps_per_epoch(source, 3) == 1
    with pytest.raises(UserError, match="A batch of 5 does not fit a data set of 4"):
        steps_per_epoch(source, 5)


def test_vivid_photographs_are_kept_in_a_cache(tmp_path):
    plain = DataConfig("streets", num_scenes=3)
    boosted = dataclasses.replace(plain, vivid=True, cache=str(tmp_path / "cache"))
    told = []
    source = open_source(boosted, "train", (16, 32), lambda *progress: told.append(progress))
    assert told[-1] == (3, 3) and len(list((tmp_path / "cache").iterdir())) == 1
    for i, example in enumerate(open_source(plain, "train", (16, 32))[i] for i in range(3)):
        np.testing.assert_array_equal(source[i]["photograph"], vivid(example["photograph"]))
        np.testing.assert_array_equal(source[i]["layout"], example["layout"])
    open_source(dataclasses.replace(boosted, vivid=False), "train", (16, 32))
    assert len(list((tmp_path / "cache").iterdir())) == 2  # another setting is another cache


def test_random_crops_of_vivid_photographs_are_not_cached(tmp_path):
    folder = tmp_path / "own"
    for part, picture in (("photographs", np.zeros((20, 40, 3), np.uint8)), ("layouts", np.zeros((20, 40), np.uint8))):
        (folder / part).mkdir(parents=True)
        for name in "abc":
            Image.fromarray(picture).save(folder / part / f"{name}.png")
    data = DataConfig(
        "folder", str(folder), labels="cityscapes_trainids", fit="random_crop", vivid=True, cache=str(tmp_path / "c")
    )
    with pytest.raises(UserError, match="Random crops"):
        open_source(data, "train", (16, 16))
    assert open_source(data, "val", (16, 16))[0]["photograph"].shape == (16, 16, 3)  # of those, the middle is taken
