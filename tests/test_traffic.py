"""What the kernels of a GPU's program move, counted by hand; and, where there is the compiler, one of a real program."""

import importlib.util
import subprocess
import sys

import pytest

from crn_jax.errors import UserError
from launch.cost.topologies import GPUS, devices_of
from launch.cost.traffic import size_of, traffic

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
  %conv.1 = (bf16[1,64,8,16]{3,2,1,0}, u8[256]{0}) custom-call(%x.1, %k.1), custom_call_target="__cudnn$convForward"
  %y.1 = bf16[1,64,8,16]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %loop_slice_fusion = bf16[1,1,8,16]{3,2,1,0} fusion(%y.1), kind=kLoop, calls=%fused_slice
  %input_add_fusion = (bf16[1,64,8,16]{3,2,1,0}, f32[64]{0}) fusion(%y.1, %zero), kind=kInput, calls=%fused_add
  %edge_fusion = bf16[1,64,8,16]{3,2,1,0} fusion(%y.1), kind=kLoop, calls=%fused_edge
  %last_fusion = f32[1,1,8]{2,1,0} fusion(%y.1, %edge_fusion, %zero), kind=kLoop, calls=%fused_last
  %sums = f32[64]{0} get-tuple-element(%input_add_fusion), index=1
  %init = (s32[], f32[64]{0}) tuple(%start, %sums)
  ROOT %while.1 = (s32[], f32[64]{0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"9"}}
}
"""


def test_a_program_by_hand():
    image, kernel, row, sums = 2 * 64 * 8 * 16, 2 * 9 * 16 * 16, 2 * 8 * 16, 4 * 64
    found = traffic(PROGRAM)
    assert found["convolutions"] == (1, image + kernel + image + 256)
    one_row, all_rows = row + row, image + 4 + image + sums
    update_in_place, sum_of_two_rows = row + row, row + row + 4 + 4 * 8
    assert found["others"] == (4 + 9, one_row + all_rows + update_in_place + sum_of_two_rows + 9 * (sums + sums))


def test_sizes():
    assert size_of("(bf16[1,8,8,3]{3,2,1,0}, f32[], pred[2]{0}, token[])") == 2 * 192 + 4 + 2


def test_devices_without_a_compiler(monkeypatch):
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", lambda **_: (_ for _ in ()).throw(RuntimeError("no")))
    for name in ("h100:8", "v5e:2x2", "abacus"):
        with pytest.raises(UserError, match=rf"'{name}' here: no\n.*h100.*cuda13.*tpu"):
            devices_of(name)


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
