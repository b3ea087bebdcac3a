"""launch.paint: what a painter does on the page, in a real browser, and what its server answers to strangers."""

import contextlib
import dataclasses

import pytest

pytest.importorskip("starlette", reason="needs the extra 'paint'")
pytest.importorskip("uvicorn", reason="needs the extra 'paint'")

import http.client
import importlib.util
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from configs import camvid_96x128, demo
from crn_jax.cascade import CascadeConfig
from crn_jax.data.labels.published import CAMVID, CITYSCAPES
from crn_jax.data.photographs import open_photograph
from crn_jax.data.streets import render_street
from crn_jax.diversity import assemble
from crn_jax.run import load_run
from crn_jax.synthesize import synthesize
from launch import paint
from launch import synthesize as synthesize_command
from launch.common.options import read_options
from launch.painting.painted_run import PaintedRun, open_runs
from launch.painting.scenes import held_out_layouts
from launch.segmentation.labeller import open_labeller
from tests.support.commands import PATIENCE, ROOT, refused
from tests.support.painter import VIEW, Painter, Server, until, write_run

pytest_plugins = "tests.support.browser"

CLASS = {name: number for number, name in enumerate(CITYSCAPES.classes)}
VOID = CLASS["void"]
H, W = 48, 64
CANVAS = (H, W)
REFUSED_ON_CONSOLE = "Failed to load resource"  # Chromium tells of every answer that is no success


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list:
    """The folder of two runs, and the runs: three images at 48x64, and one at 24x32 to compare with."""
    folder = tmp_path_factory.mktemp("runs")
    cascades = CascadeConfig(20, (8, 8, 8, 8), (6, 8), 3), CascadeConfig(20, (8, 8, 8), (6, 8))
    paths = [
        write_run(folder / f"run_{i}.safetensors", dataclasses.replace(demo, cascade=cascade), CITYSCAPES, i)
        for i, cascade in enumerate(cascades)
    ]
    return [folder, *map(load_run, paths)]


@pytest.fixture(scope="module")
def server(runs, tiny_segmenter):
    folder = runs[0]
    sources = tuple(str(folder / f"run_{i}.safetensors") for i in range(2))
    server = Server(paint.Arguments(sources, segmenter=str(tiny_segmenter[1]), port=0, browser=False))
    until(lambda: {run["state"] for run in json.loads(ask(server, "GET", "/about")[2])["runs"]} == {"ready"})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_page(server, runs, open_shared_page) -> Painter:
    """A page for all tests that need no fresh profile."""
    return Painter(open_shared_page(server.address, tolerates=REFUSED_ON_CONSOLE, viewport=VIEW), runs[1])


@pytest.fixture
def painter(server, runs, shared_page, open_page):
    """`painter()` is the shared page; `painter(fresh=True, **settings)` opens one in a fresh profile."""

    def open_painter(start: str = "a blank horizon", fresh: bool = False, **settings) -> Painter:
        if fresh:
            painter = Painter(open_page(server.address, viewport=VIEW, **settings), runs[1])
        else:
            painter = shared_page
            painter.reset()
        if start:
            painter.page.get_by_role("button", name=f"Start from {start}", exact=True).click()
            painter.settle()
        return painter

    return open_painter


def disc(x: float, y: float, size: float) -> np.ndarray:
    """Where a brush that is pressed once paints, bool `[H, W]`."""
    rows, columns = np.mgrid[:H, :W] + 0.5
    middle = np.floor([x, y]) + 0.5 if size % 2 else np.round([x, y])
    return (columns - middle[0]) ** 2 + (rows - middle[1]) ** 2 <= (size / 2) ** 2 + 1e-9


# Painting


def test_the_page_begins_with_a_held_out_layout_and_its_images(painter, runs):
    page = painter(start="", fresh=True)
    assert page.layout().shape == CANVAS and len(np.unique(page.layout())) > 3
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_what_is_painted_is_what_is_synthesized(painter):
    page = painter()
    before = page.layout()
    page.choose("Brush", "car", 9)
    page.click(20, 30)
    page.settle()
    expected = before.copy()
    expected[disc(20, 30, 9)] = CLASS["car"]
    np.testing.assert_array_equal(page.layout(), expected)
    np.testing.assert_array_equal(page.image(), page.images()[0])
    assert (expected != before).sum() > 50


def test_images_follow_while_the_stroke_goes_on(painter):
    page = painter()
    before = page.image()
    page.choose("Brush", "building", 14)
    with page.dragging((10, 10), (30, 20), (50, 10)):
        page.settle()
        np.testing.assert_array_equal(page.image(), page.images()[0])
        assert (page.layout() == CLASS["building"]).sum() > 500
    assert (page.image() != before).any()


def test_the_newest_layout_wins_and_nothing_queues_up(painter):
    page = painter()
    page.choose("Brush", "vegetation", 8)
    sent, held = [], []
    page.page.on("request", note := lambda request: sent.extend([request.url] * ("/render/" in request.url)))
    page.page.route("**/render/**", lambda route: route.continue_() if held else held.append(route))  # the first one is slow
    page.drag((4, 4), (60, 8), (4, 20), (60, 40), steps=15)
    until(lambda: page.page.wait_for_timeout(20) or held)
    assert len(sent) == 1  # one request is under way, however much was painted since
    held[0].continue_()
    page.settle()
    page.page.unroute("**/render/**")
    np.testing.assert_array_equal(page.image(), page.images()[0])
    page.page.remove_listener("request", note)
    assert len(sent) <= 2 * 2  # each run renders what was held, and then the newest layout


