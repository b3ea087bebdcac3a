"""Layouts of photographs of any size: as the segmenter sees each, as files that are read back, and as a command."""

import json
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from crn_jax.data.labels.label_file import read_label_file
from crn_jax.data.labels.published import CITYSCAPES, LABEL_SPACES
from crn_jax.data.photographs import open_photograph, upright
from crn_jax.data.streets import render_street
from crn_jax.experiment import SegmenterExperiment
from crn_jax.run import load_run
from crn_jax.scores.metrics import confusion, segmentation_scores
from crn_jax.scores.segmenter import segment as segment_at_own_size
from launch import segment
from launch.common.output import made_by
from launch.common.terminal import console
from launch.segmentation.layout_files import layout_image, write_layout
from launch.segmentation.windows import covering, fading, most_probable, places, segment_any_size
from launch.synthesis.layouts import find_layouts
from tests.support.commands import refused

WINDOW = (48, 64)
SHAPES = [(48, 64), (96, 128), (49, 64), (20, 31), (300, 64), (48, 500), (61, 62), (1, 900)]


@pytest.mark.quick
@pytest.mark.parametrize("shape", SHAPES)
def test_windows_cover_a_picture_of_its_own_shape(shape):
    size = covering(shape, WINDOW)
    assert size[0] >= WINDOW[0] and size[1] >= WINDOW[1] and (size[0] == WINDOW[0] or size[1] == WINDOW[1])
    scale = max(side / whole for side, whole in zip(WINDOW, shape))
    assert all(abs(side - scale * whole) <= max(0.51, 0.03 * side) for side, whole in zip(size, shape))
    seen = np.zeros(size, int)
    corners = places(size, WINDOW)
    for top, left in corners:
        assert 0 <= top <= size[0] - WINDOW[0] and 0 <= left <= size[1] - WINDOW[1]
        seen[top : top + WINDOW[0], left : left + WINDOW[1]] += 1
    assert seen.min() == 1 and seen.max() <= 3
    for (top, left), (lower, righter) in zip(corners, corners[1:]):
        assert lower - top <= 36 and righter - left <= 48  # a quarter is seen twice
    assert fading(WINDOW).min() > 0 and fading(WINDOW).shape == WINDOW


def test_a_picture_that_fits_is_segmented_as_it_is():
    scores = np.random.default_rng(0).random((*WINDOW, 5), np.float32)
    photograph = Image.fromarray(np.zeros((*WINDOW, 3), np.uint8))
    layout = segment_any_size(photograph, WINDOW, lambda window: scores)
    np.testing.assert_array_equal(layout, scores.argmax(-1))
    assert layout.dtype == np.uint8


def test_each_pixel_gets_the_class_of_its_own_place():
    """In a picture of four colours, whose classes a function of colours tells, what is enlarged stays in its place."""
    colors = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
    layout = np.repeat(np.repeat(np.arange(12).reshape(3, 4) * 7 % 4, 60, 0), 100, 1)

    def probabilities(window: np.ndarray) -> np.ndarray:
        distances = np.abs(window[..., None, :].astype(int) - colors).sum(-1)
        return (distances == distances.min(-1, keepdims=True)).astype(np.float32)

    for shape in ((180, 400), (90, 1200), (720, 100)):
        wanted = np.asarray(Image.fromarray(layout.astype(np.uint8)).resize(shape[::-1], Image.Resampling.NEAREST))
        photograph = Image.fromarray(colors[wanted].astype(np.uint8))
        assert (segment_any_size(photograph, WINDOW, probabilities) == wanted).mean() > 0.93, shape


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(480, 360), (64, 48), (100, 100), (720, 100), (31, 20)])
def test_a_narrow_picture_is_seen_as_a_whole_with_as_many_pixels_as_a_window(shape):
    seen, photograph = [], Image.fromarray(np.zeros((*shape, 3), np.uint8))

    def probabilities(picture: np.ndarray) -> np.ndarray:
        seen.append(picture.shape[:2])
        return np.ones((*picture.shape[:2], 2), np.float32)

    assert segment_any_size(photograph, WINDOW, probabilities, 8).shape == shape
    ((height, width),) = seen
    assert height % 8 == width % 8 == 0
    assert abs(height - width * shape[0] / shape[1]) <= 4 + 4 * shape[0] / shape[1]
    assert abs(height * width / (WINDOW[0] * WINDOW[1]) - 1) < 0.3
    if shape in ((480, 360), (64, 48)):
        assert seen == [(64, 48)]


