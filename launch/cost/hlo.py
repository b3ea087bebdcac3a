"""Reads a compiled program as the compiler prints it (HLO text): its kernels in their order, and what the devices exchange."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CONVOLUTIONS = ("convolution, y", "convolution, by input", "convolution, by kernel")
"""The kinds of convolution: the layer's result, and its derivatives by its input and by its kernel."""
PRODUCT, INDEXED, SEVERAL, OTHER = "product", "reads by index", "writes several arrays", "other"
"""The other kinds of kernel. In a training step, upsampling reads by index on GPUs, and Adam's updates write several arrays."""

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*?)\)(.*)")
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id"}  # move nothing
_SUMMING = {"reduce", "reduce-window", "dot", "convolution"}
_EXCHANGES = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"
_CUDNN = {
    "Forward": "convolution, y",
    "BiasActivationForward": "convolution, y",
    "BackwardInput": "convolution, by input",
    "BackwardFilter": "convolution, by kernel",
}


class Kernel(NamedTuple):
    """What a device computes at once."""

    kind: str  # one of CONVOLUTIONS, or PRODUCT, INDEXED, SEVERAL, OTHER
    moved: int  # bytes between the device and its memory
    operations: int = 0  # of its convolutions and products
    factors: str = ""  # the dtype that is multiplied; "exact" for float32 that must not be rounded
    channels: int = 0  # of a convolution: those of its input or of its result, whichever are fewer
    origin: str = ""  # where it comes from, as JAX names it: "jit(step)/jvp(Cascade)/module_3/norm1/reduce_sum"


class Exchange(NamedTuple):
    """One exchange between the devices."""

    name: str
    kind: str
    arrays: list[tuple[str, tuple[int, ...]]]  # (dtype, shape) of what a device receives
    size: int  # bytes of those arrays
    groups: tuple[tuple[int, ...], ...]  # the devices that exchange with one another, or (from, to)
    moved: int = 0  # bytes between the device and its memory


class Wait(NamedTuple):
    """Where the program needs what an exchange brings."""

    name: str


class Instruction(NamedTuple):
    """One line of a computation in HLO text."""

    name: str
    result: str  # its shape, or shapes
    opcode: str
    operands: list[str]
    inside: str  # the operands as they are written, or a parameter's number
    rest: str  # attributes


def schedule(hlo: str) -> list[Kernel | Exchange | Wait]:
    """Returns what a device does in one run of a program, in order. The body of a loop is there as often as it runs."""
    computations, entry = _parse(hlo)
    partitions = re.search(r"num_partitions=(\d+)", hlo.partition("\n")[0])
    everyone = range(int(partitions[1]) if partitions else 1)

    def ordered(computation: str) -> Iterator[Kernel | Exchange | Wait]:
        shapes = {line.name: line.result for line in computations[computation]}
        for line in computations[computation]:
            called = re.search(r"calls=%([\w.-]+)", line.rest)
            lines = computations[called[1]] if called else [line]
            if line.opcode == "while":
                body = list(ordered(re.findall(r"body=%([\w.-]+)", line.rest)[0]))
                yield from body * _trips(line, computations)
            elif line.opcode.endswith("-done"):
                yield Wait(line.operands[0])
            elif line.opcode not in _FREE:
                results = shapes | {inner.name: inner.result for inner in lines}
                operands = [shapes.get(name, "") for name in line.operands]
                moved = _fused(lines) if called else size_of(" ".join([line.result, *operands]))
                moved -= min(moved, sum(map(_size_in_vmem, [line.result, *operands])))
                exchange = next((found for inner in lines if (found := _exchange(inner, everyone))), None)
                if exchange is None:
                    origin = re.search(r'op_name="([^"]*)"', line.rest)
                    yield _kernel(lines, results)._replace(moved=moved, origin=origin[1] if origin else "")
                else:
                    yield exchange._replace(name=line.name, moved=moved)
                    if not line.opcode.endswith("-start"):
                        yield Wait(line.name)

    return list(ordered(entry))


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """Returns how often a loop runs; 1 if the program does not tell.

    The compiler for TPUs does not say it. JAX's loops count from 0 to the constant that their condition compares with.
    """
    if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(said[1])
    *others, compared = computations[re.findall(r"condition=%([\w.-]+)", loop.rest)[0]]
    limits = [int(line.inside) for line in others if line.opcode == "constant" and line.name in compared.operands]
    return limits[0] if limits else 1


