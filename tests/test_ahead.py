"""What a start does at the same time: functions whose results threads prepare, and the step, which is compiled once."""

import threading

import jax
import numpy as np
import pytest

from crn_jax.data.pipeline import spread
from crn_jax.errors import UserError
from crn_jax.scores.segmenter import SegmenterConfig, SegmenterObjective
from crn_jax.settings import OptimizerConfig
from crn_jax.sharding import ShardingConfig, make_mesh, put, put_batch
from crn_jax.train import abstract_batch_of, abstract_state, init_state, make_train_step
from launch.training.ahead import Ahead, compile_step
from launch.training.validation import MeanPhotograph


def test_another_thread_computes_what_is_asked_for_later():
    go_on = threading.Event()

    def ident_and(word: str) -> tuple[int, str]:
        assert go_on.wait(60)
        return threading.get_ident(), word

    ahead = Ahead(ident_and, "word")
    go_on.set()
    ident, word = ahead.result()
    assert word == "word" and ident != threading.get_ident()
    assert ahead.result() == (ident, word)


def test_what_the_thread_raises_comes_to_whoever_asks():
    def fail() -> None:
        raise UserError("a.png: damaged")

    ahead = Ahead(fail)
    for _ in range(2):
        with pytest.raises(UserError, match="a.png: damaged"):
            ahead.result()


def test_the_step_is_compiled_once():
    """JAX finds the program that was compiled ahead when the step is called with a state and batches on the same mesh."""
    config = SegmenterConfig(num_classes=300, size=(8, 8), widths=(5, 6))
    objective = SegmenterObjective(config, OptimizerConfig(), steps_per_epoch=5)
    mesh = make_mesh(ShardingConfig((2, 1)), 4, 8)
    abstract, compiled = abstract_state(objective, mesh), []

    def note(event: str, duration: float, **details) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details.get("fun_name"))

    rng = np.random.default_rng(0)
    batch = {
        "layout": rng.integers(0, 300, (4, 8, 8)).astype(np.uint16),
        "photograph": rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8),
    }
    with jax.set_mesh(mesh):
        state, step, frozen = init_state(objective, 0, abstract), make_train_step(objective, abstract), put(mesh, {})
        placed = put_batch(mesh, 4, batch)
        jax.monitoring.register_event_duration_secs_listener(note)
        try:
            compile_step(step, state, frozen, mesh, abstract_batch_of(objective, 4, np.uint16))
            assert len(compiled) == 1
            for _ in range(2):
                state, _ = step(state, frozen, placed)
        finally:
            jax.monitoring.unregister_event_duration_listener(note)
    assert len(compiled) == 1 and int(state.step) == 2


class Photographs:
    """Ten photographs of noise."""

    size = (2, 3)

    def __init__(self):
        self.all = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 3)).astype(np.uint8)

    def __len__(self):
        return len(self.all)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"photograph": self.all[index]}


@pytest.mark.parametrize("threads", (0, 1, 3, 16))
@pytest.mark.parametrize("limit", (4, 512))
def test_the_mean_photograph_is_the_mean(threads, limit):
    source = Photographs()
    expected = source.all[spread(source, limit)].mean(0, dtype=np.float64)
    mean = MeanPhotograph(source, threads, limit).result()
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