def test_the_most_probable_class_is_that_of_enlarged_probabilities():
    scores = np.random.default_rng(1).random((6, 9, 300), np.float32)
    planes = [Image.fromarray(scores[..., i]).resize((40, 31), Image.Resampling.BILINEAR) for i in range(300)]
    layout = most_probable(scores, (31, 40))
    np.testing.assert_array_equal(layout, np.argmax(planes, 0))
    assert layout.dtype == np.uint16


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_a_layout_file_is_read_as_it_was_written(name, tmp_path):
    label_space = LABEL_SPACES[name]
    layout = np.random.default_rng(0).integers(0, label_space.num_classes, (40, 50)).astype(label_space.dtype)
    write_layout(layout, label_space, tmp_path / "a.png", "for a test")
    np.testing.assert_array_equal(label_space.read(tmp_path / "a.png"), layout)
    assert made_by(tmp_path / "a.png") == ("for a test", True)
    seen = layout_image(layout, label_space)
    if seen.mode == "P":  # people see the classes' colours
        np.testing.assert_array_equal(np.asarray(seen.convert("RGB")), label_space.draw(layout))


def test_void_without_an_id_is_written_in_its_colour(tmp_path):
    (tmp_path / "own.json").write_text('{"classes": ["lawn", "path"], "ids": [3, 9]}')
    own = read_label_file(tmp_path / "own.json")
    layout = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    write_layout(layout, own, tmp_path / "a.png", "")
    np.testing.assert_array_equal(own.read(tmp_path / "a.png"), layout)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of streets of several sizes, and their layouts."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "photos").mkdir()
    (folder / "layouts").mkdir()
    for i, (size, ending) in enumerate([((48, 64), "png"), ((60, 200), "JPG"), ((31, 20), "webp")]):
        street = render_street(10**6 + i, size, clear_days=True)
        Image.fromarray(street.photograph).save(folder / "photos" / f"[{i}] é.{ending}", lossless=True)
        write_layout(street.layout, CITYSCAPES, folder / "layouts" / f"[{i}] é.png", "")
    (folder / "photos" / "notes.txt").write_text("no photograph")
    return folder


def labelled(*arguments) -> str:
    with console.capture() as capture:
        segment.main([*map(str, arguments)])
    return capture.get()


