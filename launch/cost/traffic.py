"""Counts the bytes that the kernels of a compiled program move between a GPU and its memory."""

import math
import re
from collections import Counter
from typing import NamedTuple

ITEMSIZE = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "s8": 1, "u8": 1, "pred": 1}

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*?)\)(.*)")
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id"}  # move nothing
_SUMMING = {"reduce", "reduce-window", "dot"}


class Instruction(NamedTuple):
    """One line of a computation in HLO text."""

    name: str
    result: str  # its shape, or shapes
    opcode: str
    operands: list[str]
    inside: str  # the operands as they are written, or a parameter's number
    rest: str  # attributes


def traffic(hlo: str) -> dict[str, tuple[int, int]]:
    """Returns the number of kernels and the bytes that they move in one run: `{"convolutions": (97, 16e9), "others": ...}`.

    Each kernel reads its operands once, or the slices that it takes of them, and writes its results once. The body of a loop
    counts as often as it runs. A convolution's workspace, and what the GPU's caches save, are not known from the text.
    """
    computations, entry = _parse(hlo)
    kernels, moved = Counter[str](), Counter[str]()

    def count(computation: str, times: int) -> None:
        shapes = {line.name: line.result for line in computations[computation]}
        for line in computations[computation]:
            if line.opcode == "while":
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.rest)
                body = re.findall(r"body=%([\w.-]+)", line.rest)[0]
                count(body, times * int(trips[1] if trips else 1))
            elif line.opcode not in _FREE and not line.opcode.endswith("-done"):
                kind = "convolutions" if "__cudnn$conv" in line.rest else "others"
                kernels[kind] += times
                if called := re.search(r"calls=%([\w.-]+)", line.rest):
                    moved[kind] += times * _fused(computations[called[1]])
                else:
                    moved[kind] += times * size_of(" ".join([line.result, *(shapes.get(name, "") for name in line.operands)]))

    count(entry, 1)
    return {kind: (kernels[kind], moved[kind]) for kind in kernels}


def size_of(shapes: str) -> int:
    """Returns the bytes of all arrays in a text such as `(bf16[1,8,8,3]{3,2,1,0}, f32[])`."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(ITEMSIZE.get(dtype, 0) * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in found)


def _elements(shapes: str) -> int:
    """Returns how many numbers all arrays in such a text have."""
    return sum(math.prod(int(n) for n in shape.split(",") if n) for _, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes))


def _parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of a program's text by name, and the name of its entry computation."""
    computations, entry, current = dict[str, list[Instruction]](), "", list[Instruction]()
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, result, opcode, inside, rest = found.groups()
            current.append(Instruction(name, result, opcode, re.findall(r"%([\w.-]+)", inside), inside, rest))
    return computations, entry


def _fused(lines: list[Instruction]) -> int:
    """Returns the bytes that a fused kernel moves. Of an array that it slices or updates in place, only that part counts."""
    results = {line.name: line.result for line in lines}
    counts = {name: _elements(result) for name, result in results.items()}
    *_, root = lines
    outputs = root.operands if root.opcode == "tuple" else [root.name]
    needed = Counter({name: counts[name] for name in outputs})  # elements of each value
    moved = 0
    for line in reversed(lines):  # the users of a value come after it
        if line.opcode == "tuple":
            continue
        written = line.name if line.opcode != "dynamic-update-slice" else line.operands[1]
        moved += size_of(results[written]) if line.name in outputs else 0
        if written != line.name:
            needed[written] = counts[written]
            continue
        number = min(needed[line.name], counts[line.name])
        if line.opcode == "parameter" and number:
            moved += size_of(line.result) * number // counts[line.name]
        for operand in line.operands:
            summed = counts[operand] / counts[line.name] if line.opcode in _SUMMING else 1
            needed[operand] += math.ceil(number * summed)
    return moved
