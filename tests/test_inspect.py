"""launch.inspect: what it counts, what it complains of, what it guesses, the command it gives, and its page."""

import json
import re
import shlex
import zlib
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from crn_jax.data.labels.published import CAMVID, CITYSCAPES, LABEL_SPACES
from crn_jax.data.sources import DataConfig, pairs_of
from crn_jax.errors import UserError
from launch import inspect
from launch.common.command_line import parse
from launch.datasets import training_command
from launch.datasets.survey import Look, Pair, duplicates, fitting_labels, look_at, parts_of, representative, scan
from launch.datasets.training_command import cascade_for, cascade_of_size, training_arguments

pytest_plugins = "tests.support.browser"

NASTY = "<b>bold<_b> & 'it'"


def photograph(seed: int, size=(24, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def layout(seed: int, size=(24, 32), classes: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, size, np.uint8)


def save(image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, lossless=True)
    return path


@pytest.fixture
def camvid(tmp_path) -> Path:
    """Five pairs to train on and three held out, in CamVid's folders; no photograph twice."""
    for split, numbers in (("train", range(5)), ("val", range(5, 8))):
        for i in numbers:
            save(photograph(i), tmp_path / "data" / split / f"{i}.png")
            save(layout(i), tmp_path / "data" / f"{split}annot" / f"{i}.png")
    return tmp_path / "data"


def inspected(root: Path, *arguments: str) -> tuple[int, dict]:
    """The exit status, and what is written."""
    out = root.parent / "out"
    status = 0
    try:
        inspect.main([str(root), "--out", str(out), *arguments])
    except SystemExit as error:
        status = error.code
    return status, json.loads((out / "inspection.json").read_text()) if status < 2 else {}


def refused(capsys, root: Path, *arguments: str) -> str:
    """What is said of a command line that is wrong."""
    assert inspected(root, *arguments)[0] == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def experiment_of(found: dict):
    """The experiment of the command that is printed."""
    words = shlex.split(found["train"])
    assert words[:3] == ["python", "-m", "launch.train"]
    return parse(words[3:]).experiment


def test_a_sound_data_set(camvid, capsys):
    status, found = inspected(camvid)
    assert status == 0 and found["can_train"] and not found["problems"]
    assert [(s["split"], s["photographs"], s["layouts"], s["pairs"]) for s in found["splits"]] == [
        ("train", 5, 5, 5),
        ("val", 3, 3, 3),
    ]
    assert found["splits"][0]["sizes"] == [{"height": 24, "width": 32, "count": 5}]
    every = {"train": [layout(i) for i in range(5)], "val": [layout(i) for i in range(5, 8)]}
    for n, told in enumerate(found["classes"]):
        assert told["name"] == CAMVID.classes[n]
        assert told["pixels"] == {split: sum(int((one == n).sum()) for one in ones) for split, ones in every.items()}
        assert told["layouts"] == {split: sum(bool((one == n).any()) for one in ones) for split, ones in every.items()}
        assert told["share"] == pytest.approx(sum(told["pixels"].values()) / (8 * 24 * 32))
    said = capsys.readouterr().out
    assert "Guessed from the folders: --source camvid" in said and "bicyclist" in said
    assert found["train"] in said


def test_no_class_is_counted_that_does_not_occur(camvid, capsys):
    for path in camvid.glob("*annot/*"):
        save(np.full((24, 32), 3, np.uint8), path)
    _, found = inspected(camvid, "--labels", "camvid")
    assert [told["name"] for told in found["classes"] if told["share"]] == ["road"]
    assert "Classes that never occur: sky, building, pole, pavement" in capsys.readouterr().out


def problem(found: dict, what: str) -> dict:
    """The one that has these words in it."""
    (one,) = [problem for problem in found["problems"] if what in problem["what"]]
    return one


def test_files_without_a_partner_are_named(camvid, capsys):
    (camvid / "train" / "1.png").unlink()
    (camvid / "valannot" / "6.png").unlink()
    status, found = inspected(camvid)
    assert status == 1 and not found["can_train"]
    assert problem(found, "train: 1 layout without a photograph")["examples"] == ["trainannot/1.png"]
    assert problem(found, "val: 1 photograph without a layout")["examples"] == ["val/6.png"]
    said = capsys.readouterr().out
    assert "trainannot/1.png" in said and "matched by file name" in said and "It cannot be trained on" in said


def test_damaged_files_are_named_and_the_rest_is_counted(camvid):
    whole = (camvid / "train" / "2.png").read_bytes()
    (camvid / "train" / "2.png").write_bytes(whole[:-40])
    (camvid / "valannot" / "5.png").write_bytes(b"")
    status, found = inspected(camvid)
    told = problem(found, "2 files cannot be read")
    assert status == 1 and told["blocks"]
    assert told["examples"][0].startswith("train/2.png: ") and told["examples"][1].startswith("valannot/5.png: ")
    assert sum(size["count"] for size in found["splits"][0]["sizes"]) == 4
    assert sum(sum(told["pixels"].values()) for told in found["classes"]) == 7 * 24 * 32


def test_unknown_ids_are_counted(camvid):
    for i, pixels in ((0, 3), (1, 2)):
        raw = layout(i)
        raw[0, :pixels] = 57
        save(raw, camvid / "trainannot" / f"{i}.png")
    status, found = inspected(camvid, "--source", "camvid")
    assert status == 1
    assert found["unknown"] == [{"value": 57, "pixels": 5, "layouts": 2, "example": "trainannot/0.png", "nearest": None}]
    told = problem(found, "1 id in 2 layouts is not in camvid")
    assert told["examples"] == ["57: 5 pixels in 2 layouts, such as trainannot/0.png"]
    raw = ("nyu894", "nyu40", "nyu13")  # of NYU's .mat alone
    fitting = [name for name, space in LABEL_SPACES.items() if {*range(12), 57} <= {*space.ids} and name not in raw]
    assert fitting and all(f"--labels {name}" in told["remedy"] for name in fitting)


def test_unknown_colours_are_counted_with_the_nearest_class(camvid):
    rgb = CAMVID.draw(layout(0)).copy()
    rgb[1, :4], rgb[2, :1] = (130, 2, 1), (61, 41, 220)
    save(rgb, camvid / "trainannot" / "0.png")
    status, found = inspected(camvid)
    assert status == 1
    assert [(told["value"], told["pixels"], told["nearest"]) for told in found["unknown"]] == [
        ([130, 2, 1], 4, "building"),
        ([61, 41, 220], 1, "pavement"),
    ]
    told = problem(found, "2 colours in 1 layout are not in camvid")
    assert "(130, 2, 1): 4 pixels in 1 layout, such as trainannot/0.png; nearest: building" in told["examples"]
    assert "without antialiasing" in told["remedy"]


def test_an_antialiased_layout_does_not_flood_the_results(camvid):
    save(photograph(9), camvid / "trainannot" / "0.png")
    status, found = inspected(camvid)
    assert status == 1 and len(found["unknown"]) <= 64 and len(problem(found, "colours")["examples"]) <= 5


def test_a_layout_of_another_size(camvid):
    save(layout(0, (24, 36)), camvid / "trainannot" / "0.png")
    status, found = inspected(camvid)
    assert status == 1
    assert problem(found, "a different size")["examples"] == ["train/0.png is 24x32, its layout 24x36"]


def test_photographs_that_look_otherwise_than_their_pixels(camvid):
    exif = Image.Exif()
    exif[0x0112] = 3
    photograph(0).save(camvid / "train" / "0.png", exif=exif)
    save(Image.merge("RGBA", [*photograph(1).split(), Image.new("L", (32, 24), 200)]), camvid / "train" / "1.png")
    status, found = inspected(camvid)
    turned, clear = problem(found, "2 files cannot be read")["examples"]
    assert status == 1 and turned.startswith("train/0.png: viewers turn") and "1.png: 768 pixels are transparent" in clear


def test_the_same_photograph_twice(camvid):
    save(photograph(0), camvid / "train" / "3.webp").with_suffix(".png").unlink()
    save(photograph(1), camvid / "val" / "7.png")
    status, found = inspected(camvid)
    assert status == 0
    assert found["duplicates"] == [["train/0.png", "train/3.webp"], ["train/1.png", "val/7.png"]]
    assert problem(found, "more than once")["examples"] == ["train/0.png = train/3.webp"]
    assert problem(found, "in train and in val")["examples"] == ["train/1.png = val/7.png"]


def test_pixels_alone_do_not_make_duplicates():
    """12x8 and 8x12 may hold the same bytes."""
    zeros = [Pair("train", str(i), Path(str(i)), Path(str(i))) for i in range(3)]
    looks = [Look((8, 12), (8, 12), digest, np.zeros(2), {}, ()) for digest in (b"a", b"b", b"")]
    assert not duplicates(zeros, looks)


def test_digests_depend_on_the_shape(tmp_path):
    pairs = [
        Pair(
            "train", name, save(np.zeros((*size, 3), np.uint8), tmp_path / f"{name}.png"), save(layout(0), tmp_path / "ids.png")
        )
        for name, size in (("wide", (8, 12)), ("tall", (12, 8)))
    ]
    assert not duplicates(pairs, [look_at(pair, CAMVID) for pair in pairs])


def test_classes_that_only_val_has(camvid):
    for path in camvid.glob("trainannot/*"):
        save(np.minimum(layout(int(path.stem)), 8), path)
    status, found = inspected(camvid)
    assert status == 0
    assert problem(found, "In val but never in train: pedestrian, bicyclist, void")


def test_mostly_void(camvid):
    for path in camvid.glob("*annot/*"):
        raw = layout(int(path.stem))
        raw[:18] = 11
        save(raw, path)
    status, found = inspected(camvid)
    assert status == 0 and problem(found, "of all pixels are void")["what"].startswith("77%")


def test_a_missing_split(camvid):
    for folder in ("val", "valannot"):
        (camvid / folder).rename(camvid / f"no{folder}")
    status, found = inspected(camvid, "--source", "camvid")
    told = problem(found, "val cannot be listed")
    assert status == 1 and "there is no such folder" in told["remedy"]
    assert inspected(camvid.parent / "data", "--source", "cityscapes")[0] == 1  # nothing at all of it


def test_what_training_would_refuse_is_a_problem(camvid, monkeypatch):
    def refuse(*_):
        raise UserError("Not today.")

    monkeypatch.setattr(training_command, "open_source", refuse)
    status, found = inspected(camvid)
    assert status == 1 and problem(found, "launch.train refuses the data")["remedy"] == "Not today."


def test_usage_errors(camvid, tmp_path, capsys):
    assert "there is no such folder" in refused(capsys, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "--source" in refused(capsys, tmp_path / "empty")
    assert "Try 48 112." in refused(capsys, camvid, "--size", "50", "111")
    assert "Did you mean 'camvid'?" in refused(capsys, camvid, "--labels", "camvit")
    assert "--source" in refused(capsys, camvid, "--source", "pascal")
    for part in ("photographs", "layouts"):
        save(photograph(0), tmp_path / "lossy" / part / "0.jpg")
    assert "0.jpg: lossy JPEG" in refused(capsys, tmp_path / "lossy")
    save(photograph(0), tmp_path / "lossy" / "photographs" / "0.png")
    assert "0.jpg and" in refused(capsys, tmp_path / "lossy")  # both are named 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["--source", "folder"]])
def test_no_photograph_has_its_layouts_name(tmp_path, capsys, arguments):
    for i in range(12):
        save(photograph(i), tmp_path / "data" / "photographs" / f"{i}.png")
        save(layout(i), tmp_path / "data" / "layouts" / f"{i}_mask.png")
    said = refused(capsys, tmp_path / "data", *arguments)
    assert "photographs/0.png has no layout and" in said and "layouts/0_mask.png has no photograph." in said
    assert "Pairs are matched by file name" in said


def test_a_single_pair_is_too_few(tmp_path):
    save(photograph(0), tmp_path / "data" / "photographs" / "0.png")
    save(layout(0), tmp_path / "data" / "layouts" / "0.png")
    status, found = inspected(tmp_path / "data", "--labels", "camvid")
    assert status == 1 and "at least 2 are needed" in problem(found, "train: too few pairs")["remedy"]
    assert not any("no photograph has a layout" in told["what"] for told in found["problems"])


def official(root: Path, source: str) -> None:
    """Three pairs and one held out (of gta5 and folder: thirteen in all), in the folders of a source."""
    pairs = {
        "cityscapes": ("leftImg8bit/{0}/aachen/aachen_{1:06}_000019_leftImg8bit.png",
                       "gtFine/{0}/aachen/aachen_{1:06}_000019_gtFine_labelIds.png"),
        "camvid": ("{0}/{1}.png", "{0}annot/{1}.png"),
        "ade20k": ("images/{2}/ADE_{0}_{1:08}.jpg", "annotations/{2}/ADE_{0}_{1:08}.png"),
        "cocostuff": ("{0}2017/{1:012}.jpg", "stuffthingmaps_trainval2017/{0}2017/{1:012}.png"),
        "gta5": ("images/{3:05}.png", "labels/{3:05}.png"),
        "folder": ("photographs/{3}.png", "layouts/{3}.png"),
    }  # fmt: skip
    for i in range(13):
        split, name = ("train", "training") if i < 10 else ("val", "validation")
        for path, image in zip(pairs[source], (photograph(i), layout(i, classes=11))):
            save(image, root / path.format(split, i, name, i + 1))


@pytest.mark.parametrize("source", ["cityscapes", "camvid", "ade20k", "cocostuff", "gta5", "folder"])
def test_the_source_is_guessed(tmp_path, capsys, source):
    official(tmp_path / "data", source)
    status, found = inspected(tmp_path / "data")
    assert status == 0 and found["source"] == source, found["problems"]
    assert sum(split["pairs"] for split in found["splits"]) == 13
    assert f"--source {source}" in capsys.readouterr().out
    assert experiment_of(found).data.source == source


def test_cocostuff_numbered_from_1_is_noticed(tmp_path):
    """Ids 1 ... 12 for 0 ... 11: all are known, and all but one are wrong. (Of the published files 11 never occurs.)"""
    official(tmp_path / "data", "cocostuff")
    shifted = tmp_path / "data" / "stuffthingmaps_trainval2017" / "train2017" / f"{0:012}.png"
    save(layout(0, classes=11) + np.uint8(1), shifted)
    status, found = inspected(tmp_path / "data")
    told = problem(found, "Ids occur that COCO-Stuff's layouts never have (1 of 11)")
    assert status == 0 and not told["blocks"] and "numbered from 1" in told["remedy"]
    assert told["examples"][0].startswith("11: street sign, ")


def test_a_folder_that_cannot_be_inspected_does_not_keep_the_next_from_it(camvid, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        inspect.main([str(tmp_path / "missing"), str(camvid), "--out", str(tmp_path / "results")])
    assert exit_.value.code == 1 and (tmp_path / "results" / "data" / "inspection.html").exists()
    assert "missing: there is no such folder" in capsys.readouterr().out


def test_results_that_cannot_be_written_are_told_before_anything_is_decoded(camvid, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspect, "scan", lambda *_: pytest.fail("it has decoded files"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        inspect.main([str(camvid), "--out", str(tmp_path / "file" / "out")])
    assert exit_.value.code == 2 and "file/out cannot be written" in (told := " ".join(capsys.readouterr().out.split()))
    assert told.endswith("Choose another folder with --out.")


def test_a_folder_whose_name_begins_with_a_dash(camvid, tmp_path, monkeypatch):
    camvid.rename(tmp_path / "-set")
    monkeypatch.chdir(tmp_path)
    inspect.main(["./-set", "--out", "out"])
    found = json.loads(Path("out/inspection.json").read_text())
    assert found["can_train"] and experiment_of(found).data.root == "./-set"
    assert not experiment_of(found).name.startswith("-")


def test_several_data_sets_are_inspected_one_by_one(camvid, tmp_path, capsys):
    official(tmp_path / "other", "ade20k")
    roots, out = [str(camvid), str(tmp_path / "other")], tmp_path / "results"
    inspect.main([*roots, "--out", str(out)])
    found = [json.loads((out / name / "inspection.json").read_text())["source"] for name in ("data", "other")]
    assert found == ["camvid", "ade20k"]
    (camvid / "train" / "1.png").unlink()  # one that cannot be trained on is enough
    with pytest.raises(SystemExit) as exit_:
        inspect.main([*roots, "--out", str(out)])
    assert exit_.value.code == 1 and (out / "other" / "inspection.html").exists()
    with pytest.raises(SystemExit) as exit_:
        inspect.main([roots[0], str(camvid / ".." / "data"), "--out", str(out)])
    assert exit_.value.code == 2 and "The results of several data sets would go to" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        inspect.main([])
    assert exit_.value.code == 2


def test_gta5_as_published_lacks_some_partners(tmp_path, capsys):
    official(tmp_path / "data", "gta5")
    for i, path in enumerate((tmp_path / "data" / "labels").iterdir()):
        save(np.array([7, 8, 11, 12, 13, 17, 20, 21, 23, 24, 26], np.uint8)[layout(i, classes=11)], path)
    (tmp_path / "data" / "labels" / "00003.png").unlink()
    status, found = inspected(tmp_path / "data")
    assert (
        status == 0
        and found["label_space"] == "gta5"
        and [split["pairs"] for split in found["splits"]] == [10, 2]
        and found["splits"][0]["photographs"] == 11
    )
    assert "00003.png" in " ".join(found["notes"])


def test_camvid_as_first_released_is_guessed(tmp_path):
    space = LABEL_SPACES["camvid32"]
    for i, name in enumerate(["0001TP_006690", "0006R0_f00930", "0016E5_07959"]):
        save(photograph(i), tmp_path / "data" / "701_StillsRaw_full" / f"{name}.png")
        save(space.draw(layout(i, classes=30)), tmp_path / "data" / "LabeledApproved_full" / f"{name}_L.png")
    status, found = inspected(tmp_path / "data")
    assert status == 0 and (found["source"], found["label_space"]) == ("camvid", "camvid32")
    assert experiment_of(found).cascade.num_classes == space.num_classes


def test_nyu_in_its_one_file(tmp_path):
    count, ids = 1202, np.random.default_rng(0).integers(0, 895, (1202, 16, 12), np.uint16)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.random.default_rng(1).integers(0, 256, (count, 3, 16, 12), np.uint8)
        file["labels"] = ids
    status, found = inspected(tmp_path / "data", "--labels", "nyu894")
    assert status == 0 and found["source"] == "nyu" and experiment_of(found).data.labels == "nyu894"
    assert found["splits"][0]["sizes"] == [{"height": 12, "width": 16, "count": 1200}]
    space = LABEL_SPACES["nyu894"]
    for told, raw in ((found["classes"][space.ids[raw]], raw) for raw in (1, 42, 894)):
        assert told["pixels"] == {"train": int((ids[:1200] == raw).sum()), "val": int((ids[1200:] == raw).sum())}


def test_labels_of_a_folder_are_guessed(tmp_path, capsys):
    for i in range(12):
        save(photograph(i), tmp_path / "data" / "photographs" / f"{i}.png")
        save(CITYSCAPES.draw(layout(i, classes=20)), tmp_path / "data" / "layouts" / f"{i}.png")
    status, found = inspected(tmp_path / "data")
    assert status == 0 and found["label_space"] == "cityscapes"
    said = capsys.readouterr().out
    assert "--labels cityscapes (" in said and "gta5" in said and "held out" in said
    experiment = experiment_of(found)
    assert experiment.data.labels == "cityscapes" and experiment.cascade.num_classes == 20


def test_classes_of_ones_own_are_drafted(tmp_path, capsys):
    colors = np.array([(9, 9, 200), (0, 0, 0), (200, 9, 9), (9, 200, 9)], np.uint8)
    for i in range(20):
        save(photograph(i), tmp_path / "data" / "photographs" / f"{i}.png")
        save(colors[layout(i, classes=4)], tmp_path / "data" / "layouts" / f"{i}.png")
    status, found = inspected(tmp_path / "data")
    draft = tmp_path / "out" / "labels.json"
    assert status == 0 and str(draft) in capsys.readouterr().out
    fields = json.loads(draft.read_text())
    assert {*map(tuple, fields["colors"])} == {*map(tuple, colors.tolist())} - {(0, 0, 0)}
    experiment = experiment_of(found)
    assert experiment.data.labels == str(draft) and experiment.cascade.num_classes == 4

    draft.write_text(json.dumps(fields | {"classes": ["pond", "lawn", "path"]}))  # it is kept, once it is there
    _, found = inspected(tmp_path / "data")
    assert [told["name"] for told in found["classes"]] == ["pond", "lawn", "path", "void"]


def test_few_ids_are_not_taken_for_a_known_label_space(tmp_path):
    for i in range(12):
        raw = layout(i, classes=3)
        raw[0] = 255
        save(photograph(i), tmp_path / "data" / "photographs" / f"{i}.png")
        save(raw, tmp_path / "data" / "layouts" / f"{i}.png")
    status, found = inspected(tmp_path / "data")
    fields = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert status == 0 and fields["ids"] == [0, 1, 2] and fields["void_ids"] == [255]
    assert found["classes"][-1]["pixels"]["train"] == 10 * 32


def test_a_damaged_layout_does_not_hinder_guessing(tmp_path):
    official(tmp_path / "data", "folder")
    (tmp_path / "data" / "layouts" / "1.png").write_bytes(b"nothing")
    status, found = inspected(tmp_path / "data")
    assert status == 1 and found["label_space"] == "data" and problem(found, "cannot be read")


@pytest.mark.parametrize("source", ["gta5", "camvid", "ade20k", "cocostuff"])
def test_folders_alone_do_not_make_published_classes(tmp_path, capsys, source):
    """Anybody may have `images` and `labels`. Three classes of one's own are not road, sidewalk and void."""
    root = tmp_path / "data"
    official(root, source)
    for i, path in enumerate(sorted((*root.glob("**/*.png"), *root.glob("**/*.jpg")))):
        is_layout = np.asarray(Image.open(path)).ndim == 2
        save(layout(i, classes=3) if is_layout else photograph(i), path.with_name(f"garden_{path.name}"))
        path.unlink()
    status, found = inspected(root)
    said = " ".join(capsys.readouterr().out.split())
    assert status == 0 and found["source"] == source and f"The folders are {source}'s, but" in said
    assert {told["name"] for told in found["classes"] if told["share"]} == {"class 0", "class 1", "class 2"}
    assert experiment_of(found).data.labels == str(tmp_path / "out" / "labels.json")
    next(path for path in sorted(root.glob("**/*.png")) if np.asarray(Image.open(path)).ndim == 2).unlink()
    assert inspected(root)[0] == 1 and "1 photograph without a layout" in capsys.readouterr().out


def test_published_names_of_files_are_evidence(tmp_path):
    official(tmp_path / "data", "ade20k")
    status, found = inspected(tmp_path / "data")
    assert status == 0 and found["label_space"] == "ade20k"


def test_nearly_all_void_blocks_where_the_label_space_was_guessed(tmp_path):
    official(tmp_path / "data", "cityscapes")
    for path in tmp_path.glob("data/gtFine/*/*/*"):
        save(layout(0, classes=5), path)
    status, found = inspected(tmp_path / "data")
    told = problem(found, "100% of all pixels are void")
    assert status == 1 and told["blocks"] and "only guessed. If it is right, give --labels cityscapes" in told["remedy"]
    assert inspected(tmp_path / "data", "--labels", "cityscapes")[0] == 0


@pytest.mark.parametrize("classes, candidate", [(8, "camvid"), (13, "nyu13_mapped")])
def test_ids_that_count_up_are_nobodys(tmp_path, capsys, classes, candidate):
    status, found = inspected(own(tmp_path / "data", lambda i: layout(i, classes=classes)))
    said = " ".join(capsys.readouterr().out.split())
    assert status == 0 and found["label_space"] == "data" and experiment_of(found).cascade.num_classes == classes + 1
    assert candidate in said and "have all of these, but ids that count up may be anybody's" in said


def test_colours_of_a_palette_are_evidence_for_ids_that_count_up(tmp_path):
    status, found = inspected(own(tmp_path / "data", layout, CAMVID.colors))
    assert status == 0 and found["label_space"] == "camvid"


def test_ids_with_the_gaps_of_a_known_label_space_are_evidence(tmp_path):
    ids = np.array([7, 8, 11, 12, 13, 17, 20, 21, 23, 24, 26], np.uint8)
    status, found = inspected(own(tmp_path / "data", lambda i: ids[layout(i, classes=11)]))
    assert status == 0 and found["label_space"] == "cityscapes"


def test_a_draft_of_another_data_set_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, factor in (("a", 1), ("b", 2)):
        own(tmp_path / name / "garden", lambda i, factor=factor: factor * layout(i, classes=3))
    inspect.main(["a/garden"])
    inspect.main(["a/garden"])
    draft = Path("inspections", "garden", "labels.json")
    kept = draft.read_text()
    with pytest.raises(SystemExit) as exit_:
        inspect.main(["b/garden"])
    said = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 2 and draft.read_text() == kept
    assert f"{draft} was drafted for the data set {tmp_path / 'a' / 'garden'}" in said
    assert f"--out DIR. If the classes are the same, give --labels {draft}." in said
    inspect.main(["b/garden", "--out", "other"])


def test_a_draft_that_lacks_an_id_can_be_made_anew(tmp_path):
    root = own(tmp_path / "data", lambda i: layout(i, classes=3))
    inspected(root)
    save(layout(0, classes=4), root / "layouts" / "0.png")
    status, found = inspected(root)
    remedy = problem(found, "1 id in 1 layout is not in data")["remedy"]
    assert status == 1 and remedy.endswith(f", or delete {tmp_path / 'out' / 'labels.json'} to draft anew.")


def test_greys_of_three_channels_are_drafted_in_order_and_asked_about(tmp_path, capsys):
    rare = np.array([0, 0, 0, 0, 1, 2, 2, 3], np.uint8)  # the order by frequency would be 2, 1, 3
    status, found = inspected(own(tmp_path / "data", lambda i: rare[layout(i, classes=8)][..., None].repeat(3, -1)))
    said = " ".join(capsys.readouterr().out.split())
    fields = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert status == 0 and fields["colors"] == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert "These greys may be ids." in said and "Is black void? The draft says so." in said


@pytest.mark.parametrize("classes", [3, 4])
def test_black_is_asked_about_only_if_it_occurs(tmp_path, capsys, classes):
    colors = np.array([(9, 9, 200), (200, 9, 9), (9, 200, 9), (0, 0, 0)], np.uint8)
    inspected(own(tmp_path / "data", lambda i: colors[layout(i, classes=classes)]))
    assert ("Is black void?" in " ".join(capsys.readouterr().out.split())) == (classes == 4)


def test_layouts_that_can_be_no_classes(tmp_path, capsys):
    for i in range(12):
        for part in ("photographs", "layouts"):
            save(photograph(i), tmp_path / "data" / part / f"{i}.png")
    assert "too many for classes" in refused(capsys, tmp_path / "data")
    save(layout(0), tmp_path / "data" / "layouts" / "0.png")
    for i in range(1, 12):
        save(CAMVID.draw(layout(i)) // 2, tmp_path / "data" / "layouts" / f"{i}.png")
    assert "Make them alike" in refused(capsys, tmp_path / "data")
    for path in (tmp_path / "data" / "layouts").iterdir():
        path.write_bytes(b"nothing")
    assert "1.png: the image is truncated or damaged" in refused(capsys, tmp_path / "data")
    for path in (tmp_path / "data" / "layouts").iterdir():
        save(np.zeros((24, 32, 3), np.uint8), path)
    assert "black throughout" in refused(capsys, tmp_path / "data")


def test_labels_that_fit_have_the_fewest_classes_first(tmp_path):
    pairs = [Pair("train", "0", tmp_path, save(layout(0), tmp_path / "0.png"))]
    named = fitting_labels(pairs, LABEL_SPACES)
    assert named[0] == "camvid" and "ade20k" in named
    assert fitting_labels([Pair("train", "1", tmp_path, tmp_path / "none.png")], LABEL_SPACES) == []


def test_other_labels_than_the_sources_are_handed_on(tmp_path):
    official(tmp_path / "data", "ade20k")
    _, found = inspected(tmp_path / "data", "--labels", "cocostuff")
    experiment = experiment_of(found)
    assert (experiment.data.labels, experiment.cascade.num_classes) == ("cocostuff", LABEL_SPACES["cocostuff"].num_classes)


@pytest.mark.parametrize(
    "shapes, size",
    [
        ({(360, 480): 9}, (96, 128)),
        ({(1024, 2048): 9}, (128, 256)),
        ({(300, 300): 9}, (128, 128)),
        ({(640, 480): 9}, (128, 96)),
        ({(48, 64): 9}, (48, 64)),
        ({(12, 16): 9}, (24, 32)),
        ({(22, 24): 9}, (36, 40)),
        ({(10, 1000): 9}, (128, 256)),
        ({}, (128, 256)),
    ],
)
def test_the_cascade_follows_the_photographs(shapes, size):
    base, modules = cascade_for(Counter(shapes))
    assert tuple(side * 2 ** (modules - 1) for side in base) == size
    assert min(size) >= 16 and modules >= 3


@pytest.mark.parametrize("size, expected", [((96, 128), ((3, 4), 6)), ((1024, 2048), ((4, 8), 9)), ((16, 32), ((4, 8), 3))])
def test_the_cascade_of_a_size(size, expected):
    assert cascade_of_size(size) == expected


@pytest.mark.parametrize("size", [(50, 111), (12, 16), (97, 131), (2, 2)])
def test_sizes_that_no_cascade_makes(size):
    with pytest.raises(UserError, match=r"--size \d+ \d+: .* Try (\d+) (\d+)\.$") as error:
        cascade_of_size(size)
    height, width = map(int, re.findall(r"\d+", str(error.value))[-2:])
    assert cascade_of_size((height, width))


def training(source: str, shapes: dict, size=None, labels=None, examples=367):
    """The experiment of the command for photographs of these sizes."""
    pairs = [Pair("train", str(i), Path("p"), Path("l")) for i in range(examples)]
    looks = [Look(shape, shape, b"", np.zeros(20), {}, ()) for shape, count in shapes.items() for _ in range(count)]
    data = DataConfig(source, "some where", labels=labels)
    arguments = training_arguments(data, LABEL_SPACES[labels or source], pairs, looks, size)
    return arguments, parse(arguments).experiment


def test_the_named_experiments_are_used_where_they_fit():
    for source, shape, size, name in (
        ("camvid", (360, 480), None, "camvid_96x128"),
        ("camvid", (360, 480), (192, 256), "camvid_192x256"),
        ("cityscapes", (1024, 2048), None, "cityscapes_256p"),
        ("cityscapes", (1024, 2048), (512, 1024), "cityscapes_512p"),
    ):
        arguments, experiment = training(source, {shape: 3}, size)
        assert arguments == [name, "--data.root", "some where"] and experiment.size == (size or experiment.size)
    arguments, _ = training("camvid", {(360, 480): 3}, labels="camvid")
    assert arguments[0] == "camvid_96x128" and "--data.labels" not in arguments
    arguments, _ = training("cityscapes", {(1024, 2048): 3}, labels="cityscapes_strict")
    assert "cityscapes_strict" in arguments


def test_other_sizes_get_a_cascade_of_their_own():
    _, experiment = training("camvid", {(360, 480): 3}, (24, 32))
    assert experiment.size == (24, 32) and experiment.cascade.base == (3, 4) and experiment.data.fit == "resize"
    assert experiment.cascade.widths[-2:] == (128, 64) and experiment.name == "some_where_24x32"
    _, experiment = training("cityscapes", {(1024, 2048): 3}, (256, 256))
    assert experiment.size == (256, 256) and experiment.data.fit == "crop" and experiment.cascade.widths[0] == 1024


def test_photographs_of_many_shapes_are_cropped_to_the_median():
    _, experiment = training("ade20k", {(300, 400): 5, (400, 300): 3, (500, 1000): 1})
    assert experiment.size == (96, 128) and experiment.data.fit == "crop"


def test_few_examples_get_many_epochs():
    _, few = training("folder", {(96, 128): 3}, labels="camvid", examples=20)
    _, many = training("folder", {(96, 128): 3}, labels="camvid", examples=20_000)
    assert 7000 < few.epochs * 20 < 9000 and few.lambdas.rescale_epoch < few.epochs
    assert many.epochs == 2 and many.lambdas.rescale_epoch == 1


def test_a_scan_is_in_order_and_can_be_left(camvid):
    parts = parts_of(DataConfig("camvid", str(camvid)))
    pairs = [pair for part in parts.values() for pair in part.pairs]
    looks = list(scan(pairs, CAMVID))
    assert [look.digest for look in looks] == [look_at(pair, CAMVID).digest for pair in pairs]
    assert len({look.digest for look in looks}) == 8
    first = scan(pairs, CAMVID)
    assert next(first).digest == looks[0].digest
    first.close()


def test_the_sheet_shows_every_class_and_nothing_that_is_broken():
    rng = np.random.default_rng(0)
    looks = [Look((8, 8), (8, 8), b"", np.zeros(40, int), {}, ()) for _ in range(200)]
    for n in range(40):
        for i in rng.choice(199, 3, replace=False):
            looks[i].pixels[n] = 5
    looks[199] = Look(None, (8, 8), b"", np.ones(40, int), {}, ("damaged",))
    chosen = representative(looks, 30)
    assert len(chosen) == len({*chosen}) == 30 and chosen == sorted(chosen) and 199 not in chosen
    assert np.any([looks[i].pixels for i in chosen], 0).all()
    assert representative(looks, 2) == sorted(representative(looks, 2)) and len(representative(looks, 2)) == 2
    assert representative([], 5) == [] and representative([looks[199]], 5) == []


def test_real_photographs(shared_data):
    part = parts_of(DataConfig("camvid", str(shared_data / "camvid")))["val"]
    pairs = part.pairs[::10]
    looks = list(scan(pairs, CAMVID))
    for pair, look in zip(pairs, looks):
        assert look.pixels.tolist() == np.bincount(np.asarray(Image.open(pair.layout)).ravel(), minlength=12).tolist()
        assert look.size == look.layout_size == (360, 480) and not look.unknown and not look.refused
    assert len(part.pairs) == 101 and not duplicates(pairs, looks)


def test_a_palette_file_with_a_strange_colour(shared_data):
    """The authors' GTA5 layout has (20, 20, 20), which is void."""
    file = next((shared_data / "authors" / "layouts" / "GTA256Full").glob("*.png"))
    look = look_at(Pair("val", "gta", file, file), LABEL_SPACES["gta5"])
    assert not look.unknown and not look.refused and look.pixels.sum() == np.prod(look.layout_size)


def broken(root: Path) -> None:
    """One of each problem, in files of names that would be markup."""
    save(photograph(0), root / "train" / f"{NASTY}.png")
    save(layout(0), root / "trainannot" / f"{NASTY}.png")
    rgb = CAMVID.draw(layout(1)).copy()
    rgb[:2] = (250, 1, 2)
    save(rgb, root / "trainannot" / "1.png")
    save(photograph(7), root / "train" / "2.png")
    (root / "train" / "3.png").write_bytes(b"nothing")
    (root / "val" / "6.png").unlink()


def test_the_page_of_a_broken_data_set(camvid, open_page):
    broken(camvid)
    status, found = inspected(camvid)
    page = open_page(camvid.parent / "out" / "inspection.html")
    assert status == 1 and "cannot be trained on until 3 errors" in page.inner_text("#verdict")
    assert page.inner_text("#train") == found["train"]
    assert page.locator(".problem.blocks").count() == 3 and page.locator(".problem:not(.blocks)").count() == 2
    assert "trainannot/6.png" not in page.inner_text("#problems") and "valannot/6.png" in page.inner_text("#problems")
    assert "(250, 1, 2)" in page.inner_text("#unknown") and "64" in page.inner_text("#unknown")
    assert page.inner_text("#same").count("=") == 2
    assert NASTY in page.inner_text("#examples") and page.locator("#examples b b").count() == 0
    assert "3 " not in page.inner_text("#examples figcaption")[:2]
    assert page.locator("#examples img").evaluate_all("images => images.every(image => image.naturalWidth === 32)")


def test_the_page_of_a_sound_data_set(camvid, open_page):
    for path in camvid.glob("*annot/*"):
        save(np.minimum(layout(int(path.stem)), 1 if path.stem == "3" else 9), path)
    inspected(camvid)
    page = open_page(camvid.parent / "out" / "inspection.html", viewport={"width": 700, "height": 900})
    assert page.inner_text("#verdict").startswith("It can be trained on")
    assert page.locator("#problems").count() == page.locator("#unknown").count() == page.locator("#same").count() == 0
    assert page.inner_text("#never") == "Classes that never occur: bicyclist, void."
    assert page.locator("#frequencies tbody tr").count() == 10
    page.select_option("#classes select", "")
    assert page.inner_text("#frequencies tbody tr:first-child th") == "sky"
    page.select_option("#sights select", label="road (7)")
    assert page.locator("#examples figure:visible").count() == 7
    page.select_option("#sights select", "")
    assert page.locator("#examples figure:visible").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_palettes_numbered_differently_in_each_file_are_no_ids(tmp_path, capsys):
    """Some programs number colours in order of appearance, so index 0 is another class in each file."""
    root, colors = tmp_path / "own", ((10, 120, 30), (200, 60, 90), (50, 70, 210))
    for i in range(12):
        save(photograph(i), root / "photographs" / f"{i}.png")
        picture = Image.fromarray(np.uint8(np.indices((24, 32)).sum(0) // 28), "P")
        picture.putpalette([value for n in (i, i + 1) for value in colors[n % 3]])
        save(picture, root / "layouts" / f"{i}.png")
    said = refused(capsys, root)
    assert "1.png and " in said and "index 0 is of colour (200, 60, 90) in one palette and (50, 70, 210) in the other" in said
    assert "so indices are no ids. Say --data.read colors" in said


def own(root: Path, layouts, palette=None) -> Path:
    """A folder of one's own: twelve photographs with the layouts that `layouts(i)` gives, with a palette if one is given."""
    for i in range(12):
        save(photograph(i), root / "photographs" / f"{i}.png")
        image = Image.fromarray(layouts(i))
        if palette is not None:
            image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
        save(image, root / "layouts" / f"{i}.png")
    return root


VOC = [[(i >> c & 1) * 128 + (i >> c + 3 & 1) * 64 + (i >> c + 6 & 1) * 32 for c in range(3)] for i in range(256)]
"""PASCAL VOC's colour map, for ids below 256: bits 0, 3 and 6 are red, 1, 4 and 7 green, 2 and 5 blue."""


def test_palettes_that_could_be_read_in_two_ways(tmp_path, capsys):
    root = own(tmp_path / "data", lambda i: np.array([0, 1, 3, 7], np.uint8)[layout(i, classes=4)], VOC)
    status, found = inspected(root, "--labels", "camvid")
    told = problem(found, "12 palette PNGs could hold ids or colours")
    assert status == 1 and "--data.read ids" in told["remedy"]
    assert "sky" in told["examples"][0] and "void" in told["examples"][0] and not found["unknown"]
    page = (tmp_path / "out" / "inspection.html").read_text()
    assert '"reading":"ids"' in page and '"reading":"colors"' in page
    for reading, classes in (
        ("ids", {CAMVID.classes[i] for i in (0, 1, 3, 7)}),
        ("colors", {"void", "building", "tree", "sky"}),
    ):
        status, found = inspected(root, "--labels", "camvid", "--read", reading)
        occurring = {told["name"] for told in found["classes"] if told["share"]}
        assert status == 0 and experiment_of(found).data.read == reading and occurring == classes


def test_indices_with_changing_colours_are_no_ids(tmp_path):
    rng = np.random.default_rng(0)
    palettes = [rng.integers(0, 100, (12, 3)) + (150, 0, 150) for _ in range(2)]
    root = own(tmp_path / "data", lambda i: layout(i, classes=9), palettes[0])
    image = Image.fromarray(layout(3, classes=9))
    image.putpalette(palettes[1].astype(np.uint8).ravel().tolist())
    save(image, root / "layouts" / "3.png")
    status, found = inspected(root, "--labels", "camvid")
    assert status == 1 and "is of colour" in problem(found, "Indices of palette PNGs are no ids")["examples"][0]
    status, found = inspected(root, "--labels", "camvid", "--read", "ids")
    told = problem(found, "Palettes differ, but indices of palette PNGs are read as ids")
    assert status == 0 and "is of colour" in told["examples"][0]


def test_drafts_say_how_palettes_are_read(tmp_path, capsys):
    palette = np.random.default_rng(5).integers(0, 255, (30, 3))
    root = own(tmp_path / "data", lambda i: layout(i, classes=3), palette)
    status, found = inspected(root)
    fields = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert status == 0 and fields["read"] == "ids" and fields["ids"] == [0, 1, 2]
    (tmp_path / "out" / "labels.json").unlink()
    status, found = inspected(root, "--read", "colors")
    fields = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert status == 0 and fields["read"] == "colors" and len(fields["colors"]) == 3
    own(tmp_path / "doubtful", lambda i: layout(i, classes=3), palette[:3])
    assert "Each entry of its palette occurs" in refused(capsys, tmp_path / "doubtful", "--out", str(tmp_path / "none"))


def test_masks_of_0_and_255_are_asked_about(tmp_path, capsys):
    status, found = inspected(own(tmp_path / "data", lambda i: 255 * layout(i, classes=2)))
    fields = json.loads((tmp_path / "out" / "labels.json").read_text())
    said = " ".join(capsys.readouterr().out.split())
    assert status == 0 and fields["ids"] == [0, 255] and fields["void_ids"] == []
    assert "They hold the ids 0 and 255. Is 255 void?" in said
    assert {told["name"] for told in found["classes"] if told["share"]} == {"class 0", "class 255"}


def test_photographs_that_are_converted_or_turned_are_counted(tmp_path):
    root = own(tmp_path / "data", layout)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(0).transpose(Image.Transpose.ROTATE_90).save(root / "photographs" / "0.png", exif=exif)
    content = (root / "photographs" / "1.png").read_bytes()
    gamma = b"\0\0\0\4gAMA" + (100000).to_bytes(4)
    (root / "photographs" / "1.png").write_bytes(content[:33] + gamma + zlib.crc32(gamma[4:]).to_bytes(4) + content[33:])
    status, found = inspected(root, "--labels", "camvid")
    assert status == 0 and found["splits"][0]["sizes"] == [{"height": 24, "width": 32, "count": 10}]
    assert problem(found, "1 photograph turned")["examples"] == ["photographs/0.png"]
    assert problem(found, "1 photograph in other colour spaces")["examples"] == ["gAMA and cHRM: 1 photograph"]


def test_camvid_as_kaggle_has_it(tmp_path):
    space = LABEL_SPACES["camvid32"]
    for split in ("train", "val"):
        for i in range(2):
            save(photograph(i + (split == "val") * 5), tmp_path / "data" / split / f"{i}.png")
            save(space.draw(layout(i, classes=30)), tmp_path / "data" / f"{split}_labels" / f"{i}_L.png")
    (tmp_path / "data" / "class_dict.csv").write_text("name,r,g,b\nSky,128,128,128\n")
    status, found = inspected(tmp_path / "data")
    assert status == 0 and (found["source"], found["label_space"]) == ("camvid", "camvid32")
    with pytest.raises(UserError, match="read them with --data.labels camvid32"):
        pairs_of(DataConfig("camvid", str(tmp_path / "data")), "train")


@pytest.mark.parametrize("kind, labels", [("labelTrainIds", "cityscapes_trainids"), ("color", "cityscapes")])
def test_cityscapes_without_label_ids(tmp_path, kind, labels):
    for i, split in enumerate(("train", "val")):
        name = f"aachen_00000{i}_000019"
        save(photograph(i), tmp_path / "data" / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png")
        stored = layout(i, classes=19) if kind == "labelTrainIds" else CITYSCAPES.draw(layout(i, classes=19))
        save(stored, tmp_path / "data" / "gtFine" / split / "aachen" / f"{name}_gtFine_{kind}.png")
    status, found = inspected(tmp_path / "data")
    assert status == 0 and (found["source"], found["label_space"]) == ("cityscapes", labels)
    for split, i in (("train", 0), ("val", 1)):
        expected = np.bincount(layout(i, classes=19).ravel(), minlength=20).tolist()
        assert [told["pixels"][split] for told in found["classes"]] == expected
    if kind == "labelTrainIds":
        with pytest.raises(UserError, match="Read them with --data.labels cityscapes_trainids"):
            pairs_of(DataConfig("cityscapes", str(tmp_path / "data")), "train")


def test_ade20ks_full_release_is_recognised(tmp_path, capsys):
    for part in ("training", "validation"):
        folder = tmp_path / "data" / "images" / part / "s" / "street"
        save(photograph(0), folder / "ADE_train_0.jpg")
        save(photograph(0), folder / "ADE_train_0_seg.png")
    assert "this is ADE20K's full release" in refused(capsys, tmp_path / "data")


def test_pictures_of_other_formats_and_links_are_named(tmp_path, capsys):
    root = own(tmp_path / "data", layout)
    save(photograph(20), root / "photographs" / "20.png").with_suffix(".png").rename(root / "photographs" / "20.bmp")
    status, found = inspected(root, "--labels", "camvid")
    assert status == 0 and "photographs is of a format that is not read: 20.bmp" in " ".join(found["notes"])
    save(layout(20), root / "layouts" / "20.png")
    status, found = inspected(root, "--labels", "camvid")
    assert status == 1 and "20.bmp" in problem(found, "1 layout without a photograph")["remedy"]
    (root / "photographs" / "20.png").symlink_to("nowhere.png")
    assert "20.png: the link leads nowhere" in refused(capsys, root, "--labels", "camvid")
    (root / "photographs" / "20.png").unlink()
    (root / "photographs" / "20.png").symlink_to("20.png")
    assert "it leads back to itself. Mend or remove it." in refused(capsys, root, "--labels", "camvid")


def test_pairs_in_subfolders_are_pointed_to(tmp_path, capsys):
    own(tmp_path / "data" / "photographs" / "deeper", layout)
    (tmp_path / "data" / "layouts").mkdir()
    assert "Its subfolders have some, such as" in refused(capsys, tmp_path / "data", "--labels", "camvid")