def test_a_step_that_is_undone_while_the_pointer_is_down_is_over(painter):
    page = painter()
    blank = page.layout()
    for tool in ("Brush", "Eraser", "Line", "Rectangle", "Stamp an object"):
        page.choose(tool, "car")
        with page.dragging((10, 10), (30, 20)):
            page.keys("Control+z")
            page.page.mouse.move(*page.place(50, 40), steps=3)
        np.testing.assert_array_equal(page.layout(), blank)
    page.choose("Brush")
    with page.dragging((10, 10), (30, 20)):
        page.keys("l")  # another tool
        page.page.mouse.move(*page.place(50, 40), steps=3)
    np.testing.assert_array_equal(page.layout(), blank)
    page.choose("Rectangle", "car")
    page.drag((10.5, 30.5), (19.5, 35.5))
    painted = page.layout()
    page.choose("Select and move")
    page.click(15, 33)
    with page.dragging((15, 33), (35, 38)):
        page.keys("Control+z")
        page.page.mouse.move(*page.place(50, 40), steps=3)
    np.testing.assert_array_equal(page.layout(), painted)
    page.click(15, 33)
    with page.dragging((15, 33), (35, 38)):
        page.keys("Control+a")  # another selection
        page.page.mouse.move(*page.place(50, 40), steps=3)
    np.testing.assert_array_equal(page.layout(), painted)
    page.keys("Control+z")
    np.testing.assert_array_equal(page.layout(), blank)


def test_undo_and_redo_restore_exactly(painter):
    page = painter()
    states = [(page.layout(), page.image())]
    page.choose("Brush", "car", 11)
    for x in (15, 30, 45):
        page.drag((x, 12), (x + 8, 40))
        page.settle()
        states.append((page.layout(), page.image()))
    for layout, image in reversed(states[:-1]):
        page.page.get_by_role("button", name="Undo").click()
        page.settle()
        np.testing.assert_array_equal(page.layout(), layout)
        np.testing.assert_array_equal(page.image(), image)
    for layout, image in states[1:]:
        page.keys("Control+Shift+z")
        page.settle()
        np.testing.assert_array_equal(page.layout(), layout)
        np.testing.assert_array_equal(page.image(), image)


def test_two_hundred_steps_can_be_undone(painter):
    page = painter()
    before = page.layout()
    page.choose("Rectangle", "car")
    page.page.evaluate("""async () => {
      const { parts } = await import("/page/main.js");
      for (let i = 0; i < 205; i++) parts.work.edit(({ ids }) => { ids[i] = 13; return [0, 0, 64, 48]; });
      for (let i = 0; i < 250; i++) parts.work.undo();
    }""")
    page.settle()
    after = page.layout()
    assert (after.ravel()[:5] == CLASS["car"]).all()
    np.testing.assert_array_equal(after.ravel()[5:], before.ravel()[5:])


def test_the_eraser_paints_void(painter):
    page = painter()
    before = page.layout()
    page.choose("Eraser", size=10)
    page.click(32, 40)
    page.settle()
    before[disc(32, 40, 10)] = VOID
    np.testing.assert_array_equal(page.layout(), before)
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_fill_takes_the_connected_area(painter):
    page = painter()
    sky = page.layout() == CLASS["sky"]
    page.choose("Rectangle", "pole")
    page.drag((31, 0.5), (32.5, 47.5))
    page.choose("Fill", "building")
    page.click(5, 5)
    page.settle()
    found = page.layout()
    assert (found[:, :31][sky[:, :31]] == CLASS["building"]).all()
    assert (found[:, 33:][sky[:, 33:]] == CLASS["sky"]).all()
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_line_and_rectangle_follow_the_pointer(painter):
    page = painter()
    expected = page.layout()
    page.choose("Rectangle", "wall")
    page.drag((50.5, 40.5), (5.5, 3.5), (10.5, 20.5))
    expected[20:41, 10:51] = CLASS["wall"]
    np.testing.assert_array_equal(page.layout(), expected)
    page.choose(class_name="fence")
    page.page.keyboard.down("Shift")
    page.drag((12.5, 22.5), (30.5, 26.5))
    page.page.keyboard.up("Shift")
    expected[22:41, 12:31] = CLASS["fence"]
    np.testing.assert_array_equal(page.layout(), expected)
    page.choose("Line", "pole", 1)
    page.drag((2.5, 2.5), (40.5, 40.5), (2.5, 30.5))
    expected[2:31, 2] = CLASS["pole"]
    np.testing.assert_array_equal(page.layout(), expected)


def test_a_corner_of_the_canvas_can_be_painted(painter):
    page = painter()
    expected = page.layout()
    page.choose("Brush", "car", 1)
    for x, y in ((0.5, 0.5), (63.5, 0.5), (0.5, 47.5), (63.5, 47.5)):
        page.click(x, y)
        expected[int(y), int(x)] = CLASS["car"]
    page.choose("Polygon", "building")
    for corner in ((0.3, 0.3), (20, 0.3), (20, 20), (0.3, 20), (0.3, 0.3)):  # it reaches the border
        page.click(*corner)
    expected[:20, :20] = CLASS["building"]
    np.testing.assert_array_equal(page.layout(), expected)


