"""The command launch.evaluate, from run folders to its files; the scores' definitions are tested in files of their own."""

import dataclasses
import functools
import json
import shutil
import unicodedata
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageFilter

from crn_jax.cascade import CascadeConfig
from crn_jax.checksums import unsealed
from crn_jax.data.examples import Source
from crn_jax.data.labels.published import CAMVID, CITYSCAPES, LABEL_SPACES
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.errors import UserError
from crn_jax.evaluation import DISTANCE_WEIGHTS
from crn_jax.generator import count_parameters
from crn_jax.losses import Perception
from crn_jax.run import describe_data, load_run
from crn_jax.scores import upernet
from crn_jax.scores.frechet import frechet_distance, kernel_distance, precision_recall, published_kernel_distance
from crn_jax.scores.metrics import confusion, pixels_by_class, psnr, segmentation_scores
from crn_jax.synthesize import synthesize
from crn_jax.vgg import TAPS, abstract_vgg19
from crn_jax.vgg_weights import load_vgg19
from launch import evaluate, train
from launch.ablation.verify import unequal_means
from launch.common.output import staged, write_json
from launch.common.terminal import console
from launch.evaluation import open_segmenter as open_segmenter_module
from launch.evaluation import protocols, scoring
from launch.evaluation.comparison import maybe_trained_on, names_of
from launch.evaluation.methods import PHOTOGRAPHS, Batch, compared, files_of, resized
from launch.evaluation.open_segmenter import Opened, open_segmenter
from launch.evaluation.ranking import FEWEST, differences, ranking
from launch.evaluation.score_tables import cell_text
from launch.evaluation.scoring import Tally
from tests.support import reference
from tests.support.commands import copy_described_otherwise
from tests.support.pages import embedded

pytest_plugins = "tests.support.browser"

COUNT = 5
SETTING = ["--examples", str(COUNT)]

ON_CITYSCAPES = protocols.PROTOCOLS["cityscapes"]


def nearest_colour():
    """A segmenter to plug in: the class whose palette colour is nearest."""
    colors = np.array(CITYSCAPES.colors, np.int64)
    return lambda images: np.square(images[..., None, :] - colors).sum(-1).argmin(-1)


def void_everywhere():
    return lambda images: np.full(images.shape[:3], 19)


def of_floats():
    return lambda images: images[..., 0] / 255


def out_of_range():
    return lambda images: np.full(images.shape[:3], 20)


def test_judges_compute_in_float32_on_every_device(monkeypatch):
    """GPUs and TPUs would by default round what a convolution multiplies to 10 or 7 bits."""
    texts, perceived = [], scoring.perceived

    def look(vgg_params, *images):
        traced = perceived.trace(vgg_params, *images)
        texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
        return np.zeros((1, len(TAPS))), np.zeros((1, 512))

    monkeypatch.setattr(scoring, "perceived", look)
    photograph = np.zeros((1, 32, 32, 3), np.uint8)
    batch = Batch([0], ["a"], np.zeros((1, 32, 32), np.uint8), photograph)
    scoring.Judges(abstract_vgg19()).measure("x", batch, photograph, 20)
    convolutions = [line for line in texts[0].splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 14 and all(line.count("HIGHEST") == 2 for line in convolutions)


def test_collections_are_compared_in_float32_whatever_they_are_made_in():
    cascade, half = CascadeConfig(20, (4, 4, 4), num_images=2, dtype="bfloat16"), Perception(dtype="bfloat16")
    batch = {"layout": np.zeros((1, 16, 32), np.uint8), "photograph": np.zeros((1, 16, 32, 3), np.uint8)}
    images = np.zeros((1, 2, 16, 32, 3), np.uint8)
    traced = jax.jit(functools.partial(compared, cascade, half)).trace(abstract_vgg19(), batch, images)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) > 14 and all(line.count("HIGHEST") == 2 for line in convolutions) and "bf16" not in text