def traffic(work: list[Kernel | Exchange | Wait]) -> dict[str, tuple[int, int]]:
    """Returns the number of kernels and the bytes that they move: `{"convolutions": (97, 16e9), "others": ...}`.

    Each kernel reads its operands once, or the slices that it takes of them, and writes its results once. What a TPU keeps in
    its vector memory does not count. A convolution's workspace, and what a GPU's caches save, are not known from the text.
    """
    kernels, moved = Counter[str](), Counter[str]()
    for item in work:
        if not isinstance(item, Wait):
            kind = "convolutions" if item.kind in CONVOLUTIONS else "others"
            kernels[kind] += 1
            moved[kind] += item.moved
    return {kind: (kernels[kind], moved[kind]) for kind in kernels}


def collectives(hlo: str) -> list[Exchange]:
    """Returns the exchanges in the text of a program, each once, also those that are within loops."""
    found: dict[str, Exchange] = {}
    for line in hlo.splitlines():
        if (match := _INSTRUCTION.match(line)) and (exchange := _exchange(_instruction(match), range(1))):
            # A program may repeat the text of one exchange, which its channel tells. Channel 1 tells nothing, because all
            # exchanges of JAX's own functions (`jax.lax.ppermute`) have it.
            channel = re.search(r"channel_id=(?!1\b)(\d+)", line)
            found[f"{exchange.kind} {channel.group(1) if channel else exchange.name}"] = exchange
    return list(found.values())


def size_of(shapes: str) -> int:
    """Returns the bytes of all arrays in a text such as `(bf16[1,8,8,3]{3,2,1,0}, f32[])`."""
    return _bytes(_arrays(shapes))


def _size_in_vmem(shapes: str) -> int:
    """Returns the bytes of those arrays that a TPU keeps in its vector memory, as in `bf16[8,128]{1,0:T(8,128)(2,1)S(1)}`."""
    return size_of(" ".join(re.findall(r"\w+\[[\d,]*\]\{[^}]*T\([^}]*S\(1\)\}", shapes)))


def _bytes(arrays: list[tuple[str, tuple[int, ...]]]) -> int:
    """Returns the bytes of arrays. The name of a dtype has its bits, as in `f8e4m3fn` or `u16`, but for `pred` and `token`."""
    bits = {dtype: int(found[0]) if (found := re.search(r"\d+", dtype)) else 8 * (dtype == "pred") for dtype, _ in arrays}
    return sum(math.ceil(bits[dtype] * math.prod(shape) / 8) for dtype, shape in arrays)


