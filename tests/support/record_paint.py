"""Takes the pictures of the guide to launch.paint, by painting a street from the blank horizon with what the page offers.

    python -m tests.support.record_paint RUN docs

RUN is a run of streets with several images a layout.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from crn_jax.run import load_run
from launch import paint
from tests.support.browser import ARGUMENTS, chromium
from tests.support.painter import Painter, Server


def street(painter: Painter) -> None:
    """Paints a street with buildings, a tree, two cars and a crossing person."""
    height, width = painter.run.generator.size

    def polygon(name: str, *corners: tuple[float, float]) -> None:
        painter.choose("Polygon", name)
        for x, y in (*corners, corners[0]):
            painter.click(x * (width - 1) + 0.5, y * (height - 1) + 0.5)

    def stamp(name: str, x: float, y: float, steps: int) -> None:
        painter.page.get_by_role("button", name=f"Stamp {name}", exact=True).click()
        painter.page.locator("#layout-view .frame").focus()
        painter.keys(*["]" if steps > 0 else "["] * abs(steps))
        painter.click(x * width, y * height)

    painter.page.get_by_role("button", name="Start from a blank horizon").click()
    polygon("building", (0, 0.05), (0.36, 0.33), (0.36, 0.52), (0, 0.7))
    polygon("building", (1, 0), (0.66, 0.3), (0.66, 0.52), (1, 0.7))
    polygon("sidewalk", (0, 0.62), (0.37, 0.5), (0.42, 0.5), (0, 0.8))
    polygon("sidewalk", (1, 0.62), (0.65, 0.5), (0.6, 0.5), (1, 0.8))
    stamp("vegetation 1", 0.14, 0.68, 2)
    stamp("car 3", 0.42, 0.66, -4)
    stamp("car 1", 0.77, 0.84, 0)
    stamp("person 1", 0.56, 0.8, 3)
    painter.settle()


def save(page, path: Path) -> None:
    """Saves a picture of the page."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, optimize=True)


def main() -> None:
    """Takes both pictures."""
    source, folder = sys.argv[1], Path(sys.argv[2])
    server, run = Server(paint.Arguments((source,), port=0, browser=False)), load_run(source)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        for scheme, name in (("light", "paint"), ("dark", "paint_collection")):
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
            page.goto(server.address)
            painter = Painter(page, run)
            street(painter)
            if scheme == "dark":
                page.get_by_role("button", name="Look at image 2").click()
                height, width = run.generator.size
                painter.click(0.5 * width, 0.1 * height, ".image-view .frame")
                page.get_by_role("button", name="Look at image 4").click()
                painter.click(0.5 * width, 0.9 * height, ".image-view .frame")
                page.locator("#class-list").get_by_title("car", exact=True).hover()
                painter.settle()
            save(page, folder / f"{name}.png")
        browser.close()
    server.stop()


if __name__ == "__main__":
    main()