def test_a_polygon_by_clicks_and_a_lasso(painter):
    page = painter()
    expected = page.layout()
    page.choose("Polygon", "building")
    for corner in ((10, 10), (30, 10), (30, 24), (10, 24), (10, 10)):
        page.click(*corner)
    expected[10:24, 10:30] = CLASS["building"]
    np.testing.assert_array_equal(page.layout(), expected)
    page.choose("Polygon", "car")
    page.drag((40, 30), (56, 30), (56, 40), (40, 40), (40, 31))
    page.settle()
    found = page.layout() == CLASS["car"]
    assert found[31:39, 42:55].all() and found.sum() < 12 * 18
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_an_object_is_moved_and_the_hole_closes(painter):
    page = painter()
    blank = page.layout()
    page.choose("Rectangle", "car")
    page.drag((10.5, 30.5), (19.5, 35.5))
    page.choose("Select and move")
    page.click(15, 33)
    page.drag((15, 33), (35, 38))
    page.settle()
    expected = blank.copy()
    expected[35:41, 30:40] = CLASS["car"]
    np.testing.assert_array_equal(page.layout(), expected)
    page.keys("ArrowRight", "Shift+ArrowUp")
    expected = blank.copy()
    expected[25:31, 31:41] = CLASS["car"]
    np.testing.assert_array_equal(page.layout(), expected)
    page.keys("Delete")
    np.testing.assert_array_equal(page.layout(), blank)


def test_a_region_is_copied_with_what_it_holds(painter):
    page = painter(start="held-out layout 0")
    before = page.layout()
    page.choose("Select and move")
    page.drag((10.2, 20.2), (21.8, 33.8))
    page.page.keyboard.down("Alt")
    page.drag((15, 27), (45, 20))
    page.page.keyboard.up("Alt")
    page.settle()
    expected = before.copy()
    expected[13:27, 40:52] = before[20:34, 10:22]
    np.testing.assert_array_equal(page.layout(), expected)
    page.keys("Control+z")
    np.testing.assert_array_equal(page.layout(), before)


def test_a_region_is_cut_and_mirrored(painter):
    page = painter()
    blank = page.layout()
    page.choose("Rectangle", "car")
    page.drag((10.5, 30.5), (19.5, 35.5))
    page.choose("Brush", "bus", 1)
    page.click(10.5, 30.5)
    page.choose("Select and move")
    page.drag((10.2, 30.2), (19.8, 35.8))
    page.keys("x")
    assert page.layout()[30, 19] == CLASS["bus"] and page.layout()[30, 10] == CLASS["car"]
    page.keys("Control+x")
    np.testing.assert_array_equal(page.layout(), blank)


def test_an_object_of_a_held_out_layout_is_stamped(painter):
    page = painter()
    before = page.layout()
    page.page.get_by_role("button", name=re.compile("^Stamp car 1$")).click()
    page.click(40, 44)
    page.settle()
    changed = page.layout() != before
    assert changed.sum() > 20 and (page.layout()[changed] == CLASS["car"]).all()
    rows, columns = np.nonzero(changed)
    assert rows.max() == 43 and abs((columns.min() + columns.max() + 1) / 2 - 40) <= 0.5
    page.keys("]", "]", "]", "x", "Control+z")
    page.click(40, 44)
    larger = page.layout() != before
    assert larger.sum() > 1.4 * changed.sum()
    page.settle()
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_a_class_becomes_another_one_everywhere(painter):
    page = painter(start="held-out layout 1")
    before = page.layout()
    y, x = np.argwhere(before == CLASS["road"])[-1]
    page.choose("Replace class", "sidewalk")
    page.click(x + 0.5, y + 0.5)
    page.settle()
    np.testing.assert_array_equal(page.layout(), np.where(before == CLASS["road"], CLASS["sidewalk"], before))
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_the_eyedropper_chooses_the_class_under_the_pointer(painter):
    page = painter()
    page.choose("Eyedropper", "car")
    page.click(30, 4)
    assert page.page.locator("#class-list [aria-selected=true]").get_attribute("title") == "sky"
    page.click(30, 44, button="right")
    assert page.page.locator("#class-list [aria-selected=true]").get_attribute("title") == "road"
    page.click(12, 6)  # the brush is back
    assert (page.layout()[:12] == CLASS["road"]).any()


def test_zoom_shows_the_same_place_in_layout_and_image(painter):
    page = painter()
    page.page.mouse.move(*page.place(48.5, 36.5))
    page.page.mouse.wheel(0, -600)
    until(lambda: page.page.locator("#zoom").inner_text() != "100%")
    scale = float(page.page.locator("#zoom").inner_text().rstrip("%")) / 100
    assert scale > 2

    def transforms() -> list[str]:
        return page.page.locator(".plane").evaluate_all("(planes) => planes.map((plane) => plane.style.transform)")

    until(lambda: all("scale(1)" not in transform for transform in transforms()))
    assert len(set(transforms())) == 1
    page.choose("Brush", "car", 3)
    page.click(48.5, 36.5)  # the place around which the view was enlarged
    np.testing.assert_array_equal(page.layout() == CLASS["car"], disc(48.5, 36.5, 3))
    page.keys("0")
    assert page.page.locator("#zoom").inner_text() == "100%"


