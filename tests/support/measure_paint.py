"""Measures in a browser how long the page of launch.paint takes from a stroke to its image.

    python -m tests.support.measure_paint runs/demo streets_256x512

A word is a run, or the name of an experiment. The cascade of an experiment is not trained, which does not change its speed. The
time runs from the pointer's event to the frame in which the image is on the page. A dab is one click, with nothing else under
way. Amid a stroke, the pointer moves on while images are made, and an image may have to wait for the one before it. Between the
dabs, `synthesize` is timed alone, because a busy machine slows both.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from configs import EXPERIMENTS
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.run import load_run
from crn_jax.synthesize import synthesize
from launch import paint
from tests.support.browser import ARGUMENTS, chromium
from tests.support.painter import Painter, Server, write_run

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


def measure(source: str) -> tuple[list[float], list[float], list[float]]:
    """Returns the milliseconds of dabs, of images amid strokes, and of `synthesize` alone."""
    alone = []
    server = Server(paint.Arguments((source,), port=0, browser=False))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(server.address)
        painter = Painter(page, load_run(source))
        height, width = painter.run.generator.size
        page.evaluate(_LATENCIES)
        painter.choose("Brush", painter.run.label_space.classes[0], 12)
        for i in range(DABS):
            painter.choose(class_name=painter.run.label_space.classes[i % 3])
            painter.click(width * (0.1 + 0.8 * (i * 0.37 % 1)), height * (0.1 + 0.8 * (i * 0.61 % 1)))
            painter.settle()
            alone.append(timed(painter))
        dabs = page.evaluate("() => globalThis.latencies.splice(0)")
        for i in range(STROKES):
            painter.choose(class_name=painter.run.label_space.classes[i % 3])
            y = height * (i + 0.5) / STROKES
            painter.drag((0.1 * width, y), (0.9 * width, y), steps=60)
            painter.settle()
        strokes = page.evaluate("() => globalThis.latencies.splice(0)")
        browser.close()
    server.stop()
    return dabs, strokes, alone


def timed(painter: Painter) -> float:
    """Returns the milliseconds of `synthesize` for the layout on the page."""
    layout, run = painter.layout()[None], painter.run
    begin = time.perf_counter()
    np.asarray(synthesize(run.generator, run.params, layout))
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    """Measures what the command line names, and prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        for word in sys.argv[1:]:
            source = word
            if word in EXPERIMENTS:
                source = str(write_run(Path(folder) / f"{word}.safetensors", EXPERIMENTS[word], CITYSCAPES))
            dabs, strokes, alone = measure(source)
            print(
                f"{word}: dab {statistics.median(dabs):.0f} ms (median of {len(dabs)}, the slowest {max(dabs):.0f} ms); "
                f"amid a stroke {statistics.median(strokes):.0f} ms (median of {len(strokes)}); synthesize alone "
                f"{statistics.median(alone):.0f} ms"
            )


if __name__ == "__main__":
    main()
