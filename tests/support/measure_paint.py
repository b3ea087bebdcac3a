"""Measures in a browser how long the page of launch.paint, or of launch.convert web, takes from a stroke to its image.

    python -m tests.support.measure_paint runs/demo streets_256x512 OUT

A word is a run, the name of an experiment, or a folder of launch.convert web. The cascade of an experiment is not trained,
which does not change its speed. The time runs from the pointer's event to the frame in which the image is on the page. A dab is
one click, with nothing else under way. Amid a stroke, the pointer moves on while images are made, and an image may have to wait
for the one before it. Between the dabs, `synthesize` is timed alone, because a busy machine slows both; for a folder, which is
measured with one thread and with several, it is onnxruntime in Python with as many threads.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from playwright.sync_api import sync_playwright

from configs import EXPERIMENTS
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.run import load_run
from crn_jax.synthesize import synthesize
from launch import paint
from tests.support.browser import ARGUMENTS, chromium
from tests.support.painter import Painter, Server, write_run
from tests.support.static_server import serving

DABS, STROKES = 40, 10

_LATENCIES = """async () => {
  const { parts } = await import(new URL("page/main.js", document.baseURI));
  const found = [];
  parts.live.addEventListener("status", () => {
    const { latency } = parts.panels[0];
    if (latency !== null && latency !== found.at(-1)) found.push(latency);
  });
  globalThis.latencies = found;
}"""


@contextlib.contextmanager
def served_run(source: str) -> Iterator[tuple[str, object, Callable[[np.ndarray], object]]]:
    """Serves a run by launch.paint. Yields the page's address, the run, and the function that makes images of a layout."""
    server, run = Server(paint.Arguments((source,), port=0, browser=False)), load_run(source)
    yield server.address, run, lambda layout: np.asarray(synthesize(run.generator, run.params, layout))
    server.stop()


@contextlib.contextmanager
def served_folder(folder: Path, threads: bool) -> Iterator[tuple[str, object, Callable[[np.ndarray], object]]]:
    """Serves a folder of launch.convert web, with the headers that allow threads or without, as `served_run` does."""
    about = json.loads((folder / "about.json").read_text("utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 0 if threads else 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    labels = types.SimpleNamespace(classes=about["classes"], colors=[tuple(color) for color in about["colors"]])
    run = types.SimpleNamespace(generator=types.SimpleNamespace(size=(about["height"], about["width"])), label_space=labels)
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    with serving(folder, headers if threads else {}) as server:
        yield server.address, run, lambda layout: session.run(None, {"layout_ids": layout})


def measure(address: str, run, images: Callable[[np.ndarray], object]) -> tuple[list[float], list[float], list[float]]:
    """Returns the milliseconds of dabs, of images amid strokes, and of `images` alone."""
    alone = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        painter = Painter(page, run)
        height, width = run.generator.size
        page.evaluate(_LATENCIES)
        painter.choose("Brush", run.label_space.classes[0], 12)
        for i in range(DABS):
            painter.choose(class_name=run.label_space.classes[i % 3])
            painter.click(width * (0.1 + 0.8 * (i * 0.37 % 1)), height * (0.1 + 0.8 * (i * 0.61 % 1)))
            painter.settle()
            layout = painter.layout()[None]
            begin = time.perf_counter()
            images(layout)
            alone.append(1000 * (time.perf_counter() - begin))
        dabs = page.evaluate("() => globalThis.latencies.splice(0)")
        for i in range(STROKES):
            painter.choose(class_name=run.label_space.classes[i % 3])
            y = height * (i + 0.5) / STROKES
            painter.drag((0.1 * width, y), (0.9 * width, y), steps=60)
            painter.settle()
        strokes = page.evaluate("() => globalThis.latencies.splice(0)")
        browser.close()
    return dabs, strokes, alone


def main() -> None:
    """Measures what the command line names, and prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        for word in sys.argv[1:]:
            if (Path(word) / "about.json").is_file():
                served = {
                    f"{word}, {name}": served_folder(Path(word), name != "one thread") for name in ("one thread", "threads")
                }
            elif word in EXPERIMENTS:
                served = {word: served_run(str(write_run(Path(folder) / f"{word}.safetensors", EXPERIMENTS[word], CITYSCAPES)))}
            else:
                served = {word: served_run(word)}
            for name, serving_it in served.items():
                with serving_it as (address, run, images):
                    dabs, strokes, alone = measure(address, run, images)
                print(
                    f"{name}: dab {statistics.median(dabs):.0f} ms (median of {len(dabs)}, the slowest {max(dabs):.0f} ms); "
                    f"amid a stroke {statistics.median(strokes):.0f} ms (median of {len(strokes)}); alone "
                    f"{statistics.median(alone):.0f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
