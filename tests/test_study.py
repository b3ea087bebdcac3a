"""The study of preferences: its pairs, its page in a real browser, and what is made of the answers."""

import base64
import collections
import io
import json
import math
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from crn_jax.errors import UserError
from launch.evaluation import study
from launch.evaluation.study import PHOTOGRAPH, StudyMethod, write_study
from launch.evaluation.study_answers import Analysis, analyse, study_table, to_json
from tests.support.pages import embedded

pytest_plugins = "tests.support.browser"

GREY = {PHOTOGRAPH: 230, "ours": 180, "pix2pix": 130, "encoder": 100, "bad": 20}


def plain(name: str, size: tuple[int, int] = (8, 16)) -> StudyMethod:
    """A method of grey images; of odd examples, 'pix2pix' makes the brightest."""

    def image(example: int) -> np.ndarray:
        grey = 200 if name == "pix2pix" and example % 2 else GREY[name]
        return np.full((*size, 3), grey + example % 4, np.uint8)

    return StudyMethod(name, image)


def write(path, names=("ours", "pix2pix", "encoder"), examples=range(4), kind="unlimited", **options):
    methods = [plain(name) for name in names]
    write_study(
        path / "study.html", methods, plain(PHOTOGRAPH).images, plain("bad"), examples, title="Streets", kind=kind, **options
    )
    return path / "study.html"


def grey_of(uri: str) -> int:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))))
    assert pixels.shape == (200, 400, 3)
    return round(pixels.mean())


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    st.integers(2, 4), st.integers(1, 9), st.integers(1, 40), st.integers(0, 5), st.sampled_from(["unlimited", "timed"])
)
def test_pairs_are_balanced(tmp_path_factory, methods, examples, pairs, sentinels, kind):
    names, examples = ["ours", "pix2pix", "encoder", "bad"][:methods], list(range(10, 10 + examples))
    content = embedded(write(tmp_path_factory.mktemp("study"), names, examples, kind, pairs=pairs, sentinels=sentinels))
    asked = [pair for pair in content["pairs"] if not pair["sentinel"]]
    assert len(asked) == pairs and len(content["pairs"]) == pairs + sentinels
    if kind == "timed":
        compared = [(PHOTOGRAPH, name, seconds) for name in names for seconds in study.DURATIONS]
    else:
        compared = [("ours", name, None) for name in names[1:]]
    counts = collections.Counter((*pair["methods"], pair["seconds"], pair["example"]) for pair in asked)
    table = np.array([[counts[*what, example] for example in examples] for what in compared])
    assert table.sum() == pairs
    for balanced in (table, table.sum(0), table.sum(1)):
        assert np.ptp(balanced) <= 1
    for pair in content["pairs"]:
        for name, image in zip(pair["methods"], pair["images"]):
            assert abs(grey_of(content["images"][image]) - plain(name).images(pair["example"]).mean()) <= 1
        if pair["sentinel"]:
            assert pair["methods"] == [PHOTOGRAPH, "bad"] and pair["seconds"] == (8 if kind == "timed" else None)
    assert len(set(content["images"])) == len(content["images"])


def test_a_study_is_known_by_its_pairs_and_images(tmp_path):
    def identity(**options):
        return embedded(write(tmp_path, examples=options.pop("examples", range(4)), pairs=6, sentinels=1, **options))["id"]

    first = identity()
    assert identity() == first
    others = [{"seed": 1}, {"examples": range(1, 5)}, {"kind": "timed"}, {"names": ["ours", "encoder"]}]
    assert len({first, *(identity(**options) for options in others)}) == 5


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["ours"]}, r"needs at least two methods.*got \['ours'\]"),
        ({"names": [], "kind": "timed"}, "at least one if it is timed"),
        ({"names": ["ours", "ours"]}, r"names must differ.*got \['ours', 'ours'\], and bad for sentinels"),
        ({"names": ["ours", PHOTOGRAPH]}, "names must differ"),
        ({"examples": []}, "needs examples and pairs; got 0, 100"),
        ({"pairs": 0}, "needs examples and pairs; got 4, 0"),
        ({"sentinels": -1}, "-1 sentinels"),
    ],
)
def test_studies_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path, **options)


