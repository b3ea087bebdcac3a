"""What the kernels of a GPU's program move and multiply, and what devices exchange, counted by hand; and of real programs."""

import importlib.util
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from crn_jax.errors import UserError
from launch.cost.flops import operations
from launch.cost.hlo import (
    CONVOLUTIONS,
    INDEXED,
    OTHER,
    PRODUCT,
    SEVERAL,
    Exchange,
    Kernel,
    Wait,
    collectives,
    schedule,
    size_of,
    traffic,
)
from launch.cost.topologies import GPUS, devices_of

pytestmark = pytest.mark.quick

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_slice (param_0.1: bf16[1,64,8,16]) -> bf16[1,1,8,16] {
  %param_0.1 = bf16[1,64,8,16]{3,2,1,0} parameter(0)
  ROOT %slice.1 = bf16[1,1,8,16]{3,2,1,0} slice(%param_0.1), slice={[0:1], [0:1], [0:8], [0:16]}
}

%fused_add (param_0.2: bf16[1,64,8,16], param_1.2: f32[]) -> (bf16[1,64,8,16], f32[64]) {
  %param_1.2 = f32[] parameter(1)
  %param_0.2 = bf16[1,64,8,16]{3,2,1,0} parameter(0)
  %slice.2 = bf16[1,1,8,16]{3,2,1,0} slice(%param_0.2), slice={[0:1], [0:1], [0:8], [0:16]}
  %add.2 = bf16[1,64,8,16]{3,2,1,0} add(%param_0.2, %param_0.2)
  %sum.2 = f32[64]{0} reduce(%add.2, %param_1.2), dimensions={0,2,3}, to_apply=%region
  ROOT %tuple.2 = (bf16[1,64,8,16]{3,2,1,0}, f32[64]{0}) tuple(%add.2, %sum.2)
}

%fused_edge (param_0.3: bf16[1,64,8,16]) -> bf16[1,64,8,16] {
  %param_0.3 = bf16[1,64,8,16]{3,2,1,0} parameter(0)
  %slice.3 = bf16[1,1,8,16]{3,2,1,0} slice(%param_0.3), slice={[0:1], [0:1], [0:8], [0:16]}
  %negate.3 = bf16[1,1,8,16]{3,2,1,0} negate(%slice.3)
  %zero.3 = s32[] constant(0)
  ROOT %update.3 = bf16[1,64,8,16]{3,2,1,0} dynamic-update-slice(%param_0.3, %negate.3, %zero.3, %zero.3, %zero.3, %zero.3)
}

%fused_last (param_0.4: bf16[1,64,8,16], param_1.4: bf16[1,64,8,16], param_2.4: f32[]) -> f32[1,1,8] {
  %param_0.4 = bf16[1,64,8,16]{3,2,1,0} parameter(0)
  %param_1.4 = bf16[1,64,8,16]{3,2,1,0} parameter(1)
  %param_2.4 = f32[] parameter(2)
  %add.4 = bf16[1,64,8,16]{3,2,1,0} add(%param_0.4, %param_1.4)
  %sum.4 = f32[1,64,8]{2,1,0} reduce(%add.4, %param_2.4), dimensions={3}, to_apply=%region
  ROOT %slice.4 = f32[1,1,8]{2,1,0} slice(%sum.4), slice={[0:1], [63:64], [0:8]}
}