def test_the_keyboard_paints(painter):
    page = painter()
    expected = page.layout()
    page.keys("/")
    page.page.keyboard.type("person")
    page.keys("Enter", "b")
    for _ in range(20):
        page.keys("[")
    page.keys("Shift+ArrowUp", "ArrowLeft")
    page.page.keyboard.down(" ")
    page.keys("ArrowDown", "ArrowDown", "ArrowRight")
    page.page.keyboard.up(" ")
    page.settle()
    for y, x in ((14, 31), (15, 31), (16, 31), (16, 32)):
        expected[y, x] = CLASS["person"]
    np.testing.assert_array_equal(page.layout(), expected)
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_a_pen_paints_by_its_pressure_and_two_fingers_zoom(painter):
    page = painter(fresh=True)
    page.choose("Brush", "car", 20)
    box = page.page.locator("#layout-view .frame").bounding_box()
    press = """(frame, [type, x, y, kind, pressure, id]) => frame.dispatchEvent(new PointerEvent(type, {
      pointerId: id, pointerType: kind, pressure, clientX: x, clientY: y, button: 0, buttons: 1, bubbles: true }))"""
    frame = page.page.locator("#layout-view .frame")
    frame.evaluate("(frame) => { frame.setPointerCapture = () => {}; }")
    x, y = page.place(30, 20)
    for kind in ("pointerdown", "pointerup"):
        frame.evaluate(press, [kind, x, y, "pen", 0.25, 5])
    np.testing.assert_array_equal(page.layout() == CLASS["car"], disc(30, 20, 5))
    for kind, at, pointer, number in (  # a hand comes down beside the pen, and goes first
        ("pointerdown", (10.5, 8.5), "pen", 6),
        ("pointerdown", (50, 40), "touch", 7),
        ("pointermove", (14.5, 8.5), "pen", 6),
        ("pointermove", (52, 40), "touch", 7),
        ("pointerup", (52, 40), "touch", 7),
        ("pointermove", (20.5, 8.5), "pen", 6),
        ("pointerup", (20.5, 8.5), "pen", 6),
    ):
        frame.evaluate(press, [kind, *page.place(*at), pointer, 0, number])  # a pressure of 0 paints one pixel wide
    rows, columns = np.nonzero((page.layout() == CLASS["car"]) & ~disc(30, 20, 5))
    assert set(rows) == {8} and set(columns) == set(range(10, 21))
    before = page.layout()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for id, sign in ((11, -1), (12, 1)):
        frame.evaluate(press, ["pointerdown", middle[0] + sign * 30, middle[1], "touch", 0.5, id])
    for id, sign in ((11, -1), (12, 1)):
        frame.evaluate(press, ["pointermove", middle[0] + sign * 60, middle[1], "touch", 0.5, id])
    for id, sign in ((11, -1), (12, 1)):
        frame.evaluate(press, ["pointerup", middle[0] + sign * 60, middle[1], "touch", 0.5, id])
    assert page.page.locator("#zoom").inner_text() == "200%"
    np.testing.assert_array_equal(page.layout(), before)  # the first finger's stroke is taken back


# Classes


def test_classes_are_searched_counted_and_highlighted(painter):
    page = painter()
    row = page.page.locator("#class-list").get_by_title("sky", exact=True)
    share = float(row.locator(".share").inner_text().rstrip("%")) / 100
    assert abs(share - (page.layout() == CLASS["sky"]).mean()) < 0.006
    row.hover()
    shades = [page.pixels(f"{view} .shade")[..., 3] for view in ("#layout-view", ".image-view >> nth=0 >> .plane")]
    for shade in shades:
        np.testing.assert_array_equal(shade == 0, page.layout() == CLASS["sky"])
    page.page.get_by_label("Search classes").fill("traffic")
    assert page.page.locator("#class-list li:visible .name").all_inner_texts() == ["traffic light", "traffic sign"]


# Where a layout comes from


def open_file(page: Painter, content: bytes, name: str = "some.png", which: str = "file") -> None:
    kinds = {"png": "image/png", "jpg": "image/jpeg"}
    page.page.locator(f"#{which}").set_input_files({"name": name, "mimeType": kinds[name[-3:]], "buffer": content})


def encoded(picture: np.ndarray, kind: str = "png", **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **settings)
    return file.getvalue()


def test_a_saved_layout_reloads_to_the_same_ids(painter, runs, tmp_path):
    page = painter(start="held-out layout 2")
    page.choose("Brush", "bus", 12)
    page.drag((10, 10), (50, 40))
    page.settle()
    before = page.layout()
    saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save layout").click(), tmp_path)
    np.testing.assert_array_equal(runs[1].read_layout(saved), before)
    page.page.get_by_role("button", name="Start from a blank horizon").click()
    assert (page.layout() != before).any()
    open_file(page, saved.read_bytes(), saved.name)
    until(lambda: (page.layout() == before).all())
    page.settle()
    np.testing.assert_array_equal(page.image(), page.images()[0])


def test_a_layout_is_dropped_and_pasted(painter):
    page = painter()
    layouts = [np.full(CANVAS, CLASS[name], np.uint8) for name in ("wall", "fence")]
    hand_over = """([kind, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(bytes)], "dropped.png", { type: "image/png" }));
      const settings = { bubbles: true, cancelable: true };
      if (kind === "drop") dispatchEvent(new DragEvent("drop", { ...settings, dataTransfer: data }));
      else document.body.dispatchEvent(new ClipboardEvent("paste", { ...settings, clipboardData: data }));
    }"""
    for kind, layout in zip(("drop", "paste"), layouts):
        page.page.evaluate(hand_over, [kind, list(encoded(CITYSCAPES.draw(layout)))])
        until(lambda layout=layout: (page.layout() == layout).all())


def test_what_was_copied_last_is_pasted(painter):
    page = painter()
    picture = list(encoded(CITYSCAPES.draw(np.full(CANVAS, CLASS["fence"], np.uint8))))
    page.choose("Rectangle", "car")
    page.drag((10.5, 30.5), (19.5, 35.5))
    page.choose("Select and move")
    page.click(15, 33)
    page.page.evaluate("""() => {
      globalThis.marks = [];
      const set = DataTransfer.prototype.setData;
      DataTransfer.prototype.setData = function (kind, text) { marks.push(text); set.call(this, kind, text); };
    }""")
    page.keys("Control+c")
    until(lambda: page.page.evaluate("() => marks.length") == 1)
    mark = page.page.evaluate("() => marks[0]")
    assert mark.startswith("An area of a layout")
    page.choose("Brush")  # the area can be pasted with any tool
    before = page.layout()
    paste = """([text, bytes]) => {
      const data = new DataTransfer();
      data.setData("text/plain", text);
      if (bytes) data.items.add(new File([Uint8Array.from(bytes)], "older.png", { type: "image/png" }));
      document.body.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: data }));
    }"""
    page.page.evaluate(paste, [mark, picture])
    expected = before.copy()
    expected[30:36, 16:26] = CLASS["car"]
    np.testing.assert_array_equal(page.layout(), expected)
    page.page.evaluate(paste, ["a text of another program", picture])
    until(lambda: (page.layout() == CLASS["fence"]).all())