@pytest.mark.quick
def test_images_of_different_proportions_are_refused(tmp_path):
    methods = [plain("ours"), plain("pix2pix", (8, 8))]
    message = r"At 200 pixels of height, their widths are: 400 \(.*, example \d\); 200 \(pix2pix, example \d\)"
    with pytest.raises(UserError, match=message):
        write_study(tmp_path / "s.html", methods, plain(PHOTOGRAPH).images, plain("bad"), [0, 1], title="", kind="unlimited")


def shown_greys(page) -> list[int]:
    return [grey_of(page.locator(f"#{side} img").get_attribute("src")) for side in ("left", "right")]


def wait_for(page, selector: str) -> None:
    """Looks at every frame, where Playwright would soon look twice a second only."""
    page.evaluate(
        """selector => new Promise(done => {
            const look = () => document.querySelector(selector) ? done() : requestAnimationFrame(look);
            look();
        })""",
        selector,
    )


def answer_all(page, first: int = 0) -> list[tuple[str, int, int]]:
    """Chooses the brighter image of every pair, by every way to do so in turn; the sides chosen, and the greys shown."""
    chosen = []
    while True:
        wait_for(page, "#left:enabled, #end:not([hidden])")
        if page.locator("#end").is_visible():
            return chosen
        left, right = shown_greys(page)
        side = "left" if left > right else "right"
        number = first + len(chosen)
        assert page.locator("#count").inner_text().startswith(f"{number + 1} /")
        if number % 4 == 3:
            page.click(f"#{side}")
        else:
            page.keyboard.press({"left": ["ArrowLeft", "f", "F"], "right": ["ArrowRight", "j", "J"]}[side][number % 4])
        chosen.append((side, left, right))


