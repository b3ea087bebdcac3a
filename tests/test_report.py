"""The page of launch.evaluate: what is embedded in it, and what a browser shows of it."""

import base64
import copy
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from crn_jax.data.labels.label_space import LabelSpace
from launch.common.page import data_url
from launch.evaluation.report import Example, report_data, write_report

pytest_plugins = "tests.support.browser"

SPACE = LabelSpace("odd", ("sky", "r<o>ad", "car", "void"), ((70, 130, 180), (128, 64, 128), (0, 0, 142), (0, 0, 0)), {})
PHOTOGRAPHS, FOREIGN = "photographs", "other\udc80 images"
NASTY, DIVERSE = '<b>bold</b> & "it\'s" </script><!--', "diverse, with a name that is longer than a narrow screen is wide"
RED, GREEN, BLUE = (250, 10, 20), (10, 200, 30), (20, 30, 240)
H, W = 24, 32


def evaluation() -> dict:
    """Four candidates, the photographs not the first; scores that are missing, null, NaN and infinite."""
    run = {"kind": "run", "about": "step <i>3</i>", "resources": {}}
    scores = [
        {"key": "miou", "title": "mIoU", "unit": "%", "better": "higher", "about": "Of <classes>."},
        {"key": "kid", "title": "KID", "unit": "", "better": "lower", "about": "Of features."},
        {"key": "spread", "title": "spread", "unit": "", "better": "higher", "about": "Of one run."},
        {"key": "hue", "title": "hue", "unit": "°", "better": None, "about": "Neither."},
        {"key": "never", "title": "never", "unit": "", "better": "lower", "about": ""},
    ]
    confusion = [[8, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 1, 999]]
    candidates = [
        run
        | {
            "name": NASTY,
            "scores": {
                "miou": {"value": 51.26, "low": 48.0, "high": 53.5},
                "kid": {"value": -0.00123, "std": 0.0004},
                "hue": {"value": 120},
            },
            "class_iou": [0.5, None, 0.25],
            "confusion": confusion,
            "per_image": {"distance": [10.0, 20.0, 30.0, None], "psnr": [1.0, 2.0, 3.0, 4.0]},
            "terms": {"input": 24.43, "conv5_2": 3.1415},
            "resources": {"layouts_per_second": 3.14, "parameters": 4_800_000, "peak_bytes": 1.2e9},
        },
        run
        | {
            "name": DIVERSE,
            "scores": {
                "miou": {"value": 40.0},
                "kid": {"value": 0.0371, "std": 0.002},
                "spread": {"value": 7.0},
                "hue": {"value": 9},
            },
            "class_iou": [0.125, 0.75, 1.0],
            "confusion": None,
            "per_image": {"distance": [12.0, float("nan"), 31.0, 40.0]},
        },
        {
            "name": PHOTOGRAPHS,
            "kind": "photographs",
            "about": "",
            "scores": {"miou": {"value": 60.0, "low": 57.0, "high": 63.0}, "kid": {"value": None}},
            "class_iou": [0.875, 0.5, None],
            "confusion": [[5, 0, 0, 0]] + [[0, 1, 2, 1]] * 3,
            "per_image": {},
            "resources": {},
        },
        {
            "name": FOREIGN,
            "kind": "images",
            "about": "a folder",
            "scores": {"miou": {"value": float("nan")}, "kid": {"value": float("inf")}, "never": {"value": None}},
            "class_iou": None,
            "confusion": None,
            "per_image": {"distance": [None] * 4},
            "resources": {},
        },
    ]
    return {
        "title": "odd <val> & more",
        "command": 'python -m launch.evaluate "<run>"',
        "versions": {"jax": "1.2.3"},
        "notes": ["FID: <fewer> images than features."],
        "classes": list(SPACE.classes),
        "names": ["first", "sec<u>ond</u>", "third", "fourth"],
        "scores": scores,
        "candidates": candidates,
    }


def flat(color) -> np.ndarray:
    return np.full((H, W, 3), color, np.uint8)


