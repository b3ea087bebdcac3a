"""The page of launch.ablate, as a browser shows it."""

import copy
import json
import math

import numpy as np
import pytest

from launch.common.page import data_url, write_page

pytest_plugins = "tests.support.browser"

NASTY = '<u>bold</u> & "it\'s" </script><!--<img src=x>'
PLAIN, FAILED, WAITING = "a_name_of_forty_letters_without_any_space", "pix2pix", "constructor"
NAN = float("nan")
CURVE = [[0, 0.5, 900.0], [20, 0.75, 500.0], [100, 2.0, 260.0], [200, 4.5, 210.0], [300, 6.0, 195.0]]
OTHER = [[0, 1.0, 950.0], [100, 5.0, 300.0], [200, NAN, 250.0], [250, 9.0, NAN], [300, 12.0, 240.0]]
THIN = [[0, 0.5, 910.0], [300, 6.5, 198.0]]


def picture(value: int) -> str:
    return data_url(np.full((6, 8, 3), value, np.uint8), lossless=True)


def run(seed: int, status: str = "finished", curve=(), scores=(), problem=None) -> dict:
    commands = [f"python -m launch.train a --seed {seed} --data.root '<DIR>'", "python -m launch.evaluate a"]
    told = {"seed": seed, "status": status, "problem": problem, "steps": 300 if curve else 0}
    return told | {"curve": list(curve), "scores": dict(scores), "commands": commands}