def save(page, folder):
    with page.expect_download() as download:
        page.click("#save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_participant_goes_through_a_study(tmp_path, open_page):
    """Chooses the brighter image of each pair; so the shares are known."""
    written = write(tmp_path, pairs=12, sentinels=3)
    content = embedded(written)
    page = open_page(written, viewport={"width": 1024, "height": 600})
    assert page.title() == page.locator("h1:visible").inner_text() == "Streets"
    assert "15 pairs" in page.locator("#start").inner_text() and page.locator("#timing").is_hidden()
    page.fill("#name", "Åsa <1>")
    page.click("#begin")
    wait_for(page, "#left:enabled")
    box = page.locator("#left img").bounding_box()
    assert (box["width"], box["height"]) == (400, 200)
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight && document.body.scrollWidth <= innerWidth")
    assert [page.locator(f"#{side} img").get_attribute("alt") for side in ("left", "right")] == ["Left image", "Right image"]
    markup = re.sub(r'data:[^"]+', "", page.locator("main").inner_html())  # what a curious participant could hover or read
    assert not [name for name in GREY if name != PHOTOGRAPH and name in markup]
    chosen = answer_all(page)

    path = save(page, tmp_path)
    assert path.name == f"study_{content['id']}_Åsa-1-.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["participant"] == "Åsa <1>" and len(chosen) == len(result["answers"]) == 15
    assert sorted(answer["pair"] for answer in result["answers"]) == list(range(15))
    for answer, (side, left, right) in zip(result["answers"], chosen):
        pair = content["pairs"][answer["pair"]]
        assert sorted(pair["methods"]) == sorted([answer["left"], answer["right"]])
        for name, grey in ((answer["left"], left), (answer["right"], right)):
            assert abs(plain(name).images(answer["example"]).mean() - grey) <= 1
        assert answer["chosen"] == answer[side] and answer["sentinel"] == pair["sentinel"]
        assert answer["asked_seconds"] is None and answer["shown_ms"] == answer["response_ms"] >= 199
    turned = [answer["left"] == content["pairs"][answer["pair"]]["methods"][1] for answer in result["answers"]]
    assert 0 < sum(turned) < 15  # in one of 16,000 sessions all are on one side
    order = [answer["pair"] for answer in result["answers"]]
    assert order != sorted(order)
    sentinels = [place for place, answer in enumerate(result["answers"]) if answer["sentinel"]]
    assert [place // 5 for place in sentinels] == [0, 1, 2]

    shares = analyse([path]).shares
    odd = sum(pair["example"] % 2 for pair in content["pairs"] if pair["methods"] == ["ours", "pix2pix"])
    assert [(share.second, share.chosen, share.answers) for share in shares] == [("pix2pix", 6 - odd, 6), ("encoder", 6, 6)]


def test_a_reload_goes_on_where_it_stopped(tmp_path, open_page):
    page = open_page(write(tmp_path, pairs=5, sentinels=1))
    page.click("#begin")
    wait_for(page, "#left:enabled")
    for answers in range(1, 4):
        count = page.locator("#count").inner_text()
        page.keyboard.press("Control+ArrowLeft")  # no answer
        page.keyboard.press("x")
        assert page.locator("#count").inner_text() == count
        page.keyboard.down("f")
        wait_for(page, f'body:has(#progress[value="{answers}"]) #left:enabled')  # a moment without buttons might be missed
        page.keyboard.down("f")  # still held down
        assert page.locator("#count").inner_text() != count and page.locator("#left").is_enabled()
        page.keyboard.up("f")
    page.reload()
    assert "Your 3 answers so far are kept" in page.locator("#start").inner_text() and page.locator("#name").is_hidden()
    page.click("#begin")
    assert len(answer_all(page, first=3)) == 3
    assert page.locator("#end .fresh").is_hidden()  # until the answers are saved
    first = save(page, tmp_path)
    page.reload()
    again = save(page, tmp_path / "again")
    assert first.read_text() == again.read_text() and first.name == again.name
    assert sorted(answer["pair"] for answer in json.loads(first.read_text())["answers"]) == list(range(6))

    with page.expect_event("load"):  # what is asked of the page before, it could not answer
        page.click("#end .fresh")
    wait_for(page, "#start:not([hidden])")
    assert page.evaluate("localStorage.length") == 0
    page.click("#begin")
    answer_all(page)
    other = save(page, tmp_path)
    assert json.loads(other.read_text())["participant"] != json.loads(first.read_text())["participant"]
    assert json.loads(other.read_text())["seed"] != json.loads(first.read_text())["seed"]


def test_what_the_browser_kept_may_be_damaged_and_titles_hold_anything(tmp_path, open_page):
    methods, title = [plain("ours"), plain("pix2pix")], "</script><b>Streets</b> & {{data}}"
    written = tmp_path / "study.html"
    write_study(written, methods, plain(PHOTOGRAPH).images, plain("bad"), [0], title=title, kind="unlimited", pairs=1)
    page = open_page(written)
    assert page.locator("#start h1").inner_text() == title
    page.evaluate("id => localStorage.setItem(`crn_jax study ${id}`, '{')", embedded(written)["id"])
    page.reload()
    page.click("#begin")
    wait_for(page, "#left:enabled")
    assert page.locator("#count").inner_text() == "1 / 11"


def test_timed_pairs_are_masked(tmp_path, open_page, monkeypatch):
    """The browser's time stands still unless told, and then goes on in frames of 16 ms."""
    monkeypatch.setattr(study, "DURATIONS", (1 / 8, 1.0))
    written = write(tmp_path, names=["ours"], kind="timed", pairs=4, sentinels=1)
    page = open_page(written)
    assert page.locator("#timing").is_visible()
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    page.click("#begin")
    state = page.locator("body").get_attribute
    asked = []
    for number in range(5):
        while state("data-state") == "ready":
            assert page.locator("#left").is_disabled() and not page.locator("#left img:visible").count()
            page.clock.run_for(16)
        frames = 0
        while state("data-state") == "shown":
            assert page.locator("#left img").is_visible() and page.locator("#right img").is_visible()
            if not frames:
                page.keyboard.press("f")  # too soon
            assert page.locator("#left").is_disabled()
            frames += 1
            page.clock.run_for(16)
        assert state("data-state") == "masked" and page.locator("#left img").is_hidden()
        assert page.locator("#left .frame").evaluate("frame => getComputedStyle(frame).backgroundImage").startswith("url(")
        asked.append(frames)
        assert page.locator("#count").inner_text().startswith(f"{number + 1} /")
        left, right = shown_greys(page)
        page.keyboard.press("f" if left > right else "j")
    page.wait_for_selector("#end:not([hidden])")
    path = save(page, tmp_path)
    answers = json.loads(path.read_text())["answers"]
    for answer, frames in zip(answers, asked):
        assert answer["asked_seconds"] in (1 / 8, 1) and (answer["asked_seconds"] == 1 or not answer["sentinel"])
        assert answer["shown_ms"] >= 1000 * answer["asked_seconds"] - 1
        assert answer["shown_ms"] <= 1000 * answer["asked_seconds"] + 17
        assert abs(frames - answer["shown_ms"] / 16) <= 1
        assert answer["response_ms"] >= answer["shown_ms"]
    shares = analyse([path]).shares
    assert [(*share[:3], share.chosen, share.answers) for share in shares] == [
        (PHOTOGRAPH, "ours", 1 / 8, 2, 2),
        (PHOTOGRAPH, "ours", 1, 2, 2),
    ]


def answers_of(votes, sentinels=(), seconds=None) -> list[dict]:
    """One answer for each `(first, second, chose the first)`, sides in turn, and for each sentinel: right or wrong."""
    seen = [(*vote, False) for vote in votes] + [(PHOTOGRAPH, "bad", right, True) for right in sentinels]
    answers = []
    for pair, (first, second, chose_first, sentinel) in enumerate(seen):
        left, right = (first, second) if pair % 2 else (second, first)
        chosen = first if chose_first else second
        answer = {"pair": pair, "left": left, "right": right, "example": pair, "sentinel": sentinel, "chosen": chosen}
        shown = 1000 * seconds + 8 if seconds else 900
        answers.append(answer | {"asked_seconds": seconds, "shown_ms": shown, "response_ms": 1500.5})
    return answers


def saved(folder, participant, answers, /, **fields):
    result = {"format": "crn_jax study result 1", "study": "abc", "title": "Streets [spring]", "participant": participant}
    result |= {"methods": ["ours", "pix2pix", "encoder"], "pairs": len(answers), "started": "2030-01-01T00:00:00Z", "seed": 1}
    path = folder / f"{participant}.json"
    path.write_text(json.dumps(result | {"answers": answers} | fields))
    return path


def votes(first, second, chosen, answers):
    return [(first, second, i < chosen) for i in range(answers)]


def two_sided(chosen: int, answers: int) -> float:
    """The exact test against one half: twice the smaller tail, which is symmetric."""
    tail = sum(math.comb(answers, i) for i in range(max(chosen, answers - chosen), answers + 1)) / 2**answers
    return min(1, 2 * tail)


def test_shares_of_a_single_participant(tmp_path):
    asked = votes("ours", "pix2pix", 32, 50) + votes("encoder", "ours", 3, 40)  # in either direction
    analysis = analyse([saved(tmp_path, "a", answers_of(asked, [True] * 10))])
    assert analysis[:5] == ("abc", "Streets [spring]", ["a"], {}, 0)
    assert [share[:5] for share in analysis.shares] == [("ours", "pix2pix", None, 32, 50), ("ours", "encoder", None, 37, 40)]
    for share in analysis.shares:
        assert share.p_value == pytest.approx(two_sided(share.chosen, share.answers), rel=1e-9)
        assert share.over_participants is None
        z, n = 1.959963984540054, share.answers
        for end in share.interval:  # Wilson: where the observed share is z standard deviations away
            assert abs(share.share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6)
        assert share.interval[0] < share.share < share.interval[1]


def test_shares_of_simulated_participants(tmp_path):
    """People who differ: each has a preference of their own, 70% on average. The spread of whole participants shows that."""
    rng = np.random.default_rng(0)
    chosen = rng.binomial(50, rng.choice([0.5, 0.9], 40))
    files = [saved(tmp_path, f"p{i}", answers_of(votes("ours", "pix2pix", c, 50))) for i, c in enumerate(chosen)]
    (share,) = analyse(files).shares
    assert (share.chosen, share.answers) == (chosen.sum(), 2000) and share.share == pytest.approx(0.7, abs=0.08)
    assert share.p_value == pytest.approx(two_sided(int(chosen.sum()), 2000), rel=1e-6)
    half_width = 1.96 * (chosen / 50).std() / math.sqrt(40)
    np.testing.assert_allclose(share.over_participants, [share.share - half_width, share.share + half_width], atol=0.01)
    assert np.ptp(share.over_participants) > 2 * np.ptp(share.interval)
    assert analyse(files) == analyse(files)


def test_who_fails_sentinels_or_stops_is_left_out(tmp_path):
    good = saved(tmp_path, "good", answers_of(votes("ours", "pix2pix", 5, 6), [True] * 3))
    hasty = saved(tmp_path, "hasty", answers_of(votes("ours", "pix2pix", 0, 6), [True, False, True]))
    gone = saved(tmp_path, "gone", answers_of(votes("ours", "pix2pix", 0, 6)), pairs=9)
    strict = analyse([hasty, good, gone])
    assert strict.participants == ["good"] and strict.shares[0][3:5] == (5, 6)
    assert strict.left_out == {"hasty": "1 of 3 sentinels wrong", "gone": "only 6 of 9 pairs answered"}
    lenient = analyse([hasty, good, gone], sentinel_errors=1)
    assert lenient.participants == ["hasty", "good"] and lenient.shares[0][3:5] == (5, 12) and set(lenient.left_out) == {"gone"}
    with pytest.raises(UserError, match=r"can be counted \(hasty: 1 of 3 sentinels wrong; gone: only 6 of 9"):
        analyse([hasty, gone])


def rendered(analysis: Analysis) -> str:
    console = Console(width=160, file=io.StringIO(), markup=False)
    console.print(study_table(analysis))
    return console.file.getvalue()


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if start in line]
    return [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]


def test_a_table_like_the_papers_first(tmp_path):
    asked = votes("ours", "pix2pix", 37, 50) + votes("ours", "encoder", 25, 50)
    files = [saved(tmp_path, name, answers_of(asked, [True])) for name in ("a", "b")]
    files.append(saved(tmp_path, "hasty", answers_of(asked, [False])))
    text = rendered(analyse(files))
    assert "Streets [spring]" in text and "2 participant(s)" in text and "left out: hasty, 1 of 1 sentinels wrong" in text
    assert cells(text, "pix2pix") == ["", "pix2pix", "encoder"]
    assert cells(text, "preferred") == ["ours preferred to", "74.0%", "50.0%"]
    assert cells(text, "95% over people") == ["95% over people", "74-74", "50-50"]
    assert cells(text, "│ 95%  ") == ["95%", "65-82", "40-60"]
    assert cells(text, "│ p ") == ["p", "< 0.001", "1.000"]
    assert cells(text, "│ answers") == ["answers", "100", "100"]


def test_a_table_like_the_papers_fourth_figure(tmp_path):
    """The photograph's share by duration, for each method; answers that were shown too long do not count."""
    answers = []
    for seconds, ours, pix2pix in [(8.0, 9, 10), (0.125, 5, 7), (1.0, 8, 8)]:
        answers += answers_of(votes(PHOTOGRAPH, "ours", ours, 10) + votes("pix2pix", PHOTOGRAPH, 10 - pix2pix, 10), (), seconds)
    answers += answers_of([], [True], 8.0)
    answers = [answer | {"pair": pair} for pair, answer in enumerate(answers)]
    answers[0]["shown_ms"] = 8051  # the first choice of the photograph: one less, of one less
    answers[1]["shown_ms"] = 8050
    analysis = analyse([saved(tmp_path, "a", answers)])
    assert analysis.late == 1
    text = rendered(analysis)
    assert cells(text, "1/8 s") == ["", "1/8 s", "1 s", "8 s"]
    assert cells(text, "preferred to ours") == ["photograph preferred to ours", "50.0%", "80.0%", "88.9%"]
    assert cells(text, "preferred to pix2pix") == ["photograph preferred to pix2pix", "70.0%", "80.0%", "100.0%"]
    assert "1 answers left out: shown too long" in text


def test_an_analysis_is_json(tmp_path):
    files = [saved(tmp_path, name, answers_of(votes("ours", "pix2pix", 3, 4))) for name in "ab"]
    content = json.loads(json.dumps(to_json(analyse(files))))
    assert content["participants"] == ["a", "b"] and content["shares"][0]["share"] == 0.75
    assert content["shares"][0]["over_participants"] == [0.75, 0.75]


GOOD = answers_of(votes("ours", "pix2pix", 3, 4), [True])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "crn_jax study result 2"}, "is not a study's result: its format is not 'crn_jax study result 1'"),
        ({"answers": [GOOD[0], {**GOOD[1], "pair": 0}]}, "is damaged: .*pair=0.*each asked once"),
        ({"answers": [{**GOOD[0], "pair": 5}]}, "is damaged: .*pair=5.* does not answer one of 5 pairs"),
        ({"answers": [{**GOOD[0], "chosen": "encoder"}]}, "is damaged: .*chosen='encoder'"),
        ({"answers": [{**GOOD[0], "left": "cat"}]}, "is damaged: .*left='cat'"),
        ({"answers": [{**GOOD[0], "left": "ours", "right": "ours"}]}, "is damaged: "),
        ({"answers": [{**GOOD[0], "sentinel": True}]}, "is damaged: .*sentinel=True"),
        ({"answers": [{**GOOD[0], "shown_ms": "long"}]}, r"is damaged: .*shown_ms"),
        ({"answers": [{key: GOOD[0][key] for key in GOOD[0] if key != "chosen"}]}, "is damaged: .*chosen"),
        ({"participant": "good"}, r"b.json and .*good.json are both of participant 'good'"),
        ({"study": "def", "title": "Rooms"}, r"b.json is of study def \('Rooms'\), but .*good.json is of study abc \('Streets"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, fields, message):
    good = saved(tmp_path, "good", GOOD)
    with pytest.raises(UserError, match=message):
        analyse([good, saved(tmp_path, "b", GOOD, **fields)])


def test_a_title_may_look_like_a_checksum(tmp_path):
    path = saved(tmp_path, "good", GOOD)
    fields = json.loads(path.read_text())
    del fields["title"]
    path.write_text(json.dumps(fields | {"title": "20250101"}))
    assert analyse([path]).title == "20250101"


@pytest.mark.parametrize(
    ("content", "message"), [("{", "this is not JSON"), ("[]", "is not a study's"), (None, "No such file")]
)
def test_other_files_are_refused(tmp_path, content, message):
    if content:
        (tmp_path / "b.json").write_text(content)
    with pytest.raises(UserError, match=rf"b\.json.*{message}"):
        analyse([tmp_path / "b.json"])
    with pytest.raises(UserError, match="no files were given"):
        analyse([])
