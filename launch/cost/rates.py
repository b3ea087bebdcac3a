"""What the makers of accelerators publish about them: how fast they compute, move bytes and exchange.

All rates are for dense arithmetic: NVIDIA's datasheets print twice as much, with sparsity. The rate of a link is that at which
a device receives. It is half of the printed one where that counts both directions.
"""

from typing import NamedTuple

import jax

GIGA, TERA = 10**9, 10**12


class Rates(NamedTuple):
    """The published rates of one device."""

    kinds: tuple[str, ...]
    """What JAX calls the device."""
    bf16: float
    """Operations a second on bfloat16, summed in float32."""
    float32: float
    """Operations a second on float32 as accelerators multiply it by default: as TF32 on GPUs, as bfloat16 on TPUs."""
    exact: float
    """Operations a second on float32 without rounding the factors."""
    memory: float
    """Bytes of memory."""
    bandwidth: float
    """Bytes a second between the device and its memory."""
    link: float
    """Bytes a second that the device receives from others of its node."""
    node: int | None
    """The devices that such links join. None: all, as the links of a TPU slice do."""
    network: float | None
    """Bytes a second that the device receives from other nodes. None: there are no others."""
    source: str
    """Who says so."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.node is not None


def _gpu(
    kind: str, bf16: float, tf32: float, fp32: float, memory: float, bandwidth: float, link: float, network: float, source: str
) -> Rates:
    """Returns the rates of a GPU of which eight are in a node, given in TFLOP/s, GB and GB/s."""
    tera, giga = (bf16 * TERA, tf32 * TERA, fp32 * TERA), (memory * GIGA, bandwidth * GIGA, link * GIGA)
    return Rates((kind,), *tera, *giga, 8, network * GIGA, source)


def _tpu(kinds: tuple[str, ...], bf16: float, memory: float, bandwidth: float, link: float, source: str) -> Rates:
    """Returns the rates of a TPU chip, given in TFLOP/s, GB and GB/s. An exact product of float32 is six of bfloat16."""
    giga = (memory * GIGA, bandwidth * GIGA, link * GIGA)
    return Rates(kinds, bf16 * TERA, bf16 * TERA, bf16 * TERA / 6, *giga, None, None, source)


RATES = {
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB", 312, 156, 19.5, 80, 2039, 300, 25,
        "NVIDIA A100 datasheet (SXM, 80 GB): NVLink 600 GB/s; DGX A100: a 200 Gb/s adapter for each GPU",
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3", 989, 494, 67, 80, 3350, 450, 50,
        "NVIDIA H100 datasheet (SXM): NVLink 900 GB/s; DGX H100: a 400 Gb/s adapter for each GPU",
    ),
    "h200": _gpu(
        "NVIDIA H200", 989, 494, 67, 141, 4800, 450, 50,
        "NVIDIA H200 datasheet (SXM): NVLink 900 GB/s; DGX H200: a 400 Gb/s adapter for each GPU",
    ),
    "b200": _gpu(
        "NVIDIA B200", 2250, 1100, 75, 180, 7700, 900, 50,
        "NVIDIA HGX and DGX B200 datasheets: NVLink 1.8 TB/s; a 400 Gb/s adapter for each GPU",
    ),
    "rtx4090": _gpu(
        "NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6, 24, 1008, 32, 1.5625,
        "NVIDIA Ada whitepaper; PCIe 4.0 x16 in place of NVLink. NVIDIA publishes no network: one adapter of 100 Gb/s a node",
    ),
    "v4": _tpu(("TPU v4",), 275, 32, 1200, 300, "docs.cloud.google.com/tpu/docs/v4: ICI 2400 Gb/s"),
    "v5e": _tpu(("TPU v5 lite", "TPU v5e"), 197, 16, 819, 200, "docs.cloud.google.com/tpu/docs/v5e: ICI 400 GB/s, both ways"),
    "v5p": _tpu(("TPU v5", "TPU v5p"), 459, 95, 2765, 600, "docs.cloud.google.com/tpu/docs/v5p: ICI 1200 GB/s, both ways"),
    "v6e": _tpu(("TPU v6 lite", "TPU v6e"), 918, 32, 1638, 400, "docs.cloud.google.com/tpu/docs/v6e: ICI 800 GB/s, both ways"),
}  # fmt: skip


def rates_of(device: jax.Device) -> Rates | None:
    """Returns the published rates of a device, or None if this file has none."""
    return next((rates for rates in RATES.values() if device.device_kind in rates.kinds), None)