def test_a_layout_of_another_shape_is_cropped_and_says_so(painter):
    page = painter()
    wide = np.full((48, 96), CLASS["sky"], np.uint8)
    wide[:, 16:80] = CLASS["road"]
    open_file(page, encoded(CITYSCAPES.draw(wide)))
    until(lambda: (page.layout() == CLASS["road"]).all())
    assert "48x96" in page.message() and "Its middle is shown" in page.message()


def test_a_layout_of_another_palette_is_refused_in_words(painter):
    page = painter()
    before = page.layout()
    foreign = CAMVID.draw(np.tile(np.arange(8, dtype=np.uint8), (48, 8)))
    open_file(page, encoded(foreign), "camvid <b>.png")
    page.page.wait_for_selector(".message.error")
    assert page.message().startswith("camvid <b>.png: ") and "colours are not in cityscapes's palette" in page.message()
    assert "/tmp" not in page.message()
    np.testing.assert_array_equal(page.layout(), before)


def test_an_ambiguous_palette_is_asked_about(painter):
    page = painter()
    indices = np.tile(np.array([7, 8, 11], np.uint8).repeat(16), (64, 1)).T.copy()  # ids of road, sidewalk, building
    picture = Image.fromarray(indices)
    palette = np.zeros((256, 3), np.uint8)
    palette[[7, 8, 11]] = [CITYSCAPES.colors[CLASS[name]] for name in ("sky", "car", "terrain")]
    palette[200:] = [1, 2, 3]
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, "png")
    open_file(page, file.getvalue())
    page.page.get_by_role("button", name="Its ids are right").click()
    until(lambda: (page.layout()[:, 0][[0, 20, 40]] == [CLASS["road"], CLASS["sidewalk"], CLASS["building"]]).all())
    open_file(page, file.getvalue())
    page.page.get_by_role("button", name="Its colours are right").click()
    until(lambda: (page.layout()[:, 0][[0, 20, 40]] == [CLASS["sky"], CLASS["car"], CLASS["terrain"]]).all())


def test_a_photograph_is_labelled(painter, tiny_segmenter, tmp_path):
    page = painter()
    photograph = tmp_path / "street.jpg"
    photograph.write_bytes(encoded(render_street(3, CANVAS).photograph, "jpeg", quality=95))
    expected = open_labeller(str(tiny_segmenter[1]), None, "best").label(open_photograph(photograph))
    open_file(page, photograph.read_bytes(), "street.jpg")  # as a layout
    page.page.get_by_role("button", name="It is a photograph: label it").click()
    until(lambda: (page.layout() == expected).all())
    page.keys("Control+z")
    until(lambda: (page.layout() != expected).any())
    open_file(page, photograph.read_bytes(), "street.jpg", "photograph")
    until(lambda: (page.layout() == expected).all())


# Collections


def test_all_images_are_shown_and_one_is_looked_at(painter):
    page = painter(start="held-out layout 1")
    images = page.images()
    for u in range(3):
        np.testing.assert_array_equal(page.tile(f"Look at image {u}"), images[u])
    page.page.get_by_role("button", name="Look at image 2").click()
    np.testing.assert_array_equal(page.image(), images[2])
    page.choose("Brush", "car", 9)
    page.click(20, 20)
    page.settle()
    np.testing.assert_array_equal(page.image(), page.images()[2])


def test_a_picked_class_comes_from_that_image(painter):
    page = painter()
    choice = np.zeros(20, int)
    for u, name, place in ((2, "sky", (10, 4)), (1, "road", (10, 44))):
        page.page.get_by_role("button", name=f"Look at image {u}").click()
        np.testing.assert_array_equal(page.image(), page.images()[u])
        page.click(*place, ".image-view .frame")
        choice[CLASS[name]] = u
        np.testing.assert_array_equal(page.image(), np.asarray(assemble(page.images(), page.layout(), choice)))
    page.choose("Brush", "car", 15)  # live
    page.click(30, 24)
    page.settle()
    np.testing.assert_array_equal(page.image(), np.asarray(assemble(page.images(), page.layout(), choice)))
    page.page.get_by_label("The image of all other classes").focus()
    page.page.get_by_label("The image of all other classes").select_option("2")
    choice[choice == 0] = 2
    np.testing.assert_array_equal(page.image(), np.asarray(assemble(page.images(), page.layout(), choice)))
    focused = "() => document.activeElement.getAttribute('aria-label')"
    until(lambda: page.page.evaluate(focused) == "The image of all other classes")  # though the chips were drawn anew
    page.page.evaluate('async () => (await import("/page/main.js")).parts.live.request()')
    page.settle()
    assert page.page.evaluate(focused) == "The image of all other classes"
    page.page.get_by_role("button", name="Drop the pick road: image 1").click()
    page.settle()
    np.testing.assert_array_equal(page.image(), page.images()[2])
    until(lambda: page.page.evaluate(focused) == "Look at image 2")


