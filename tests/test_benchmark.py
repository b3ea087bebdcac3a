"""The benchmark's counts, and that it runs; nothing is timed here."""

import dataclasses
import json

import jax
import pytest

from configs import EXPERIMENTS
from crn_jax.errors import UserError
from crn_jax.train import abstract_state, make_train_step
from crn_jax.vgg import abstract_vgg19
from launch import benchmark
from launch.flops import forward_flops, step_flops


@pytest.mark.parametrize("name, k", [("cityscapes_256p", 9), ("cityscapes_1024p", 1)])
def test_operations_agree_with_the_compilers_count(name, k):
    """Before it optimizes, and for a platform with XLA's convolution. What is not a convolution is about 1%."""
    cascade = dataclasses.replace(EXPERIMENTS[name][1].cascade, num_images=k)
    case = benchmark.Case(name, cascade, "none", 1)
    batch = jax.eval_shape(lambda: benchmark.random_batch(case))
    traced = make_train_step(case.objective).trace(abstract_state(case.objective), abstract_vgg19(), batch)
    counted = traced.lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]
    assert step_flops(cascade) == pytest.approx(counted, rel=0.015)
    assert step_flops(cascade) > 3 * forward_flops(cascade)
    assert step_flops(cascade, batch_size=4) == 4 * step_flops(cascade)


def test_a_run_writes_all_it_measured(tmp_path, capsys, monkeypatch):
    apart = benchmark.in_own_process

    def in_own_process(function, *arguments):  # here, but for one: starting JAX takes its time
        return apart(function, *arguments) if function is benchmark.decoding_rate else function(*arguments)

    monkeypatch.setattr(benchmark, "in_own_process", in_own_process)
    monkeypatch.setattr(benchmark, "use_cache", lambda folder: None)
    command = "demo --widths 8 8 8 --steps 1 --input --against tests.plain --json".split()
    benchmark.main([*command, str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    (case,) = results["cases"]
    assert (case["height"], case["width"], case["dtype"], case["k"]) == (16, 32, "float32", 1)
    for name in ("step_s", "reference_s", "forward_s"):
        assert 0 < case[name]["least"] <= case[name]["median"] <= case[name]["most"]
    assert case["peak_bytes"] > case["argument_bytes"] > 0 and case["first_step_cold_s"] > 0
    assert case["step_of_matrix_rate"] * case["matrix_flops_per_s"] * case["step_s"]["median"] == pytest.approx(
        case["step_flops"]
    )
    assert results["input"][0]["per_core"] > 0 and results["machine"]["jax"] == jax.__version__
    assert "step, of that rate" in capsys.readouterr().out


def test_compile_only_runs_nothing(tmp_path):
    command = "demo --widths 8 8 8 --compile_only --remats full --num_images 2 --json".split()
    benchmark.main([*command, str(tmp_path / "results.json")])
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert (case["k"], case["remat"]) == (2, "full") and "step_s" not in case
    assert case["total_bytes"] > case["temporary_bytes"] > 0


def test_every_combination_is_measured():
    asked = benchmark.Arguments(("demo", "cityscapes_1024p"), ("float32", "bfloat16"), ("none", "full"), (1, 9), (1, 4, 8))
    cases = benchmark.cases_of(asked)
    assert len(set(cases)) == 48 and {case.cascade.size for case in cases} == {(64, 128), (1024, 2048)}


@pytest.mark.parametrize("arguments, message", [([], "at least one experiment"), (["demos"], "Did you mean 'demo'")])
def test_unknown_experiments(arguments, message):
    with pytest.raises(UserError, match=message):
        benchmark.cases_of(benchmark.Arguments(tuple(arguments)))