def ablation() -> dict:
    """Four variants of two seeds: finished, finished once, failed, waiting; numbers that are missing, null and NaN."""
    finished = [run(0, curve=CURVE, scores={"distance": 194.5, "miou": 41}), run(1, curve=THIN, scores={"distance": 198.0})]
    half = [run(0, curve=OTHER, scores={"distance": 240.0}), run(1, "waiting")]
    failed = [run(0, "failed", problem="NaN at step 12\n<u>try</u> less"), run(1, "failed", CURVE[:3])]
    figures = {"parameters": 4_800_000, "synthesis_flop": 13_950_000_000, "step_flop": 1_250_000_000_000}
    variants = [
        {
            "name": NASTY,
            "about": "the <reference>",
            "differs": [],
            "preferred": None,
            "figures": figures | {"seconds_per_step": 0.3125, "minutes": 15.26, "layouts_per_second": 12.3},
            "scores": {
                "distance": {"value": 196.25, "low": 195.0, "high": 199.04, "std": 2.47},
                "miou": {"value": 41.0, "std": 0},
                "kid": {"value": -0.00123},
            },
            "difference": None,
            "runs": finished,
        },
        {
            "name": PLAIN,
            "about": "",
            "differs": ["cascade.norm: <True>, now False"],
            "preferred": {"Cityscapes": 99.7, "NYU": 91.4},
            "figures": figures | {"parameters": 310_000, "step_flop": 250_000_000_000, "minutes": NAN},
            "scores": {"distance": {"value": 240.0}, "miou": {"value": 44.5}, "kid": {"value": NAN}},
            "difference": {"value": 43.75, "low": 42.0, "high": 45.5},
            "runs": half,
        },
        {
            "name": FAILED,
            "about": "",
            "differs": [],
            "preferred": {"Cityscapes": 97.1},
            "figures": {},
            "scores": {},
            "difference": None,
            "runs": failed,
        },
        {
            "name": WAITING,
            "about": "",
            "differs": [],
            "preferred": None,
            "figures": {"parameters": 16_700_000},
            "scores": {},
            "difference": {"value": -2, "low": -3.04, "high": 0},
            "runs": [run(0, "waiting"), run(1, "waiting")],
        },
    ]
    images = [{NASTY: picture(10), PLAIN: picture(20)}, {PLAIN: picture(30)}]
    return {
        "title": "odd <val> & more",
        "question": "Is <u>it</u> so?",
        "compared": "perceptual distance of the <best>",
        "command": 'python -m launch.ablate "<suite>"',
        "versions": {"jax": "1.2.3"},
        "device": "cpu",
        "budget": "300 steps",
        "seeds": [0, 1],
        "conclusions": ["It <may> be.", "Nothing else."],
        "notes": ["Intervals: <95%>."],
        "scores": [
            {"key": "miou", "title": "mIoU", "unit": "%", "better": "higher", "about": "Of <classes>."},
            {"key": "distance", "title": "perceptual distance", "unit": "", "better": "lower", "about": "By VGG-19."},
            {"key": "kid", "title": "KID", "unit": "", "better": "lower", "about": ""},
        ],
        "photographs": {"miou": {"value": 60.0, "low": 57.0, "high": 63.0}, "distance": {"value": 0}},
        "variants": variants,
        "examples": [
            {"name": f"sec<u>{i}</u>", "layout": picture(i), "photograph": picture(200 + i), "images": shown}
            for i, shown in enumerate(images)
        ],
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("a folder") / "ablation & more.html"
    write_page("ablation.html", ablation(), path)
    return path


def texts(rows) -> list[list[str]]:
    return [[text.strip() for text in row.locator("th, td").all_inner_texts()] for row in rows.all()]


def test_the_data_survive_and_what_is_given_is_not_changed(open_page, tmp_path):
    given = ablation()
    before = repr(copy.deepcopy(given))
    write_page("ablation.html", given, tmp_path / "ablation.html")
    assert repr(given) == before
    page = open_page(tmp_path / "ablation.html")
    read = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert read == json.loads(json.dumps(given), parse_constant=lambda constant: None)
    assert page.locator("script").count() == 2


def test_all_text_is_shown_as_it_is(open_page, path):
    page = open_page(path)
    assert page.title() == page.locator("h1").inner_text() == "odd <val> & more"
    assert page.locator("#question").inner_text() == "Is <u>it</u> so?"
    assert page.locator("#line").inner_text() == "300 steps · seeds 0, 1 · cpu · 3 of 8 runs finished, 3 waiting, 2 failed"
    assert page.locator("#conclusions li").all_inner_texts() == ["It <may> be.", "Nothing else."]
    assert page.locator("#notes li").all_inner_texts() == ["Intervals: <95%>."]
    assert page.locator("#command").inner_text() == 'python -m launch.ablate "<suite>"'
    assert page.locator("#versions").inner_text() == "jax 1.2.3"
    headings = ["Scores and costs", "Differences", "Learning curves", "Images", "Variants", "How this was made"]
    assert page.locator("h2").all_inner_texts() == headings
    names = [NASTY, PLAIN, FAILED, WAITING]
    assert page.locator("#table tbody a").all_inner_texts() == names
    assert page.locator(".legend button:not(#all)").all_inner_texts() == names[:3]  # nothing to draw of the last
    assert page.locator(".images thead th").all_inner_texts() == ["layout", "photograph", *names]
    assert page.locator(".images tbody th small").all_inner_texts() == ["sec<u>0</u>", "sec<u>1</u>"]
    assert page.locator("u, img[src=x]").count() == 0  # nothing has become an element


def test_the_table_has_the_numbers_and_sorts_by_them(open_page, path):
    page = open_page(path)
    groups, heads, *rows = texts(page.locator("#table tr"))
    assert groups == ["", "held-out scores", f"against {NASTY}", "preferred the CRN", "costs"]
    spans = page.locator("#table .group").evaluate_all("all => all.map(head => head.colSpan)")
    assert spans == [3, 1, 2, 6]
    expected = "variant\nas given|mIoU\n% ↑|perceptual distance\n↓|KID\n↓|difference\n↓|Cityscapes\n%|NYU\n%|parameters\nM|"
    expected += "synthesis\nGFLOP|step\nTFLOP|step\ns|training\nmin|synthesis\n1/s"
    assert heads == expected.split("|")
    assert rows[0] == ["photographs\nwhat can be reached", "60.0\n[57.0, 63.0]", "0.0", "–", *[""] * 9]
    distance = "196.3\n[195.0, 199.0]\n± 2.5"
    costs = ["4.8", "14.0", "1.25", "0.313", "15.3", "12.3"]
    assert rows[1] == [NASTY, "41.0\n± 0.0", distance, "−0.00123", "–", "–", "–", *costs]
    measured = ["44.5", "240.0", "–", "+43.8\n[+42.0, +45.5]", "99.7", "91.4", "0.3", "14.0", "0.25"]
    assert rows[2] == [f"{PLAIN}\nseed 1 waiting", *measured, *"–––"]
    assert rows[3] == [f"{FAILED}\nseed 0 failed\nseed 1 failed", *"––––", "97.1", *"–––––––"]
    assert rows[4] == [f"{WAITING}\nseeds 0, 1 waiting", *"–––", "−2.0\n[−3.0, 0.0]", "–", "–", "16.7", *"–––––"]
    assert page.locator("#table .best span").all_inner_texts() == ["196.3", "44.5"]  # one alone is not best
    reference = f"The difference is the perceptual distance of the <best> less {NASTY}'s, paired by image."
    assert page.locator("#reference").inner_text() == reference

    problem = page.locator("#table .problem")
    assert problem.is_hidden()
    page.locator("#table summary").click()
    assert problem.inner_text() == "NaN at step 12\n<u>try</u> less"

    def order(head: str, number: int = 0) -> tuple[list[str], str | None]:
        button = page.get_by_role("button", name=head).nth(number)
        button.click()
        names = page.locator("#table tbody a").all_inner_texts()
        return names, button.evaluate("button => button.parentElement.ariaSort")

    assert order("mIoU") == ([PLAIN, NASTY, FAILED, WAITING], "descending")
    assert order("mIoU") == ([NASTY, PLAIN, FAILED, WAITING], "ascending")  # what is missing stays last
    assert order("Cityscapes") == ([FAILED, PLAIN, NASTY, WAITING], "ascending")
    assert order("parameters") == ([PLAIN, NASTY, WAITING, FAILED], "ascending")
    assert order("parameters") == ([WAITING, NASTY, PLAIN, FAILED], "descending")
    assert texts(page.locator("#table tbody tr"))[0][0].startswith("photographs")
    assert page.locator("[aria-sort]").count() == 1
    assert order("variant as given") == ([NASTY, PLAIN, FAILED, WAITING], None)
    page.get_by_role("button", name="mIoU").focus()
    assert page.locator("#tip").inner_text() == "Of <classes>., higher is better"


def points(page, variant: int, number: int = 0) -> np.ndarray:
    """Returns the points of a drawn curve, in thousandths of the chart, from above."""
    lines = page.locator(f'.curve[data-variant="{variant}"] polyline')
    return np.array([pair.split(",") for pair in lines.nth(number).get_attribute("points").split()], float)


def check_axis(page, anchor: str, positions, values, scale=float) -> float:
    """Checks that positions, in shares of the chart, are a straight line over the scaled values; returns its slope."""
    scaled = np.array([scale(value) for value in values])
    slope, start = np.polyfit(scaled, positions, 1)
    np.testing.assert_allclose(positions, start + slope * scaled, atol=2e-4)
    ticks = page.locator(f"#chart .tick.{anchor}:not(:text('steps')):not(:text('minutes'))").evaluate_all(
        """(all, x) => all.map(e => [e.textContent.replaceAll(",", ""),
          x ? parseFloat(e.getAttribute("x")) / 100 : (e.getAttribute("y") - 4) / 380])""",
        anchor == "middle",
    )
    assert 3 <= len(ticks) <= 9
    for label, position in ticks:
        assert abs(start + slope * scale(float(label)) - position) < 2e-4 and -1e-6 <= position <= 1 + 1e-6
    return slope


def test_differences_lie_where_their_values_are(open_page, tmp_path):
    """A line is the interval, a dot the value, a small circle a seed. What is certain with all seeds has a colour."""
    given = ablation()
    certain = {"value": -20, "low": -30.0, "high": -10.0, "seeds": [-25.0, -15.0]}
    unsure = {"value": -20, "low": -30.0, "high": -10.0, "seeds": [-45.0, 5.0]}
    given["variants"][2]["difference"], given["variants"][3]["difference"] = certain, unsure
    write_page("ablation.html", given, tmp_path / "ablation.html")
    page = open_page(tmp_path / "ablation.html")
    cells = page.locator(".forest > div").all_inner_texts()
    rows = [PLAIN, "+43.8 (+42.0 to +45.5)"], [FAILED, "−20.0 (−30.0 to −10.0)"], [WAITING, "−20.0 (−30.0 to −10.0)"]
    assert [[cells[n], cells[n + 2]] for n in (0, 3, 6)] == list(rows)
    sides = page.locator(".forest .number").evaluate_all("all => all.map(e => e.className)")
    assert sides == ["number farther", "number nearer", "number either"]

    def places(selector: str, attribute: str) -> list[float]:
        found = page.locator(f".forest {selector}").evaluate_all(f"all => all.map(e => e.getAttribute('{attribute}'))")
        return [float(place.rstrip("%")) for place in found]

    values = [43.75, -20, -20, 42.0, -30, -30, 45.5, -10, -10, -25, -15, -45, 5, 0]
    drawn = places(".dot", "cx") + places(".span", "x1") + places(".span", "x2") + places(".seed", "cx")
    drawn.append(places(".axis", "x1")[0])
    slope, start = np.polyfit(values, drawn, 1)
    np.testing.assert_allclose(drawn, start + slope * np.array(values), atol=2e-3)
    assert slope > 0 and 0 < min(drawn) and max(drawn) < 100
    ticks = page.locator(".forest .tick").evaluate_all("all => all.map(e => [e.textContent, parseFloat(e.getAttribute('x'))])")
    assert len(ticks) > 2 and all(abs(start + slope * float(text.replace("−", "-")) - x) < 2e-3 for text, x in ticks)
    assert "less that of <u>bold</u>" in page.locator("#differences .caption").inner_text()


def test_curves_lie_where_their_values_are(open_page, path):
    page = open_page(path)
    steps, minutes, distances = zip(*CURVE)
    whole = [point for point in OTHER if not math.isnan(point[2])]
    assert check_axis(page, "middle", points(page, 0)[:, 0] / 1000, steps) > 0
    np.testing.assert_allclose(points(page, 1)[:, 0] * 3 / 10, [point[0] for point in whole], atol=0.01)  # steps, 0 to 300
    slope = check_axis(page, "end", points(page, 0)[:, 1] / 1000, distances)
    assert slope < 0
    np.testing.assert_allclose(np.diff(points(page, 1)[:, 1]) / 1000, np.diff([p[2] for p in whole]) * slope, atol=1e-4)
    np.testing.assert_allclose(points(page, 0, 1)[-1, 1] - points(page, 0)[-1, 1], 3 * slope * 1000, atol=0.1)  # a further seed
    assert (points(page, 0)[:2, 1] < 0).all()  # what is before a tenth of the steps is cut, so that the end is legible
    assert 0 < points(page, 1)[1, 1] < 100 and 900 < points(page, 0)[-1, 1] < 1000
    dots = page.locator('.curve[data-variant="1"] circle')
    assert dots.count() == 3
    across = [float(dot.get_attribute("cx").rstrip("%")) * 10 for dot in dots.all()]
    down = [float(dot.get_attribute("cy")) / 0.38 for dot in dots.all()]
    np.testing.assert_allclose(np.transpose([across, down]), points(page, 1)[1:], atol=0.05)

    page.get_by_label("minutes").check()
    assert check_axis(page, "middle", points(page, 0)[:, 0] / 1000, minutes) > 0
    np.testing.assert_allclose(points(page, 1)[:, 0] * 12 / 1000, [1, 5, 12], atol=1e-3)  # what has no minutes is left out
    page.get_by_label("logarithmic, all").check()
    assert check_axis(page, "end", points(page, 0)[:, 1] / 1000, distances, math.log) < 0
    everything = np.concatenate([points(page, 0), points(page, 0, 1), points(page, 1), points(page, 2)])
    assert 0 <= everything.min() and everything.max() <= 1000


def test_curves_are_told_apart_hidden_and_read_out(open_page, path):
    page = open_page(path, viewport={"width": 1000, "height": 800})
    strokes = page.locator("polyline").evaluate_all("all => all.map(e => getComputedStyle(e).stroke)")
    assert strokes[0] == strokes[1] and len({*strokes}) == 3
    assert page.locator("polyline").evaluate_all("all => all.map(e => getComputedStyle(e).strokeWidth)")[:2] == ["2px", "1px"]
    top, legend = points(page, 1)[1, 1], page.locator(".legend button")
    legend.nth(1).click()
    assert legend.nth(1).get_attribute("aria-pressed") == "false"
    assert page.locator(".curve").evaluate_all("all => all.map(e => e.dataset.variant)") == ["0", "0", "2"]
    assert 0 < points(page, 0)[2, 1] < 100  # the rest fills the chart
    legend.nth(1).click()
    assert points(page, 1)[1, 1] == top
    page.click("#all")
    assert page.locator(".curve").count() == 0 and page.locator("#chart").inner_text() == "No curves."
    page.click("#all")
    assert page.locator(".curve").count() == 4

    page.locator("#chart").scroll_into_view_if_needed()
    box = page.locator("#chart > svg").bounding_box()
    x, y = points(page, 1)[1] / 1000
    page.mouse.move(box["x"] + x * box["width"] + 3, box["y"] + y * box["height"] - 2)
    assert page.locator("#tip").inner_text() == f"{PLAIN}\nseed 0, step 100 (5.0 min): 300.0"
    assert page.locator(".lit").evaluate_all("all => all.map(e => e.dataset.variant)") == ["1"]
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden() and page.locator(".dim").count() == 0
    page.focus("#chart")
    for key, told in (
        ("ArrowRight", f"{NASTY}\nseed 0, step 300 (6.0 min): 195.0"),
        ("ArrowLeft", f"{NASTY}\nseed 0, step 200 (4.5 min): 210.0"),
        ("ArrowUp", f"{FAILED}\nseed 1, step 100 (2.0 min): 260.0"),
        ("ArrowUp", f"{PLAIN}\nseed 0, step 100 (5.0 min): 300.0"),
        ("ArrowRight", f"{PLAIN}\nseed 0, step 200: 250.0"),
    ):
        page.keyboard.press(key)
        assert page.locator("#tip").inner_text() == page.locator(".said").text_content() == told


def test_images_are_enlarged_beside_the_photograph(open_page, path):
    page = open_page(path, viewport={"width": 1280, "height": 500})
    rows = page.locator(".images tbody tr")
    sources = rows.nth(1).locator("button img").evaluate_all("all => all.map(e => e.src)")
    assert sources == [picture(1), picture(201), picture(30)]
    assert texts(rows)[1] == ["sec<u>1</u>", "", "–", "", "–", "–"]
    crisp = page.locator(".images img").evaluate_all("all => all.map(e => getComputedStyle(e).imageRendering)")
    assert crisp[0] == "pixelated" and "pixelated" not in crisp[1:4]
    assert rows.nth(0).locator("img").first.bounding_box()["width"] >= 160
    page.locator(".images tbody th small").first.evaluate("e => e.scrollIntoView({ block: 'start' })")
    assert abs(page.locator(".images thead th").first.bounding_box()["y"]) <= 1  # the heads stay in the window

    def shown() -> tuple[str, str, str]:
        assert page.locator("dialog").is_visible()
        large, photograph = (page.locator(name).get_attribute("src") for name in ("#large", "#photograph"))
        return page.locator("#shown").inner_text(), large, photograph

    page.get_by_role("button", name=f"{PLAIN} of sec<u>0</u>").click()
    assert shown() == (f"{PLAIN} · sec<u>0</u>", picture(20), picture(200))
    assert page.locator("figcaption").all_inner_texts() == [PLAIN, "photograph"]
    rendering = "large => getComputedStyle(large).imageRendering"
    assert page.locator("#large").evaluate(rendering) == "auto"
    page.keyboard.press("ArrowRight")  # the other two have none
    assert shown() == ("layout · sec<u>0</u>", picture(0), picture(200))
    assert page.locator("#large").evaluate(rendering) == "pixelated"
    page.keyboard.press("ArrowRight")
    assert shown() == (f"{NASTY} · sec<u>0</u>", picture(10), picture(200))
    page.keyboard.press("ArrowDown")
    assert shown() == (f"{PLAIN} · sec<u>1</u>", picture(30), picture(201))
    page.click("#previous")
    assert shown() == ("layout · sec<u>1</u>", picture(1), picture(201))
    page.keyboard.press("ArrowLeft")
    assert shown()[0] == f"{PLAIN} · sec<u>1</u>"
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    assert page.evaluate("document.activeElement.firstChild.alt") == f"{PLAIN} of sec<u>0</u>"


def test_a_variant_tells_how_it_was_made(open_page, path):
    page = open_page(path)
    assert page.locator(".variant[open]").count() == 0
    page.locator("#table tbody a").nth(1).click()
    variant = page.locator(".variant[open]")
    assert variant.locator("> summary b").inner_text() == PLAIN
    assert variant.locator("li").all_inner_texts() == ["cascade.norm: <True>, now False"]
    heads, *rows = texts(variant.locator("tr"))
    assert heads == ["", "status", "steps", "mIoU", "perceptual distance", "KID"]
    assert rows == [["seed 0", "finished", "300", "–", "240.0", "–"], ["seed 1", "waiting", "0", *"–––"]]
    assert variant.locator("code").first.is_hidden()
    variant.locator("details summary").click()
    assert variant.locator("code").all_inner_texts() == [c for one in (run(0), run(1)) for c in one["commands"]]
    page.locator("#table tbody a").nth(2).click()
    assert page.locator("#variant-2 .problem").inner_text() == "seed 0: NaN at step 12\n<u>try</u> less"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (2500, "dark")])