def examples() -> list[Example]:
    """Flat images, so that a screenshot tells them apart; the first example lacks what the second has."""
    layout = np.zeros((H, W), np.uint8)
    layout[H // 2 :] = 1
    first = Example(
        2, "worst", layout, flat(RED), {NASTY: flat(BLUE)[None], "unknown": flat(RED)[None]}, {PHOTOGRAPHS: layout}, {}
    )
    images = {NASTY: flat(GREEN)[None], DIVERSE: np.stack([flat(RED), flat(GREEN)])}
    second = Example(
        0, "every 20th", layout * 2, flat(GREEN), images, {NASTY: layout, PHOTOGRAPHS: layout}, {NASTY: 0, DIVERSE: 1}
    )
    return [first, second, second._replace(number=3)]


class _Data(HTMLParser):
    """The text of the page's JSON, as an HTML parser sees it."""

    def __init__(self, page: str):
        super().__init__()
        self.inside, self.text, self.scripts = False, "", 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script" and ("type", "application/json") in attrs
        self.scripts += tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.text += data if self.inside else ""


def without_nonfinite(value):
    text = json.dumps(value)
    return json.loads(text, parse_constant=lambda constant: None)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("a folder") / "report & more.html"
    write_report(evaluation(), examples(), SPACE, path)
    return path


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_the_data_survive_in_the_page(report):
    page = _Data(report.read_text("utf-8"))
    assert page.scripts == 2
    read = json.loads(page.text, parse_constant=pytest.fail)
    assert read["evaluation"] == without_nonfinite(evaluation())
    assert read == json.loads(json.dumps(report_data(evaluation(), examples(), SPACE)))


def test_nothing_is_changed_in_what_is_given():
    given = evaluation()
    before = repr(copy.deepcopy(given))
    report_data(given, examples(), SPACE)
    assert repr(given) == before


def test_views_are_those_of_all_examples():
    data = report_data(evaluation(), examples(), SPACE)
    views = [(view["candidate"], view["title"], view["crisp"]) for view in data["views"]]
    assert views == [
        (None, "layout", True),
        (None, "photograph", False),
        (0, "", False),
        (0, "segmentation", True),
        (1, "image 0", False),
        (1, "image 1", False),
        (2, "segmentation", True),
    ]
    assert [bool(url) for url in data["examples"][0]["pictures"]] == [True, True, True, False, False, False, True]
    assert all(data["examples"][1]["pictures"])
    assert data["colors"] == ["#4682b4", "#804080", "#00008e", "#000000"]
    assert [example["occurring"] for example in data["examples"]] == [[0, 1], [0, 1, 2], [0, 1, 2]]
    assert [example["size"] for example in data["examples"]] == [(W, H)] * 3


def test_layouts_and_segmentations_decode_to_their_colors():
    layout = np.random.default_rng(0).integers(0, 4, (H, W)).astype(np.uint8)
    example = Example(0, "", layout, flat(RED), {}, {PHOTOGRAPHS: layout[::-1]}, {})
    drawn, _, segmented = report_data(evaluation(), [example], SPACE)["examples"][0]["pictures"]
    for url, ids in ((drawn, layout), (segmented, layout[::-1])):
        assert decoded(url).format == "PNG"
        np.testing.assert_array_equal(decoded(url), np.array(SPACE.colors)[ids])


def test_photographs_are_jpegs_of_full_color():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    jpeg = decoded(data_url(noise, lossless=False))
    assert jpeg.format == "JPEG" and JpegImagePlugin.get_sampling(jpeg) == 0  # 4:4:4
    assert 0 < np.abs(np.asarray(jpeg, float) - noise).mean() < 8
    np.testing.assert_array_equal(decoded(data_url(noise, lossless=True)), noise)


def test_the_header_shows_names_as_they_are(open_page, report):
    page = open_page(report)
    assert page.title() == "odd <val> & more" == page.locator("h1").inner_text()
    assert page.locator("code").inner_text() == 'python -m launch.evaluate "<run>"'
    assert page.locator("#notes li").all_inner_texts() == ["FID: <fewer> images than features."]
    assert page.locator("footer").inner_text() == "jax 1.2.3"
    assert page.locator("i, u, script").count() == 2  # the two scripts: no name has become an element
    assert page.locator("figcaption b").nth(1).inner_text() == "first"


def test_the_table_has_the_numbers_and_marks_the_best_run(open_page, report):
    page = open_page(report)
    heads = page.locator("#table thead th").all_inner_texts()
    assert [head.strip() for head in heads] == ["method", "mIoU\n% ↑", "KID\n↓", "spread\n↑", "hue\n°", "never\n↓"]
    table = [row.locator("th, td").all_inner_texts() for row in page.locator("#table tbody tr").all()]
    assert table == [
        [PHOTOGRAPHS, "60.0\n[57.0, 63.0]", "–", "–", "–", "–"],
        [f"{NASTY}\nstep <i>3</i>", "51.3\n[48.0, 53.5]", "−0.0012\n± 0.0004", "–", "120.0", "–"],
        [f"{DIVERSE}\nstep <i>3</i>", "40.0", "0.0371\n± 0.0020", "7.00", "9.0", "–"],
        [f"{FOREIGN}\na folder", "–", "–", "–", "–", "–"],
    ]
    layers = [row.locator("th, td").all_inner_texts() for row in page.locator("#layers tr").all()]
    assert layers == [["method", "input", "conv5_2"], [NASTY, "24.4", "3.14"]]
    costs = [row.locator("th, td").all_inner_texts() for row in page.locator("#costs tr").all()]
    assert costs == [
        ["method", "layouts a second", "parameters", "peak memory, by the compiler"],
        [NASTY, "3.14", "4,800,000", "1,200 MB"],
    ]
    assert page.locator(".scores .best span").all_inner_texts() == ["51.3", "−0.0012"]  # not the photographs, not a lone value
    weights = page.locator("#table tbody td:nth-child(2) span").evaluate_all(
        "all => all.map(e => getComputedStyle(e).fontWeight)"
    )
    assert weights == ["400", "700", "400", "400"]
    assert page.locator("#abouts dd").all_inner_texts() == ["Of <classes>.", "Of features.", "Of one run.", "Neither."]


def test_a_score_explains_itself_by_pointer_and_by_keyboard(open_page, report):
    page = open_page(report)
    assert page.locator("#tip").is_hidden()
    page.locator("#table thead th").nth(1).hover()
    assert page.locator("#tip").inner_text() == "Of <classes>., higher is better"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.locator("#tip").inner_text() == "Of features., lower is better"


def numbers(locator, *names) -> list[list[float]]:
    """The attributes of all elements, without their %."""
    return [[float(element.get_attribute(name).rstrip("%")) for name in names] for element in locator.all()]


def test_dots_and_whiskers_lie_where_their_values_are(open_page, report):
    page = open_page(report)
    panels = page.locator(".panel")
    assert panels.locator("h3").all_inner_texts() == [
        "mIoU %, higher is better",
        "KID lower is better",
        "spread higher is better",
        "hue °",
    ]
    dots = [x for (x,) in numbers(panels.nth(0).locator(".dot"), "cx")]
    whiskers = numbers(panels.nth(0).locator(".whisker"), "x1", "x2")
    values = np.array([60.0, 51.26, 40.0])
    scale, start = np.polyfit(values, dots, 1)
    np.testing.assert_allclose(start + scale * values, dots, atol=2e-3)
    np.testing.assert_allclose(whiskers, start + scale * np.array([[57, 63], [48, 53.5], [40, 40]]), atol=2e-3)
    assert 0 < min(np.ravel(whiskers)) and max(np.ravel(whiskers)) < 100
    for text, (x,) in zip(panels.nth(0).locator(".tick").all_text_contents(), numbers(panels.nth(0).locator(".tick"), "x")):
        assert abs(start + scale * float(text) - x) < 2e-3
    assert [panels.nth(i).locator(".guide").count() for i in range(4)] == [1, 0, 0, 0]
    assert [panels.nth(i).locator(".dot").count() for i in range(4)] == [3, 2, 1, 2]
    low, high = numbers(panels.nth(1).locator(".whisker"), "x1", "x2")[0]
    assert abs((low + high) / 2 - numbers(panels.nth(1).locator(".dot"), "cx")[0][0]) < 2e-3 and low < high
    fills = panels.nth(0).locator(".dot").evaluate_all("all => all.map(e => getComputedStyle(e).fill)")
    assert len({*fills}) == 3 and "rgb(0, 0, 0)" not in fills


def test_bars_are_as_high_as_the_classes_are_found(open_page, report):
    page = open_page(report)
    bars = numbers(page.locator("#ious .bar"), "y", "height")
    shares = [0.5, 0.125, 0.75, 0.25, 1.0]  # class by class, candidate by candidate; one is absent
    np.testing.assert_allclose(bars, [[220 * (1 - share), 220 * share] for share in shares])
    np.testing.assert_allclose(numbers(page.locator("#ious .mark"), "y1", "y2"), [[220 * 0.125] * 2, [220 * 0.5] * 2])
    assert page.locator("#ious .middle").all_text_contents() == ["–"]
    assert page.locator("#ious text.end:not(.tick)").all_text_contents() == list(SPACE.classes[:3])
    assert page.locator("#classes .legend li").all_inner_texts() == [PHOTOGRAPHS, NASTY, DIVERSE]
    page.locator("#ious .bar").nth(2).hover()
    assert page.locator("#tip").inner_text() == f"r<o>ad, {DIVERSE}: 75.0%"
    boxes = [bar.bounding_box() for bar in page.locator("#ious .bar").all()]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]  # side by side


