"""Damages files at random and reads them: every reader must give the right data or a `UserError`, soon and in bounded memory.

    python -m tests.fuzz                            300 files a reader
    python -m tests.fuzz --count 10000              what docs/reliability.md reports
    python -m tests.fuzz --only torch_zip --first 4711 --count 1

Case n of a reader is always the same. It flips, cuts, inserts, repeats, swaps or blanks bytes, or writes a number over them. In
half of the cases of a structured format, a value of a JSON text, a chunk of a PNG, a byte of a pickle or of an index is forged:
it is changed, and the checksums that cover it are made right again. No reader can know what a forged file should hold, so any
data will do there, if they come in time.

Each reader runs in a process of its own, whose memory is limited. A case that ends the process or takes too long is a failure.
"""

import argparse
import collections
import contextlib
import dataclasses
import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402

from crn_jax.errors import UserError  # noqa: E402

DATA = Path(__file__).parent / "data"
SECONDS = 20
"""How long a case may take, on a machine that is busy with other things. An intact file takes a fraction of a second."""
MEMORY = 1 << 30
"""How many bytes more than before the first case a process may have."""

Mutation = Callable[[random.Random, bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader, and how its files are made and damaged."""

    make: Callable[[Path], Any]
    """Makes intact files in a folder."""
    read: Callable[[Path], Any]
    """Reads them. What it returns is compared with what the intact files give."""
    checksums: bool = True
    """Whether the format can tell all damaged data from the right ones."""
    forge: Mutation | None = None
    """Changes a file and makes its checksums right again."""
    forged: str = "*"
    """The names of the files that `forge` can change."""
    errors: tuple[type[Exception], ...] = ()
    """Errors that count like a `UserError`."""
    suite: int = 300
    """The number of cases in the suite."""
    fresh: bool = False
    """Whether reading changes files, so that all have to be made anew for each case."""


def reader_names() -> list[str]:
    """Returns the names of all readers."""
    return list(readers())


# Mutations


NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Damages bytes once to three times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _damaged_once(rng, data)
    return data


def _damaged_once(rng: random.Random, data: bytes) -> bytes:
    at, other = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    length = min(rng.choice((1, 4, 16, 64, 512, 4096)), len(data) - at)
    match rng.randrange(10):
        case 0 | 1 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 2 if at < len(data):
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        case 3:
            return data[:at]
        case 4:
            return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 100))) + data[at:]
        case 5:
            return data[:at] + data[at + length :]
        case 6:
            return data[:at] + bytes([rng.choice((0, 0, 0xFF))]) * length + data[at + length :]
        case 7:
            return data[:at] + data[at : at + length] + data[at:]
        case 8:
            length = min(length, other - at, len(data) - other)
            return (
                data[:at]
                + data[other : other + length]
                + data[at + length : other]
                + data[at : at + length]
                + data[other + length :]
            )
        case _:
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
            return data[:at] + number + data[at + size :]


VALUES = (
    None,
    True,
    False,
    0,
    -1,
    300,
    2.5,
    1e308,
    1 << 40,
    1 << 70,
    "",
    "x",
    "\0",
    "9" * 5000,
    [],
    {},
    [[]],
    [1] * 9,
    {"x": 1},
)


def forged_value(rng: random.Random, data: bytes, seal: Callable[[Any], Any] = lambda value: value) -> bytes:
    """Changes a JSON text in one place."""
    value = json.loads(data)
    value.pop("crc32c", None) if isinstance(value, dict) else None
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            waiting += [inner[key]] if isinstance(inner[key], dict | list) else []
    inner, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del inner[key]
        case 1 if isinstance(inner, dict):
            inner[rng.choice(("", "x", "0", "-1", "9" * 5000, key + " "))] = inner.pop(key)
        case 2:
            inner[key] = [inner[key]]
        case 3:
            inner[key] = json.loads("[" * 400 + "]" * 400)
        case _:
            inner[key] = rng.choice(VALUES)
    text = json.dumps(seal(value))
    if rng.randrange(10) == 0:
        text = text.replace("{", '{"x": 1, "x": 2, ' if rng.randrange(2) else '{"x": NaN, ', 1)
    return text.encode(rng.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig")))


def sealed_value(rng: random.Random, data: bytes) -> bytes:
    """Changes a JSON object, and the checksum that it holds."""
    from crn_jax.checksums import sealed

    return forged_value(rng, data, lambda value: sealed(value) if isinstance(value, dict) else value)


def forged_line(rng: random.Random, data: bytes) -> bytes:
    """Changes a line of JSON."""
    lines = data.splitlines()
    i = rng.randrange(len(lines))
    lines[i] = forged_value(rng, lines[i])
    return b"\n".join(lines) + b"\n"


def forged_png(rng: random.Random, data: bytes) -> bytes:
    """Changes the chunks of a PNG file."""
    chunks, position = [], 8
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        chunks.append([data[position + 4 : position + 8], data[position + 8 : position + 8 + size]])
        position += 12 + size
    i = rng.randrange(len(chunks))
    match rng.randrange(6):
        case 0:
            chunks[i][1] = damaged(rng, chunks[i][1] or b"\0")
        case 1:
            sizes = struct.pack(">II", *rng.choices((0, 1, 24, 32, 60_000, 1 << 20, 0x7FFFFFFF), k=2))
            chunks[0][1] = sizes + chunks[0][1][8:] if rng.randrange(2) else chunks[0][1][:8] + rng.randbytes(5)
        case 2:
            del chunks[i]
        case 3:
            chunks.insert(i, chunks[rng.randrange(len(chunks))])
        case 4:
            chunks.insert(
                1,
                [rng.choice((b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"gAMA", b"acTL", b"eXIf")), rng.randbytes(rng.randrange(40))],
            )
        case _:
            bomb = zlib.compress(bytes(20_000_000), 9)
            chunks[-2][1] = bomb if rng.randrange(2) else zlib.compress(bytes(rng.randrange(1000)))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def forged_zip(rng: random.Random, data: bytes) -> bytes:
    """Changes a member of an archive, mostly the pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([n for n in members if n.endswith("data.pkl")] * 3 + list(members))
    members[name] = damaged(rng, members[name])
    return _zipped(members, rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,)))


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def forged_index(rng: random.Random, data: bytes) -> bytes:
    """Changes the first block of TensorFlow's index, whose checksum lies behind it."""
    from crn_jax.formats.tensorflow_checkpoint import _handle, _masked_crc

    _, _, position = _handle(data[-48:-8], 0)
    index = _handle(data[-48:-8], position)
    offset, size, _ = _handle(data[index[0] : index[0] + index[1]], 3 + data[index[0] + 1])
    block = bytearray(data[offset : offset + size])
    for _ in range(rng.choice((1, 1, 2, 4))):
        block[rng.randrange(size)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    checksum = _masked_crc(bytes(block) + b"\0").to_bytes(4, "little")
    return data[:offset] + bytes(block) + b"\0" + checksum + data[offset + size + 5 :]


def forged_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Changes the description or a tensor of a run in one file, and its digest."""
    import safetensors
    import safetensors.numpy

    from crn_jax.formats.safetensors_file import _digest

    tensors = safetensors.numpy.load(data)
    size = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + size])["__metadata__"]["run"]
    if rng.randrange(3):
        with contextlib.suppress(UnicodeDecodeError):
            text = forged_value(rng, text.encode()).decode()
    else:
        name = rng.choice(list(tensors))
        tensors[name] = rng.choice((
            tensors[name].astype(rng.choice((np.float64, np.int32, np.float16, bool))),
            np.full_like(tensors[name], rng.choice((np.nan, np.inf))),
            tensors[name][..., :1].copy(),
            np.zeros((0, 3), np.float32),
        ))  # fmt: skip
        tensors[rng.choice((name, f"{name}/x", "x", "/", ""))] = tensors.pop(name)
    return safetensors.numpy.save(tensors, {"run": text, "sha256": _digest(tensors, text)})


# Readers. They are imported when they are needed, each in its own process.


def _space():
    from crn_jax.data.labels.published import CAMVID

    return CAMVID


def _picture(shape: tuple[int, ...], high: int) -> np.ndarray:
    rows = np.arange(np.prod(shape)).reshape(shape)
    return (rows * 7919 // 13 % high).astype(np.uint8)


def _photograph(kind: str, **settings: Any) -> tuple[Callable[[Path], None], Callable[[Path], Any]]:
    from PIL import Image

    def make(folder: Path) -> None:
        Image.fromarray(_picture((24, 32, 3), 256)).save(folder / f"file.{kind}", **settings)

    def read(folder: Path) -> Any:
        from crn_jax.data.photographs import read_photograph

        return np.asarray(read_photograph(folder / f"file.{kind}").image)

    return make, read


def _make_layout(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(_picture((24, 32), 11)).save(folder / "file.png")


def _stored(*names: str) -> Callable[[Path], None]:
    """Makes files of those that tests/data/stored.tar.xz holds, with checksums where today's code writes such."""

    def make(folder: Path) -> None:
        from crn_jax.checksums import sealed

        with tarfile.open(DATA / "stored.tar.xz") as archive:
            for name in names:
                member = archive.extractfile(name)
                assert member is not None
                data = member.read()
                if name.endswith(".json") and not name.startswith("label"):
                    data = json.dumps(sealed(json.loads(data))).encode()
                (folder / Path(name).name).write_bytes(data)

    return make


def _copied(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            shutil.copyfile(DATA / name, folder / name)

    return make


def _make_labels(folder: Path) -> None:
    fields = {
        "name": "x",
        "classes": ["a", "b"],
        "colors": [[1, 2, 3], [4, 5, 6]],
        "ids": {"4": "a", "5": "b"},
        "void_ids": [0],
    }
    (folder / "file.json").write_text(json.dumps(fields))


def _read_labels(folder: Path) -> Any:
    from crn_jax.data.labels.label_file import read_label_file

    return read_label_file(folder / "file.json")


def _read_metrics(folder: Path) -> Any:
    from launch.training.metrics_log import last_step, read_metrics

    return read_metrics(folder / "metrics.jsonl"), last_step(folder / "metrics.jsonl")


def _make_ledger(folder: Path) -> None:
    from launch.training.ledger import FILE, PHASES, Snapshot

    seconds = {phase: 1.5 * i for i, phase in enumerate(PHASES)}
    lines = [Snapshot(1 + i // 2, 1.7e9, 1.7e9 + 60 * i, 5 * (i // 2), 5 * i, "running", seconds) for i in range(5)]
    (folder / FILE).write_text("".join(map(Snapshot.line, lines)))


def _read_ledger(folder: Path) -> Any:
    """Reads a ledger, and adds it up and shows it as launch.check does."""
    from launch.check import ledger_table
    from launch.training.ledger import FILE, account_of, read_ledger

    snapshots = read_ledger(folder / FILE)
    for goes_on_from in (None, 0, 10):
        ledger_table(account_of(snapshots, goes_on_from), in_use=False)
    return snapshots


def _read_run(folder: Path) -> Any:
    from crn_jax.run import read_description

    return read_description(folder)


def _read_evaluation(folder: Path) -> Any:
    from launch.evaluation.evaluation_file import read_evaluation

    return read_evaluation(folder / "evaluation.json")


def _read_task(folder: Path) -> Any:
    from launch.common.output import read_json

    return read_json(folder / "task.json", {"finished": [[str]]})


def _make_record(folder: Path) -> None:
    """Makes the record of an ablation of two variants, which were trained and scored alike."""
    from crn_jax.ablation import Variant
    from launch.ablation.record import FILE, Entry, record_of, write_record
    from launch.ablation.tasks import Task
    from launch.ablation.verify import results_of, stored_part

    entries = [Entry(Variant(name, "demo"), 0, Task(name, folder / name / "seed_0", ("demo",))) for name in "ab"]
    record = record_of("suite", "Why?", entries, "as each says", "command")
    names = ("evaluation/evaluation.json", "metrics.jsonl")
    _stored(*(f"ablation/as_it_is/seed_0/{name}" for name in names))(folder)
    lines, evaluation = _read_metrics(folder)[0], _read_evaluation(folder)
    for training in record["trainings"]:
        training |= {"status": "finished", "lines": lines, "evaluation": evaluation}
    for left in ("evaluation.json", "metrics.jsonl"):
        (folder / left).unlink()
    write_record(folder / FILE, record | {"results": stored_part(results_of(record))})


def _read_record(folder: Path) -> Any:
    """Reads a record, and computes its results again."""
    from launch.ablation.record import FILE, read_record
    from launch.ablation.verify import unequal_results

    record = read_record(folder / FILE)
    unequal_results(record, folder / FILE)
    return record


def forged_record(rng: random.Random, data: bytes) -> bytes:
    """Changes the JSON that is compressed in a record, and its checksum."""
    return gzip.compress(sealed_value(rng, gzip.decompress(data)))


def _make_answers(folder: Path) -> None:
    answer = {"left": "photograph", "right": "x", "example": 1, "sentinel": False, "asked_seconds": None, "shown_ms": 5.0}
    answers = [{"pair": i, **answer, "chosen": "x", "response_ms": 7.5} for i in range(3)]
    fields = {"study": "1", "title": "t", "methods": ["x"], "pairs": 3, "participant": "p", "started": "now", "seed": 1}
    from launch.evaluation.study import RESULT_FORMAT

    (folder / "file.json").write_text(json.dumps({"format": RESULT_FORMAT, **fields, "answers": answers}))


def _read_answers(folder: Path) -> Any:
    from launch.evaluation.study_answers import analyse

    return analyse([folder / "file.json"])


def _read_torch(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from crn_jax.files import sha256_of
        from crn_jax.formats.torch_file import read_torch_file

        return read_torch_file(folder / name, [sha256_of(DATA / name)])

    return read


def _read_tensorflow(folder: Path) -> Any:
    from crn_jax.authors import load_released

    return load_released(folder / "released.ckpt")


def _make_keras(folder: Path) -> None:
    from tests.support.narrow import narrow_vgg19, write_random_vgg19

    with narrow_vgg19():
        write_random_vgg19(folder / "file.h5")


def _read_keras(folder: Path) -> Any:
    from crn_jax.vgg_weights import load_vgg19
    from tests.support.narrow import narrow_vgg19

    with narrow_vgg19():
        return load_vgg19(folder / "file.h5")


def _make_nyu(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        photographs, ids = _picture((3, 3, 8, 6), 256), _picture((3, 8, 6), 12).astype(np.uint16)
        checked = {"shuffle": True, "fletcher32": True}
        for key, data, chunk, more in (("images", photographs, 1, {}), ("labels", ids, 2, checked)):
            # The paper's split needs more than 1,200 frames. Those that are not written take no room.
            shape, chunks = (1201, *data.shape[1:]), (chunk, *data.shape[1:])
            file.create_dataset(key, shape, data.dtype, chunks=chunks, compression="gzip", **more)[:3] = data


def _read_nyu(folder: Path) -> Any:
    from crn_jax.data import nyu

    path, _, _ = nyu.find_frames(folder, "train")
    return [nyu.read_frame(path, number) for number in (1, 2, 3)]


def _make_matlab(compressed: bool) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import scipy.io

        scipy.io.savemat(
            folder / "split.mat", {"trainIds": np.arange(1, 40)[:, None], "other": ["x"]}, do_compression=compressed
        )

    return make


def _read_matlab(folder: Path) -> Any:
    from crn_jax.data.folders import numbers_in

    return numbers_in(folder / "split.mat", "trainIds")


def _make_safetensors(folder: Path) -> None:
    from crn_jax.formats.safetensors_file import save_run

    _stored("cascade/run.json")(folder)
    description = json.loads((folder / "run.json").read_text()) | {"step": 5}
    description.pop("crc32c")
    (folder / "run.json").unlink()
    save_run(
        folder / "run.safetensors", {"a": {"b": np.arange(6, dtype=np.float32)}, "c": np.ones((2, 3), np.float32)}, description
    )


def _read_safetensors(folder: Path) -> Any:
    from crn_jax.formats.safetensors_file import load_run_file
    from crn_jax.run import parse_description

    params, description = load_run_file(folder / "run.safetensors")
    step = description.pop("step", 0)
    return params, step, parse_description(description, folder / "run.safetensors")


def _read_artifact(folder: Path) -> Any:
    from crn_jax.load_artifact import load

    return load(folder)[1]


def _source(folder: Path):
    from crn_jax.data.sources import DataConfig, open_source

    return open_source(DataConfig("streets", num_scenes=2, clear_days=True), "train", (16, 16))


def _make_cache(folder: Path) -> None:
    from crn_jax.data.cache import cached

    cached(_source(folder), folder)


def _read_cache(folder: Path) -> Any:
    from crn_jax.data.cache import cached

    source = cached(_source(folder), folder)
    return [{key: np.array(value) for key, value in source[i].items()} for i in range(len(source))]


def _objective():
    from tests.test_checkpoint import objective

    return objective()


def _make_checkpoint(folder: Path) -> None:
    import jax.numpy as jnp

    from crn_jax.checkpoint import Checkpoints
    from crn_jax.train import init_state

    with Checkpoints(folder / "checkpoints", keep_last=1) as checkpoints:
        checkpoints.save(3, init_state(_objective(), 0)._replace(step=jnp.int32(3)), 1.5, {"experiment": "x"})


def _read_checkpoint(folder: Path) -> Any:
    import jax

    from crn_jax.checkpoint import Checkpoints
    from crn_jax.train import abstract_state

    with Checkpoints(folder / "checkpoints") as checkpoints:
        return jax.tree.map(np.asarray, checkpoints.load(3, abstract_state(_objective())))


def readers() -> dict[str, Reader]:
    """Returns the readers by name."""
    run = _stored("cascade/run.json")
    metrics, evaluation, task = (
        "cascade/metrics.jsonl",
        "ablation/as_it_is/seed_0/evaluation/evaluation.json",
        "ablation/as_it_is/seed_0/task.json",
    )
    tensorflow = _copied("released.ckpt.index", "released.ckpt.data-00000-of-00001")
    artifact = _stored(*(f"artifact/{name}" for name in ("artifact.json", "synthesize.bin", "weights.npz", "flatbuffers.zip")))
    return {
        "png_layout": Reader(_make_layout, lambda folder: _space().read(folder / "file.png"), forge=forged_png),
        "png_photograph": Reader(*_photograph("png"), forge=forged_png),
        "jpeg_photograph": Reader(*_photograph("jpg", quality=90), checksums=False),
        "webp_photograph": Reader(*_photograph("webp", quality=90), checksums=False),
        "label_file": Reader(_make_labels, _read_labels, checksums=False, forge=forged_value),
        "run_json": Reader(run, _read_run, forge=sealed_value),
        "metrics_jsonl": Reader(_stored(metrics), _read_metrics, checksums=False, forge=forged_line),
        "ledger_jsonl": Reader(_make_ledger, _read_ledger, checksums=False, forge=forged_line),
        "evaluation_json": Reader(_stored(evaluation), _read_evaluation, forge=sealed_value),
        "ablation_record": Reader(_make_record, _read_record, forge=forged_record),
        "task_json": Reader(_stored(task), _read_task, forge=sealed_value),
        "study_answers": Reader(_make_answers, _read_answers, checksums=False, forge=forged_value),
        "torch_zip": Reader(_copied("zip.pth"), _read_torch("zip.pth"), forge=forged_zip),
        "torch_legacy": Reader(_copied("legacy.pth"), _read_torch("legacy.pth")),
        "tensorflow": Reader(tensorflow, _read_tensorflow, forge=forged_index, forged="*.index"),
        "keras_hdf5": Reader(_make_keras, _read_keras, checksums=False),
        "nyu_hdf5": Reader(_make_nyu, _read_nyu, checksums=False),
        "matlab_packed": Reader(_make_matlab(True), _read_matlab),
        "matlab_plain": Reader(_make_matlab(False), _read_matlab, checksums=False),
        "safetensors": Reader(_make_safetensors, _read_safetensors, forge=forged_safetensors),
        "artifact": Reader(artifact, _read_artifact, forge=sealed_value, forged="*.json", errors=(ValueError, RuntimeError)),
        "cache": Reader(_make_cache, _read_cache, suite=50, fresh=True),
        "checkpoint": Reader(_make_checkpoint, _read_checkpoint, suite=10, fresh=True),
    }  # fmt: skip


# Running


def same(a: Any, b: Any) -> bool:
    """Tells whether two results are equal, array by array and bit by bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or hasattr(a, "__array__"):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@dataclasses.dataclass
class Outcome:
    """What came of a reader's cases."""

    cases: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    slowest: float = 0.0

    def add(self, kind: str, text: str, seconds: float) -> None:
        """Adds what came of a case."""
        self.cases[kind] += 1
        self.slowest = max(self.slowest, seconds)
        if kind == "FAILED":
            self.failures.append(text)


class _TooLong(BaseException):
    pass


def case(name: str, number: int, reader: Reader, folder: Path, intact: Any) -> tuple[str, str]:
    """Runs a case in a folder of intact files. Returns what came of it, and a description if it is a failure."""
    rng = random.Random(f"{name} {number}")
    forging = reader.forge is not None and rng.randrange(2) == 1
    files = sorted(path for path in folder.rglob(reader.forged if forging else "*") if path.is_file())
    path = rng.choice(files)
    before = path.read_bytes()
    after = reader.forge(rng, before) if forging else damaged(rng, before)  # type: ignore[misc]
    path.write_bytes(after)
    try:
        found = reader.read(folder)
        if same(found, intact):
            return "right", ""
        return (
            ("forged" if forging else "unnoticed", "")
            if forging or not reader.checksums
            else ("FAILED", f"other data, from {path.name}")
        )
    except (UserError, *reader.errors) as error:
        return ("refused", "") if len(str(error)) > 10 else ("FAILED", f"no message: {error!r}")
    except _TooLong:
        return "FAILED", f"over {SECONDS} s"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "FAILED", f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    finally:
        path.write_bytes(before)


def _work(plan: list[tuple[str, range]], pipe: Any) -> None:
    """Runs cases of readers in this process, and sends what came of each."""
    import warnings

    import absl.logging

    warnings.simplefilter("ignore")
    absl.logging.set_verbosity(absl.logging.FATAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGALRM, _stop)
    for name, numbers in plan:
        with tempfile.TemporaryDirectory() as top:
            _work_with(name, numbers, Path(top), pipe)
    pipe.send((None, 0, "", "", 0.0))


def _work_with(name: str, numbers: range, top: Path, pipe: Any) -> None:
    reader, made, folder = readers()[name], top / "made", top / "folder"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pipe.send((name, numbers.start, "made", "", 0.0))
    made.mkdir()
    reader.make(made)
    shutil.copytree(made, folder)
    intact = reader.read(folder)
    if not same(reader.read(folder), intact):
        raise AssertionError("reading twice gives two results")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    for number in numbers:
        if reader.fresh:
            shutil.rmtree(folder)
            shutil.copytree(made, folder)
        pipe.send((name, number, "started", "", 0.0))
        began = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            outcome = case(name, number, reader, folder, intact)
        except _TooLong:  # just before the end
            outcome = "FAILED", f"over {SECONDS} s"
        signal.alarm(0)
        pipe.send((name, number, *outcome, time.perf_counter() - began))


def _stop(*_: Any) -> None:
    raise _TooLong


def run(plan: list[tuple[str, range]]) -> dict[str, Outcome]:
    """Runs cases of readers in a process of their own, and in another one after a case that ended it."""
    outcomes = {name: Outcome() for name, _ in plan}
    context = multiprocessing.get_context("spawn")
    while plan:
        receiver, sender = context.Pipe(False)
        process = context.Process(target=_work, args=(plan, sender), daemon=True)
        process.start()
        sender.close()
        kind, number = "", -1
        with contextlib.suppress(EOFError):
            while receiver.poll(20 * SECONDS):
                name, number, kind, text, seconds = receiver.recv()
                if name is None:
                    plan = []
                    break
                plan = plan[[reader for reader, _ in plan].index(name) :]
                if kind not in ("made", "started"):
                    outcomes[name].add(kind, f"{name} {number}: {text}", seconds)
                    plan = [(name, range(number + 1, plan[0][1].stop)), *plan[1:]]
        process.kill()
        process.join()
        if plan and kind != "started":
            outcomes[plan[0][0]].failures.append(f"{plan[0][0]}: its intact files cannot be read")
            plan = plan[1:]
        elif plan:  # the process ended within a case, or hung where no signal reaches it
            name, numbers = plan[0]
            outcomes[name].add("FAILED", f"{name} {number}: the process ended or hung (status {process.exitcode})", 0.0)
            plan = [(name, range(number + 1, numbers.stop)), *plan[1:]]
    return outcomes


def table(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """Yields the lines of a table in Markdown."""
    yield "| reader | right data | refused | unnoticed | forged, accepted | failures | slowest |"
    yield "|---|---|---|---|---|---|---|"
    for name, outcome in outcomes.items():
        checked = readers()[name].checksums
        counts = [f"{outcome.cases[kind]:,}" for kind in ("right", "refused")]
        counts.append("impossible" if checked else f"{outcome.cases['unnoticed']:,}")
        counts.append(f"{outcome.cases['forged']:,}" if readers()[name].forge else "")
        yield f"| {name} | {' | '.join(counts)} | {outcome.cases['FAILED']} | {outcome.slowest:.2f} s |"


def main() -> int:
    """Reads the command line and runs. The exit status is 1 if there is a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, help="cases of each reader (default: as in the suite)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--only", nargs="*", choices=reader_names(), help="the readers (default: all)")
    asked = parser.parse_args()
    outcomes: dict[str, Outcome] = {}
    for name in asked.only or reader_names():
        began = time.perf_counter()
        outcomes |= run([(name, range(asked.first, asked.first + (asked.count or readers()[name].suite)))])
        print(f"{time.perf_counter() - began:.0f} s", end="  ")
        print(f"{name}: {dict(outcomes[name].cases)}", *outcomes[name].failures[:20], sep="\n  ", flush=True)
    print(*table(outcomes), sep="\n")
    return int(any(outcome.failures for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
