"""Predicts how long a step takes, from what its kernels do and from a device's published rates: a roofline for each kernel.

    kernel     the longest of: operations / (rate x share), bytes / (bandwidth x share), and SHORTEST
    exchange   latency + bytes within the node / (link x share) + bytes between nodes / (network x share)
    step       the kernels one after the other; the exchanges, too, but beside the kernels; what needs an exchange waits for it

Kernels reach a share of the published rates. These shares, and the latencies, are the only numbers that no maker publishes.
"""

import math
from typing import NamedTuple

from launch.cost.hlo import CONVOLUTIONS, INDEXED, OTHER, PRODUCT, SEVERAL, Exchange, Kernel, Wait
from launch.cost.rates import Rates

# Fitted to one step on one H200, of cityscapes_1024p in bfloat16: its profile, and its 31.9 ms (docs/performance_log.md).
SHARE_OF_RATE = {"convolution, y": 0.73, "convolution, by input": 0.76, "convolution, by kernel": 0.63}
"""What convolutions of many channels reach of the rate at which the device multiplies."""
MANY_CHANNELS = 96
"""A convolution of fewer channels, in its input or in its result, is slower in proportion."""
SHARE_OF_BANDWIDTH = {INDEXED: 0.37, SEVERAL: 0.42, PRODUCT: 0.125, OTHER: 0.74}
"""What kernels reach of the memory's bandwidth if each operand counts once. Convolutions reach as much as OTHER."""
SHORTEST = 2e-6
"""The seconds that the shortest kernel takes."""

# Assumed, because nothing was run on several devices.
SHARE_OF_LINK = 0.8
"""What an exchange reaches of the bandwidth of links and network."""
LATENCY, LATENCY_BETWEEN_NODES = 10e-6, 10e-6
"""The seconds that an exchange takes within a node however small it is, and how many more for each doubling of the nodes."""


class StepTime(NamedTuple):
    """The seconds of a step, by what they are spent on."""

    compute: float  # kernels that multiply for longer than they move bytes
    memory: float  # the other kernels
    exchange: float  # exchanges, as far as no kernel runs meanwhile

    @property
    def total(self) -> float:
        """The seconds of the whole step."""
        return sum(self)

    @property
    def largest(self) -> str:
        """What most of the time is spent on."""
        return max(self._fields, key=lambda part: getattr(self, part))


def step_time(work: list[Kernel | Exchange | Wait], rates: Rates, node: int | None = None) -> StepTime:
    """Predicts the time of one run of a program on each of its devices.

    Args:
      work: what a device does, as `hlo.schedule` returns it.
      rates: the published rates of the devices.
      node: how many devices, in the order of their numbers, a fast link joins. None: as many as `rates` says.
    """
    spent = {"compute": 0.0, "memory": 0.0, "exchange": 0.0}
    now = links_free = 0.0  # until when the kernels, and the exchanges, have come
    arrives = dict[str, float]()
    for item in work:
        if isinstance(item, Kernel):
            compute, memory = multiplying_time(item, rates), moving_time(item, rates)
            spent["compute" if compute > memory else "memory"] += max(compute, memory)
            now += max(compute, memory)
        elif isinstance(item, Exchange):
            links_free = max(links_free, now) + exchange_time(item, rates, node or rates.node)
            arrives[item.name] = links_free
        elif (ready := arrives.get(item.name, now)) > now:
            spent["exchange"] += ready - now
            now = ready
    return StepTime(**spent)


def multiplying_time(kernel: Kernel, rates: Rates) -> float:
    """Returns the seconds that a kernel's convolution or product takes; 0 if it has none."""
    rate = {"bf16": rates.bf16, "f16": rates.bf16, "exact": rates.exact}.get(kernel.factors, rates.float32)
    if kernel.kind not in CONVOLUTIONS:
        return kernel.operations / (rate * SHARE_OF_RATE["convolution, y"])
    return kernel.operations / (rate * SHARE_OF_RATE[kernel.kind] * min(1, kernel.channels / MANY_CHANNELS))


def moving_time(kernel: Kernel, rates: Rates) -> float:
    """Returns the seconds in which a kernel moves its bytes between the device and its memory."""
    share = SHARE_OF_BANDWIDTH.get(kernel.kind, SHARE_OF_BANDWIDTH[OTHER])
    return max(kernel.moved / (rates.bandwidth * share), SHORTEST)


def exchange_time(exchange: Exchange, rates: Rates, node: int | None) -> float:
    """Returns the seconds that an exchange takes, if nodes of `node` devices, in the order of their numbers, have fast links.

    Devices in a ring receive what others have: of a gathered array of n parts, n - 1. A node receives what other nodes have,
    shared out over the networks of its devices. A sum that all devices get is scattered, then gathered.
    """
    network = rates.network or math.inf
    if exchange.kind == "collective-permute":
        if any(node and sender // node != receiver // node for sender, receiver in exchange.groups):
            return LATENCY + LATENCY_BETWEEN_NODES + exchange.size / (network * SHARE_OF_LINK)
        return LATENCY + exchange.size / (rates.link * SHARE_OF_LINK)
    group = exchange.groups[0]
    n, nodes = len(group), len({device // node for device in group}) if node else 1
    if n == 1:
        return 0.0
    whole = exchange.size * (n if exchange.kind == "reduce-scatter" else 1)
    times = 2 if exchange.kind == "all-reduce" else 1
    received = whole * (n - 1) / n / rates.link + whole * (nodes - 1) / n / network
    return LATENCY + LATENCY_BETWEEN_NODES * math.ceil(math.log2(nodes)) + times * received / SHARE_OF_LINK