def test_narrow_screens_and_dark_ones(open_page, tmp_path, width, scheme):
    """25 variants: each of a colour and dash of its own; what is wider than the screen scrolls by itself."""
    many = ablation()
    many["variants"] += [copy.deepcopy(many["variants"][1]) | {"name": f"{PLAIN[:-2]}{i}"} for i in range(21)]
    write_page("ablation.html", many, tmp_path / "ablation.html")
    page = open_page(tmp_path / "ablation.html", viewport={"width": width, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    looks = "all => all.map(e => getComputedStyle(e).stroke + getComputedStyle(e).strokeDasharray)"
    looks = page.locator("#table .sample line").evaluate_all(looks)
    assert len({*looks}) == 25 and all(look.endswith("none") for look in looks[:6])
    assert len({look.rpartition(")")[2] for look in looks}) == 5
    paper, text = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (paper, text)]
    assert (brightness[0] > brightness[1]) == (scheme == "light") and abs(brightness[0] - brightness[1]) > 500
    table, images = page.locator("#table .scroll"), page.locator("#sights .scroll")
    table.evaluate("e => e.scrollTo(300, 0)")
    assert abs(page.locator("#table tbody th").first.bounding_box()["x"] - table.bounding_box()["x"]) <= 1
    images.evaluate("e => e.scrollTo(700, 60)")
    head = page.locator(".images thead th").nth(1).bounding_box()
    assert abs(head["y"] - images.bounding_box()["y"]) <= 1 and abs(head["x"] - images.bounding_box()["x"]) <= 1


def test_sections_without_anything_to_show_are_left_out(open_page, tmp_path):
    """Nothing is finished."""
    given = ablation() | {"scores": [], "photographs": {}, "examples": [], "notes": [], "conclusions": [], "seeds": [0]}
    given["variants"] = [v | {"scores": {}, "difference": None, "runs": [run(0, "waiting")]} for v in given["variants"][2:]]
    write_page("ablation.html", given, tmp_path / "ablation.html")
    page = open_page(tmp_path / "ablation.html")
    assert page.locator("h2").all_inner_texts() == ["Scores and costs", "Variants", "How this was made"]
    assert page.locator("#line").inner_text() == "300 steps · seed 0 · cpu · 0 of 2 runs finished, 2 waiting"
    assert texts(page.locator("#table tbody tr")) == [
        [f"{FAILED}\nseed 0 waiting", "97.1", "–"],
        [f"{WAITING}\nseed 0 waiting", "–", "16.7"],
    ]
    assert page.locator("#conclusions").is_hidden() and page.locator("#notes").is_hidden()