def test_photographs_become_layouts_that_are_scored_and_not_made_again(tiny_segmenter, photographs, tmp_path):
    _, run = tiny_segmenter
    out, right = tmp_path / "out", photographs / "layouts"
    told = labelled(run, photographs / "photos", "--out", out, "--layouts", right)
    assert f"3 layouts in {out}." in told and "mIoU" in told and f"synthesize RUN {out} --sheet" in told
    written = list(find_layouts((out,)))  # what launch.synthesize takes of this folder
    assert [path.name for path in written] == ["[0] é.png", "[1] é.png", "[2] é.png"]

    loaded = load_run(run, "best", kind=SegmenterExperiment)
    photograph = open_photograph(photographs / "photos" / "[0] é.png")
    expected = np.asarray(segment_at_own_size(loaded.experiment.segmenter, loaded.params, np.asarray(photograph)[None]))[0]
    np.testing.assert_array_equal(CITYSCAPES.read(written[0]), expected)
    assert CITYSCAPES.read(written[1]).shape == (60, 200) and CITYSCAPES.read(written[2]).shape == (31, 20)

    pairs = [(CITYSCAPES.read(right / path.name), CITYSCAPES.read(path)) for path in written]
    total = sum(confusion(*pair, CITYSCAPES.num_classes) for pair in pairs)
    scores = json.loads((out / "overview" / "scores.json").read_text("utf-8"))
    assert scores["confusion"] == total.tolist() and scores["miou"] == pytest.approx(float(segmentation_scores(total).miou))
    assert scores["accuracy"] == pytest.approx(float(segmentation_scores(total).accuracy))
    with Image.open(out / "overview" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 100

    before = [path.read_bytes() for path in written]
    written[1].write_bytes(before[1][:-20])  # cut short, as by a full disk
    times = [os.stat(path).st_mtime_ns for path in written]
    assert "of which 2 existed already" in labelled(run, photographs / "photos", "--out", out)
    assert [path.read_bytes() for path in written] == before
    assert [os.stat(path).st_mtime_ns == time for path, time in zip(written, times)] == [True, False, True]


def first_class():
    """A segmenter to plug in, which finds class 0 everywhere."""
    return lambda images: np.zeros(images.shape[:3], np.int64)


def test_a_plug_in_labels_with_the_classes_that_are_named(photographs, tmp_path):
    plug_in, photograph = "tests.test_segment:first_class", photographs / "photos" / "[2] é.webp"
    labelled(plug_in, photograph, "--labels", "camvid", "--out", tmp_path)
    layout = LABEL_SPACES["camvid"].read(tmp_path / "[2] é.png")
    assert layout.shape == (31, 20) and not layout.any()
    assert "--labels NAME" in refused(segment.main, plug_in, photograph, "--out", tmp_path / "b")
    arguments = (plug_in, photograph, "--labels", "camvid", "--checkpoint", "9", "--out", tmp_path / "b")
    assert "has no checkpoints. Leave this option out." in refused(segment.main, *arguments)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_labelled_as_viewers_show_it(tmp_path, orientation):
    """Pillow turns and mirrors by the same tag. Squares are turned, too."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(upright(tmp_path / "a.png"), ImageOps.exif_transpose(image))


def test_a_photograph_that_cannot_be_read_does_not_keep_the_others_from_it(tiny_segmenter, photographs, tmp_path):
    """One is damaged, and one is turned by viewers, as a phone stores it."""
    _, run = tiny_segmenter
    whole, turned, damaged = (tmp_path / "in" / name for name in ("whole.jpg", "turned.jpg", "damaged.jpg"))
    whole.parent.mkdir()
    with Image.open(photographs / "photos" / "[0] é.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").resize((40, 24)).save(turned, exif=exif)
        image.convert("RGB").save(whole)
    damaged.write_bytes(whole.read_bytes()[:400])
    told = refused(segment.main, run, tmp_path / "in", "--out", tmp_path / "out")
    assert "1 photograph could not be labelled" in told and "damaged.jpg" in told and "goes on with those" in told
    assert CITYSCAPES.read(tmp_path / "out" / "turned.png").shape == (40, 24)
    assert CITYSCAPES.read(tmp_path / "out" / "whole.png").shape == (48, 64)


def test_other_classes_of_a_plug_in_label_again(photographs, tmp_path):
    plug_in, photograph = "tests.test_segment:first_class", photographs / "photos" / "[2] é.webp"
    arguments = (plug_in, photograph, "--out", tmp_path)
    labelled(*arguments, "--labels", "camvid")
    assert "existed already" in labelled(*arguments, "--labels", "camvid")
    assert "existed already" not in labelled(*arguments, "--labels", "cityscapes")


def test_what_cannot_be_labelled_is_refused_before_the_first(tiny_segmenter, trained_streets, photographs, tmp_path):
    _, run = tiny_segmenter
    photos, out = photographs / "photos", tmp_path / "out"
    one = photos / "[0] é.png"
    assert "at least one photograph" in refused(segment.main, run, "--out", out)
    assert "here one that trains a segmenter is needed" in refused(segment.main, trained_streets, one, "--out", out)
    assert "neither a segmenter's run folder" in refused(segment.main, "nothing", one, "--out", out)
    assert "there is no such file" in refused(segment.main, run, photos / "none.png", "--out", out)
    assert "would replace this photograph" in refused(segment.main, run, one, "--out", photos)
    assert "knows its classes" in refused(segment.main, run, one, "--labels", "camvid", "--out", out)
    (tmp_path / "twin").mkdir()
    Image.open(one).save(tmp_path / "twin" / "[0] é.jpg")
    assert "would both become" in refused(segment.main, run, one, tmp_path / "twin", "--out", out)
    problem = refused(segment.main, run, one, "--out", out, "--layouts", tmp_path / "twin")
    assert "must hold one image of each example. It does not for 1 of 1 example, such as [0] é (no file)" in problem
    assert not out.exists()
    right = photographs / "layouts"
    told = refused(segment.main, run, one, "--out", right, "--layouts", right, "--overwrite")
    assert "would replace this right layout" in told
    assert "neither a folder nor a module:factory" in refused(segment.main, ".mod:f", one, "--labels", "camvid", "--out", out)
    out.mkdir()
    Image.open(one).save(out / "[0] é.png")
    assert "launch.segment did not make it" in refused(segment.main, run, one, "--out", out)
    labelled(run, one, one, "--out", out, "--overwrite")
    assert CITYSCAPES.read(out / "[0] é.png").shape == (48, 64)
