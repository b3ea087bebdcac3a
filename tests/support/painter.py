"""The page of launch.paint as a painter uses it: a server, and a page whose pixels can be read and painted."""

import base64
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from playwright.sync_api import Page

from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.experiment import Experiment
from crn_jax.formats.safetensors_file import save_run
from crn_jax.generator import init_params
from crn_jax.run import Run, describe_run
from crn_jax.synthesize import synthesize
from launch import paint
from tests.support.commands import PATIENCE

VIEW = {"width": 1100, "height": 760}


def write_run(path: Path, experiment: Experiment, label_space: LabelSpace, seed: int = 0) -> Path:
    """Writes a run that was not trained, as one file. Its images differ where classes do."""
    params = jax.tree.map(np.asarray, init_params(experiment.cascade, jax.random.key(seed)))
    params["to_rgb"]["kernel"] = 8 * params["to_rgb"]["kernel"]  # stronger colours
    save_run(path, params, describe_run(experiment, label_space, {"weights": "random"}, {}) | {"step": 7})
    return path


class Server:
    """The server of a command line, in threads of this process. It can be stopped, and started again at the same port."""

    def __init__(self, arguments: paint.Arguments):
        self.arguments = arguments
        self.start()

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        self._server, listening, self.address = paint.prepare(self.arguments)
        self.port = listening.getsockname()[1]
        self.arguments = dataclasses.replace(self.arguments, port=self.port)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        """Stops the server, and waits until it has ended."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def until(condition: Callable[[], object], pause: float = 0.02) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"nothing has come of it in {PATIENCE} seconds"
        time.sleep(pause)


_READ = """async (canvas) => {
  await new Promise((done) => requestAnimationFrame(done));  // the page paints in the same frame, before this
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let i = 0; i < data.length; i += 4096) text += String.fromCharCode(...data.subarray(i, i + 4096));
  return [canvas.height, canvas.width, btoa(text)];
}"""
_SETTLED = """async () => {
  const { parts } = await import(new URL("page/main.js", document.baseURI));
  if (!parts?.live.isSettled) return false;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return parts.live.isSettled;
}"""

_RESET = """async () => {
  const { parts } = await import(new URL("page/main.js", document.baseURI));
  parts.camera.fit();
  parts.state.set({ tool: "brush", classId: 0, size: 12, stamp: 0, stampScale: 1, mirrored: false });
  for (const panel of parts.panels) panel.restore({ looked: -1, base: 0, picks: [] });
  for (const message of document.querySelectorAll(".message")) message.remove();
  const search = document.getElementById("search");
  search.value = "";
  search.dispatchEvent(new Event("input"));
}"""


class Painter:
    """A page with the canvas of a run."""

    def __init__(self, page: Page, run: Run):
        self.page, self.run = page, run
        self.settle()

    def settle(self) -> None:
        """Waits until the images on the page are those of the layout on the page."""
        self.page.wait_for_selector("body[data-ready=yes]")
        until(lambda: self.page.evaluate(_SETTLED))

    def reset(self) -> None:
        """Sets tools, views and picks back, so that the next test finds the page as a new one. The layout stays."""
        self.page.mouse.move(0, 0)
        self.page.evaluate(_RESET)

    # What is seen.

    def pixels(self, selector: str) -> np.ndarray:
        """The pixels of a canvas, uint8 `[H, W, 4]`."""
        height, width, text = self.page.locator(selector).first.evaluate(_READ)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)

    def layout(self) -> np.ndarray:
        """The class ids that the layout's canvas shows, `[H, W]`."""
        pixels = self.pixels("#layout-view .pixels")
        assert (pixels[..., 3] == 255).all()
        colors = {color: number for number, color in enumerate(self.run.label_space.colors)}
        return np.array([[colors[tuple(color)] for color in row] for row in pixels[..., :3].tolist()], np.uint8)

    def image(self, number: int = 0) -> np.ndarray:
        """The image of a run, uint8 `[H, W, 3]`."""
        pixels = self.pixels(f".image-view >> nth={number} >> .pixels")
        assert (pixels[..., 3] == 255).all()
        return pixels[..., :3]

    def tile(self, name: str) -> np.ndarray:
        """What a tile of the collection shows."""
        return self.pixels(f"#tiles [aria-label='{name}'] canvas")[..., :3]

    def images(self) -> np.ndarray:
        """What `synthesize` makes of the layout on the page, uint8 `[k, H, W, 3]`."""
        return np.asarray(synthesize(self.run.generator, self.run.params, self.layout()[None]))[0]

    def message(self) -> str:
        """The text of the newest message."""
        return self.page.locator(".message p").last.inner_text()

    # What is done.

    def choose(self, tool: str = "", class_name: str = "", size: int = 0) -> None:
        """Chooses a tool and a class by their names, and a size by the slider."""
        if tool:
            self.page.get_by_role("button", name=tool, exact=True).click()
        if class_name:
            self.page.locator("#class-list").get_by_title(class_name, exact=True).click()
        if size:
            self.page.get_by_label("Brush size").fill(str(size))

    def place(self, x: float, y: float, selector: str = "#layout-view .frame") -> tuple[float, float]:
        """Where a point of the canvas lies on the screen, at 100%."""
        frame = self.page.locator(selector).first
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        height, width = self.run.generator.size
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    def click(self, x: float, y: float, selector: str = "#layout-view .frame", **settings) -> None:
        """Clicks on a point of the canvas."""
        self.page.mouse.click(*self.place(x, y, selector), **settings)

    def drag(self, *points: tuple[float, float], steps: int = 4) -> None:
        """Drags over points of the canvas."""
        with self.dragging(*points, steps=steps):
            pass

    def dragging(self, *points: tuple[float, float], steps: int = 4) -> "Drag":
        """A drag that ends with the block."""
        return Drag(self, points, steps)

    def keys(self, *keys: str) -> None:
        """Presses keys."""
        for key in keys:
            self.page.keyboard.press(key)

    def check_reload(self) -> None:
        """Looks at another image, picks a class from it, and checks that layout and image survive a reload."""
        self.page.get_by_role("button", name="Look at image 1").click()
        self.click(10, 44, ".image-view .frame")
        self.settle()
        layout, image = self.layout(), self.image()
        self.page.reload()
        self.settle()
        np.testing.assert_array_equal(self.layout(), layout)
        np.testing.assert_array_equal(self.image(), image)

    def downloaded(self, act: Callable[[], object], folder: Path) -> Path:
        """The file that the page saves when `act` is called."""
        with self.page.expect_download() as download:
            act()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


class Drag:
    """A drag over points of the canvas. The pointer is down within the block."""

    def __init__(self, painter: Painter, points: tuple[tuple[float, float], ...], steps: int):
        self.painter, self.points, self.steps = painter, points, steps

    def __enter__(self) -> None:
        mouse = self.painter.page.mouse
        mouse.move(*self.painter.place(*self.points[0]))
        mouse.down()
        for point in self.points[1:]:
            mouse.move(*self.painter.place(*point), steps=self.steps)

    def __exit__(self, *_) -> None:
        self.painter.page.mouse.up()
