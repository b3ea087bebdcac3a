"""One step behind the devices: what is looked at when, and which time counts."""

import itertools

import numpy as np
import pytest

from launch.training import async_steps, metrics_log
from launch.training.async_steps import AsyncSteps
from tests.support.clock import Clock

pytestmark = pytest.mark.quick


class Computed:
    """A metric as the devices deliver it."""

    def __init__(self, value: float, ready: bool):
        self.value, self.ready = value, ready

    def is_ready(self) -> bool:
        return self.ready

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.value, dtype)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(async_steps, "time", clock)
    monkeypatch.setattr(metrics_log, "time", clock)
    return clock


def metrics(loss: float, ready: bool = True) -> dict[str, Computed]:
    return {"loss": Computed(loss, ready), "grad_norm": Computed(1.0, ready)}


def test_a_step_is_looked_at_when_the_next_one_is_under_way_or_must_be_waited_for():
    seen = []
    run = AsyncSteps(itertools.repeat({}), 1, lambda step, metrics, window: seen.append((step, float(metrics["loss"]))))
    for step in (1, 2, 3):
        run.next_batch()
        run.add(step, metrics(10.0 * step))
        assert [s for s, _ in seen] == list(range(1, step))
    run.settle()
    run.settle()
    assert seen == [(1, 10.0), (2, 20.0), (3, 30.0)]


def test_time_counts_from_step_to_step_and_waiting_only_while_the_devices_are_idle(clock):
    lines = []

    def batches():
        for seconds in (1.0, 2.0, 4.0, 0.0):
            clock.now += seconds
            yield {}

    run = AsyncSteps(batches(), 3, lambda step, metrics, window: step in (3, 4) and lines.append(window.line()))
    clock.now = 100.0  # what came before
    for step, ready in ((1, False), (2, True), (3, True)):  # the second batch comes while the first step is computed
        run.next_batch()
        clock.now += 1.0
        run.add(step, metrics(step, ready))
    run.settle()
    line = lines.pop()
    assert line["loss"] == 2.0
    assert line["seconds_per_step"] == pytest.approx(10 / 3) and line["images_per_second"] == pytest.approx(9 / 10)
    assert line["waiting_for_data"] == pytest.approx((1 + 4) / 10)
    clock.now += 50.0  # a validation
    run.next_batch()
    clock.now += 1.0
    run.add(4, metrics(1.0))
    run.settle()
    assert lines.pop()["seconds_per_step"] == pytest.approx(1.0) and not lines
