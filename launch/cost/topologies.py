"""Devices to compile a program for that this machine does not have: `launch.train --dry_run --topology h100:8`."""

import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from crn_jax.errors import UserError, did_you_mean
from launch.cost.rates import RATES


class GPU(NamedTuple):
    """The facts that XLA's compiler needs about a GPU, taken from XLA's own files (xla/backends/gpu/target_config/specs).

    Those of the RTX 4090, which has no such file, are NVIDIA's.
    """

    name: str
    compute_capability: int  # its major number
    cores: int
    fpus_per_core: int
    clock_ghz: float
    memory: int  # bytes
    bandwidth: int  # bytes a second
    l2_cache: int  # bytes
    shared_memory_per_core: int  # bytes
    shared_memory_per_block: int  # bytes, at most
    minor: int = 0  # of the compute capability


GPUS = {
    "a100": GPU("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 85100068864, 2039040000000, 41943040, 167936, 166912),
    "h100": GPU("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 84942979072, 3352320000000, 52428800, 233472, 232448),
    "h200": GPU("NVIDIA H200", 9, 132, 128, 1.98, 151397597184, 4800000000000, 52428800, 233472, 232448),
    "b200": GPU("NVIDIA B200", 10, 148, 128, 1.965, 191514411008, 7672320000000, 132644864, 233472, 232448),
    "rtx4090": GPU("NVIDIA GeForce RTX 4090", 8, 128, 128, 2.52, 25757220864, 1008000000000, 75497472, 102400, 101376, 9),
}


def devices_of(topology: str) -> list[jax.Device]:
    """Returns the chips of a TPU slice, such as `v5e:2x2`, or GPUs: `h100`, `h100:8` on one host, `h100:4x8` on four hosts.

    Raises:
      UserError: if there are no such devices, or no compiler for them.
    """
    kind, _, number = topology.partition(":")
    if kind not in RATES and not re.match(r"v\d", kind):
        raise UserError(f"There are no devices '{kind}'.{did_you_mean(kind, RATES)} --topology knows {', '.join(RATES)}.")
    if kind in GPUS and not re.fullmatch(r"([1-9]\d*(x[1-9]\d*){0,2})?", number):
        raise UserError(f"--topology {topology}: {kind}:8 means eight GPUs on a host, {kind}:4x8 eight on each of four hosts.")
    jax.config.update("jax_platforms", "cpu")
    try:
        if kind in GPUS:
            shape = "x".join((["1", "1"] + (number or "1").split("x"))[-3:])  # slices, hosts, GPUs a host
            found = topologies.get_topology_desc(platform="cuda", topology=shape, target_config=_description(GPUS[kind]))
        else:
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu looks for the slice that this machine is part of
            os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
            os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # libtpu and PJRT raise errors of their own types
        raise UserError(
            f"There is no compiler for the devices '{topology}' here: {error}\nThe compiler for GPUs ({', '.join(GPUS)}; "
            "h100:8 means eight on one host, h100:4x8 eight on each of four) comes with pip install -e '.[cuda13]'. The "
            "compiler for TPUs comes with '.[tpu]'; slices are named v5e:2x2, v5p:2x2x1, v6e:2x4 and so on. If a compilation "
            "for TPUs was killed, remove libtpu's lock file, /tmp/libtpu_lockfile."
        ) from error
    return list(found.devices)


def bandwidth(device: jax.Device) -> int | None:
    """Returns the bandwidth between a GPU and its memory in bytes a second, or None if the GPU is not in `GPUS`."""
    return next((gpu.bandwidth for gpu in GPUS.values() if gpu.name == device.device_kind), None)


def _description(gpu: GPU) -> str:
    """Returns the text of XLA's GpuTargetConfigProto for a GPU."""
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024
          threads_per_warp: 32
          threads_per_core_limit: 2048
          thread_dim_limit_x: 1024
          thread_dim_limit_y: 1024
          thread_dim_limit_z: 64
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          core_count: {gpu.cores}
          fpus_per_core: {gpu.fpus_per_core}
          clock_rate_ghz: {gpu.clock_ghz}
          device_memory_size: {gpu.memory}
          memory_bandwidth: {gpu.bandwidth}
          l2_cache_size: {gpu.l2_cache}
          shared_memory_per_core: {gpu.shared_memory_per_core}
          shared_memory_per_block: 49152
          shared_memory_per_block_optin: {gpu.shared_memory_per_block}
          cuda_compute_capability {{ major: {gpu.compute_capability} minor: {gpu.minor} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 13 }}
        device_description_str: "{gpu.name}"
    """
