"""Measures what a bucket costs beside a disk, on an emulator. docs/buckets.md has the results.

    python -m tests.support.measure_buckets runs        # a save, a resume, what launch.synthesize loads
    python -m tests.support.measure_buckets data        # 20,000 pairs, from a bucket to the first batch

The places are tried in turns, and each time is a median.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402

from crn_jax.buckets import BucketFolder, copied, copy_of, is_bucket  # noqa: E402
from crn_jax.checkpoint import Checkpoints  # noqa: E402
from crn_jax.data.cache_in_bucket import fetch_cache, upload_cache  # noqa: E402
from crn_jax.data.sources import label_space_of  # noqa: E402
from crn_jax.files import replace_text  # noqa: E402
from crn_jax.run import describe_run, load_run  # noqa: E402
from crn_jax.train import TrainState, abstract_state  # noqa: E402
from launch.common.command_line import parse  # noqa: E402
from launch.common.output import write_json  # noqa: E402
from tests.support.emulator import BUCKET, SPEAKS_TO_EMULATORS, emulator, faulty, variables  # noqa: E402

Times = dict[str, dict[str, list[float]]]
"""Seconds by what was measured and where."""


def timed(act: Callable[[], object]) -> float:
    """Returns the seconds that a function takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def show(times: Times) -> None:
    """Prints medians, and their ratios to the first place."""
    for what, places in times.items():
        medians = {place: statistics.median(seconds) for place, seconds in places.items()}
        first = next(iter(medians.values()))
        print(f"{what}: " + ", ".join(f"{place} {median:.2f} s (x{median / first:.1f})" for place, median in medians.items()))


def measure_runs(folder: Path, rounds: int, url: str) -> None:
    """Saves, resumes and loads a run of the experiment `demo` on a disk and in the bucket."""
    experiment = parse(["demo"]).experiment
    abstract = abstract_state(experiment.objective(1))
    rng = np.random.default_rng(0)
    leaves = {leaf.shape: rng.standard_normal(leaf.shape, np.float32) for leaf in jax.tree.leaves(abstract)}
    data = {"examples": 1, "steps_per_epoch": 1, "names_sha256": ""}
    description = describe_run(experiment, label_space_of(experiment.data), {"weights": "random", "sha256": ""}, data)
    times: Times = defaultdict(lambda: defaultdict(list))
    with faulty(url, 0.1, every=1 << 60) as (slow, _):
        speaks = {"disk": url, "emulator": url, "emulator, 100 ms a request": slow}
        for i in range(rounds):
            for place, through in speaks.items():
                run = str(folder / f"run_{i}") if place == "disk" else f"gs://{BUCKET}/{place.split(',')[-1].strip()[:3]}_{i}"
                with speaking(through, folder):
                    one_round(run, experiment, abstract, leaves, description, i, place, times)
    print(f"a state of {sum(leaf.size * 4 for leaf in jax.tree.leaves(abstract)) / 1e6:.0f} MB")
    show(times)


@contextlib.contextmanager
def speaking(url: str, folder: Path) -> Iterator[None]:
    """Within the block, gcsfs and TensorStore speak to a URL, and copies are in `folder`."""
    with mock.patch.dict(os.environ, {**variables(url), "XDG_CACHE_HOME": str(folder / "copies")}):
        yield


def one_round(run, experiment, abstract, leaves, description, i, place, times) -> None:
    """Measures one run in one place."""
    state = jax.tree.map(lambda leaf: jax.device_put(leaves[leaf.shape].astype(leaf.dtype)), abstract)
    state = TrainState(*state)._replace(step=jax.numpy.int32(10))
    if is_bucket(run):
        folder = Path(tempfile.mkdtemp())
        write_json(folder / "run.json", description)
        BucketFolder(run).upload({"run.json": folder / "run.json"})
    else:
        Path(run).mkdir()
        write_json(Path(run) / "run.json", description)
    with Checkpoints(f"{run}/checkpoints", keep_last=2) as checkpoints:
        times["save, which the training waits for"][place].append(timed(lambda: checkpoints.save(10, state, 1.0, description)))
        times["save, in the background"][place].append(timed(checkpoints.wait))
    with Checkpoints(f"{run}/checkpoints", keep_last=2) as checkpoints:
        times["resume"][place].append(timed(lambda: checkpoints.load_newest(abstract, description)))
    times["load to synthesize, first time"][place].append(timed(lambda: load_run(run)))
    times["load to synthesize, again"][place].append(timed(lambda: load_run(run)))