def _arrays(shapes: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns dtype and shape of each array in such a text."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return [(dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in found]


def _shape(shapes: str) -> tuple[int, ...]:
    """Returns the shape of the first array in such a text."""
    return _arrays(shapes)[0][1]


def _elements(shapes: str) -> int:
    """Returns how many numbers all arrays in such a text have."""
    return sum(math.prod(shape) for _, shape in _arrays(shapes))


def _parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of a program's text by name, and the name of its entry computation."""
    computations, entry, current = dict[str, list[Instruction]](), "", list[Instruction]()
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            current.append(_instruction(found))
    return computations, entry


def _instruction(found: re.Match[str]) -> Instruction:
    name, result, opcode, inside, rest = found.groups()
    return Instruction(name, result, opcode, re.findall(r"%([\w.-]+)", inside), inside, rest)


def _exchange(line: Instruction, everyone: range) -> Exchange | None:
    """Returns the exchange that an instruction is, if it is one between some of the devices `everyone`."""
    if not (kind := re.fullmatch(rf"({_EXCHANGES})(-start)?", line.opcode)):
        return None
    arrays = _arrays(line.result)
    if kind[2] and kind[1] != "all-reduce":  # the result lists operands, results, and the backend's scalars
        arrays = [array for array in arrays if array[1]]
        arrays = arrays[len(arrays) // 2 :]
    return Exchange(line.name, kind[1], arrays, _bytes(arrays), _groups(line.rest, everyone))


def _groups(attributes: str, everyone: range) -> tuple[tuple[int, ...], ...]:
    """Returns which devices exchange with one another. There are three ways of writing them.

    `{{0,1},{2,3}}` lists them, `[2,2]<=[4]` reshapes their numbers, and `mesh['a'=2,'b'=2] {'b'}` names the axes of a mesh.
    """
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", attributes):
        return tuple(tuple(int(n) for n in group.split(",")) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    if counted := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims, order = ([int(n) for n in text.split(",")] if text else None for text in counted.groups())
        numbers = np.arange(math.prod(dims or ())).reshape(dims).transpose(order).reshape(shape)
        return tuple(tuple(group) for group in numbers.tolist())
    if named := re.search(r"replica_groups=mesh\[([^]]*)\] \{([^}]*)\}", attributes):
        axes = re.findall(r"'(\w+)'=(\d+)", named[1])
        chosen = [i for i, (name, _) in enumerate(axes) if name in re.findall(r"\w+", named[2])]
        sizes = [int(size) for _, size in axes]
        numbers = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), chosen, range(-len(chosen), 0))
        return tuple(tuple(group) for group in numbers.reshape(-1, math.prod(sizes[i] for i in chosen)).tolist())
    return (tuple(everyone),)


def _kernel(lines: list[Instruction], results: dict[str, str]) -> Kernel:
    """Returns what kind of kernel these instructions are, and what it multiplies. `results` has the shapes of all values."""
    if multiplying := [kernel for line in lines if (kernel := _multiplications(line, results))]:
        largest = max(multiplying, key=lambda kernel: kernel.operations)
        return largest._replace(operations=sum(kernel.operations for kernel in multiplying))
    if any(line.opcode == "gather" for line in lines):
        return Kernel(INDEXED, 0)
    *_, root = lines
    return Kernel(SEVERAL if root.opcode == "tuple" and len(root.operands) >= 3 else OTHER, 0)


def _multiplications(line: Instruction, results: dict[str, str]) -> Kernel | None:
    """Returns the operations of an instruction, two for each multiplication, if it is a convolution or a product."""
    if line.opcode == "convolution" or "__cudnn$conv" in line.rest:
        return _convolution(line, [_shape(results[name]) for name in line.operands[:2]], _factors(line, results))
    summed = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]+)', line.rest)
    if (line.opcode == "dot" or "__cublas" in line.rest) and summed:
        left = _shape(results[line.operands[0]])
        taps = math.prod(left[int(axis)] for axis in re.findall(r"\d+", summed[1]))
        return Kernel(PRODUCT, 0, 2 * math.prod(_shape(line.result)) * taps, _factors(line, results))
    return None


def _factors(line: Instruction, results: dict[str, str]) -> str:
    """Returns the dtype that an instruction multiplies."""
    (dtype, _), *_ = _arrays(results[line.operands[0]])
    return "exact" if dtype == "f32" and re.search(r"highest|\"HIGHEST\"", line.rest) else dtype


def _convolution(line: Instruction, arguments: list[tuple[int, ...]], factors: str) -> Kernel:
    """Returns the operations and channels of a convolution, whichever of its three arrays is the result."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest)
    cudnn = re.search(r'__cudnn\$conv(\w+)"', line.rest)
    assert labels, line
    first, second, result = *arguments, _shape(line.result)
    if cudnn:  # the labels are those of input, kernel and y, whatever is computed
        kind = _CUDNN[cudnn[1]]
        kernel = result if kind == "convolution, by kernel" else second
        y = {"convolution, by input": first, "convolution, by kernel": second}.get(kind, result)
        kernel_in, kernel_out = kernel[labels[2].index("i")], kernel[labels[2].index("o")]
        return Kernel(kind, 0, 2 * math.prod(y) * math.prod(kernel) // kernel_out, factors, min(kernel_in, kernel_out))
    dilated = re.search(r"lhs_dilate=([\dx]+)", line.rest)
    zeros = math.prod(int(n) for n in dilated[1].split("x")) if dilated else 1
    features, summed, batch = second[labels[2].index("o")], second[labels[2].index("i")], result[labels[3].index("b")]
    operations = 2 * math.prod(result) * math.prod(second) // features // zeros
    # In the derivative by a kernel, the channels of the input take the place of the batch, over which it sums.
    kind = "convolution, y" if summed >= batch else "convolution, by kernel"
    return Kernel(kind, 0, operations, factors, min(features, max(summed, batch)))


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