def test_the_confusion_matrix_shows_shares_of_rows(open_page, report):
    page = open_page(report)
    cells = page.locator(".heat tbody td")
    assert cells.all_inner_texts() == ["80", "20", "", "", "25", "75", "", "", *"––––", "", "", "", "100"]
    assert page.locator(".heat tbody th").all_inner_texts() == list(SPACE.classes)
    cells.nth(4).hover()
    assert page.locator("#tip").inner_text() == "r<o>ad, seen as sky:\n1 of 4 pixels (25.0%)"
    shades = cells.evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert len({shades[i] for i in (0, 1, 2, 4, 5, 15)}) == 6 and shades[2] == shades[3] == shades[8]
    assert page.locator("#confusion option").all_inner_texts() == [NASTY, PHOTOGRAPHS]
    page.select_option("#confusion select", label=PHOTOGRAPHS)
    assert cells.all_inner_texts() == ["100", "", "", "", *["", "25", "50", "25"] * 3]


def test_classes_that_occur_nowhere_are_left_out(open_page, tmp_path):
    """Data sets of 183 classes show a few of them. A class that is only seen, or only in layouts, stays."""
    sparse = evaluation()
    for candidate in sparse["candidates"]:
        candidate["confusion"] = candidate["confusion"] and [[8, 0, 2, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]
        candidate["class_iou"] = candidate["class_iou"] and [0.8, None, 0.0]
    write_report(sparse, [], SPACE, tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    assert page.locator(".heat tbody th").all_inner_texts() == ["sky", "car", "void"]
    assert page.locator(".heat tbody td").all_inner_texts() == ["80", "20", "", *"–––", "", "", "100"]
    page.locator(".heat tbody td").nth(1).hover()
    assert page.locator("#tip").inner_text() == "sky, seen as car:\n2 of 10 pixels (20.0%)"
    assert page.locator("#ious text.end:not(.tick)").all_text_contents() == ["sky", "car"]


def test_every_image_is_a_dot_and_examples_are_linked(open_page, report):
    page = open_page(report)
    assert page.locator("#distribution option").all_inner_texts() == ["distance", "psnr"]
    dots = page.locator("#strips .image")
    places = dict(zip([dot.get_attribute("data-tip") for dot in dots.all()], [x for (x,) in numbers(dots, "cx")]))
    values = {("first", NASTY): 10, ("sec<u>ond</u>", NASTY): 20, ("third", NASTY): 30}
    values |= {("first", DIVERSE): 12, ("third", DIVERSE): 31, ("fourth", DIVERSE): 40}
    expected = {f"{name}\n{candidate}: {value:.1f}": value for (name, candidate), value in values.items()}
    assert places.keys() == expected.keys()
    scale, start = np.polyfit(list(expected.values()), [places[tip] for tip in expected], 1)
    for tip, value in expected.items():
        assert abs(start + scale * value - places[tip]) < 2e-3
    medians = [x for (x,) in numbers(page.locator("#strips .median"), "x1")]
    np.testing.assert_allclose(medians, start + scale * np.array([20, 31]), atol=2e-3)
    assert page.locator("#strips a").count() == 5  # the second name is no example, and the fourth's distance is null once
    page.locator('#strips [data-image="1"]').hover()
    assert page.locator("#strips .same").count() == 1
    page.select_option("#distribution select", label="psnr")
    assert page.locator("#strips .image").count() == 4 and page.locator("#strips .median").count() == 1


def test_a_linked_dot_leads_to_its_example_even_if_it_is_filtered_out(open_page, report):
    page = open_page(report, viewport={"width": 900, "height": 500})
    page.select_option("#why", "worst")
    assert page.locator("#examples figure:visible").count() == 1
    page.locator("#strips a").last.press("Enter")
    assert page.url.endswith("#example-2") and page.locator("#examples figure:visible").count() == 3
    box = page.locator("#example-2").bounding_box()
    assert page.locator("#bar").bounding_box()["height"] <= box["y"] < 500


def seen(page, figure: str, *shares: float) -> list[tuple[int, ...]]:
    """The colours in the upper part of an example's picture, these shares of its width from the left."""
    shot = Image.open(io.BytesIO(page.locator(f"{figure} .compare").screenshot())).convert("RGB")
    pixels = [shot.getpixel((round(share * (shot.width - 1)), shot.height // 8)) for share in shares]
    return [min((RED, GREEN, BLUE), key=lambda color: np.abs(np.subtract(color, pixel)).sum()) for pixel in pixels]


def test_the_slider_moves_the_boundary(open_page, report):
    page = open_page(report)
    slider, left = page.locator("#example-0 input"), page.locator("#example-0 img.left")
    assert page.locator("#example-0 .tag").all_inner_texts() == ["photograph", NASTY]
    assert seen(page, "#example-0", 0.1, 0.4, 0.6, 0.9) == [RED, RED, BLUE, BLUE]
    slider.fill("25")
    assert left.evaluate("e => getComputedStyle(e).clipPath") == "inset(0px 75% 0px 0px)"
    assert seen(page, "#example-0", 0.1, 0.4, 0.6, 0.9) == [RED, BLUE, BLUE, BLUE]
    slider.press("End")
    assert seen(page, "#example-0", 0.1, 0.4, 0.6, 0.9) == [RED, RED, RED, RED]
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] * 0.7, "y": box["height"] / 4})
    assert abs(float(slider.input_value()) - 70) <= 1
    assert seen(page, "#example-0", 0.1, 0.6, 0.8, 0.9) == [RED, RED, BLUE, BLUE]
    assert seen(page, "#example-1", 0.1, 0.4) == [GREEN, GREEN]  # not moved, and all green
    assert slider.get_attribute("aria-label") == f"Boundary between photograph and {NASTY}"


def test_selectors_change_all_images(open_page, report):
    page = open_page(report)
    views = ["layout", "photograph", NASTY, f"{NASTY} · segmentation", f"{DIVERSE} · image 0", f"{DIVERSE} · image 1"]
    views.append("photographs · segmentation")
    assert page.locator("#left option").all_inner_texts() == page.locator("#right option").all_inner_texts() == views
    pictures = [example["pictures"] for example in report_data(evaluation(), examples(), SPACE)["examples"]]
    for v, view in enumerate(views):
        page.select_option("#left", label=view)
        page.select_option("#right", label=views[-1 - v])
        for side, chosen in (("left", v), ("right", len(views) - 1 - v)):
            images = page.locator(f"#examples img.{side}")
            sources = images.evaluate_all("all => all.map(e => e.hidden ? null : e.src)")
            assert sources == [urls[chosen] for urls in pictures]
            crisp = images.evaluate_all('all => all.map(e => getComputedStyle(e).imageRendering === "pixelated")')
            assert crisp == [chosen in (0, 3, 6)] * 3
    page.select_option("#left", label=f"{DIVERSE} · image 1")
    assert page.locator("#examples .tag.left").all_inner_texts() == [
        f"{DIVERSE} · image 1: none",
        *[f"{DIVERSE} · image 1"] * 2,
    ]
    assert seen(page, "#example-1", 0.1) == [GREEN]
    caption = f"{DIVERSE}, image 1 and its segmentation: distance 12.0"
    assert page.locator("#example-1 .values div").all_inner_texts() == [caption]
    page.select_option("#left", label="photograph")
    page.select_option("#right", label=NASTY)
    values = page.locator("#examples .values div").all_inner_texts()
    assert values == [f"{NASTY}: distance 30.0, psnr 3.00", f"{NASTY}: distance 10.0, psnr 1.00", f"{NASTY}: psnr 4.00"]


def test_examples_are_filtered_by_why(open_page, report):
    page = open_page(report)
    options, legend = page.locator("#why option"), page.locator("#bar .legend li")
    assert options.all_inner_texts() == ["all (3)", "worst (1)", "every 20th (2)"]
    assert legend.all_inner_texts() == ["sky", "r<o>ad", "car"]
    page.select_option("#why", "worst")
    assert page.locator("#examples figure:visible figcaption b").all_inner_texts() == ["third"]
    assert legend.all_inner_texts() == ["sky", "r<o>ad"]
    page.select_option("#why", "every 20th")
    assert page.locator("#examples figure:visible figcaption b").all_inner_texts() == ["first", "fourth"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_and_dark_ones(open_page, report, scheme):
    page = open_page(report, viewport={"width": 360, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    paper, ink = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (paper, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light") and abs(brightness[0] - brightness[1]) > 500


def test_sections_without_anything_to_show_are_left_out(open_page, tmp_path):
    """One run, one score that is null: no examples, no classes, no values per image."""
    bare = {
        "name": "run",
        "kind": "run",
        "about": "",
        "scores": {"miou": {"value": None}},
        "class_iou": None,
        "confusion": None,
    }
    given = evaluation() | {"notes": [], "candidates": [bare | {"per_image": {}, "resources": {}}]}
    write_report(given, [], SPACE, tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    assert page.locator("section h2").all_inner_texts() == ["Scores"]
    assert page.locator(".scores tbody td").all_inner_texts() == ["–"] * 5
    assert page.locator("#notes").count() == 0


def test_protocols_stand_side_by_side_and_pairs_are_decided_or_not(open_page, tmp_path):
    given = evaluation()
    given["protocols"] = [
        {"name": "a<b>", "judge": "J", "size": [256, 512], "counts_void": True, "about": "One.", "sources": ["https://x"]},
        {"name": "c", "judge": "K", "size": [24, 32], "counts_void": False, "about": "Two.", "sources": []},
    ]
    first, second = given["candidates"][:2]
    scored = {"miou": {"value": 51.26, "low": 48.0, "high": 53.5}, "accuracy": {"value": 81.9}, "fid": {"value": 71.8}}
    first["protocols"] = {"a<b>": scored, "c": {"miou": {"value": 60.0}, "accuracy": {"value": 93.5}}}
    second["protocols"] = {"a<b>": {"miou": {"value": None}}, "c": {}}
    pair = {"first": NASTY, "second": DIVERSE, "score": "miou", "value": 11.26, "low": -0.5, "high": 20.0}
    given["differences"] = [pair | {"better": None, "decided": False}, pair | {"low": 3.0, "better": 0.75, "decided": True}]
    write_report(given, examples(), SPACE, tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator("#protocols tr").all()]
    assert [cell.split("\n")[0] for cell in rows[0]] == [
        "method", "a<b>: mIoU", "a<b>: accuracy", "a<b>: FID", "c: mIoU", "c: accuracy"
    ]  # fmt: skip
    by_name = {row[0]: row[1:] for row in rows[1:]}
    assert by_name[NASTY] == ["51.3\n[48.0, 53.5]", "81.9", "71.8", "60.0", "93.5"]
    assert by_name[DIVERSE] == by_name[PHOTOGRAPHS] == ["–"] * 5
    told = page.locator("#protocols dl").inner_text()
    assert "Size: 256x512. Void pixels: wrong in the accuracy" in told and "Void pixels: left out." in told
    decided = [row.locator("th, td").all_inner_texts() for row in page.locator("#ranking tbody tr").all()]
    assert decided == [
        [NASTY, DIVERSE, "mIoU", "11.3", "[−0.5, 20.0]", "no", "–"],
        [NASTY, DIVERSE, "mIoU", "11.3", "[3.0, 20.0]", "yes", "75"],
    ]


def test_what_has_seen_the_photograph_is_not_marked(open_page, tmp_path):
    chosen = evaluation()
    chosen["candidates"][0]["kind"] = "chosen"
    chosen["candidates"].append(copy.deepcopy(chosen["candidates"][1]) | {"name": "other"})
    chosen["candidates"][-1]["scores"]["miou"]["value"] = 30.0
    write_report(chosen, examples(), SPACE, tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    assert "40.0" in page.locator("#table .best span").all_inner_texts()
    assert "51.3" not in page.locator("#table .best span").all_inner_texts()
