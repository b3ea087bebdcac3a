"""What the kernels of a program compiled for a GPU move between it and its memory: what a step costs beside its products."""

import math
import re
from collections import Counter
from typing import NamedTuple

ITEMSIZE = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "s8": 1, "u8": 1, "pred": 1}

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*?)\)(.*)")
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id"}  # move nothing
_READING_A_PART = {"slice", "dynamic-slice", "gather"}


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    result: str  # its shape, or shapes
    opcode: str
    operands: list[str]
    inside: str  # the operands as they are written; of a parameter, its number
    rest: str  # attributes


def traffic(hlo: str) -> dict[str, tuple[int, int]]:
    """Kernels and the bytes that they move in one run of a program: `{"convolutions": (97, 16e9), "others": ...}`.

    Each kernel reads its operands once (of those that it only slices, the slices) and writes its results once. A loop counts as
    often as it runs. What a convolution keeps in its workspace is not in the program, nor what caches save.
    """
    computations, entry = _parse(hlo)
    kernels, moved = Counter(), Counter()

    def count(computation: str, times: int) -> None:
        shapes = {line.name: line.result for line in computations[computation]}
        for line in computations[computation]:
            if line.opcode == "while":
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.rest)
                count(re.search(r"body=%([\w.-]+)", line.rest)[1], times * int(trips[1] if trips else 1))
            elif line.opcode not in _FREE and not line.opcode.endswith("-done"):
                kind = "convolutions" if "__cudnn$conv" in line.rest else "others"
                operands = [shapes.get(name, "") for name in line.operands]
                if called := re.search(r"calls=%([\w.-]+)", line.rest):
                    operands = [_read(computations[called[1]], i, shape) for i, shape in enumerate(operands)]
                kernels[kind] += times
                moved[kind] += times * size_of(" ".join([line.result, *operands]))

    count(entry, 1)
    return {kind: (kernels[kind], moved[kind]) for kind in kernels}


def size_of(shapes: str) -> int:
    """Bytes of all arrays in a text such as `(bf16[1,8,8,3]{3,2,1,0}, f32[])`."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(ITEMSIZE.get(dtype, 0) * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in found)


def _parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations of a program's text, and the name of the one that it begins with."""
    computations, entry, current = {}, "", []
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, result, opcode, inside, rest = found.groups()
            current.append(Instruction(name, result, opcode, re.findall(r"%([\w.-]+)", inside), inside, rest))
    return computations, entry


def _read(fused: list[Instruction], index: int, shape: str) -> str:
    """The shapes that a fused kernel reads of its operand `index`."""
    name = next(line.name for line in fused if line.opcode == "parameter" and line.inside == str(index))
    uses = [line for line in fused if name in line.operands]
    if all(line.opcode in _READING_A_PART and line.operands[0] == name for line in uses):
        return " ".join(line.result for line in uses)
    return shape