@pytest.fixture(scope="module")
def runs(tiny, trained_streets, tmp_path_factory):
    """A run of one image a layout, and one of two; the photographs as files."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained_streets, folder / "one")
    train.main([*tiny, "--epochs", "1", "--cascade.num_images", "2", "--run.folder", str(folder / "two")])
    source = open_source(load_run(folder / "one").experiment.data, "val", (48, 64))
    (folder / "same").mkdir()
    for i in np.linspace(0, 63, COUNT).round().astype(int):
        Image.fromarray(source[i]["photograph"]).save(folder / "same" / f"{source.names[i]}_made.png")
    return folder


def evaluated(*arguments) -> tuple[dict, dict[str, dict], str]:
    """The JSON, its candidates by name, and the screen."""
    with console.capture() as capture:
        evaluate.main([*map(str, arguments), *SETTING])
    out = arguments[arguments.index("--out") + 1] if "--out" in arguments else arguments[0] / "evaluation"
    evaluation = json.loads((out / "evaluation.json").read_text())
    return evaluation, {candidate["name"]: candidate for candidate in evaluation["candidates"]}, capture.get()


@pytest.fixture(scope="module")
def scored(runs, tiny_segmenter):
    _, segmenter = tiny_segmenter
    return evaluated(runs / "one", runs / "two", runs / "same", "--segmenter", segmenter, "--save_images", "--batch_size", 3)


def examples_of(run):
    source = open_source(run.experiment.data, "val", run.experiment.size)
    return [source[i] for i in np.linspace(0, 63, COUNT).round().astype(int)]


def test_a_runs_scores_are_those_of_what_it_synthesizes(runs, scored, random_vgg_file):
    _, candidates, _ = scored
    run, vgg = load_run(runs / "one"), load_vgg19(random_vgg_file)
    per_image = candidates["one"]["per_image"]
    for n, example in enumerate(examples_of(run)[:2]):
        image = np.asarray(synthesize(run.experiment.cascade, run.params, example["layout"][None]))[0, 0]
        assert per_image["psnr"][n] == pytest.approx(psnr(image, example["photograph"]))
        ours, theirs = (reference.vgg19(vgg, x[None].astype(np.float64)) for x in (image, example["photograph"]))
        distance = sum(w * np.abs(ours[tap] - theirs[tap]).mean() for w, tap in zip(DISTANCE_WEIGHTS, TAPS))
        assert per_image["distance"][n] == pytest.approx(distance, rel=1e-4)
    score = candidates["one"]["scores"]["psnr"]
    assert score["value"] == pytest.approx(np.mean(per_image["psnr"])) and score["low"] < score["value"] < score["high"]
    terms = np.array(list(candidates["one"]["terms"].values()))
    assert terms @ DISTANCE_WEIGHTS == pytest.approx(candidates["one"]["scores"]["distance"]["value"])
    resources = candidates["one"]["resources"]
    assert resources["parameters"] == count_parameters(run.params) and resources["peak_bytes"] > 4 * resources["parameters"]


def test_a_run_may_have_been_trained_on_what_is_held_out_now(tmp_path, trained_streets):
    """Every tenth name is held out, so the split moves if files are added."""

    def add(*names: str) -> None:
        for name in names:
            for kind, mode in (("photographs", "RGB"), ("layouts", "L")):
                (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
                Image.new(mode, (64, 48), 7).save(tmp_path / "data" / kind / f"{name}.png")

    add(*map(str, range(100, 112)))
    data = DataConfig("folder", str(tmp_path / "data"), labels="cityscapes")
    trained_on = describe_data(open_source(data, "train", (48, 64)), 1)
    run = tmp_path / "run"
    copy_described_otherwise(trained_streets, run, lambda description: description["data"].update(trained_on))

    def told() -> tuple[str, ...]:
        return maybe_trained_on({"one": run}, data, "val", open_source(data, "val", (48, 64)))

    assert told() == ()
    add("0", "1", "2")
    (sentence,) = told()
    assert sentence.startswith(f"one was trained on 10 photographs, and {data.root} has other ones for training now (13).")


def test_the_photographs_are_the_ceiling_and_equal_themselves(scored):
    evaluation, candidates, screen = scored
    assert list(candidates) == [PHOTOGRAPHS, "one", "two", "two, best of 2", "two, assembled", "same"]
    real, same = candidates[PHOTOGRAPHS]["scores"], candidates["same"]["scores"]
    assert real["distance"]["value"] == 0 and real["ssim"]["value"] == pytest.approx(1) and real["psnr"]["value"] is None
    assert real == same  # PNGs lose nothing
    for key, better in (("ssim", 1), ("distance", -1), ("vgg_frechet", -1), ("accuracy", 1)):
        assert better * real[key]["value"] > better * candidates["one"]["scores"][key]["value"]
    assert "fid" not in real and "no FID" in " ".join(evaluation["notes"]) and "VGG-19" in screen


def test_segmentation_scores_are_those_of_the_layouts(runs, scored):
    evaluation, candidates, _ = scored
    layouts = np.stack([example["layout"] for example in examples_of(load_run(runs / "one"))])
    total = np.array(candidates["one"]["confusion"])
    assert total.shape == (20, 20) and total.sum() == layouts.size
    np.testing.assert_array_equal(total.sum(1), np.bincount(layouts.ravel(), minlength=20))
    for suffix, void in (("", False), ("_void", True)):
        expected = segmentation_scores(total, void)
        assert candidates["one"]["scores"][f"miou{suffix}"]["value"] == pytest.approx(100 * expected.miou)
        assert candidates["one"]["scores"][f"accuracy{suffix}"]["value"] == pytest.approx(100 * expected.accuracy)
    absent = np.setdiff1d(np.arange(19), np.unique(layouts))
    assert len(absent) and all(candidates[PHOTOGRAPHS]["confusion"][c] == [0] * 20 for c in absent)


def test_scores_follow_from_those_of_images_and_from_the_confusion_matrix(scored):
    """So launch.ablate verify finds a score that was changed."""
    for candidate in scored[1].values():
        assert candidate["confusion"] and not list(unequal_means(candidate))
        changed = {key: {**score, "value": score["value"] + 1} for key, score in candidate["scores"].items() if score["value"]}
        found = list(unequal_means({**candidate, "scores": {**candidate["scores"], **changed}}))
        assert len(found) == len(changed.keys() - {"vgg_frechet"}) >= 5


def test_of_a_collection_each_image_stands_for_every_other_layout(runs, scored):
    _, candidates, _ = scored
    run, images = load_run(runs / "two"), runs / "one" / "evaluation" / "images"
    names = [f"street {10**6 + i}" for i in np.linspace(0, 63, COUNT).round().astype(int)]
    for n, (name, example) in enumerate(zip(names, examples_of(run))):
        both = np.asarray(synthesize(run.experiment.cascade, run.params, example["layout"][None]))[0]
        kept = {kind: np.asarray(Image.open(images / kind / f"{name}.png")) for kind in candidates if kind.startswith("two")}
        # In batches, images may round otherwise here and there.
        off = {kind: np.abs(image.astype(int) - both) for kind, image in kept.items()}
        assert off["two"][n % 2].max() <= 1 and off["two, best of 2"].max((1, 2, 3)).min() <= 1
        assert off["two, assembled"].min(0).max() <= 1
    assert candidates["two, best of 2"]["scores"]["distance"]["value"] <= candidates["two"]["scores"]["distance"]["value"]
    assert candidates["two"]["scores"]["between"]["value"] > 0 and "between" not in candidates["one"]["scores"]
    assert len(list((images / PHOTOGRAPHS).iterdir())) == COUNT


def test_the_page_comes_with_it(runs, scored, open_page):
    page = open_page(runs / "one" / "evaluation" / "report.html")
    text = page.inner_text("body")
    assert all(name in text for name in scored[1]) and "best of one" in text and "street 1000000" in text
    assert not list((runs / "one").glob("*.unfinished"))


def test_batches_and_order_change_nothing(runs, scored, tmp_path):
    _, one_by_one, _ = evaluated(runs / "same", runs / "one", "--out", tmp_path)
    for name in (PHOTOGRAPHS, "same", "one"):
        for key, score in one_by_one[name]["scores"].items():
            expected = scored[1][name]["scores"][key]
            assert score == {k: v if v is None else pytest.approx(v, rel=1e-4, abs=1e-6) for k, v in expected.items()}, key


def test_labels_of_another_tool_and_a_plug_in(runs, scored, tmp_path):
    """Images are saved, labels made of them elsewhere, and read again: as if the segmenter had been plugged in."""
    segmenter = nearest_colour()
    for folder in (runs / "one" / "evaluation" / "images").iterdir():
        (tmp_path / "labels" / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            ids = segmenter(np.asarray(Image.open(file))[None].astype(np.int64))[0]
            Image.fromarray(CITYSCAPES.draw(ids)).save(tmp_path / "labels" / folder.name / file.name)
    _, plugged, _ = evaluated(runs / "one", "--segmenter", "tests.test_evaluate:nearest_colour", "--out", tmp_path / "a")
    _, read, _ = evaluated(runs / "one", "--segmenter", tmp_path / "labels", "--out", tmp_path / "b")
    assert read["one"]["confusion"] == plugged["one"]["confusion"] != scored[1]["one"]["confusion"]
    example = examples_of(load_run(runs / "one"))[0]
    ids = segmenter(example["photograph"][None].astype(np.int64))[0]
    accuracy = segmentation_scores(confusion(example["layout"], ids, 20)).accuracy
    assert plugged[PHOTOGRAPHS]["per_image"]["accuracy"][0] == pytest.approx(100 * accuracy)

    _, void, _ = evaluated(runs / "one", "--segmenter", "tests.test_evaluate:void_everywhere", "--out", tmp_path / "c")
    assert void["one"]["scores"]["accuracy"]["value"] == 0 < void["one"]["scores"]["accuracy_void"]["value"]

    missing = next((tmp_path / "labels" / "one").iterdir())
    missing.unlink()
    said = refused(runs / "one", "--segmenter", tmp_path / "labels", "--out", tmp_path / "d")
    assert f"1 of {COUNT} examples" in said and missing.stem in said
    shutil.rmtree(tmp_path / "labels" / PHOTOGRAPHS)
    assert f"no folder '{PHOTOGRAPHS}'" in refused(runs / "one", "--segmenter", tmp_path / "labels", "--out", tmp_path / "d")


def refused(*arguments) -> str:
    """What a call that must fail says; it has written nothing."""
    with console.capture() as capture, pytest.raises(SystemExit) as exit_:
        evaluate.main([*SETTING, *map(str, arguments)])
    assert exit_.value.code == 2
    if "--out" in arguments:
        assert not arguments[arguments.index("--out") + 1].exists()
    return capture.get()


def test_what_does_not_go_together_is_named(runs, tiny_segmenter, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "at least one run folder" in refused(*out)
    assert "name their data and size with --experiment" in refused(runs / "same", *out)
    assert "trains a segmenter" in refused(runs / "same", "--experiment", "segmenter_camvid", *out)
    assert "there is no such folder" in refused(runs / "none", runs / "one", *out)
    assert "neither a folder nor module:factory" in refused(runs / "one", "--segmenter", tmp_path / "none", *out)
    assert "to import" in refused(runs / "one", "--segmenter", "tests.test_evaluate:none", *out)
    assert "ids 20 to 20, but cityscapes has 0 to 19" in refused(
        runs / "one", "--segmenter", "tests.test_evaluate:out_of_range", *out
    )
    assert "trains a cascade; here one that trains a segmenter" in refused(runs / "one", "--segmenter", runs / "one", *out)
    assert "trains a segmenter; here one that trains a cascade" in refused(tiny_segmenter[1], *out)
    assert "none.pth" in refused(runs / "one", "--inception", tmp_path / "none.pth", *out)
    assert "--batch_size" in refused(runs / "one", "--batch_size", 0, *out)
    assert "given twice" in refused(runs / "one", runs / "one", *out)
    assert "--examples" in refused(runs / "one", *out, "--examples", 0)
    assert "streets are made" in refused(runs / "one", "--data", tmp_path, *out)
    assert "Leave --experiment out" in refused(runs / "one", "--experiment", "demo", *out)
    assert "Leave them out" in refused(runs / "one", "--study", tmp_path / "bad.json", *out)
    assert "no files were given" in refused("--study", *out)
    assert "a function of images, not a int" in refused(runs / "one", "--segmenter", "tests.test_evaluate:COUNT", *out)
    assert "must return integers" in refused(runs / "one", "--segmenter", "tests.test_evaluate:of_floats", *out)
    shutil.copytree(runs / "same", tmp_path / "two, assembled")
    assert "would be called 'two, assembled'" in refused(runs / "two", tmp_path / "two, assembled", *out)
    copy_described_otherwise(
        runs / "one", tmp_path / "renamed", lambda description: description["label_space"]["classes"].__setitem__(0, "water")
    )
    assert "they were trained on different classes" in refused(runs / "one", tmp_path / "renamed", *out)

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text((runs / "one" / "run.json").read_text())
    assert "Steps saved: none yet" in refused(tmp_path / "empty", *out)
    (tmp_path / "few").mkdir()
    assert f"{COUNT} of {COUNT} examples" in refused(tmp_path / "few", runs / "one", *out)
    shutil.copytree(runs / "same", tmp_path / "large")
    last = sorted((tmp_path / "large").iterdir())[-1]
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(last)
    assert f"{last} is 96x128, but street 1000000_made.png beside it is 48x64" in refused(
        tmp_path / "large", runs / "one", *out
    )
    for file in (tmp_path / "large").iterdir():
        Image.fromarray(np.zeros((96, 200, 3), np.uint8)).save(file)
    assert "is 96x200, but the examples are 48x64" in refused(tmp_path / "large", runs / "one", *out)

    other = tmp_path / "wide"
    copy_described_otherwise(  # the parameters do not depend on it
        runs / "one", other, lambda description: description["experiment"]["cascade"].update(base=[6, 16])
    )
    assert "do not compare: size is (48, 64) there and (48, 128) here" in refused(runs / "one", other, *out)
    assert "the segmenter is for 48x64, the images are 48x128" in refused(other, "--segmenter", tiny_segmenter[1], *out)


@pytest.fixture(scope="module")
def of_other_programs(runs, tmp_path_factory):
    """The photographs, blurred and twice as large, as SPADE, OASIS and pix2pixHD lay their results out."""
    folder = tmp_path_factory.mktemp("programs")
    for path in (runs / "same").iterdir():
        name = path.stem.removesuffix("_made")
        with Image.open(path) as picture:
            large = picture.resize((128, 96), Image.Resampling.BICUBIC)
        layout = Image.new("RGB", large.size)
        spade, oasis, hd = (folder / name for name in ("spade/images", "oasis", "hd/test_latest/images"))
        for where, image in [
            (spade / "input_label" / f"{name}_leftImg8bit.png", layout),
            (spade / "synthesized_image" / f"{name}_leftImg8bit.png", large),
            (oasis / "label" / f"{name}_leftImg8bit.png", layout),
            (oasis / "image" / f"{name}_leftImg8bit.png", large),
            (folder / "cut" / "images" / "real_A" / f"{name}.png", layout),
            (folder / "cut" / "images" / "fake_B" / f"{name}.png", large),
            (hd / f"{name}_gtFine_labelIds_input_label.png", layout),  # a JPEG there, which loses something
            (hd / f"{name}_gtFine_labelIds_synthesized_image.png", large),
        ]:
            where.parent.mkdir(parents=True, exist_ok=True)
            image.save(where)
    return folder


def test_results_of_other_programs_are_found_by_name_and_resized(runs, of_other_programs, tmp_path):
    given = [of_other_programs / name for name in ("spade", "oasis", "hd/test_latest", "cut")]
    evaluation, candidates, _ = evaluated(*given, runs / "one", "--out", tmp_path / "out")
    scores = [candidates[name]["scores"] for name in ("spade", "oasis", "test_latest", "cut")]
    assert scores[0] == scores[1] == scores[2] == scores[3] and scores[0]["psnr"]["value"] > 30
    assert any("spade: its images are 96x128. They are resized to 48x64" in note for note in evaluation["notes"])
    assert candidates["oasis"]["about"] == f"{of_other_programs / 'oasis' / 'image'}, 96x128"


def bright_road():
    """A segmenter of any size: the brighter half is road, the rest is sky."""
    return lambda images: np.where(images.mean(-1) > 128, 0, 10)


@pytest.fixture(scope="module")
def by_protocols(runs, of_other_programs, tmp_path_factory):
    """Three protocols at small sizes, on a run and on images of another program."""
    out = tmp_path_factory.mktemp("protocols") / "out"
    sizes = {"spade": (24, 32), "oasis": (24, 32), "pix2pixhd": (96, 128), "paper": None}
    small = {name: ON_CITYSCAPES[name]._replace(size=size) for name, size in sizes.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, "cityscapes", small)
        given = [runs / "one", of_other_programs / "oasis", "--protocol", *small]
        return evaluated(*given, "--segmenter", "tests.test_evaluate:bright_road", "--out", out)


def test_each_protocol_sees_the_images_at_its_size(runs, by_protocols, of_other_programs):
    evaluation, candidates, screen = by_protocols
    data = load_run(runs / "one").experiment.data
    indices = np.linspace(0, 63, COUNT).round().astype(int)
    files = sorted((of_other_programs / "oasis" / "image").iterdir())
    for size, names in [((24, 32), ("spade", "oasis")), ((96, 128), ("pix2pixhd",)), ((48, 64), ("paper",))]:
        source, total = open_source(data, "val", size), 0
        for index, file in zip(indices, files):
            with Image.open(file) as picture:
                image = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
            total = total + confusion(source[index]["layout"], bright_road()(image), 20)
        for name in names:
            found = candidates["oasis"]["protocols"][name]
            assert found["miou"]["value"] == pytest.approx(100 * segmentation_scores(total).miou)
            counted = segmentation_scores(total, name in ("spade", "pix2pixhd")).accuracy
            assert found["accuracy"]["value"] == pytest.approx(100 * counted)
            assert found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"]
    paper = candidates["one"]["protocols"]["paper"]
    assert paper["miou"] == candidates["one"]["scores"]["miou"]
    assert [p["size"] for p in evaluation["protocols"]] == [[24, 32], [24, 32], [96, 128], [48, 64]]
    assert "The same images by each protocol" in screen and "left out" in screen
    assert any("published by spade (DRN-D-105), oasis (DRN-D-105), pix2pixhd (PSPNet)" in note for note in evaluation["notes"])


def test_protocols_need_cityscapes_and_a_judge_of_any_size(runs, tiny_segmenter, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "needs a judge" in refused(runs / "one", "--protocol", "spade", *out)
    fixed = refused(runs / "one", "--protocol", "paper", "spade", "--segmenter", tiny_segmenter[1], *out)
    assert "judges images of 256x512, but" in fixed and "for 48x64 only" in fixed
    with pytest.raises(UserError, match="oasis is for images of the shape of 256x512, but the data's size is 48x64"):
        chosen = protocols.protocols_on(CITYSCAPES, ["paper", "oasis"])
        protocols.open_conventions(chosen, DataConfig("streets"), "val", Source(CITYSCAPES, ["a"], (48, 64)), [0])
    with pytest.raises(
        UserError, match="for the classes of cityscapes, ade20k, cocostuff, but the layouts of camvid have others"
    ):
        protocols.protocols_on(CAMVID, ["paper"])
    spaces = [LABEL_SPACES[name] for name in ("cityscapes_trainids", "gta5", "cocostuff")]
    assert [protocols.data_of(space) for space in spaces] == ["cityscapes", "cityscapes", "cocostuff"]
    with pytest.raises(UserError, match="--protocol paper is for other data than ade20k. Here there are: spade, oasis."):
        protocols.protocols_on(LABEL_SPACES["ade20k"], ["spade", "paper"])
    with pytest.raises(
        UserError, match="DRN-D-105 those of cityscapes, UPerNet101 those of ade20k, .* but the layouts have others"
    ):
        open_segmenter(__file__, CAMVID, (48, 64), [], [])  # any file is taken for weights


def test_polegroup_is_void_by_train_ids(tmp_path):
    """The paper's program trains it as pole. Those who measured with DRN-D-105 read train ids."""
    for kind, values in (("leftImg8bit", 0), ("gtFine", 18)):
        (tmp_path / kind / "val" / "x").mkdir(parents=True)
        name = f"x_000000_000000_{'leftImg8bit' if kind == 'leftImg8bit' else 'gtFine_labelIds'}.png"
        Image.new("RGB" if kind == "leftImg8bit" else "L", (64, 32), values).save(tmp_path / kind / "val" / "x" / name)
    data = DataConfig("cityscapes", str(tmp_path))
    source = open_source(data, "val", (32, 64))
    chosen = protocols.protocols_on(CITYSCAPES, ["oasis", "paper"])
    conventions = protocols.open_conventions(chosen, data, "val", source, [0])
    seen = protocols.Seen(np.full((1, 256, 512), 5), None)
    own = protocols.Seen(np.full((1, 32, 64), 5), None)
    images, batch = np.zeros((1, 32, 64, 3), np.uint8), Batch([0], source.names, source[0]["layout"][None], None)
    shown = []

    def see(resized):
        shown.append(resized.shape)
        return seen

    measured = conventions.measure("x", batch, images, {(32, 64): own}, see)
    strict, plain = (measured[conventions.view(protocol).key][0] for protocol in conventions.protocols)
    confused = np.zeros((2, 20, 20), np.int64)
    confused[0, 19, 5], confused[1, 5, 5] = 256 * 512, 32 * 64
    np.testing.assert_array_equal([strict, plain], pixels_by_class(confused))
    assert shown == [(1, 256, 512, 3)]  # what was seen at the data's size is not shown again


