import dataclasses
import errno
import itertools
import os
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crn_jax.data import cache
from crn_jax.data.cache import cached, is_intact
from crn_jax.data.examples import Source
from crn_jax.data.labels.label_space import LabelSpace
from crn_jax.data.labels.published import CAMVID
from crn_jax.data.pipeline import training_batches
from crn_jax.data.sources import DataConfig, open_source
from crn_jax.data.vivid import vivid_of
from crn_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Seven pairs in CamVid's folders, 12x16."""
    rng = np.random.default_rng(0)
    for folder in ("train", "trainannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
    for i in range(7):
        add_pair(tmp_path / "camvid", f"{i}", rng)
    return tmp_path / "camvid"


def add_pair(root, name, rng):
    Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(root / "train" / f"{name}.png")
    Image.fromarray(rng.integers(0, 12, (12, 16), dtype=np.uint8)).save(root / "trainannot" / f"{name}.png")


def opened(root, size=(6, 8), **options) -> Source:
    return open_source(DataConfig("camvid", str(root), **options), "train", size)


@dataclasses.dataclass(frozen=True)
class Numbers(Source):
    """Example i is full of i; `read` records which were asked for. Nothing but the fields tells sources apart."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        read.append(index)
        layout = np.full(self.size, index % self.label_space.num_classes, self.label_space.dtype)
        return {"layout": layout, "photograph": np.full((*self.size, 3), index % 256, np.uint8)}


read: list[int] = []


@pytest.fixture
def numbers():
    read.clear()
    return Numbers(CAMVID, [f"{i}" for i in range(20)], (4, 6))


def assert_same(source, expected):
    assert len(source) == len(expected) and source.names == expected.names and source.label_space == expected.label_space
    for i in range(len(expected)):
        for key, array in expected[i].items():
            np.testing.assert_array_equal(source[i][key], array, strict=True)


@pytest.mark.parametrize("vivid", [False, True])
@pytest.mark.parametrize("threads", [1, 8])
def test_batches_are_the_same_with_and_without(root, tmp_path, threads, vivid):
    source = opened(root, vivid=vivid)

    def batches(source, threads):
        return list(itertools.islice(training_batches(source, 3, seed=5, first_step=1, threads=threads, flip=True), 9))

    expected = batches(source, 1)
    for given in (batches(source, threads), batches(cached(source, tmp_path / "caches", threads), threads)):
        for batch, expected_batch in zip(given, expected, strict=True):
            assert batch.keys() == expected_batch.keys()
            for key in batch:
                np.testing.assert_array_equal(batch[key], expected_batch[key], strict=True)


def test_it_is_built_once(numbers, tmp_path):
    progress = []
    first = cached(numbers, tmp_path / "some" / "caches", 3, lambda *counts: progress.append(counts))
    assert sorted(read) == list(range(20))
    assert progress == [(done, 20) for done in range(21)]
    read.clear()
    again = cached(numbers, tmp_path / "some" / "caches", 1, lambda *counts: progress.append(counts))
    assert not read and len(progress) == 21 and again.folder == first.folder
    for source in (first, again):
        assert_same(source, numbers)


def test_examples_are_views_that_cannot_be_written_to(numbers, tmp_path):
    source = cached(numbers, tmp_path, threads=0)
    assert np.shares_memory(source[3]["photograph"], source[3]["photograph"])
    with pytest.raises(ValueError, match="read-only"):
        source[3]["layout"][0, 0] = 1
    with pytest.raises(IndexError):
        source[20]


def test_layouts_of_many_classes_keep_their_16_bits(tmp_path):
    many = LabelSpace(
        "many", tuple(f"{i}" for i in range(299)) + ("void",), tuple((0, i // 256, i % 256) for i in range(300)), {}
    )
    source = Numbers(many, [f"{i}" for i in range(290)], (1, 2))
    assert cached(source, tmp_path)[280]["layout"].dtype == np.uint16
    assert_same(cached(source, tmp_path), source)


def touch(root, monkeypatch):
    os.utime(root / "train" / "3.png", ns=(0, 10**9))


def overwrite(root, monkeypatch):
    path, status = root / "trainannot" / "2.png", (root / "trainannot" / "2.png").stat()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as copies that keep times do


def rename(root, monkeypatch):
    for folder in ("train", "trainannot"):
        (root / folder / "6.png").rename(root / folder / "60.png")


def add(root, monkeypatch):
    add_pair(root, "7", np.random.default_rng(1))


def another_format(root, monkeypatch):
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)


def another_decoder(root, monkeypatch):
    monkeypatch.setattr(cache.PIL, "__version__", "0.0.1")


@pytest.mark.parametrize("change", [touch, overwrite, rename, add, another_format, another_decoder])
def test_whatever_changes_makes_a_new_cache(root, tmp_path, monkeypatch, change):
    old = cached(opened(root), tmp_path / "caches")
    before = [old[i]["layout"].copy() for i in range(7)]
    change(root, monkeypatch)
    new = cached(opened(root), tmp_path / "caches")
    assert new.folder != old.folder
    assert_same(new, opened(root))
    for layout, example in zip(before, old):  # the old one stays as it was
        np.testing.assert_array_equal(example["layout"], layout)


def done_in(folder: Path, name: str = "*") -> int:
    """How many examples the one cache of this name has."""
    (file,) = folder.glob(f"{name}/done")
    return int(np.fromfile(file, bool).sum())


def test_vivid_size_and_classes_make_caches_of_their_own(root, tmp_path):
    source = opened(root)
    renamed = dataclasses.replace(CAMVID, classes=("heaven", *CAMVID.classes[1:]))
    made = [
        cached(source, tmp_path),
        cached(vivid_of(source), tmp_path),
        cached(opened(root, (3, 4)), tmp_path),
        cached(dataclasses.replace(source, label_space=renamed), tmp_path),
    ]
    assert len({source.folder for source in made}) == 4
    assert {path.name.split("-")[0] for path in tmp_path.glob("*-*")} == {"6x8", "3x4"}
    for source in made:
        assert done_in(tmp_path, source.folder.name) == 7


def test_the_folder_may_be_given_in_any_way(root, tmp_path, monkeypatch):
    whole = cached(opened(root), tmp_path / "caches")
    monkeypatch.chdir(tmp_path)
    assert cached(opened(Path("camvid")), Path("caches")).folder == whole.folder


def test_what_was_done_before_an_error_is_kept(root, tmp_path):
    bad = root / "trainannot" / "4.png"
    good = bad.read_bytes()
    Image.fromarray(np.full((12, 16), 99, np.uint8)).save(bad)
    os.utime(bad, ns=(0, 0))
    with pytest.raises(UserError, match=r"4\.png: label id 99"):
        cached(opened(root), tmp_path / "caches", threads=1)
    assert 4 <= done_in(tmp_path / "caches") < 7
    bad.write_bytes(good)
    assert_same(cached(opened(root), tmp_path / "caches"), opened(root))


def test_only_what_is_missing_is_read_again(numbers, tmp_path):
    def stop(done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(numbers, tmp_path, 1, stop)
    done = np.flatnonzero(np.fromfile(next(tmp_path.glob("*/done")), bool)).tolist()
    read.clear()
    source = cached(numbers, tmp_path)
    assert sorted(read + done) == list(range(20)) and len(done) >= 12
    assert_same(source, numbers)


def test_a_full_disk_is_told_before_the_build(numbers, tmp_path, monkeypatch):
    old = cached(dataclasses.replace(numbers, size=(2, 3)), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1919))
    with pytest.raises(UserError) as error:
        cached(numbers, tmp_path)
    assert "the cache needs 1,920 bytes more, but only 1,919 are free" in str(error.value)
    assert str(tmp_path) in str(error.value) and f"delete caches that you no longer use: {old.folder} (" in str(error.value)
    monkeypatch.undo()
    assert_same(cached(numbers, tmp_path), numbers)


def test_a_disk_that_fills_up_is_an_error_and_no_damage(numbers, tmp_path, monkeypatch):
    calls, pwrite = itertools.count(), os.pwrite

    def full(file, data, offset):
        if next(calls) == 15:
            return pwrite(file, data[: len(data) // 2], offset)
        if len(data) > 1 and next(calls) > 15:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        UserError, match=r"4x6-.*: the cache, 1,920 bytes in all, cannot be written \(No space left on device\)"
    ):
        cached(numbers, tmp_path, threads=1)
    monkeypatch.undo()
    assert 0 < done_in(tmp_path) < 20
    assert_same(cached(numbers, tmp_path), numbers)


def test_a_disk_may_take_a_few_bytes_at_a_time(numbers, tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:5], offset))
    assert_same(cached(numbers, tmp_path), numbers)


def test_a_folder_that_cannot_be_is_named(numbers, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/4x6-.*cannot be written \(Not a directory\)"):
        cached(numbers, tmp_path / "file")


@pytest.mark.parametrize("name", ["photograph.npy", "layout.npy", "done"])
@pytest.mark.parametrize("left", [0, 19, 200])
def test_a_damaged_cache_is_told_with_the_remedy(numbers, tmp_path, name, left):
    folder = cached(numbers, tmp_path).folder
    os.truncate(folder / name, left)  # which makes done longer, once
    with pytest.raises(UserError, match=r"the cache is damaged \(.*\)\. Delete this folder"):
        cached(numbers, tmp_path)
    shutil.rmtree(folder)
    assert_same(cached(numbers, tmp_path), numbers)


def test_an_example_of_another_size_is_no_neighbours_end(numbers, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Wrong(Numbers):
        def __getitem__(self, index):
            return {key: array[: 3 if index == 5 else None] for key, array in super().__getitem__(index).items()}

    with pytest.raises(ValueError, match=r"5: layout is uint8 \(3, 6\), not uint8 \(4, 6\)"):
        cached(Wrong(**vars(numbers)), tmp_path)


@dataclasses.dataclass(frozen=True)
class WithFunction(Source):
    function: object


def test_what_cannot_be_told_apart_is_refused(numbers, tmp_path):
    with pytest.raises(TypeError, match="cannot tell whether a function has changed"):
        cached(WithFunction(**vars(numbers), function=touch), tmp_path)


def test_files_that_are_gone_are_named(root, tmp_path):
    source = opened(root)
    (root / "train" / "5.png").unlink()
    with pytest.raises(UserError, match=r"5\.png: the file cannot be read \(No such file"):
        cached(source, tmp_path / "caches")


def test_random_crops_are_not_cached(root, tmp_path):
    with pytest.raises(UserError, match=r"Random crops .* --data\.fit crop"):
        cached(opened(root, fit="random_crop"), tmp_path / "caches")


def test_threads_that_build_at_once_share_the_work(numbers, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        sources = list(pool.map(lambda _: cached(numbers, tmp_path), range(4)))
    assert sorted(read) == list(range(20))
    for source in sources:
        assert_same(source, numbers)


PROCESSES = """
import dataclasses, itertools, os, pathlib, shutil, signal, sys, time
import numpy as np
from crn_jax.data import cache
from crn_jax.data.labels.published import CAMVID
from crn_jax.data.examples import Source

FOLDER = pathlib.Path(sys.argv[1])

@dataclasses.dataclass(frozen=True)
class Numbers(Source):
    seconds: float = 0.0
    def __getitem__(self, index):
        time.sleep(self.seconds)
        with open(FOLDER / "read", "ab") as file:
            file.write(bytes([index]))
        layout = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12
        return {"layout": layout, "photograph": np.full((4, 6, 3), index + 1, np.uint8)}

def fork(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

def died(pid):
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

def build():
    return cache.cached(source, FOLDER / "caches", threads=2)

def check(done):
    for index in np.flatnonzero(done):
        for key, array in source[index].items():
            np.testing.assert_array_equal(np.load(next(FOLDER.glob(f"caches/*/{key}.npy")))[index], array)
"""

KILLED = """
cache.COMMIT_SECONDS = 0.0
source = Numbers(CAMVID, list("abcde"), (4, 6))
EVENTS = [(os, "pwrite"), (os, "fsync"), (os, "replace"), (np.lib.format, "open_memmap"), (pathlib.Path, "write_bytes"),
          (pathlib.Path, "write_text"), (pathlib.Path, "mkdir")]

def kill_at(moment):
    events = itertools.count()
    def killing(do):
        def doing(*arguments, **named):
            if next(events) != moment:
                return do(*arguments, **named)
            if do is pwrite and len(arguments[1]) > 1:
                do(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
            os.kill(os.getpid(), signal.SIGKILL)
        return doing
    pwrite = os.pwrite
    for owner, name in EVENTS:
        setattr(owner, name, killing(getattr(owner, name)))
    build()

partial = set()
for moment in itertools.count():
    shutil.rmtree(FOLDER / "caches", ignore_errors=True)
    if not died(fork(lambda: kill_at(moment))):
        break
    done = next(FOLDER.glob("caches/*/cache.json"), None) and np.fromfile(next(FOLDER.glob("caches/*/done")), bool)
    if done is not None:
        check(done)
        partial.add(int(done.sum()))
    assert build().arrays.keys() == {"layout", "photograph"}
    check(np.ones(5, bool))
assert moment > 20, moment
assert partial >= {0, 1, 2, 3, 4}, partial
"""

AT_ONCE = """
source = Numbers(CAMVID, [str(i) for i in range(30)], (4, 6), seconds=0.2)
killed, *others = [fork(build) for _ in range(4)]
while not (FOLDER / "read").exists():
    time.sleep(0.001)
os.kill(killed, signal.SIGKILL)
assert died(killed) and not any(map(died, others))
read = (FOLDER / "read").read_bytes()
assert {*read} == {*range(30)} and len(read) <= 60, read
check(np.ones(30, bool))
"""


@pytest.mark.parametrize("script", [KILLED, AT_ONCE], ids=["killed at every moment", "several at once"])
def test_processes(tmp_path, script):
    """Each script forks, which this process, where JAX runs, must not."""
    command = [sys.executable, "-W", "error", "-c", PROCESSES + script, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr[-2000:]


def overwritten(path: Path, start: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
        file.write(data)


@pytest.mark.parametrize(
    ("file", "start", "data"),
    [
        ("photograph.npy", -5, b"\x55"),
        ("layout.npy", -20, b"\xff"),  # no class has this id
        ("layout.npy", -24 * 3, bytes(24)),  # another class
        ("checksums", 4 * 19, b"\1"),
    ],
)
def test_a_damaged_example_is_decoded_anew(numbers, tmp_path, caplog, file, start, data):
    """It is right the first time that it is read, and whole in the cache from then on."""
    place = cached(numbers, tmp_path).folder
    overwritten(place / file, start, data)
    read.clear()
    source = cached(numbers, tmp_path)
    assert_same(source, numbers)
    assert len(caplog.records) == 1 and f"{place}: example " in caplog.text
    read.clear()
    for i in range(20):
        source[i]
    assert not read


def test_an_example_that_was_marked_too_early_is_decoded_anew(numbers, tmp_path):
    place = cached(numbers, tmp_path).folder
    for file in ("layout.npy", "photograph.npy", "checksums"):
        overwritten(place / file, -4, bytes(4))
    assert_same(cached(numbers, tmp_path), numbers)


def test_every_flip_of_a_pixel_is_noticed(numbers, tmp_path, caplog):
    place, rng = cached(numbers, tmp_path).folder, np.random.default_rng(0)
    for _ in range(100):
        file = ("layout.npy", "photograph.npy")[rng.integers(2)]
        start = -int(rng.integers(1, 20 * 24 * (1 if file == "layout.npy" else 3)))
        byte = (place / file).read_bytes()[start]
        overwritten(place / file, start, bytes([byte ^ 1 << rng.integers(8)]))
        caplog.clear()
        assert_same(cached(numbers, tmp_path), numbers)
        assert len(caplog.records) == 1


@pytest.mark.parametrize("data", [b"\x93NUMPZ", b"\x93NUMPY\1\0\xff\xff", b"\x93NUMPY\1\0v\0{'descr': ((((((", b""])
def test_a_damaged_header_is_refused_in_words(numbers, tmp_path, data):
    place = cached(numbers, tmp_path).folder
    overwritten(place / "layout.npy", 0, data or (place / "layout.npy").read_bytes()[:128].replace(b"False", b"True "))
    with pytest.raises(UserError, match="the cache is damaged .*Delete this folder"):
        cached(numbers, tmp_path)


def test_a_cache_that_has_lost_its_checksums_is_refused(numbers, tmp_path):
    """launch.check looks at caches of older versions, which never had any: then the class ids have to exist."""
    place = cached(numbers, tmp_path).folder
    example = dict(numbers[0])
    assert is_intact(example, 0, None, CAMVID.num_classes)
    assert not is_intact(example | {"layout": np.full_like(example["layout"], CAMVID.num_classes)}, 0, None, CAMVID.num_classes)
    (place / "checksums").unlink()
    with pytest.raises(UserError, match="the cache is damaged .*checksums is missing.*Delete this folder"):
        cached(numbers, tmp_path)