def measure_data(folder: Path, rounds: int, url: str, pairs: int = 20_000, files: int = 2_000) -> None:
    """Fetches a cache of 32x64 pixels in pieces, as ArrayRecord, and fewer pairs as files, and reads a first batch."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from grain.sources import ArrayRecordDataSource
    from PIL import Image

    rng, place = np.random.default_rng(0), folder / "cache"
    place.mkdir()
    layouts = rng.integers(0, 20, (pairs, 32, 64), np.uint8)
    photographs = rng.integers(0, 256, (pairs, 32, 64, 3), np.uint8)
    np.save(place / "layout.npy", layouts)
    np.save(place / "photograph.npy", photographs)
    for name in ("checksums", "done"):
        (place / name).write_bytes(bytes(pairs))
    replace_text(place / "cache.json", "{}")
    with speaking(url, folder):
        cache, records, plain = (BucketFolder(f"gs://{BUCKET}/{name}") for name in ("cache", "records", "plain"))
        upload_cache(cache, place)
        shards = 16
        for shard in range(shards):
            writer = ArrayRecordWriter(str(folder / f"{shard:02d}.array_record"), "group_size:1,uncompressed")
            for i in range(shard, pairs, shards):
                writer.write(layouts[i].tobytes() + photographs[i].tobytes())
            writer.close()
        records.upload({f"{s:02d}.array_record": folder / f"{s:02d}.array_record" for s in range(shards)})
        named = {}
        for i in range(files):
            for kind, image in (("layouts", layouts[i]), ("photographs", photographs[i])):
                named[f"{kind}/{i:06d}.png"] = file = folder / f"{kind}_{i}.png"
                Image.fromarray(image).save(file, compress_level=1)
        plain.upload(named)

    def from_pieces() -> None:
        there = copy_of(cache.address)
        there.mkdir(parents=True)
        fetch_cache(cache, there)
        arrays = [np.load(there / f"{name}.npy", mmap_mode="r") for name in ("layout", "photograph")]
        assert all(array[i].sum() >= 0 for array in arrays for i in range(0, pairs, pairs // 16))

    def from_records() -> None:
        there = copied(records.address, lambda name: True, whole=False)
        source = ArrayRecordDataSource([str(path) for path in sorted(there.glob("*.array_record"))])
        assert len(source) == pairs and all(source[i] for i in range(0, pairs, pairs // 16))

    def from_files() -> None:
        there = copied(plain.address, lambda name: True, whole=False)
        assert all(np.asarray(Image.open(there / f"photographs/{i:06d}.png")).any() for i in range(16))

    times: Times = defaultdict(lambda: defaultdict(list))
    with faulty(url, 0.1, every=1 << 60) as (slow, _):
        for through, name in ((url, "emulator"), (slow, "emulator, 100 ms a request")):
            for _ in range(rounds):
                for form, act in (
                    (f"pieces, {pairs:,} pairs", from_pieces),
                    (f"ArrayRecord, {pairs:,} pairs", from_records),
                    (f"files, {files:,} pairs", from_files),
                ):
                    with speaking(through, folder):
                        shutil.rmtree(folder / "copies", ignore_errors=True)
                        times[name][form].append(timed(act))
    show(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runs", "data"))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    os.environ |= SPEAKS_TO_EMULATORS
    with tempfile.TemporaryDirectory() as temporary, emulator() as started:
        {"runs": measure_runs, "data": measure_data}[asked.what](Path(temporary), asked.rounds, started)
