"""What launch.paint is made of, as far as no browser is needed: turns, objects and horizons, files that are opened."""

import asyncio
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra 'paint'")

from configs import demo
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.run import load_run
from launch.common.terminal import console
from launch.paint import address_of
from launch.painting import renders
from launch.painting.guard import needs_token, new_token
from launch.painting.painted_run import parted
from launch.painting.renders import Busy, Renders, Superseded
from launch.painting.results import layout_png, synthesize_command
from launch.painting.scenes import held_out_layouts, horizon, stamps
from launch.painting.server import Studio
from launch.painting.uploads import opened_layout

SKY, ROAD, CAR, VOID = range(4)
NAMES = ("sky", "road", "car", "void")


class Slow:
    """A run whose images wait for permission. It notes what it was asked for."""

    def __init__(self):
        self.asked, self.may = [], threading.Semaphore(0)

    def images(self, layout):
        self.asked.append(layout)
        assert self.may.acquire(timeout=600)
        if layout == "broken":
            raise MemoryError("too large")
        return f"images of {layout}", layout


def test_a_layout_of_another_shape_is_left_out_with_a_word(trained_streets, tmp_path):
    run = load_run(trained_streets)
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(tmp_path / "mine.png")
    with console.capture() as capture:
        layouts = held_out_layouts(run._replace(layouts=(*run.layouts, tmp_path / "mine.png")))
    assert len(layouts) == len(run.layouts) > 0
    assert "A layout to start from is left out." in capture.get() and "mine.png" in capture.get()


def test_the_newest_layout_of_each_page_takes_its_turn():
    async def paint() -> list:
        run, turns = Slow(), Renders()

        async def send(page: str, layout: str) -> asyncio.Task:
            task = asyncio.create_task(turns.render(page, run, layout))
            await asyncio.sleep(0)
            return task

        tasks = [await send("one", "a")]
        while not run.asked:
            await asyncio.sleep(0.001)
        tasks += [await send("one", "b"), await send("two", "x"), await send("one", "c"), await send("two", "y")]
        tasks += [await send("one", "d")]
        run.may.release(10)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert run.asked == ["a", "d", "y"]  # a page keeps its turn, whatever it sends
        return [type(result) if isinstance(result, Exception) else result[1] for result in results]

    assert asyncio.run(paint()) == ["a", Superseded, Superseded, Superseded, "y", "d"]


def test_an_image_that_fails_harms_no_other_one():
    async def paint() -> list:
        run, turns = Slow(), Renders()
        run.may.release(10)
        layouts = ("fine", "broken", "fine too")
        tasks = [turns.render(page, run, layout) for page, layout in zip("abc", layouts)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [*found, await turns.render("a", run, "again")]

    fine, broken, too, again = asyncio.run(paint())
    assert isinstance(broken, MemoryError) and [fine[1], too[1], again[1]] == ["fine", "fine too", "again"]


def test_a_request_that_is_gone_is_passed_over(monkeypatch):
    monkeypatch.setattr(renders, "MOST_WAITING", 2)

    async def paint() -> None:
        run, turns = Slow(), Renders()
        first = asyncio.create_task(turns.render("a", run, "first"))
        while not run.asked:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(turns.render(page, run, page)) for page in "bc"]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await turns.render("d", run, "d")
        waiting[0].cancel()
        run.may.release(10)
        assert (await first)[1] == "first" and (await waiting[1])[1] == "c"
        assert run.asked == ["first", "c"]

    asyncio.run(paint())


def scene() -> np.ndarray:
    """A road below a sky, with two cars, a car that the border cuts off, and a speck."""
    layout = np.full((40, 80), SKY, np.uint8)
    layout[20:] = ROAD
    layout[38:] = VOID
    layout[24:30, 10:20] = CAR
    layout[22:26, 40:46] = CAR
    layout[24:30, 76:] = CAR
    layout[5, 5] = CAR
    return layout


@pytest.mark.quick
def test_a_layout_that_is_taken_away_comes_back_as_it_was():
    run = types.SimpleNamespace(experiment=demo, generator=demo.generator, label_space=CITYSCAPES)
    layout = np.random.default_rng(0).integers(0, CITYSCAPES.num_classes, demo.generator.size).astype(np.uint8)
    assert (opened_layout(run, layout_png(layout, CITYSCAPES), "it.png", None)[0] == layout).all()


@pytest.mark.parametrize(
    "source, told", [("gs://b/run", "gs://b/run"), ("hf://a/b", "hf://a/b"), ("a run", f"'{Path.cwd()}/a run'")]
)
def test_the_command_names_the_run_as_it_was_given(source, told):
    run = types.SimpleNamespace(generator=demo.generator, label_space=CITYSCAPES, step=5)
    command = synthesize_command(types.SimpleNamespace(source=source, run=run), 0, {}, "x.png")
    assert command.endswith(f"synthesize {told} x.png --checkpoint 5")


@pytest.mark.quick
def test_other_machines_need_a_token_that_nobody_guesses():
    assert [needs_token(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.3", "a.example")] == [
        *[False] * 3,
        *[True] * 3,
    ]
    assert new_token() != new_token() and len(new_token()) >= 32
    assert address_of("::1", 8000, None) == "http://[::1]:8000/" and address_of("10.0.0.3", 80, "t") == "http://10.0.0.3:80/t/"


@pytest.mark.quick
def test_a_page_can_tell_that_its_server_was_restarted():
    assert Studio(()).session != Studio(()).session


@pytest.mark.quick
def test_stamps_are_whole_objects_the_largest_first():
    found = stamps([scene()], VOID)
    assert [stamp.class_id for stamp in found] == [CAR, CAR]
    assert [stamp.mask.shape for stamp in found] == [(6, 10), (4, 6)] and all(stamp.mask.all() for stamp in found)
    assert stamps([], VOID) == []


def test_the_horizon_is_learnt_from_layouts_and_else_from_names():
    assert horizon([scene(), scene()], NAMES, (40, 80)) == (SKY, ROAD, 20)
    with_hood = scene()
    with_hood[-7:] = VOID
    assert horizon([with_hood], NAMES, (40, 80)).below == ROAD
    assert horizon([], NAMES, (40, 80)) == (SKY, ROAD, 20)
    assert horizon([], ("a", "b", "void"), (40, 80)) == (0, 1, 20)
    assert horizon([], ("a", "void"), (40, 80)) == (0, 1, 20)
    assert horizon([np.full((40, 80), 2, np.uint8)], ("a", "b", "c", "void"), (40, 80)).below == 2


def test_a_horizon_has_two_classes():
    """Also where layouts show one, or none."""
    names = ("a", "b", "void")
    assert horizon([np.full((40, 80), 2, np.uint8)], names, (40, 80)) == (0, 1, 20)
    for below, above in ((0, 1), (1, 0)):
        assert horizon([np.full((40, 80), below, np.uint8)], names, (40, 80))[:2] == (above, below)
    assert horizon([np.full((40, 80), SKY, np.uint8)], NAMES, (40, 80)) == (SKY, ROAD, 20)


def test_a_run_with_its_own_checkpoint(tmp_path):
    (tmp_path / "a@b").mkdir()
    for asked, parts in {
        "runs/demo": ("runs/demo", ""),
        "runs/demo@best": ("runs/demo", "best"),
        "runs/demo@100": ("runs/demo", "100"),
        f"{tmp_path}/a@b": (f"{tmp_path}/a@b", ""),
        f"{tmp_path}/a@b@7": (f"{tmp_path}/a@b", "7"),
        "hf://owner/name@main": ("hf://owner/name@main", ""),
    }.items():
        assert parted(asked) == parts