def test_a_label_file_named_cityscapes_keeps_its_own_ids(tmp_path):
    """Train ids are as many as Cityscapes' classes, but other numbers."""
    own = dataclasses.replace(CITYSCAPES, ids={n: n for n in range(19)} | {255: 19})
    for kind, values in (("photographs", 0), ("layouts", 18)):
        (tmp_path / "val" / kind).mkdir(parents=True)
        Image.new("RGB" if kind == "photographs" else "L", (64, 32), values).save(tmp_path / "val" / kind / "a.png")
    data = DataConfig("folder", str(tmp_path))
    source = open_source(data, "val", (32, 64), label_space=own)
    conventions = protocols.open_conventions(protocols.protocols_on(own, ["oasis"]), data, "val", source, [0])
    assert [source.label_space for source in conventions.sources.values()] == [source.label_space]


def test_an_fid_of_a_protocol_is_of_the_images_at_its_size():
    """Features are made up here: the mean colours. Inception-V3 itself is tested in tests/test_inception.py."""
    small = [ON_CITYSCAPES[name]._replace(size=(16, 32)) for name in ("oasis", "pix2pixhd")]
    rng = np.random.default_rng(0)
    photographs, images = (rng.integers(0, 256, (7, 8, 16, 3)).astype(np.uint8) for _ in range(2))
    layouts = rng.integers(0, 20, (7, 16, 32)).astype(np.uint8)

    class Enlarged(Source):
        def __getitem__(self, index):
            return {"layout": layouts[index], "photograph": resized(photographs[index], (16, 32))}

    names = list("abcdefg")
    sources = {protocols.View((16, 32), True): Enlarged(CITYSCAPES, names, (16, 32))}
    conventions = protocols.Conventions(tuple(small), (8, 16), sources, range(7))

    def see(shown):
        return protocols.Seen(np.zeros(shown.shape[:3], np.int64), shown.reshape(len(shown), -1, 3)[:, ::7].mean(1))

    batch = Batch(range(7), names, layouts, photographs)
    real, made = (
        conventions.measure(name, batch, given, {}, see) for name, given in ((PHOTOGRAPHS, photographs), ("x", images))
    )
    by_hand = [see(np.stack([resized(x, (16, 32)) for x in given])).features for given in (images, photographs)]
    found = scoring.by_protocol(conventions, made, real)
    assert found["oasis"]["fid"]["value"] == pytest.approx(frechet_distance(*by_hand)) and "fid" not in found["pix2pixhd"]
    assert scoring.by_protocol(conventions, real, real)["oasis"]["fid"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_confusion_of_several_processes_adds_up(monkeypatch):
    """Process 0 has the examples 0 and 2, process 1 has example 1."""
    matrices, given = np.random.default_rng(0).integers(0, 9, (3, 4, 4)), []

    def tally(rows: np.ndarray) -> Tally:
        tally = Tally()
        tally.add({"confusion": np.concatenate([rows, rows[:1]])}, len(rows))  # the last one pads the batch
        return tally

    monkeypatch.setattr(evaluate, "gather", lambda own: given.append(own) or [own])
    evaluate.together_from({"x": tally(matrices[1:2])}, 1)
    monkeypatch.setattr(evaluate, "gather", lambda own: [own, given[0]])
    found = evaluate.together_from({"x": tally(matrices[::2])}, 3)["x"]
    np.testing.assert_array_equal(found.confusion, matrices.sum(0))
    np.testing.assert_array_equal(found.measurements()["pixels"], pixels_by_class(matrices))


def test_scores_of_inceptions_features_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    arrays, real = ({key: rng.normal(size=(9, 4)) for key in ("features", "clean_features")} for _ in range(2))
    found = {key: score["value"] for key, score in scoring.inception_scores(arrays, real).items()}
    pair = arrays["features"], real["features"]
    precision, recall = precision_recall(*pair, 3)
    assert found == {
        "kid": 1000 * kernel_distance(*pair)[0],
        "kid_published": 1000 * published_kernel_distance(*pair),
        "fid_clean": frechet_distance(arrays["clean_features"], real["clean_features"]),
        "precision": 100 * precision,
        "recall": 100 * recall,
    }
    few = ({key: rows[:3] for key, rows in one.items()} for one in (arrays, real))
    assert set(scoring.inception_scores(*few)) == {"kid", "kid_published", "fid_clean"}
    assert set(found) <= {score.key for score in scoring.SCORES}


def test_a_file_of_weights_is_taken_for_drn(monkeypatch, tmp_path):
    monkeypatch.setattr(open_segmenter_module, "load_drn", lambda path: {"from": np.zeros(1)})
    monkeypatch.setattr(open_segmenter_module, "drn_segment", lambda params, images: images[..., 0] // 20)
    (tmp_path / "drn.pth").touch()
    opened = open_segmenter(str(tmp_path / "drn.pth"), CITYSCAPES, (48, 64), [], [])
    assert opened.any_size and opened.described == f"DRN-D-105, {tmp_path / 'drn.pth'}" and opened.network == "DRN-D-105"
    for size in (48, 64), (31, 17):
        images = np.full((1, *size, 3), 100, np.uint8)
        np.testing.assert_array_equal(opened.segmenter("x", ["a"], images), np.full((1, *size), 5))


@pytest.mark.parametrize("given", ["", "encoder_epoch_50.pth", "decoder_epoch_50.pth"])
def test_a_folder_or_one_of_two_files_is_taken_for_upernet(monkeypatch, tmp_path, given):
    """Its sizes are averaged, and its answers have the size of the images."""
    asked, read = [], upernet.UPerNet({}, upernet.OF_2019._replace(shorter_sides=(32, 64)))
    monkeypatch.setattr(open_segmenter_module, "load_upernet", lambda *paths: (asked.extend(paths), read)[1])

    def probabilities(params, images, prepared):
        assert prepared.shape[1:3] in {(32, 64), (64, 96)}
        return np.eye(150, dtype=np.float32)[np.where(images[..., 0] > 99, 7, 149)] * prepared.shape[1]

    monkeypatch.setattr(open_segmenter_module, "probabilities", probabilities)
    for part in ("encoder", "decoder"):
        (tmp_path / f"{part}_epoch_50.pth").touch()
    opened = open_segmenter(str(tmp_path / given), LABEL_SPACES["ade20k"], (48, 64), [], [])
    assert asked == [tmp_path / "encoder_epoch_50.pth", tmp_path / "decoder_epoch_50.pth"] and opened.network == "UPerNet101"
    assert "prepared as for ade20k-resnet101-upernet" in opened.described
    images = np.random.default_rng(0).integers(0, 256, (2, 31, 46, 3)).astype(np.uint8)
    found = opened.segmenter("x", ["a", "b"], images)
    np.testing.assert_array_equal(found, np.where(images[..., 0] > 99, 7, 149))


def test_weights_that_are_no_judges_of_the_data_are_told_apart(tmp_path):
    ade20k, (one, two) = LABEL_SPACES["ade20k"], (tmp_path / "encoder_epoch_40.pth", tmp_path / "encoder_epoch_50.pth")
    one.touch()
    two.touch()
    with pytest.raises(UserError, match=r"several files: encoder_epoch_40\.pth, encoder_epoch_50\.pth\. Give one of them"):
        open_segmenter(str(tmp_path), ade20k, (48, 64), [], [])
    two.rename(tmp_path / "decoder_epoch_40.pth").with_name(one.name).unlink()
    with pytest.raises(UserError, match=r"encoder_epoch_50\.pth: there is no such file"):
        open_segmenter(str(tmp_path), ade20k, (48, 64), [], [])  # the decoder alone is no folder of labels
    (tmp_path / "drn.pth").touch()
    with pytest.raises(UserError, match="has the files of UPerNet101, but the judge of cocostuff is DeepLabV2-ResNet101"):
        open_segmenter(str(tmp_path), LABEL_SPACES["cocostuff"], (48, 64), [], [])
    with pytest.raises(UserError, match="UPerNet101, has two files, .* Give one of them, or their folder"):
        open_segmenter(str(tmp_path / "drn.pth"), ade20k, (48, 64), [], [])


def test_spade_on_cocostuff_is_judged_on_squares(tmp_path):
    """Photographs of every shape are stretched. The mean is over the classes of the layouts, and void is left out."""
    rng, shapes = np.random.default_rng(0), [(30, 50), (60, 20), (40, 40)]
    for number, shape in enumerate(shapes):
        for part, picture in [
            ("img", Image.fromarray(rng.integers(0, 256, (*shape, 3)).astype(np.uint8))),
            ("label", Image.fromarray(rng.choice([3, 17, 181, 255], shape).astype(np.uint8))),
        ]:
            (tmp_path / f"val_{part}").mkdir(exist_ok=True)
            picture.save(tmp_path / f"val_{part}" / f"{number:012}.png")
    data = DataConfig("cocostuff", str(tmp_path), fit="stretch")
    source = open_source(data, "val", (256, 256))
    conventions = protocols.open_conventions(
        protocols.protocols_on(source.label_space, ["spade"]), data, "val", source, range(3)
    )
    examples = [source[i] for i in range(3)]
    layouts = np.stack([example["layout"] for example in examples])
    assert layouts.shape == (3, 256, 256) and set(np.unique(layouts)) == {3, 17, 181, 182}
    batch = Batch(range(3), source.names, layouts, np.stack([example["photograph"] for example in examples]))
    answers = np.where(layouts == 182, 90, layouts)  # right, but for void, where it sees a class that never occurs
    answers[:, :64] = np.where(layouts[:, :64] == 3, 91, answers[:, :64])  # a class that no layout has
    known = {(256, 256): protocols.Seen(answers, None)}
    measured = conventions.measure("x", batch, batch.photograph, known, lambda images: None)
    (found,) = scoring.by_protocol(conventions, measured, measured).values()
    share = (layouts[:, :64] == 3).sum() / (layouts == 3).sum()
    assert found["miou"]["value"] == pytest.approx(100 * (3 - share) / 3)
    assert found["accuracy"]["value"] == pytest.approx(100 * (1 - (layouts[:, :64] == 3).sum() / (layouts != 182).sum()))


def test_a_path_that_names_a_network_is_none(tmp_path):
    """Labels that some DRN-D-105 has made may have been made in any way."""
    (tmp_path / "DRN-D-105" / "x").mkdir(parents=True)
    labels = open_segmenter(str(tmp_path / "DRN-D-105"), CITYSCAPES, (48, 64), ["x"], [])
    plug_in = open_segmenter("tests.test_evaluate:bright_road", CITYSCAPES, (48, 64), [], [])
    chosen = [ON_CITYSCAPES[name] for name in ("spade", "pix2pixhd", "paper")]
    conventions = protocols.Conventions(tuple(chosen), (48, 64), {}, [])
    for opened in (labels, plug_in):
        (note,) = evaluate.protocol_notes(conventions, opened, "crop")
        assert "spade (DRN-D-105), pix2pixhd (PSPNet)" in note
    (note,) = evaluate.protocol_notes(conventions, labels._replace(network="DRN-D-105"), "crop")
    assert "spade" not in note and "pix2pixhd (PSPNet)" in note


def test_only_photographs_that_are_cut_or_padded_cannot_stand_beside_stretched_ones():
    """Files that `resize` takes are squares already, so that SPADE would see the same."""
    spade = protocols.PROTOCOLS["ade20k"]["spade"]
    conventions, judge = protocols.Conventions((spade,), (256, 256), {}, []), Opened(lambda *_: None, "", True, spade.judge)
    for fit in ("stretch", "resize"):
        assert evaluate.protocol_notes(conventions, judge, fit) == []
    for fit in ("crop", "random_crop", "pad"):
        (note,) = evaluate.protocol_notes(conventions, judge, fit)
        assert f"The fit is {fit} here, so these figures cannot stand beside theirs." in note


def test_a_ranking_says_which_pairs_are_decided(by_protocols, runs, scored):
    evaluation, candidates, screen = by_protocols
    pairs = {pair["score"]: pair for pair in evaluation["differences"]}
    assert set(pairs) == {"miou", "accuracy", "distance", "psnr", "ssim"}
    first, second = (np.array(candidates[name]["per_image"]["psnr"]) for name in ("one", "oasis"))
    assert pairs["psnr"]["value"] == pytest.approx((first - second).mean())
    assert pairs["psnr"]["better"] == np.mean(first > second) == 0
    # All five images agree, but so do those of equal methods in one of 16 cases.
    assert pairs["psnr"]["high"] < 0 and not any(pair["decided"] for pair in evaluation["differences"])
    assert f"{COUNT} images cannot decide a pair: 6 is the least." in " ".join(screen.split())
    assert pairs["miou"]["value"] == pytest.approx(
        candidates["one"]["scores"]["miou"]["value"] - candidates["oasis"]["scores"]["miou"]["value"]
    )
    psnr = evaluation | {"names": list("abcdef"), "differences": [pairs["psnr"]]}
    assert list(ranking(psnr)) == ["By PSNR: oasis, one (not decided: one and oasis)."]
    clear = psnr | {"differences": [pairs["psnr"] | {"decided": True}]}
    assert list(ranking(clear)) == ["By PSNR: oasis, one (all pairs are decided)."]
    for count, chance in ((6, "0.3"), (20, "1"), (216, "10.8"), (2160, "108")):
        *_, last = ranking(psnr | {"differences": [pairs["psnr"]] * count})
        assert last == f"About {chance} of {count} differences would look decided by chance, at 95%."
    accuracies = [np.array(candidates[name]["per_image"]["accuracy"]) for name in ("one", "oasis")]
    assert pairs["accuracy"]["better"] == np.mean(accuracies[0] > accuracies[1]) + np.mean(np.equal(*accuracies)) / 2
    assert pairs["miou"]["better"] is None
    rivals = {name for pair in scored[0]["differences"] for name in (pair["first"], pair["second"])}
    assert rivals == {"one", "two", "same"}  # neither the photographs nor what was chosen by them
    endless = next(p for p in scored[0]["differences"] if (p["second"], p["score"]) == ("same", "psnr"))
    assert endless["value"] is None and endless["better"] == 0


def test_an_accuracy_of_images_leaves_out_layouts_of_void():
    """Such a layout has no pixel that could be right."""
    rng, tallies, accuracies = np.random.default_rng(0), {}, {}
    for name in "ab":
        tallies[name], counts = Tally(), rng.integers(1, 50, (7, 3, 3))
        counts[0, :2] = 0
        tallies[name].add({"confusion": counts, "terms": np.zeros((7, 6))}, 7)
        accuracies[name] = np.einsum("nii->n", counts[1:, :2, :2]) / counts[1:, :2].sum((1, 2))
    (pair,) = differences(tallies, [{"name": name, "kind": "run", "scores": {"accuracy": {}}} for name in "ab"])
    assert pair["better"] == pytest.approx(np.mean(accuracies["a"] > accuracies["b"]))


def test_segmenters_that_see_void_everywhere_are_noticed():
    for share, noticed in ((0.05, False), (0.5, True)):
        counts = np.array([[100 - 100 * share, 0, 100 * share], [0, 0, 0], [7, 0, 70]])
        notes = evaluate.void_notes(Tally(confusion=counts), "answers")
        assert bool(notes) == noticed and all("answers sees void in 50%" in note for note in notes)


def test_six_images_that_agree_decide_a_pair():
    for count in (FEWEST - 1, FEWEST):
        distances = {"a": np.arange(1.0, count + 1), "b": np.arange(1.5, count + 1)}
        terms = {name: values[:, None] / DISTANCE_WEIGHTS * np.eye(6)[0] for name, values in distances.items()}
        tallies = {name: Tally([{"terms": rows}]) for name, rows in terms.items()}
        results = [
            {"name": n, "kind": "run", "scores": {"distance": {}}, "per_image": {"distance": distances[n]}} for n in "ab"
        ]
        (pair,) = differences(tallies, results)
        assert pair["value"] == pytest.approx(-0.5) and pair["better"] == 1 and pair["decided"] == (count == FEWEST)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    assert list(names_of([tmp_path / "a" / "run", tmp_path / "b" / "run"])) == ["a/run", "b/run"]
    assert list(names_of([tmp_path / "a" / PHOTOGRAPHS])) == [f"a/{PHOTOGRAPHS}"]
    assert list(names_of([Path("/images"), tmp_path / "images"])) == ["images", f"{tmp_path.name}/images"]


def test_each_example_has_its_own_file(tmp_path):
    for name in ("a", "a_b", "c"):
        (tmp_path / f"{name}_fake.png").touch()
    (tmp_path / "a_b.png").touch()
    expected = {"a": "a_fake.png", "a_b": "a_b.png", "c": "c_fake.png"}
    assert {name: path.name for name, path in files_of(tmp_path, list(expected), (".png",)).items()} == expected
    (tmp_path / "a_fake.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 examples, such as a \(no file\)"):
        files_of(tmp_path, ["a", "a_b"], (".png",))  # those of a_b are not a's
    with pytest.raises(UserError, match=r"1 of 1 example, such as a \(no file\)"):
        files_of(tmp_path, ["a"], (".png",), others=["a", "a_b", "c"])  # nor if a_b itself is not asked for
    decomposed = unicodedata.normalize("NFD", "é")
    (tmp_path / f"{decomposed}_fake.png").touch()
    assert files_of(tmp_path, [decomposed, "a_b"], (".png",))[decomposed].name == f"{decomposed}_fake.png"
    (tmp_path / "c_real.png").touch()
    with pytest.raises(UserError, match=r"c \(c_fake.png, c_real.png\)"):
        files_of(tmp_path, ["c"], (".png",))
    (tmp_path / "c.png").touch()
    assert files_of(tmp_path, ["c"], (".png",))["c"].name == "c.png"
    with pytest.raises(UserError, match="no file"):
        files_of(tmp_path, ["c"], (".jpg",))


def test_results_are_written_as_a_whole_or_not_at_all(tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "old.png").touch()
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out") as folder:
        (folder / "images").mkdir()
        raise ZeroDivisionError
    assert (tmp_path / "out" / "images" / "old.png").exists() and len(list(tmp_path.iterdir())) == 1
    with staged(tmp_path / "out") as folder:
        (folder / "images").mkdir()
        write_json(folder / "a.json", {"a": np.inf, "b": [np.nan, 1.0]})
    assert unsealed(json.loads((tmp_path / "out" / "a.json").read_text())) == {"a": None, "b": [None, 1.0]}
    assert not list((tmp_path / "out" / "images").iterdir()) and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), staged(tmp_path / "file" / "out"):
        pass


def test_images_of_others_are_not_replaced(tmp_path):
    """SPADE and pix2pixHD keep what they synthesize in a folder `images`, too."""
    (tmp_path / "images").mkdir()
    asked = evaluate.Arguments((tmp_path,), save_images=True, out=tmp_path)
    with pytest.raises(UserError, match="launch.evaluate did not make it: --save_images would replace it"):
        evaluate.refuse_deleting(asked)
    evaluate.refuse_deleting(dataclasses.replace(asked, save_images=False))
    write_json(tmp_path / "evaluation.json", {"saved_images": False})  # the images were there before this evaluation
    with pytest.raises(UserError, match="launch.evaluate did not make it"):
        evaluate.refuse_deleting(asked)
    write_json(tmp_path / "evaluation.json", {"saved_images": True})
    evaluate.refuse_deleting(asked)
    assert evaluate.earlier_images(asked) == []
    (note,) = evaluate.earlier_images(dataclasses.replace(asked, save_images=False))
    assert "are those of an earlier evaluation" in note
    (tmp_path / "images" / "theirs").mkdir()
    with pytest.raises(UserError, match="theirs is to be scored, and --save_images would replace"):
        evaluate.refuse_deleting(dataclasses.replace(asked, methods=(tmp_path / "images" / "theirs",)))


def test_numbers_of_tables():
    cells = [{"value": np.nan, "low": np.nan, "high": np.nan}, {"value": 1e-12}, {"value": 12.3456, "std": 0.512}]
    assert [cell_text(cell, "").markup for cell in cells] == ["nan[dim]\nnan to nan[/dim]", "0", "12.35 ± 0.51"]
    large = [{"value": 123456.7, "std": 456.7}, {"value": 999.96}, {"value": -4255.4, "low": -5000, "high": np.inf}]
    found = [cell_text(cell, "").markup for cell in large]
    assert found == ["123,457 ± 457", "1000", "-4,255[dim]\n-5,000 to inf[/dim]"]


def test_a_study_is_made_and_its_results_are_read(runs, tmp_path):
    with console.capture() as capture:
        evaluate.main([str(runs / "one"), str(runs / "two"), "--study_page", str(tmp_path / "study.html"), *SETTING])
    assert "--study RESULT.json" in capture.get()
    page = (tmp_path / "study.html").read_text()
    assert "untrained cascade" in page and page.count("data:image/") > 10
    few = tmp_path / "few.html"
    given = [runs / "one", runs / "two", "--study_page", few]
    evaluate.main([*map(str, given), "--study_pairs", "3", "--study_seed", "1", *SETTING])
    studies = [embedded(path)["pairs"] for path in (tmp_path / "study.html", few)]
    many, three = ([pair["example"] for pair in pairs if not pair["sentinel"]] for pairs in studies)
    assert len(many) == 100 and len(three) == 3 and many[:3] != three
    assert "got 0 and 0" in refused(*given, "--study_pairs", 0)
    assert "got 100 and -1" in refused(*given, "--study_seed", -1)
    assert "there is no folder" in refused(runs / "one", runs / "two", "--study_page", tmp_path / "none" / "study.html")
    (tmp_path / "bad.json").write_text("{}")
    assert "bad.json" in refused("--study", tmp_path / "bad.json", "--out", tmp_path / "out")


def test_on_camvid_every_score_falls_with_the_image(published_vgg19, shared_data, keras_file, tmp_path):
    """The photograph, blurred a little, blurred a lot, and noise, by the real VGG-19."""
    source = open_source(DataConfig("camvid", str(shared_data / "camvid")), "val", (96, 128))
    folders = [tmp_path / name for name in ("little", "much", "noise")]
    for folder in folders:
        folder.mkdir()
    for i in np.linspace(0, len(source) - 1, COUNT).round().astype(int):
        photograph = Image.fromarray(source[i]["photograph"])
        noise = np.random.default_rng(i).integers(0, 256, (96, 128, 3)).astype(np.uint8)
        made = photograph.filter(ImageFilter.GaussianBlur(1)), photograph.filter(ImageFilter.GaussianBlur(4)), noise
        for folder, image in zip(folders, made):
            Image.fromarray(np.asarray(image)).save(folder / f"{source.names[i]}.png")
    setting = ["--experiment", "camvid_96x128", "--data", shared_data / "camvid", "--vgg", keras_file]
    evaluation, candidates, _ = evaluated(*folders, *setting, "--out", tmp_path / "out")
    for score in evaluation["scores"]:
        values = [candidate["scores"][score["key"]]["value"] for candidate in candidates.values()]
        values[0] = np.inf if score["key"] == "psnr" else values[0]
        assert values == sorted(values, reverse=score["better"] == "higher"), score
    assert {score["key"] for score in evaluation["scores"]} == {"vgg_frechet", "distance", "psnr", "ssim"}