%body (state.1: (s32[], f32[64])) -> (s32[], f32[64]) {
  %state.1 = (s32[], f32[64]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %total.1 = f32[64]{0} get-tuple-element(%state.1), index=1
  %copy.1 = f32[64]{0} copy(%total.1)
  ROOT %tuple.1 = (s32[], f32[64]{0}) tuple(%i.1, %copy.1)
}

ENTRY %main.1 (x.1: bf16[1,64,8,16], k.1: bf16[16,3,3,16]) -> (s32[], f32[64]) {
  %x.1 = bf16[1,64,8,16]{3,2,1,0} parameter(0), metadata={op_name="x (layout)"}
  %k.1 = bf16[16,3,3,16]{3,2,1,0} parameter(1)
  %zero = f32[] constant(0)
  %start = s32[] constant(0)
  %conv.1 = (bf16[1,64,8,16]{3,2,1,0}, u8[256]{0}) custom-call(%x.1, %k.1), CUDNN
  %y.1 = bf16[1,64,8,16]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %loop_slice_fusion = bf16[1,1,8,16]{3,2,1,0} fusion(%y.1), kind=kLoop, calls=%fused_slice
  %input_add_fusion = (bf16[1,64,8,16]{3,2,1,0}, f32[64]{0}) fusion(%y.1, %zero), kind=kInput, calls=%fused_add
  %edge_fusion = bf16[1,64,8,16]{3,2,1,0} fusion(%y.1), kind=kLoop, calls=%fused_edge
  %last_fusion = f32[1,1,8]{2,1,0} fusion(%y.1, %edge_fusion, %zero), kind=kLoop, calls=%fused_last
  %sums = f32[64]{0} get-tuple-element(%input_add_fusion), index=1
  %init = (s32[], f32[64]{0}) tuple(%start, %sums)
  ROOT %while.1 = (s32[], f32[64]{0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"9"}}
}
""".replace(
    "CUDNN",
    "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, "
    'custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/conv1"}',
)


def test_a_program_by_hand():
    image, kernel, row, sums = 2 * 64 * 8 * 16, 2 * 9 * 16 * 16, 2 * 8 * 16, 4 * 64
    found = traffic(schedule(PROGRAM))
    assert found["convolutions"] == (1, image + kernel + image + 256)
    one_row, all_rows = row + row, image + 4 + image + sums
    update_in_place, sum_of_two_rows = row + row, row + row + 4 + 4 * 8
    assert found["others"] == (4 + 9, one_row + all_rows + update_in_place + sum_of_two_rows + 9 * (sums + sums))


def test_the_work_of_a_program_by_hand():
    work = schedule(PROGRAM)
    assert work[0][:1] + work[0][2:] == ("convolution, y", 2 * 64 * 8 * 16 * 9 * 16, "bf16", 16, "jit(step)/conv1")
    assert [kernel.kind for kernel in work[1:]] == [OTHER] * 13  # nine of them are the loop's
    assert not any(kernel.operations for kernel in work[1:])


def test_loops_of_tpus_and_what_stays_in_their_vector_memory():
    """Their compiler writes no number of rounds. The condition has it."""
    condition = """%cond (state.2: (s32[], f32[64])) -> pred[] {
  %nine = s32[]{:T(128)} constant(9)
  %state.2 = (s32[], f32[64]{0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%state.2), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.2, %nine), direction=LT
}

ENTRY"""
    program = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"9"}}', "").replace("ENTRY", condition)
    assert "known_trip_count" not in program
    assert schedule(program) == schedule(PROGRAM)
    inside = "f32[64]{0:T(256)S(1)}"
    copies = [item for item in schedule(program.replace("f32[64]{0} copy", f"{inside} copy")) if item.moved == 4 * 64]
    assert len(copies) == 9  # each reads its operand, and writes to the vector memory


CUDNN = """HloModule jit_step, is_scheduled=true, num_partitions=4

ENTRY %main.1 (x.1: bf16[2,8,8,24], k.1: bf16[32,3,3,24], y.1: bf16[2,4,4,32], a.1: f32[6,5], b.1: f32[5,7]) -> (f32[6,7]) {
  %x.1 = bf16[2,8,8,24]{3,2,1,0} parameter(0)
  %k.1 = bf16[32,3,3,24]{3,2,1,0} parameter(1)
  %y.1 = bf16[2,4,4,32]{3,2,1,0} parameter(2)
  %a.1 = f32[6,5]{1,0} parameter(3)
  %b.1 = f32[5,7]{1,0} parameter(4)
  %c.1 = (bf16[2,4,4,32]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %k.1, %bias), LABELS="__cudnn$convBiasActivationForward"
  %c.2 = (bf16[2,8,8,24]{3,2,1,0}, u8[0]{0}) custom-call(%y.1, %k.1), LABELS="__cudnn$convBackwardInput"
  %c.3 = (bf16[32,3,3,24]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %y.1), LABELS="__cudnn$convBackwardFilter"
  %c.4 = (f32[6,7]{1,0}, s8[9]{0}) custom-call(%a.1, %b.1), custom_call_target="__cublas$gemm", SUMMED
  ROOT %c.5 = f32[6,7]{1,0} dot(%a.1, %b.1), lhs_contracting_dims={1}, operand_precision={highest,highest}
}
"""
CUDNN = CUDNN.replace("SUMMED", 'backend_config={"lhs_contracting_dimensions":["1"]}')
CUDNN = CUDNN.replace("LABELS", "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_o01i->b01f, custom_call_target")


FUSED = """
%a.1 (p.1: f32[4,8], i.1: s32[4,1]) -> f32[4,8] {
  %p.1 = f32[4,8]{1,0} parameter(0)
  %i.1 = s32[4,1]{1,0} parameter(1)
  ROOT %g.1 = f32[4,8]{1,0} gather(%p.1, %i.1), offset_dims={1}
}

%a.2 (p.2: f32[4,8]) -> (f32[4,8], f32[4,8], f32[4,8]) {
  %p.2 = f32[4,8]{1,0} parameter(0)
  %n.2 = f32[4,8]{1,0} negate(%p.2)
  ROOT %t.2 = (f32[4,8]{1,0}, f32[4,8]{1,0}, f32[4,8]{1,0}) tuple(%n.2, %n.2, %n.2)
}

ENTRY %main (p: f32[4,8], i: s32[4,1]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %i = s32[4,1]{1,0} parameter(1)
  %f.1 = f32[4,8]{1,0} fusion(%p, %i), kind=kLoop, calls=%a.1
  %f.2 = (f32[4,8]{1,0}, f32[4,8]{1,0}, f32[4,8]{1,0}) fusion(%f.1), kind=kLoop, calls=%a.2
  %f.3 = f32[4,8]{1,0} get-tuple-element(%f.2), index=0
  ROOT %f.4 = f32[4,8]{1,0} negate(%f.3)
}
"""


TPU = """HloModule jit_step, is_scheduled=true

%fused.1 (p.1: bf16[1,64,128,48], k.1: bf16[3,3,48,64], b.1: bf16[64]) -> bf16[1,64,128,64] {
  %p.1 = bf16[1,64,128,48]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %k.1 = bf16[3,3,48,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %b.1 = bf16[64]{0:T(256)(128)(2,1)} parameter(2)
  %c.1 = bf16[1,64,128,64]{3,2,1,0:T(8,128)(2,1)} convolution(%p.1, %k.1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %w.1 = bf16[1,64,128,64]{3,2,1,0:T(8,128)(2,1)} broadcast(%b.1), dimensions={3}
  ROOT %a.1 = bf16[1,64,128,64]{3,2,1,0:T(8,128)(2,1)} add(%c.1, %w.1)
}

ENTRY %main (p: bf16[1,64,128,48], k: bf16[3,3,48,64], b: bf16[64]) -> bf16[1,64,128,64] {
  %p = bf16[1,64,128,48]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %k = bf16[3,3,48,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %b = bf16[64]{0:T(256)(128)(2,1)} parameter(2)
  ROOT %fusion.1 = bf16[1,64,128,64]{3,2,1,0:T(8,128)(2,1)} fusion(%p, %k, %b), kind=kOutput, calls=%fused.1
}
"""  # noqa: E501  # one instruction a line


def test_a_convolution_within_a_fusion():
    """As XLA writes it for TPUs, with their layouts."""
    (kernel,) = schedule(TPU)
    assert kernel[:1] + kernel[2:5] == ("convolution, y", 2 * 64 * 128 * 64 * 9 * 48, "bf16", 48)
    assert kernel.moved == 2 * (64 * 128 * 64 + 9 * 48 * 64 + 64)  # x lies in the vector memory


def test_the_kinds_of_other_kernels():
    assert [kernel.kind for kernel in schedule(FUSED)] == [INDEXED, SEVERAL, OTHER]


def test_the_operations_of_a_gpus_library_calls():
    layer, product = 2 * (2 * 4 * 4 * 32) * (9 * 24), 2 * 6 * 5 * 7
    found = [(kernel.kind, kernel.operations, kernel.factors, kernel.channels) for kernel in schedule(CUDNN)]
    convolutions = [(kind, layer, "bf16", 24) for kind in CONVOLUTIONS]
    assert found == [*convolutions, (PRODUCT, product, "f32", 0), (PRODUCT, product, "exact", 0)]


def test_the_operations_of_a_real_program():
    """A strided convolution and a product, with all their derivatives, against the trace's count (launch/cost/flops.py)."""

    def loss(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.abs(y.reshape(-1, 24) @ matrix).sum()

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 32, 16, 12), (3, 3, 12, 24), (24, 6))]
    work = schedule(jax.jit(gradient).lower(*arguments).compile().as_text())
    assert sum(kernel.operations for kernel in work) == operations(gradient, *arguments)
    kinds = Counter(kernel.kind for kernel in work if kernel.operations)
    assert kinds == {"convolution, y": 2, "convolution, by kernel": 1, PRODUCT: 3}
    assert {kernel.channels for kernel in work if kernel.kind in CONVOLUTIONS} == {12}


EXCHANGES = """HloModule jit_step, is_scheduled=true, num_partitions=8

%region (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%scattered (x.2: f32[32]) -> f32[8] {
  %x.2 = f32[32]{0} parameter(0)
  ROOT %reduce-scatter.1 = f32[8]{0} reduce-scatter(%x.2), channel_id=4, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%region
}

ENTRY %main.1 (x.1: f32[32]) -> f32[32] {
  %x.1 = f32[32]{0} parameter(0)
  %gather = (f32[32]{0}, f32[64]{0}) all-gather-start(%x.1), channel_id=2, replica_groups=[4,2]<=[8], dimensions={0}
  %negated = f32[32]{0} negate(%x.1)
  %gathered = f32[64]{0} all-gather-done(%gather)
  %sum.1 = f32[32]{0} all-reduce(%negated), channel_id=3, replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%region
  %scatter = ((f32[32]{0}), f32[8]{0}) async-start(%sum.1), calls=%scattered
  %scatter.done = f32[8]{0} async-done(%scatter), calls=%scattered
  %sent = f32[32]{0} collective-permute(%sum.1), channel_id=1, source_target_pairs={{0,1},{1,2}}
  %named = f32[32]{0} all-reduce(%sent), channel_id=5, replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, to_apply=%region
  ROOT %all = f32[32]{0} all-reduce(%named), channel_id=6, to_apply=%region
}
"""


def test_exchanges_in_their_order():
    evens, odds = (0, 2, 4, 6), (1, 3, 5, 7)
    expected = [
        Exchange("gather", "all-gather", [("f32", (64,))], 256, ((0, 1), (2, 3), (4, 5), (6, 7))),
        Kernel(OTHER, 256),
        Wait("gather"),
        Exchange("sum.1", "all-reduce", [("f32", (32,))], 128, (evens, odds)),
        Wait("sum.1"),
        Exchange("scatter", "reduce-scatter", [("f32", (8,))], 32, (evens, odds)),
        Wait("scatter"),
        Exchange("sent", "collective-permute", [("f32", (32,))], 128, ((0, 1), (1, 2))),
        Wait("sent"),
        Exchange("named", "all-reduce", [("f32", (32,))], 128, ((0, 1, 4, 5), (2, 3, 6, 7))),
        Wait("named"),
        Exchange("all", "all-reduce", [("f32", (32,))], 128, (tuple(range(8)),)),
        Wait("all"),
    ]
    found = schedule(EXCHANGES)
    assert [item._replace(moved=0) if isinstance(item, Exchange) else item for item in found] == expected


def test_sizes():
    assert size_of("(bf16[1,8,8,3]{3,2,1,0}, f32[], pred[2]{0}, token[])") == 2 * 192 + 4 + 2
    assert size_of("(u16[5]{0}, c64[3]{0}, f8e4m3fn[7]{0}, s4[6]{0})") == 10 + 24 + 7 + 3
    (layout,) = collectives("  %a = u16[4,6]{1,0} collective-permute(%x), source_target_pairs={{0,1}}")
    assert layout.size == 48  # ids of more than 255 classes


def test_devices_without_a_compiler(monkeypatch):
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", lambda **_: (_ for _ in ()).throw(RuntimeError("no")))
    for name in ("h100:8", "v5e:2x2", "v9:2x2"):
        with pytest.raises(UserError, match=rf"'{name}' here: no\n.*h100.*cuda13.*tpu"):
            devices_of(name)


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("abacus", r"no devices 'abacus'\. --topology knows a100, h100, .*v6e\."),
        ("h20:8", r"no devices 'h20'\. Did you mean 'h200'\?"),
        ("H100", r"no devices 'H100'\. Did you mean 'h100'\?"),
        ("h100:eight", "--topology h100:eight: h100:8 means eight GPUs on a host"),
        ("h100:0", "--topology h100:0: "),
        ("a100:4x", "--topology a100:4x: "),
        ("a100:1x2x3x4", "--topology a100:1x2x3x4: "),
    ],
)
def test_devices_that_there_are_not(topology, words):
    with pytest.raises(UserError, match=words):
        devices_of(topology)


@pytest.mark.parametrize(
    "topology, shape", [("h100", "1x1x1"), ("a100:8", "1x1x8"), ("h100:4x8", "1x4x8"), ("h200:2x4x8", "2x4x8")]
)
def test_how_gpus_are_named(topology, shape, monkeypatch):
    asked = {}

    def describe(**options):
        asked.update(options)
        raise RuntimeError

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", describe)
    with pytest.raises(UserError):
        devices_of(topology)
    assert asked["platform"] == "cuda" and asked["topology"] == shape
    assert f'"{GPUS[topology[:4]].name}"' in asked["target_config"]


@pytest.mark.skipif(not importlib.util.find_spec("jax_plugins"), reason="pip install -e '.[cuda13]' brings the GPU's compiler")
def test_a_step_for_a_gpu_that_is_not_there():
    options = "demo --dry_run --topology h100 --cascade.dtype bfloat16".split()
    done = subprocess.run([sys.executable, "-m", "launch.train", *options], capture_output=True, text=True, check=True)
    assert "NVIDIA H100" in done.stdout and "convolutions" in done.stdout and "TB/s" in done.stdout
    assert "NVIDIA H100 datasheet" in done.stdout and "100%" in done.stdout
