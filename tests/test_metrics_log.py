"""A damaged metrics.jsonl: what is sound is read, and the run goes on."""

import json

import pytest

from launch.common.terminal import console
from launch.training.metrics_log import MetricsLog, last_step, read_metrics

pytestmark = pytest.mark.quick

LINES = [{"step": step, "loss": 1.5, "seconds_per_step": 0.5} for step in (10, 20, 30, 40)]


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda lines: [*lines[:2], b"", *lines[2:]], [10, 20, 30, 40]),
        (lambda lines: [lines[0], bytes(300), *lines[2:]], [10, 30, 40]),
        (lambda lines: [lines[0], lines[1][:20], *lines[2:]], [10, 30, 40]),
        (lambda lines: [*lines[:3], b"\0\0\0" + lines[3]], [10, 20, 30]),
        (lambda lines: [b"[5]", b'{"step": "x"}', b'{"step": 5, "validation": 7}', *lines], [10, 20, 30, 40]),
    ],
)
def test_damaged_lines_are_left_out_with_a_note(tmp_path, damage, kept):
    path = tmp_path / "metrics.jsonl"
    damaged = damage([json.dumps(line).encode() for line in LINES])
    path.write_bytes(b"\n".join(damaged) + b"\n")
    notes: list[str] = []
    assert [line["step"] for line in read_metrics(path, notes.append)] == kept and last_step(path) == kept[-1]
    assert len(notes) == 1 and f"{path}: " in notes[0] and "damaged and left out" in notes[0]
    with console.capture() as shown:
        log = MetricsLog(tmp_path, 30)
    log.write(35, {"loss": 1.0})
    log.close()
    assert "damaged and left out" in shown.get()
    assert [line["step"] for line in read_metrics(path, pytest.fail)] == [*(step for step in kept if step <= 30), 35]


def test_a_sound_file_gives_no_note(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path, pytest.fail) == [] and last_step(path) == 0
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 50, "lo')
    assert read_metrics(path, pytest.fail) == LINES and last_step(path) == 40
