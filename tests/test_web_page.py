"""launch.convert web: the page of launch.paint as a folder of files, in a real browser that makes the images by itself."""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import types
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
import pooch
import pytest
from PIL import Image

from configs import demo
from crn_jax.cascade import CascadeConfig
from crn_jax.data.labels.published import CAMVID, CITYSCAPES
from crn_jax.diversity import assemble
from crn_jax.errors import UserError
from crn_jax.files import cache_folder
from crn_jax.run import load_run
from launch import convert
from launch.conversion import onnxruntime_web
from launch.conversion.onnxruntime_web import ARCHIVE, INTEGRITY, MODULE, VERSION, WASM
from launch.conversion.web_page import MODEL, check_size
from launch.painting.uploads import on_canvas
from launch.segmentation.layout_files import layout_image
from tests.support import commands
from tests.support.commands import ROOT
from tests.support.painter import VIEW, Painter, until, write_run
from tests.support.static_server import serving

pytest_plugins = "tests.support.browser"

refused = functools.partial(commands.refused, convert.main, "web")
CLASS = {name: number for number, name in enumerate(CITYSCAPES.classes)}
H, W = 48, 64
PAINT, ENGINE = ROOT / "launch" / "pages" / "paint", ROOT / "launch" / "pages" / "paint_folder"
REFUSED_ON_CONSOLE = "Failed to load resource"  # Chromium tells of every answer that is no success


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    """onnxruntime-web as npm unpacks it. It is taken from the cache of downloads, which nobody fills here."""
    folder = cache_folder()
    archive = folder / ARCHIVE if folder else None
    digest = base64.b64decode(INTEGRITY.partition("-")[2]).hex()
    if archive is None or not archive.is_file() or pooch.file_hash(str(archive), alg="sha512") != digest:
        pytest.skip(f"needs onnxruntime-web: npm pack --pack-destination {folder} onnxruntime-web@{VERSION}")
    unpacked = tmp_path_factory.mktemp("node_modules")
    with tarfile.open(archive) as package:
        for member in package:
            if Path(member.name).name in (MODULE, WASM, "package.json"):
                package.extract(member, unpacked, filter="data")
    return unpacked / "package"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A run of three images at 48x64."""
    experiment = dataclasses.replace(demo, cascade=CascadeConfig(20, (8, 8, 8, 8), (6, 8), 3))
    return write_run(tmp_path_factory.mktemp("runs") / "streets.safetensors", experiment, CITYSCAPES)


@pytest.fixture(scope="module")
def folder(source, runtime, tmp_path_factory) -> Path:
    """The page as files."""
    folder = tmp_path_factory.mktemp("web") / "page"
    convert.main(["web", str(source), str(folder), "--onnxruntime", str(runtime)])
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def shared_page(server, source, open_shared_page) -> Painter:
    return Painter(open_shared_page(server.address, viewport=VIEW), load_run(source))


@pytest.fixture
def painter(shared_page):
    """A function that returns the page, which begins anew."""

    def begin(start: str = "a blank horizon") -> Painter:
        shared_page.reset()
        shared_page.page.get_by_role("button", name=f"Start from {start}", exact=True).click()
        shared_page.settle()
        return shared_page

    return begin


@pytest.fixture(scope="module")
def expected(folder):
    """The images of a layout, uint8 `[k, H, W, 3]`, by onnxruntime in Python."""
    session = onnxruntime.InferenceSession(str(folder / MODEL))
    return lambda layout: session.run(None, {"layout_ids": layout[None]})[0][0]


def assert_alike(image: np.ndarray, other: np.ndarray) -> None:
    """Allows one level, in one of 100 numbers."""
    difference = np.abs(image.astype(int) - other)
    assert image.std() > 5 and difference.max() <= 1 and (difference > 0).mean() <= 0.01


# Images


def test_what_is_painted_is_what_onnxruntime_and_synthesize_make(painter, expected):
    page = painter("held-out layout 1")
    assert_alike(page.image(), expected(page.layout())[0])
    before = page.layout()
    page.choose("Brush", "car", 9)
    page.click(20, 30)
    page.settle()
    rows, columns = np.mgrid[:H, :W] + 0.5
    painted = np.where((columns - 20.5) ** 2 + (rows - 30.5) ** 2 <= 4.5**2 + 1e-9, CLASS["car"], before)
    np.testing.assert_array_equal(page.layout(), painted)
    assert_alike(page.image(), expected(painted)[0])
    assert_alike(page.image(), page.images()[0])  # of `synthesize`
    for u in range(3):
        assert_alike(page.tile(f"Look at image {u}"), expected(painted)[u])
    assert "ms from stroke to image" in page.page.locator("#latency").inner_text()


def test_the_newest_layout_wins_and_nothing_queues_up(painter, expected):
    page = painter()
    page.choose("Brush", "vegetation", 8)
    page.page.evaluate("""() => {
      const post = Worker.prototype.postMessage, sent = [];
      Worker.prototype.postMessage = function (message) {
        sent.push(() => post.call(this, message));
        if (sent.length > 1) sent.at(-1)();  // the first one is slow
      };
      globalThis.sent = sent;
      globalThis.restore = () => { Worker.prototype.postMessage = post; };
    }""")
    page.drag((4, 4), (60, 8), (4, 20), (60, 40), steps=15)
    until(lambda: page.page.evaluate("() => sent.length"))
    assert page.page.evaluate("() => sent.length") == 1  # one image is under way, however much was painted since
    page.page.evaluate("() => sent[0]()")
    page.settle()
    assert page.page.evaluate("() => { restore(); return sent.length; }") <= 2
    assert (page.layout() == CLASS["vegetation"]).sum() > 500
    assert_alike(page.image(), expected(page.layout())[0])


def test_a_picked_class_comes_from_that_image(painter):
    page = painter()
    choice = np.zeros(20, int)
    for u, name, place in ((2, "sky", (10, 4)), (1, "road", (10, 44))):
        page.page.get_by_role("button", name=f"Look at image {u}").click()
        page.click(*place, ".image-view .frame")
        choice[CLASS[name]] = u
    images = np.stack([page.tile(f"Look at image {u}") for u in range(3)])
    np.testing.assert_array_equal(page.image(), np.asarray(assemble(images, page.layout(), choice)))
    assert (images[1] != images[0]).any()
    page.page.get_by_role("button", name="Map of choices").click()
    shade = page.pixels(".image-view .shade")
    assert len(np.unique(shade[page.layout() == CLASS["sky"]], axis=0)) == 1


def test_an_image_that_fails_is_told_in_words_and_harms_no_other_one(painter, expected):
    page = painter()
    ask = """async () => {
      const { render } = await import(new URL("page/engine.js", document.baseURI));
      return render(0, new Uint8Array(10), { images: 3, height: 48, width: 64 }).then(() => "", (error) => error.message);
    }"""
    assert page.page.evaluate(ask).startswith("The image cannot be made: ")
    page.choose("Brush", "car", 9)
    page.click(20, 30)
    page.settle()
    assert_alike(page.image(), expected(page.layout())[0])


def test_undo_restores_exactly_and_a_reload_keeps_the_work(painter):
    page = painter()
    states = [(page.layout(), page.image())]
    page.choose("Brush", "car", 11)
    for x in (15, 30):
        page.drag((x, 12), (x + 8, 40))
        page.settle()
        states.append((page.layout(), page.image()))
    for layout, image in reversed(states[:-1]):
        page.keys("Control+z")
        page.settle()
        np.testing.assert_array_equal(page.layout(), layout)
        np.testing.assert_array_equal(page.image(), image)
    page.keys("Control+Shift+z")
    page.check_reload()


# Files


def encoded(picture: np.ndarray | Image.Image, kind: str = "png", **settings) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **settings)
    return file.getvalue()


def open_file(page: Painter, content: bytes, name: str = "some.png") -> None:
    page.page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_a_saved_layout_reloads_to_the_same_ids(painter, source, tmp_path):
    page, run = painter("held-out layout 2"), load_run(source)
    page.choose("Brush", "bus", 12)
    page.drag((10, 10), (50, 40))
    page.choose("Eraser")
    page.drag((4, 40), (60, 44))
    page.settle()
    before = page.layout()
    saved = page.downloaded(lambda: page.page.get_by_role("button", name="Save layout").click(), tmp_path)
    np.testing.assert_array_equal(run.read_layout(saved), before)
    made, ours = Image.open(saved), layout_image(before, CITYSCAPES)
    assert made.mode == "P" and made.getpalette() == ours.getpalette()
    np.testing.assert_array_equal(made, ours)
    page.page.get_by_role("button", name="Start from a blank horizon").click()
    open_file(page, saved.read_bytes(), saved.name)
    until(lambda: (page.layout() == before).all())
    image = page.downloaded(lambda: page.page.get_by_role("button", name="Save image", exact=True).click(), tmp_path)
    page.settle()
    np.testing.assert_array_equal(np.asarray(Image.open(image).convert("RGB")), page.image())
    assert image.stem == f"{saved.stem.removeprefix('layout_')}_image"


_READ = """async ([text, info, fit, reading]) => {
  const { readLayout, onCanvas } = await import(new URL("page/layout_file.js", document.baseURI));
  const { bytesOf } = await import(new URL("page/raster.js", document.baseURI));
  try {
    const layout = await readLayout(bytesOf(text), "it.png", info, reading ?? undefined);
    const { ids, notes } = fit ? onCanvas(layout, { ...info, fit }) : { ids: layout.ids, notes: [] };
    return [Array.from(ids), notes];
  } catch (error) {
    return [error.message, error.choices ?? null];
  }
}"""


@pytest.fixture
def read(painter, folder):
    """`read(content, fit, reading, **info)`: what the page reads, and its notes; or its message, and what it offers."""
    page, info = painter().page, json.loads((folder / "about.json").read_text())

    def read(content: bytes, fit: str | None = None, reading: str | None = None, **settings):
        return page.evaluate(_READ, [base64.b64encode(content).decode(), info | settings, fit, reading])

    return read


def with_palette(indices: np.ndarray, palette: np.ndarray, **settings) -> bytes:
    picture = Image.fromarray(indices)
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return encoded(picture, **settings)


def test_layout_files_are_read_as_everywhere(read, tmp_path):
    rng = np.random.default_rng(0)
    layout = np.repeat(np.repeat(rng.integers(0, 20, (13, 9)), 5, 0), 3, 1).astype(np.uint8)
    few = layout % 3
    raw = np.asarray(layout_image(layout, CITYSCAPES))
    colors = CITYSCAPES.draw(layout)
    opaque = np.dstack([colors, np.full(layout.shape, 255, np.uint8)])
    own = np.array(CITYSCAPES.colors, np.uint8)
    ids = np.array([7, 8, 11], np.uint8)[few]  # road, sidewalk, building
    matching = np.zeros((256, 3), np.uint8)
    matching[[7, 8, 11]] = own[:3]
    ramp = np.arange(256)[:, None].repeat(3, 1)
    files = {
        "ids in 8 bits": encoded(raw),
        "ids in 16 bits": encoded(raw.astype(np.uint16)),
        "a palette": encoded(layout_image(layout, CITYSCAPES)),
        "a palette, unfiltered": encoded(layout_image(layout, CITYSCAPES), compress_level=0),
        "a palette of 4 bits": with_palette(ids, matching, bits=4),
        "a palette of greys": with_palette(ids, ramp),
        "colours": encoded(colors),
        "colours, optimized": encoded(colors, optimize=True),
        "opaque colours": encoded(opaque),
    }
    for name, content in files.items():
        (tmp_path / "it.png").write_bytes(content)
        found, _ = read(content)
        assert found == CITYSCAPES.read(tmp_path / "it.png").ravel().tolist(), name
    drawn = with_palette(few, own[[10, 13, 9]], bits=2)  # numbered anew: sky, car, terrain
    words, choices = read(drawn)  # the painter is asked
    assert choices == ["ids", "colors"] and "By its indices, it shows void; by its colours, sky, car, terrain." in words
    assert read(drawn, reading="colors")[0] == np.array([10, 13, 9])[few].ravel().tolist()
    assert read(drawn, read_as="colors")[0] == np.array([10, 13, 9])[few].ravel().tolist()
    assert read(drawn, reading="ids")[0] == [19] * few.size  # 0, 1, 2 are void in Cityscapes' files


def test_other_files_are_refused_in_words(read):
    layout = np.tile(np.arange(8, dtype=np.uint8), (6, 2))
    colors, png = CITYSCAPES.draw(layout), encoded(CITYSCAPES.draw(layout))
    clear = np.dstack([colors, np.full(layout.shape, 255, np.uint8)])
    clear[0, 0, 3] = 0
    damaged, corrupt = bytearray(png), bytearray(png)
    damaged[60] ^= 1
    at = png.index(b"IDAT")  # a wrong stream with a right checksum
    corrupt[at + 4 : at + 8] = b"\0" * 4
    length = int.from_bytes(png[at - 4 : at], "big")
    corrupt[at + 4 + length : at + 8 + length] = zlib.crc32(corrupt[at : at + 4 + length]).to_bytes(4, "big")
    odd = []  # kinds of pixels that no PNG has: colours of 4 bits, a palette of 16
    for depth, kind in ((4, 2), (16, 3)):
        header = b"IHDR" + png[16:24] + bytes([depth, kind, 0, 0, 0])
        odd.append(png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:])
    for content, words in {
        encoded(CAMVID.draw(layout)): "colours are not in cityscapes's palette",
        encoded(np.full((4, 4), 99, np.uint8)): "99 (16 pixels) is no label id of cityscapes",
        encoded(Image.fromarray(layout > 3)): "a grey PNG of 1 bit a pixel",
        encoded(clear): "some pixels are transparent. Paint them in void's colour",
        encoded(colors, transparency=tuple(colors[0, 0].tolist())): "some pixels are transparent",
        encoded(layout + np.uint8(7), transparency=9): "some pixels are transparent",
        encoded(Image.fromarray(layout).convert("LA")): "not of greys with transparency",
        encoded(colors, "jpeg"): "this is no PNG file",
        b"": "this is no PNG file",
        png[:-20]: "the file is damaged or cut short",
        png[:30]: "the file is damaged or cut short",
        bytes(damaged): "the file is damaged or cut short",
        bytes(corrupt): "the file is damaged or cut short",
        **dict.fromkeys(odd, "the file is damaged or cut short"),
    }.items():
        message, choices = read(content)
        assert message.startswith("it.png: ") and words in message and not choices, message


@pytest.mark.parametrize("fit", ["resize", "crop", "random_crop", "pad", "stretch"])
def test_a_layout_of_another_size_comes_to_the_canvas_as_everywhere(read, source, fit):
    experiment = types.SimpleNamespace(data=types.SimpleNamespace(fit=fit))
    run = types.SimpleNamespace(experiment=experiment, generator=load_run(source).generator, label_space=CITYSCAPES)
    rng = np.random.default_rng(0)
    for shape in ((48, 64), (96, 128), (31, 41), (50, 200), (301, 77), (1, 1)):
        layout = rng.integers(0, 20, shape).astype(np.uint8)
        ids, notes = read(encoded(CITYSCAPES.draw(layout)), fit)
        theirs, said = on_canvas(run, layout, "The layout")
        np.testing.assert_array_equal(np.reshape(ids, (H, W)), theirs, str(shape))
        assert notes == said


_WRITE = """async ([ids, info]) => {
  const { layoutPng } = await import(new URL("page/layout_file.js", document.baseURI));
  const { idsOf } = await import(new URL("page/raster.js", document.baseURI));
  const layout = idsOf(new ArrayBuffer(ids.length * info.bytes), info.bytes);
  layout.set(ids);
  return Array.from(await layoutPng(layout, info));
}"""


def test_layouts_of_every_label_space_are_written(read, painter, tmp_path):
    """Ids above 255 need 16 bits, and a class without an id needs colours."""
    page = painter().page
    many = {"bytes": 2, "height": 2, "width": 3, "classes": ["x"] * 300, "ids": {str(2 * i): i for i in range(300)}}
    many["colors"] = [[i % 256, i // 256, 7] for i in range(300)]
    layout = [0, 1, 128, 299, 298, 43]
    content = bytes(page.evaluate(_WRITE, [layout, many | {"void_colors": []}]))
    assert np.asarray(Image.open(io.BytesIO(content))).tolist() == [[0, 2, 256], [598, 596, 86]]
    assert read(content, **many)[0] == layout
    few = {"bytes": 1, "height": 2, "width": 2, "classes": ["a", "b", "void"], "ids": {"5": 0, "3": 0, "9": 1}}
    few["colors"] = [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    content = bytes(page.evaluate(_WRITE, [[0, 1, 2, 0], few | {"void_colors": []}]))
    assert np.asarray(Image.open(io.BytesIO(content))).tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [1, 2, 3]]]
    content = bytes(page.evaluate(_WRITE, [[0, 1, 1, 0], few | {"void_colors": []}]))
    assert np.asarray(Image.open(io.BytesIO(content))).tolist() == [[3, 9], [9, 3]]  # the smallest id of each class


# The folder


def test_the_page_is_that_of_launch_paint(folder):
    """All modules are the server's page's but the engine, which offers the same."""
    theirs, ours = ({path.name for path in place.iterdir()} - {"index.html"} for place in (PAINT, ENGINE))
    assert {path.name for path in (folder / "page").iterdir()} == theirs | ours | {"style.css"}
    for name in theirs - ours:
        assert (folder / "page" / name).read_bytes() == (PAINT / name).read_bytes()
    exported = [
        set(re.findall(r"export (?:async function|const) (\w+)", (place / "engine.js").read_text()))
        for place in (PAINT, ENGINE)
    ]
    assert exported[0] - exported[1] == {"command"}  # about.json says that there is none
    index = (folder / "index.html").read_text()
    assert "Content-Security-Policy" in index and "README.md" in index
    card = (folder / "README.md").read_text()
    assert "python -m http.server" in card and "MIT License" in card and f"onnxruntime-web {VERSION}" in card


def test_nothing_leaves_the_origin(painter, server):
    """The fixture of the page fails at requests to anywhere else. Its policy forbids them, also to what makes the images."""
    page = painter().page
    with serving(ROOT / "docs") as other:
        ask = f"fetch({other.address!r}, {{ mode: 'no-cors' }}).then(() => 'answered', () => 'refused')"
        (worker,) = page.workers
        assert worker.evaluate(ask) == "refused"
        assert worker.evaluate("fetch('about.json').then(() => 'answered', () => 'no base')") == "no base"  # it is a blob
        assert not other.asked
    assert {status for _, status in server.asked} <= {200, 304}
    assert "/model.onnx" in dict(server.asked) and f"/onnxruntime/{WASM}" in dict(server.asked)


def test_what_only_a_server_offers_has_no_button(painter):
    page = painter().page
    assert not page.get_by_role("button", name="Copy command").is_visible()
    assert page.get_by_role("button", name="Photograph").count() == 0
    assert page.get_by_role("button", name="Open a file").is_visible()


def copied(folder: Path, to: Path, without: str = "") -> Path:
    """A copy of the page, perhaps without a file."""
    shutil.copytree(folder, to, copy_function=os.link)
    if without:
        (to / without).unlink()
    return to


@contextlib.contextmanager
def broken(folder: Path, open_page):
    """A page whose folder is not whole."""
    with serving(folder) as server:
        yield open_page(server.address, tolerates=REFUSED_ON_CONSOLE, viewport=VIEW)


@pytest.mark.parametrize("missing", ["model.onnx", f"onnxruntime/{WASM}", f"onnxruntime/{MODULE}", "page/worker.js"])
def test_a_missing_file_is_told_in_words(folder, tmp_path, open_page, missing):
    with broken(copied(folder, tmp_path / "page", missing), open_page) as page:
        page.wait_for_selector("#status[data-light=lost]")
        told = page.locator("#status-text").inner_text()
        words = {
            f"onnxruntime/{MODULE}": "onnxruntime-web cannot be loaded",
            "page/worker.js": "The worker that makes images cannot be started.",
        }
        assert words.get(missing, f"{missing} cannot be loaded: the server answers with status 404.") in told
        assert "Copy the whole folder" in told and told in page.locator(".veil").inner_text()
        page.get_by_role("button", name="Start from a blank horizon").click()  # one can still paint


def test_a_damaged_model_is_told_in_words(folder, tmp_path, open_page):
    content = (folder / "model.onnx").read_bytes()
    for name, damaged, words in (
        ("short", content[:-9], f"model.onnx has {len(content) - 9:,} bytes in place of {len(content):,}."),
        ("wrong", bytes(len(content)), "The model cannot be started"),
    ):
        (copied(folder, tmp_path / name, "model.onnx") / "model.onnx").write_bytes(damaged)
        with broken(tmp_path / name, open_page) as page:
            page.wait_for_selector("#status[data-light=lost]")
            assert words in page.locator("#status-text").inner_text()


@pytest.mark.parametrize(
    "content, words",
    [(None, "cannot be loaded"), ("<html>No such page</html>", "is damaged"), ('{"session', "is damaged or cut short")],
)
def test_without_about_json_the_page_says_so(folder, tmp_path, open_page, content, words):
    copy = copied(folder, tmp_path / "page", "about.json")
    if content:
        (copy / "about.json").write_text(content)
    with broken(copy, open_page) as page:
        page.wait_for_selector(".message.error")
        told = page.locator(".message p").inner_text()
        assert f"about.json {words}" in told and "Copy the whole folder" in told


def test_isolated_pages_use_threads(folder, source, expected, tmp_path, open_page):
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    copy = copied(folder, tmp_path / "page", "page/worker.js")
    worker, setting = (folder / "page" / "worker.js").read_text(), "ort.env.wasm.wasmBinary ="
    assert worker.count(setting) == 1  # of two cores, onnxruntime-web takes one by itself
    (copy / "page" / "worker.js").write_text(worker.replace(setting, f"ort.env.wasm.numThreads = 2;\n{setting}"))
    with serving(copy, headers) as server:
        page = Painter(open_page(server.address, viewport=VIEW), load_run(source))
        assert page.page.evaluate("() => crossOriginIsolated")
        assert len(page.page.workers) > 1
        assert_alike(page.image(), expected(page.layout())[0])


def test_a_page_that_is_opened_as_a_file_says_what_to_do(folder, open_page):
    page = open_page(folder / "index.html", tolerates=" ")
    assert "open this folder by a web server" in page.locator("#status-text").inner_text()


# The command


def test_what_cannot_be_converted(source, runtime, tmp_path):
    assert "this is not the npm package onnxruntime-web" in refused(source, tmp_path / "out", "--onnxruntime", tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").touch()
    assert "exists already" in refused(source, tmp_path / "here", "--onnxruntime", runtime)
    experiment = dataclasses.replace(demo, cascade=CascadeConfig(20, (8, 8, 8), (6, 8), boundaries=True))
    other = write_run(tmp_path / "instances.safetensors", experiment, CITYSCAPES)
    assert "trained with instance boundaries" in refused(other, tmp_path / "out", "--onnxruntime", runtime)
    assert not (tmp_path / "out").exists()


@pytest.mark.quick
def test_a_model_of_more_than_2_gb_is_refused(tmp_path):
    (tmp_path / MODEL).touch()
    check_size(tmp_path)
    (tmp_path / f"{MODEL}.data").touch()
    with pytest.raises(UserError, match="more than browsers take"):
        check_size(tmp_path)


def package(folder: Path, *names: str) -> str:
    """Makes an npm package with these files, and returns its integrity as the registry writes it."""
    file = folder / "package.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return f"sha512-{base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()}"


@pytest.mark.quick
def test_the_package_is_downloaded_once_and_verified(tmp_path, monkeypatch):
    published, cache, download = tmp_path / "published", tmp_path / "cache", onnxruntime_web.download_package
    published.mkdir()
    integrity = package(published, "package.json", f"dist/{MODULE}", f"dist/{WASM}", f"dist/more/{WASM}", "../evil")
    with serving(published) as server:
        url = f"{server.address}package.tgz"
        fetch = functools.partial(download, cache, url, progressbar=False)
        assert fetch(integrity) == fetch(integrity) == cache / ARCHIVE
        assert len(server.asked) == 1
        with pytest.raises(UserError, match="wrong checksum"):
            fetch(f"sha512-{base64.b64encode(bytes(64)).decode()}")
        monkeypatch.setattr(onnxruntime_web, "download_package", lambda: fetch(integrity))
        files = onnxruntime_web.runtime_files(None)
        assert files == {
            name: path.encode()
            for name, path in zip(("package.json", MODULE, WASM), ("package.json", f"dist/{MODULE}", f"dist/{WASM}"))
        }
        monkeypatch.setattr(onnxruntime_web, "download_package", lambda: fetch(package(published, "package.json")))
        with pytest.raises(UserError, match=f"{WASM}.* is not there"):
            onnxruntime_web.runtime_files(None)
    with pytest.raises(UserError, match="(?s)could not be fetched from http.*npm install onnxruntime-web"):
        download(tmp_path / "other", "http://127.0.0.1:9/package.tgz", progressbar=False)