def test_the_map_of_choices_shows_where_each_class_comes_from(painter):
    page = painter()
    page.page.get_by_role("button", name="Look at image 0").click()
    page.page.get_by_role("button", name="Look at image 1").click(modifiers=["Shift"], position={"x": 20, "y": 12})
    page.page.get_by_role("button", name="Map of choices").click()
    shade, layout = page.pixels(".image-view .shade"), page.layout()
    colors = {tuple(shade[layout == CLASS[name]].reshape(-1, 4)[0]) for name in ("sky", "road")}
    assert len(colors) == 2
    assert len(np.unique(shade[layout == CLASS["sky"]], axis=0)) == 1


def test_runs_are_compared_side_by_side(painter, runs):
    page = painter(start="held-out layout 1")
    other = runs[2]
    small = np.asarray(Image.fromarray(page.layout()).resize((32, 24), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(page.image(1), synthesize(other.generator, other.params, small[None])[0, 0])
    assert page.page.locator(".image-view figcaption b").all_inner_texts() == [
        "run_0.safetensors, step 7",
        "run_1.safetensors, step 7",
    ]


# What is kept


def test_images_are_saved_as_they_are_and_enlarged(painter, tmp_path):
    page = painter(start="held-out layout 3")
    saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save image", exact=True).click(), tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(saved).convert("RGB")), page.image())
    large = page.downloaded(lambda: page.page.get_by_role("button", name="Save image, 4x").click(), tmp_path)
    enlarged = Image.open(large).convert("RGB")
    assert enlarged.size == (4 * W, 4 * H)
    means = np.asarray(enlarged, float).reshape(H, 4, W, 4, 3).mean((1, 3))
    assert np.corrcoef(means.ravel(), page.image().ravel())[0, 1] > 0.9


def test_the_image_of_an_older_layout_is_not_saved(painter, tmp_path):
    page = painter(start="held-out layout 3", fresh=True, tolerates=REFUSED_ON_CONSOLE)
    older, other = page.image(), page.image(1)
    fail = {
        "status": 500,
        "content_type": "application/json",
        "body": json.dumps({"error": "The server has failed: no memory"}),
    }
    page.page.route("**/render/0**", lambda route: route.fulfill(**fail))
    page.choose("Rectangle", "building")
    page.drag((5.5, 5.5), (58.5, 40.5))
    page.settle()
    np.testing.assert_array_equal(page.image(), older)
    assert (page.image(1) != other).any()  # the other run has made its image
    assert page.page.locator("#status-text").inner_text() == "run_0.safetensors, step 7: The server has failed: no memory"
    page.page.get_by_role("button", name="Save image", exact=True).click()
    page.page.wait_for_selector(".message.error >> text=The image on the page is that of an older layout")
    page.page.locator(".image-view .frame").nth(1).click()
    saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save image", exact=True).click(), tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(saved).convert("RGB")), page.image(1))


def test_the_run_whose_image_is_clicked_is_saved(painter, tmp_path):
    page = painter(start="held-out layout 3", fresh=True)
    page.page.locator(".image-view .frame").nth(1).click()
    assert page.page.locator(".chosen figcaption b").all_inner_texts() == ["run_1.safetensors, step 7"]
    saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save image", exact=True).click(), tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(saved).convert("RGB")), page.image(1))


def test_the_copied_command_makes_the_same_image(painter, server, tmp_path, monkeypatch):
    page = painter(start="held-out layout 1", fresh=True, permissions=["clipboard-read", "clipboard-write"])
    page.page.get_by_role("button", name="Look at image 1").click()
    page.page.get_by_role("button", name="Look at image 2").click(modifiers=["Shift"], position={"x": 20, "y": 40})
    page.settle()
    layout = page.downloaded(lambda: page.page.get_by_role("button", name="Copy command").click(), tmp_path)
    page.page.wait_for_selector(".message")
    line = page.page.evaluate("() => navigator.clipboard.readText()")
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "launch.synthesize"] and "--pick" in words and "--index" in words
    monkeypatch.chdir(tmp_path)
    synthesize_command.main(words[3:])
    (made,) = (tmp_path / "run_0_synthesized").glob("*.png")
    assert made.name == layout.name
    np.testing.assert_array_equal(np.asarray(Image.open(made)), page.image())


def test_a_reload_keeps_the_work(painter):
    page = painter()
    page.choose("Brush", "bus", 10)
    page.drag((10, 10), (50, 30))
    page.check_reload()


def test_two_tabs_paint_apart(painter, server, runs):
    first = painter(fresh=True)
    tab = first.page.context.new_page()
    tab.goto(server.address)
    second = Painter(tab, runs[1])
    theirs = second.layout()
    first.page.bring_to_front()
    np.testing.assert_array_equal(theirs, first.layout())  # a new tab begins with the last work
    for page, name in ((first, "car"), (second, "bus")):
        page.page.bring_to_front()
        page.choose("Brush", name, 16)
        page.click(32, 24)
        page.settle()
    for page, name in ((first, "car"), (second, "bus")):
        page.page.bring_to_front()
        page.page.reload()
        page.settle()
        assert (page.layout() == CLASS[name]).sum() > 100
        np.testing.assert_array_equal(page.image(), page.images()[0])


def test_painting_goes_on_while_the_server_is_restarted(painter, server, runs, tmp_path):
    page = painter()
    before = page.image()
    server.stop()
    try:
        page.choose("Brush", "building", 14)
        page.drag((10, 10), (50, 20))
        page.page.wait_for_selector("#status[data-light=lost]")
        saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save layout").click(), tmp_path)
        np.testing.assert_array_equal(runs[1].read_layout(saved), page.layout())
        assert (page.layout() == CLASS["building"]).sum() > 300
        np.testing.assert_array_equal(page.image(), before)
    finally:
        server.start()
    page.settle()
    np.testing.assert_array_equal(page.image(), page.images()[0])
    assert (page.image() != before).any()
    page.page.wait_for_selector("#status[data-light=ready]")


def test_a_server_that_was_started_again_saves_for_its_own_runs_alone(painter, server, runs, tmp_path):
    page, arguments = painter(), server.arguments
    server.stop()
    server.start()
    saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save layout").click(), tmp_path)
    np.testing.assert_array_equal(runs[1].read_layout(saved), page.layout())
    page.settle()
    page.page.locator(".message").evaluate_all("messages => messages.forEach((message) => message.remove())")
    server.stop()
    server.arguments = dataclasses.replace(server.arguments, runs=arguments.runs[:1])
    server.start()
    try:
        page.page.get_by_role("button", name="Copy command").click()
        page.page.wait_for_selector(".message >> text=The server was started again, perhaps with other runs.")
        page.page.wait_for_selector(".message >> text=The server now paints with other runs.")
        saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save layout").click(), tmp_path)
        np.testing.assert_array_equal(runs[1].read_layout(saved), page.layout())
    finally:
        server.stop()
        server.arguments = arguments
        server.start()
        page.page.reload()
        page.settle()


def test_every_control_has_a_name(painter):
    page = painter(fresh=True)
    unnamed = page.page.evaluate("""() => [...document.querySelectorAll("button, input, select, [tabindex='0']")]
      .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim() || node.closest("label")))
      .map((node) => node.outerHTML)""")
    assert unnamed == []
    for width in (1024, 2560):
        page.page.set_viewport_size({"width": width, "height": 800})
        assert page.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        for button in page.page.locator("#top button").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width


# Strangers


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict, bytes]:
    """Asks the server, and returns the status, the headers and the body of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host="host" in headers)
        if method == "POST":
            headers = {"content_length": str(len(body)), **headers}
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        if body:
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1"]
)
def test_a_host_that_is_not_this_machine_is_refused(server, host):
    for method, path in (("GET", "/"), ("GET", "/about"), ("GET", "/page/main.js"), ("POST", "/render/0")):
        status, _, body = ask(server, method, path, host=host.format(port=server.port))
        assert status in (400, 403) and b"canvas" not in body


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "localhost:9999"])
def test_this_machine_is_known_by_its_names(server, host):
    assert ask(server, "GET", "/about", host=host.format(port=server.port))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://[::1"},
        {"sec_fetch_site": "cross-site"},
    ],
)
def test_a_request_of_another_site_is_refused(server, headers):
    layout = bytes(H * W)
    assert ask(server, "POST", "/render/0", layout, **headers)[0] == 403
    for path in ("/layouts/0", "/about", "/scenes", "/page/main.js"):
        status, answered, _ = ask(server, "GET", path, **headers)
        assert status == 403 and "content-security-policy" in answered
    assert (
        ask(server, "POST", "/render/0", layout, origin=f"http://127.0.0.1:{server.port}", sec_fetch_site="same-origin")[0]
        == 200
    )


def test_every_answer_confines_the_page(server):
    for path in ("/", "/about", "/page/main.js", "/nothing"):
        _, headers, _ = ask(server, "GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
    assert ask(server, "GET", "/page/..%2fstyle.css")[0] == 404 and ask(server, "GET", "/page/%2e%2e/paint.py")[0] == 404


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/render/0", bytes(H * W + 1), 413),
        ("/render/0", bytes(H * W - 1), 400),
        ("/render/0", bytes([20]) * (H * W), 400),
        ("/render/2", bytes(H * W), 404),
        ("/render/99999999999999999999", bytes(H * W), 404),
        ("/open/layout", b"no picture", 422),
        ("/open/layout?read=both", b"", 400),
        ("/open/photograph", b"", 422),
        ("/open/anything", b"", 404),
        ("/command", b"{", 400),
        ("/command", b"[]", 400),
        ("/command", b"[" * 60_000, 400),
        ("/command", json.dumps({"run": 0, "index": 3, "picks": {}}).encode(), 400),
        ("/command", json.dumps({"run": True, "index": 0, "picks": {}}).encode(), 404),
        ("/command", json.dumps({"run": 0, "index": 0, "picks": {"1": -1}}).encode(), 400),
        ("/command", json.dumps({"run": 0, "index": 0, "picks": [1]}).encode(), 400),
        ("/command", json.dumps({"run": 0, "index": 0, "picks": {"20": 0}}).encode(), 400),
        ("/command", json.dumps({"run": 0, "index": 0, "picks": {"index": 1}}).encode(), 400),
        ("/command", json.dumps({"run": 0, "index": 0, "picks": {"9" * 5000: 0}}).encode(), 400),
        ("/command", bytes(70_000), 413),
    ],
)
def test_what_is_no_layout_is_refused_in_words(server, path, body, status):
    found, _, answer = ask(server, "POST", path, body)
    assert found == status and len(json.loads(answer)["error"]) > 15


def test_an_oversized_body_is_refused_before_it_is_read(server):
    status, _, answer = ask(server, "POST", "/open/layout", content_length=str(1 << 40))
    assert status == 413 and "too large" in json.loads(answer)["error"]
    chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(b"POST /render/0 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        assert b" 413 " in connection.recv(1 << 12)


def test_stuck_clients_harm_nobody(server):
    stuck = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(40)]
    try:
        for i, connection in enumerate(stuck):
            head = f"POST /render/0?page=stuck{i} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {H * W}\r\n\r\n".encode()
            connection.sendall(head + bytes(H * W // 2) if i % 2 else head[:20])
        status, _, content = ask(server, "POST", "/render/0", bytes(H * W))
        assert status == 200 and len(content) == 3 * 3 * H * W + H * W
    finally:
        for connection in stuck:
            connection.close()


def test_a_hurried_page_has_one_turn_at_a_time(server, monkeypatch):
    """While a layout of the page is rendered, only the newest one waits. The others are superseded."""
    turn, images = threading.Event(), PaintedRun.images
    monkeypatch.setattr(PaintedRun, "images", lambda *given: turn.wait(PATIENCE) and images(*given))
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, server, "POST", "/render/0?page=hurried", bytes([i]) * (H * W)) for i in range(12)]
        until(lambda: sum(each.done() for each in asked) == 10)
        assert {each.result()[0] for each in asked if each.done()} == {204}
        turn.set()
        assert sorted(each.result()[0] for each in asked) == [200] * 2 + [204] * 10


def test_a_page_of_another_session_learns_that_the_server_was_started_again(server):
    session = json.loads(ask(server, "GET", "/about")[2])["session"]
    picked = json.dumps({"run": 0, "index": 0, "picks": {}}).encode()
    for path, body in (("/render/0", bytes(H * W)), ("/command", picked)):
        assert ask(server, "POST", f"{path}?session={session}", body)[0] == 200
        assert ask(server, "POST", f"{path}?session=another", body)[0] == 503
    for path, body in (("/render/5", bytes(H * W)), ("/render/0", bytes(9 * H * W))):  # as the other runs had them
        assert ask(server, "POST", f"{path}?session=another", body)[0] == 503


def test_the_page_gets_what_it_writes_layouts_with(server):
    for run in json.loads(ask(server, "GET", "/about")[2])["runs"]:
        assert run["labels"]["ids"]["26"] == CLASS["car"] and run["labels"]["colors"][VOID] == list(CITYSCAPES.colors[VOID])
    names, seen = {"main.js"}, {}
    while names - seen.keys():
        name = min(names - seen.keys())
        status, _, seen[name] = ask(server, "GET", f"/page/{name}")
        assert status == 200, name
        names |= set(re.findall(r'from "\./([\w.]+)"', seen[name].decode()))
    assert {"layout_file.js", "png.js"} < seen.keys()


def test_other_machines_need_the_token(runs, monkeypatch):
    server = Server(paint.Arguments((str(runs[0] / "run_1.safetensors"),), host="0.0.0.0", port=0, browser=False))
    try:
        token = server.address.rstrip("/").rpartition("/")[2]
        assert len(token) >= 32
        assert ask(server, "GET", f"/{token}/about")[0] == 200
        assert ask(server, "GET", f"/{token}/about", host="192.168.1.7:8000")[0] == 200
        status, headers, _ = ask(server, "GET", f"/{token}")  # the address without its last slash
        assert status == 307 and headers["location"] == f"/{token}/" and headers["referrer-policy"] == "no-referrer"
        assert ask(server, "GET", headers["location"])[0] == 200
        assert ask(server, "GET", f"/{token}", host="evil.example")[0] == 403
        for path in ("/", "/about", "//about", f"/{token[:-1]}", f"/{token}x", f"/{token[:-1]}/about", "/page/main.js"):
            assert ask(server, "GET", path)[0] == 403
        assert ask(server, "GET", f"/{token}/about", host="evil.example")[0] == 403
    finally:
        server.stop()


# The command line


def test_without_a_run_the_packaged_streets_are_painted_with():
    (painted,) = open_runs(read_options(paint.Arguments, "paint", []).runs, "latest")
    assert painted.fitted.size == (128, 256) and painted.run.generator.num_images == 6
    assert len(held_out_layouts(painted.run)) == len(painted.run.layouts) == 6


def test_runs_have_to_go_together(runs, tmp_path, tiny_segmenter):
    config = CascadeConfig(CAMVID.num_classes, (8, 8, 8), (6, 8))
    other = write_run(tmp_path / "camvid.safetensors", dataclasses.replace(camvid_96x128, cascade=config), CAMVID)
    first = runs[0] / "run_0.safetensors"
    assert "the same classes" in refused(paint.main, first, other, "--port", "0")
    assert "knows the classes of cityscapes" in refused(paint.main, other, "--port", "0", "--segmenter", tiny_segmenter[1])
    bounded = dataclasses.replace(demo, cascade=CascadeConfig(20, (8, 8, 8), (6, 8), boundaries=True))
    bounded_run = write_run(tmp_path / "bounded.safetensors", bounded, CITYSCAPES)
    assert "with instance boundaries, which the page cannot paint" in refused(paint.main, bounded_run, "--port", "0")
    assert "Steps saved: 7" in refused(paint.main, f"{first}@8", "--port", "0")


def test_a_port_that_is_taken_is_told(runs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen there" in refused(paint.main, runs[0] / "run_0.safetensors", "--port", str(port))


def test_ctrl_c_ends_the_command(runs):
    command = [sys.executable, "-m", "launch.paint", str(runs[0] / "run_1.safetensors"), "--port", "0", "--no_browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = re.search("http://127.0.0.1:([0-9]+)/", process.stdout.readline())
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=PATIENCE)) as connection:
            connection.request("GET", "/about")
            assert json.loads(connection.getresponse().read())["runs"][0]["name"] == "run_1.safetensors, step 7"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0 and process.stdout.read() == "Ended.\n"


def test_a_missing_extra_is_told_with_its_remedy(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert "pip install 'crn_jax[paint]'" in refused(paint.main, "runs/demo")
