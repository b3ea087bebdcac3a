"""The benchmark's counts, and that it runs; nothing is timed here."""

import json
import time
from dataclasses import replace

import jax
import pytest

from configs import EXPERIMENTS
from crn_jax.errors import UserError
from crn_jax.sharding import ShardingConfig
from crn_jax.train import abstract_state, make_train_step
from crn_jax.vgg import abstract_vgg19
from launch import benchmark
from launch.common.exit_status import FAILED
from launch.common.options import read_options
from launch.cost.flops import forward_flops, step_flops
from tests.support.narrow import narrow_vgg19
from tests.support.profiles import events, steps_of


@pytest.mark.parametrize("name, k", [("cityscapes_1024p", 9)])
def test_operations_agree_with_the_compilers_count(name, k):
    """Before it optimizes, and for a platform with XLA's convolution. What is not a convolution is about 1%."""
    (case,) = benchmark.cases_of(benchmark.Arguments((name,), remats=("none",), num_images=(k,)))
    cascade, objective = case.cascade, benchmark.objective_of(case)
    batch = jax.eval_shape(lambda: benchmark.random_batch(case))
    traced = make_train_step(objective).trace(abstract_state(objective), abstract_vgg19(), batch)
    counted = traced.lower(lowering_platforms=("rocm",)).cost_analysis()["flops"]
    ours = step_flops(objective)
    assert ours == pytest.approx(counted, rel=0.015)
    assert ours > 3 * forward_flops(cascade)
    assert step_flops(objective, batch_size=4) == 4 * ours


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs the cases in this process, because starting JAX takes its time, and with a narrow VGG-19."""
    monkeypatch.setattr(benchmark, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(benchmark, "use_cache", lambda folder: None)
    monkeypatch.setattr(benchmark, "first_step", lambda case, cache: time.time() + 1)
    with narrow_vgg19():
        yield


def test_a_run_writes_all_it_measured(tmp_path, capsys, in_this_process, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "demo --widths 8 8 8 --steps 2 --profile 2:2 --against tests.plain --json".split()
    benchmark.main([*command, str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    (case,) = results["cases"]
    assert (case["height"], case["width"], case["dtype"], case["k"]) == (16, 32, "float32", 1)
    for name in ("step_s", "reference_s", "forward_s"):
        assert 0 < case[name]["least"] <= case[name]["median"] <= case[name]["most"]
    assert case["peak_bytes"] > case["argument_bytes"] > 0 and min(case["first_step_cold_s"], case["first_step_warm_s"]) > 0
    assert case["step_of_matrix_rate"] * case["matrix_flops_per_s"] * case["step_s"]["median"] == pytest.approx(
        case["step_flops"]
    )
    assert results["machine"]["jax"] == jax.__version__
    assert "step, of that rate" in capsys.readouterr().out
    recorded = events(tmp_path / "profiles" / "demo_16x32_float32_none_k1_batch1_mesh1x1", "measurements_2_2")
    assert steps_of(recorded) == [2] and any(event["name"].endswith("dot_general") for event in recorded)


def test_devices_share_out_a_step_and_its_operations(tmp_path, capsys, in_this_process):
    command = "demo --widths 8 8 8 --steps 1 --batch_sizes 2 --meshes 2 -1 --json".split()
    benchmark.main([*command, str(tmp_path / "results.json")])
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert case["mesh"] == [2, 4]
    assert 8 * case["step_of_matrix_rate"] * case["matrix_flops_per_s"] * case["step_s"]["median"] == pytest.approx(
        case["step_flops"]
    )
    printed = capsys.readouterr().out
    assert "2 x 4" in printed and "images a second" in printed


def test_a_reference_on_several_devices_is_refused():
    with pytest.raises(UserError, match="--against tests.plain is measured on one device"):
        benchmark.cases_of(benchmark.Arguments(("demo",), against="tests.plain", meshes=((1, 1), (1, 2))))


def test_input_and_processes():
    rates = benchmark.in_own_process(benchmark.input_rates, (16, 32), (64, 128))
    assert rates["photograph_bytes"] > 3000 and (rates["height"], rates["width"]) == (16, 32)
    for source in ("large", "png", "cache"):
        assert rates[source].keys() == {"example", "stream_1", "stream_2"} and min(rates[source].values()) > 0
    with benchmark.console.capture() as capture:
        benchmark.console.print(benchmark.input_table([rates]))
    assert "16x32, Grain, 2 threads" in capture.get()


def test_compile_only_runs_nothing(tmp_path):
    command = "demo --widths 8 8 8 --compile_only --remats full --num_images 2 --json".split()
    benchmark.main([*command, str(tmp_path / "results.json")])
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert (case["k"], case["remat"]) == (2, "full") and "step_s" not in case
    assert case["total_bytes"] > case["temporary_bytes"] > 0


@pytest.mark.quick
def test_every_combination_is_measured():
    names = "demo", "cityscapes_1024p"
    cases = benchmark.cases_of(benchmark.Arguments(names, ("float32", "bfloat16"), ("none", "full"), (1, 9), (1, 4, 8)))
    assert len({str(case) for case in cases}) == 48 and {case.cascade.size for case in cases} == {(64, 128), (1024, 2048)}
    on_one = {"sharding": ShardingConfig((1, 1))}
    assert benchmark.cases_of(benchmark.Arguments(names)) == [replace(EXPERIMENTS[n], **on_one) for n in names]


def test_a_case_that_failed_hides_no_other(capsys):
    shared = {"name": "demo", "height": 1, "width": 1, "widths": [8], "k": 1, "batch": 1, "dtype": "float32"}
    shared |= {"remat": "none", "mesh": (1, 1)}
    cases = [shared | {"step_flops": 1e12, "error": "out of memory"}, shared | {"step_flops": 1e12, "total_bytes": 7.25e9}]
    benchmark.console.print(benchmark.table_of(cases))
    printed = capsys.readouterr().out
    assert "7.25" in printed and "of that rate" not in printed


def test_if_every_case_fails_the_status_says_so(capsys):
    with pytest.raises(SystemExit) as exit_:
        benchmark.main("demo --widths 8 8 8 --meshes 3 1 --compile_only".split())
    assert exit_.value.code == FAILED and "error" in capsys.readouterr().out


@pytest.mark.quick
@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "at least one experiment"),
        (["demo", "--profile", "5"], "--profile 5: FIRST:LAST is needed"),
        (["demo", "--profile", "1:2", "--compile_only"], "--profile records what is run"),
        (["demo", "--json", "/nowhere/x.json"], "--json /nowhere/x.json: no file can be written there"),
        (["demos"], "Did you mean 'demo'"),
        (["segmenter_camvid"], "trains a segmenter"),
        (["packaged_streets"], "'packaged_streets' is a recipe of several stages"),
        (["demo", "--widths", "8", "0"], "widths must be one or more positive numbers"),
        (["demo", "--num_images", "0"], "num_images must be positive, got 0"),
    ],
)
def test_unknown_experiments(arguments, message):
    with pytest.raises(UserError, match=message):
        benchmark.cases_of(read_options(benchmark.Arguments, "benchmark", arguments))
