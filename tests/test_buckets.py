"""Runs in a bucket: trained, resumed and read through an emulator of Google Cloud Storage. Skips where it is not installed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pooch
import pytest
from PIL import Image

from crn_jax import buckets
from crn_jax.buckets import BucketFolder, address_of, copied, copied_file, is_bucket
from crn_jax.checkpoint import Checkpoints
from crn_jax.data import cache as cache_module
from crn_jax.data import cache_in_bucket, sources
from crn_jax.data.cache_in_bucket import fetch_cache, upload_cache
from crn_jax.data.sources import DataConfig
from crn_jax.errors import UserError
from crn_jax.files import sha256_of
from crn_jax.manifest import read_manifest
from crn_jax.run import load_run
from crn_jax.storage import COMMITTED, InBucket
from crn_jax.train import TrainState, abstract_state
from launch import ablate, check, convert, inspect, segment, synthesize, train
from launch.common.command_line import named_experiment
from launch.common.terminal import console, is_of_the_system
from launch.hidden_choices import held_out_distances
from launch.training.lock import OWNER, BucketRecords, Owner, Ownership
from launch.training.run_files import run_files
from tests.support import savers
from tests.support.commands import PATIENCE, ROOT, final_state, free_port, refused, refused_run
from tests.support.emulator import variables


@pytest.fixture
def folder(bucket, request) -> BucketFolder:
    """A folder in the bucket with three objects."""
    folder = BucketFolder(f"{bucket}/{request.node.name}")
    for name, content in {"a": b"one", "b/c": b"two", "b/d.png": b"three"}.items():
        folder.write(name, content)
    return folder


@pytest.mark.quick
def test_addresses():
    assert is_bucket("gs://b/x") and is_bucket(Path("gs://b/x")) and not is_bucket("runs/gs") and not is_bucket("hf://a/b")
    for written in ("gs://b/runs/x", "gs://b/runs//x/", Path("gs://b/runs/x")):
        assert address_of(written) == "gs://b/runs/x"
    for wrong in ("gs://b", "gs://", "gs:///", "gs://b/../x", "gs://b/."):
        with pytest.raises(UserError, match="Give gs://BUCKET/FOLDER"):
            address_of(wrong)
    for other in ("s3://b/x", "az://b/x", "https://storage.googleapis.com/b/x"):
        for written in (other, Path(other)):
            with pytest.raises(UserError, match=f"^{other}: only folders and gs:// can be used. Mount .*docs/buckets.md"):
                is_bucket(written)


@pytest.mark.quick
def test_a_place_in_a_bucket_is_no_misspelt_experiment():
    for written in ("s3://b/x", "s3:/b/x"):
        with pytest.raises(UserError, match="^s3://b/x: only folders and gs:// can be used"):
            named_experiment(written)
    for written in ("gs://b/..", "gs:/b/.."):
        with pytest.raises(UserError, match="Give gs://BUCKET/FOLDER"):
            named_experiment(written)


@pytest.mark.quick
@pytest.mark.parametrize("package", ["gcsfs", "etils"])
def test_without_the_packages_one_sentence_says_how_to_get_them(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        load_run("gs://b/runs/x")
    assert str(error.value) == "gs://b/runs/x needs the packages etils and gcsfs: pip install 'crn_jax[gcs]'"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError("Forbidden: b/x\nno rights"), "[Errno 5] Forbidden: b/x no rights: 'gs://b/x'"),
        (FileNotFoundError("b/x"), "[Errno 2] No such file or directory: 'gs://b/x'"),
        (FileExistsError("b/x"), "[Errno 17] File exists: 'gs://b/x'"),
        (ConnectionRefusedError(111, "refused"), "[Errno 111] ConnectionRefusedError: [Errno 111] refused: 'gs://b/x'"),
        (TimeoutError(), "[Errno 5] TimeoutError: 'gs://b/x'"),
        (ValueError("Bad Request"), "[Errno 5] ValueError: Bad Request: 'gs://b/x'"),
        (PermissionError(13, "Permission denied", "/disk"), "[Errno 13] Permission denied: '/disk'"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_the_clients_raise_is_told_with_number_text_and_place(raised, told):
    kind = type(raised) if isinstance(raised, FileNotFoundError | FileExistsError) else OSError
    with pytest.raises(kind) as error, buckets._told("gs://b/x"):
        raise raised
    assert str(error.value) == told and is_of_the_system(error.value)


def test_an_account_without_rights_is_told_so(tmp_path, monkeypatch):
    class Forbids(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b'{"error": {"code": 403, "message": "no storage.objects.list access"}}')

        def log_message(self, *_) -> None:
            pass

    pytest.importorskip("gcsfs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), Forbids) as server:
        for name, value in variables(f"http://127.0.0.1:{server.server_port}").items():
            monkeypatch.setenv(name, value)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        data = DataConfig("streets", num_scenes=1, cache="gs://bucket/cache")
        address = r"gs://bucket/cache/16x32-\w+"
        with pytest.raises(UserError, match=f"^The cache cannot be fetched from {address} .*no storage.objects.list access"):
            sources.open_source(data, "train", (16, 32))
        server.shutdown()


@pytest.mark.quick
def test_a_folder_called_buckets_needs_no_home_directory(monkeypatch, tmp_path):
    copy = buckets.copy_of("gs://b/x") / "a.png"
    assert buckets.origin_of(copy) == "gs://b/x/a.png" and buckets.origin_of(Path("/mnt/buckets/CamVid/a.png")) is None

    def homeless(_):
        raise RuntimeError("there is no home directory")

    monkeypatch.setattr(pooch, "os_cache", homeless)
    assert buckets.origin_of(Path("/mnt/buckets/CamVid/a.png")) is None
    with pytest.raises(UserError, match="Set XDG_CACHE_HOME"):
        buckets.copy_of("gs://b/x")


def test_the_time_of_an_object_is_that_of_its_content(folder):
    """It is in the fingerprint of a cache. A bucket's `updated` is renewed when metadata change, such as the storage class."""
    before, info = folder.objects()["a"], folder._files.info(f"{folder.address}/a")
    assert buckets._object(info | {"updated": "2100-01-01T00:00:00Z"}) == before
    folder.write("a", b"one")
    assert folder.objects()["a"].written > before.written


def test_objects_are_made_once_replaced_copied_set_aside_and_removed(folder):
    assert list(folder.objects()) == ["a", "b/c", "b/d.png"] and list(folder.objects("b")) == ["b/c", "b/d.png"]
    assert folder.objects("c") == {} and folder.read("c") is None and folder.read("b/c") == b"two"
    assert folder.create("new", b"mine") and not folder.create("new", b"yours") and folder.create("new", b"mine")
    made: list[int] = []

    def create(number: int) -> None:
        if folder.create("contested", b"%d" % number):
            made.append(number)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and folder.read("contested") == b"%d" % made[0]
    assert folder.set_aside("b") == f"{folder.address}/damaged/b"
    folder.write("b/e", b"four")
    assert folder.set_aside("b") == f"{folder.address}/damaged/b.1"
    assert folder.read("damaged/b/c") == b"two" and folder.read("damaged/b.1/e") == b"four" and not folder.objects("b")
    folder.remove(["a", "a", "nothing"])
    assert "a" not in folder.objects()


def test_a_copy_is_brought_up_to_date_and_verified(folder, monkeypatch):
    got: list[str] = []
    fetch_one = BucketFolder._fetch_one
    monkeypatch.setattr(BucketFolder, "_fetch_one", lambda self, name, *rest: (got.append(name), fetch_one(self, name, *rest)))
    place = copied(folder.address, lambda name: name.startswith("b/"))
    assert sorted(got) == ["b/c", "b/d.png"] and (place / "b/c").read_bytes() == b"two" and not (place / "a").exists()
    got.clear()
    assert copied(folder.address, lambda name: True) == place and got == ["a"]
    got.clear()
    times = (place / "a").stat().st_mtime_ns
    (place / "a").write_bytes(b"own")  # as a failing disk would: of the same size and time
    os.utime(place / "a", ns=(times, times))
    folder.write("b/c", b"TWO")
    folder.remove(["b/d.png"])
    copied(folder.address, lambda name: True)
    assert sorted(got) == ["a", "b/c"] and (place / "a").read_bytes() == b"one" and (place / "b/c").read_bytes() == b"TWO"
    assert not (place / "b/d.png").exists() and not list(place.rglob(".*"))
    assert copied_file(f"{folder.address}/b/c").read_bytes() == b"TWO" and not copied_file(f"{folder.address}/b/no").exists()


def test_what_is_damaged_hostile_or_out_of_reach_is_refused(folder, bucket, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="this is not a run folder"):
        load_run(folder.address)
    with pytest.raises(UserError, match="is no path"):
        folder.fetch({"../../x": folder.objects()["a"]}, tmp_path / "in")
    assert not list(tmp_path.rglob("x"))
    true = buckets._object
    monkeypatch.setattr(buckets, "_object", lambda info: true(info)._replace(crc32c=1))
    with pytest.raises(UserError, match="checksum"):
        copied(folder.address, lambda name: name == "a")
    monkeypatch.setattr(buckets, "_object", true)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(buckets, "copy_of", lambda source: tmp_path / "file")
    with pytest.raises(UserError, match=f"{folder.address} cannot be copied to {tmp_path}/file"):
        copied(folder.address, lambda name: name == "a")
    with pytest.raises(UserError, match="gs://no-such-bucket/x"):
        load_run("gs://no-such-bucket/x")


def test_one_training_a_folder(folder):
    """The rest of the rules is tested in test_lock.py."""
    records = BucketRecords(folder)
    me = Owner.here(folder.address, {})
    assert me.folder == folder.address and records.numbers() == [] and records.read(1) is None
    first = Ownership(records, me, folder.address)
    first.acquire()
    with pytest.raises(UserError, match=f"{folder.address} is in use"):
        Ownership(records, me, folder.address).acquire()
    first.beat()
    first.release()
    Ownership(records, me, folder.address).acquire()
    assert records.numbers() == [1, 2]


@pytest.mark.parametrize("error", [None, ValueError("a bad file")])
def test_a_training_that_was_followed_uploads_nothing_more(folder, error):
    """Its heartbeat was held up, so it has not noticed before its end."""
    records, me = BucketRecords(folder), Owner.here(folder.address, {})
    first = Ownership(records, me, folder.address)
    first.acquire()
    with pytest.raises(type(error) if error else UserError, match="a bad file" if error else "writes nothing more"):
        with run_files(folder.address, first) as files:
            (files.path / "metrics.jsonl").write_text("first")
            files.upload()
            assert records.add(2, me.text())
            folder.write("metrics.jsonl", b"second")
            (files.path / "metrics.jsonl").write_text("first, again")
            if error:
                raise error
    assert folder.read("metrics.jsonl") == b"second"


def test_instance_maps_are_told_by_their_address(folder):
    asked = synthesize.Arguments(Path("run"), (), instances=Path(f"{folder.address}/maps"))
    run: Any = SimpleNamespace(generator=SimpleNamespace(boundaries=True))
    with pytest.raises(UserError, match=f"^--instances {folder.address}/maps: there is no folder"):
        synthesize.instance_maps(asked, run, [Path("0.png"), Path("1.png")])


@pytest.fixture(scope="module")
def arguments(tiny) -> list[str]:
    """Those of `trained_streets`."""
    return [*tiny, "--run.checkpoint_every", "4"]


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def lines(metrics: bytes) -> list[dict]:
    """The lines of metrics.jsonl without the times."""
    kept = [json.loads(line) for line in metrics.splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key and "waiting" not in key} for line in kept]


@pytest.fixture(scope="module")
def trained(bucket, arguments, trained_streets) -> BucketFolder:
    """A run in the bucket, which was stopped and resumed."""
    run = BucketFolder(f"{bucket}/runs/x")
    train.main([*arguments, "--steps", "8", "--run.folder", run.address])
    (before,) = run.objects("tensorboard")
    assert {"run.json", "metrics.jsonl", "contact_sheets/step_0000008.png", "layouts/0.png"} < set(run.objects())
    # What a training leaves that was killed as it saved: an incomplete checkpoint, its lock, and lines of later steps.
    for name in run.objects("checkpoints/8"):
        if not name.endswith(COMMITTED):
            run.write(name.replace("/8/", "/10/"), run.read(name) or b"")
    owner = Owner.here(run.address, {})
    Ownership(BucketRecords(run), Owner(**{**vars(owner), "pid": 2**22 + 1, "started": 1}), run.address).acquire()
    run.write("metrics.jsonl", (run.read("metrics.jsonl") or b"") + b'{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    with console.capture() as capture:
        train.main([run.address, "--steps", "12"])
    assert f"Resuming {run.address} at step 8." in capture.get() and "That process" not in capture.get()
    assert "This training goes on there: that process has ended" in capture.get()
    assert f"synthesize {run.address} {run.address}/layouts --sheet" in capture.get()
    assert {before} < set(run.objects("tensorboard"))
    return run


def test_a_run_that_was_killed_and_resumed_ends_as_one_on_the_disk(trained, trained_streets):
    disk, run = trained_streets, trained.address
    assert same(final_state(run), final_state(disk))
    ours = lines(trained.read("metrics.jsonl") or b"")
    theirs = [line for line in lines((disk / "metrics.jsonl").read_bytes()) if "loss" not in line]
    assert [line for line in ours if line["step"] in (0, 6, 12) and "loss" not in line] == theirs
    assert sorted({line["step"] for line in ours}) == [0, 6, 8, 12]
    assert {name.split("/")[1] for name in trained.objects("checkpoints")} == {"8", "12"}
    ledger = [json.loads(line) for line in (trained.read("ledger.jsonl") or b"").splitlines()]
    assert {(line["start"], line["first_step"]) for line in ledger if line["kind"] == "ended"} == {(1, 0), (2, 8)}


def test_every_command_reads_it(trained, trained_streets, tmp_path, monkeypatch, arguments):
    disk, run = trained_streets, trained.address
    monkeypatch.chdir(tmp_path)
    stored = load_run(run)
    assert stored.step == 12 and same(stored.params, load_run(disk).params) and len(stored.layouts) == 2
    assert load_run(run, "best").step == load_run(disk, "best").step and load_run(Path(run), 8).step == 8
    with pytest.raises(UserError, match=f"{run}: there is no checkpoint '4'. Steps saved: 8, 12."):
        load_run(run, 4)
    synthesize.main([run, f"{run}/layouts"])
    synthesize.main([str(disk), str(disk / "layouts"), "--out", "local"])
    assert sha256_of(tmp_path / "x_synthesized/0.png") == sha256_of(tmp_path / "local/0.png")
    convert.main(["safetensors", run, "x.safetensors"])
    trained.write("x.safetensors", Path("x.safetensors").read_bytes())
    assert same(load_run(f"{run}/x.safetensors").params, load_run("x.safetensors").params)
    assert held_out_distances(Path(run), 12) == held_out_distances(disk, 12) != (np.nan, np.nan)
    assert np.isnan(held_out_distances(Path("x.safetensors"), 12)).all()
    with pytest.raises(SystemExit) as end:
        check.main([run])
    assert end.value.code == 0
    train.main([*arguments, "--init_from", run, "--steps", "1", "--run.folder", "started"])
    assert json.loads(Path("started/run.json").read_text())["origins"]["init_from"]["step"] == 12


def test_a_network_that_fails_is_not_taken_for_damage(trained, monkeypatch):
    """A training that resumes would else go on from an older checkpoint."""
    description = json.loads(trained.read("run.json") or b"")
    del description["crc32c"]
    with Checkpoints(f"{trained.address}/checkpoints", keep_last=2) as checkpoints:
        run = load_run(trained.address)
        abstract = abstract_state(run.experiment.objective(steps_per_epoch=6))

        def fails(*_, **__):
            raise OSError(5, "the network is down")

        for broken in ("read_manifest", "ocp.load"):
            with monkeypatch.context() as patch:
                patch.setattr(f"crn_jax.checkpoint.{broken}", fails)
                patch.setattr(BucketFolder, "objects", fails)
                with pytest.raises(UserError, match="cannot be fetched.*the network is down"):
                    checkpoints.load_newest(abstract, description)
        assert checkpoints.load_newest(abstract, description)[0] == 12
    for broken in ("read_manifest", "_items"):  # a best checkpoint of unknown distance would be deleted
        with monkeypatch.context() as patch:
            patch.setattr(f"crn_jax.checkpoint.{broken}", fails)
            patch.setattr("crn_jax.checkpoint.FOLDER", "none") if broken == "_items" else None
            patch.setattr(BucketFolder, "fetch", fails)
            with pytest.raises(UserError, match="cannot be fetched.*the network is down"):
                Checkpoints(f"{trained.address}/checkpoints", keep_last=2)
    with monkeypatch.context() as patch:
        patch.setattr("crn_jax.storage.copied", fails)
        assert "cannot be fetched" in refused(check.main, trained.address, "--repair") and not trained.objects("damaged")
    with monkeypatch.context() as patch:  # step 8 is being deleted by its training, while another program reads the run
        patch.setattr(
            "crn_jax.checkpoint.read_manifest", lambda place, step: fails() if step == 8 else read_manifest(place, step)
        )
        found = iter([[8, 12]])
        patch.setattr(InBucket, "steps", lambda self: next(found, [12]))
        patch.setattr(BucketFolder, "fetch", fails)
        assert Checkpoints(f"{trained.address}/checkpoints").best_step() == 12
    assert Checkpoints(f"{trained.address}/checkpoints").best_step() is not None


def test_what_cannot_be_in_a_bucket_is_refused_with_a_way_out(trained, arguments, tmp_path):
    run = trained.address
    for main, *words in (
        (synthesize.main, run, f"{run}/layouts", "--out", "gs://bucket/images"),
        (convert.main, "safetensors", run, "gs://bucket/x.safetensors"),
        (ablate.main, "paper", "--out", "gs://bucket/suite"),
        (segment.main, run, "photograph.png", "--out", "out", "--layouts", "gs://bucket/layouts"),
        (inspect.main, "data", "--boundaries", "--instances", "gs://bucket/maps"),
    ):
        said = refused(main, *words)
        assert "gs://bucket/" in said and "mounted" in said and "gcloud storage cp -r" in said
    assert "s3://bucket/x: only folders and gs://" in refused_run(arguments, "s3://bucket/x")
    assert "not a run folder" in refused(synthesize.main, "gs://bucket/nothing", f"{run}/layouts")
    assert f"{OWNER}/" not in {name for name in BucketFolder("gs://bucket/nothing").objects()}


def test_what_is_damaged_in_the_bucket_is_noticed_and_moved(trained, trained_streets):
    """The bucket's own checksum is that of the damaged object, as if it had been damaged before it was sent."""
    disk, run = trained_streets, trained.address
    name = max(trained.objects("checkpoints/12"), key=lambda name: trained.objects()[name].size)
    content = np.frombuffer(trained.read(name) or b"", np.uint8).copy()
    content[1 << 10 :] ^= 1
    trained.write(name, content.tobytes())
    with pytest.raises(UserError, match=r"(?s)gs://.*/checkpoints/12: the checkpoint.*The checkpoint of step 8 is whole"):
        load_run(run)
    with console.capture() as capture, pytest.raises(SystemExit):
        check.main([run])
    assert re.search("checkpoints/12 +damaged", capture.get())
    with console.capture() as capture:
        train.main([run, "--steps", "12"])
    assert f"It was moved to {run}/damaged/12." in capture.get() and f"Resuming {run} at step 8." in capture.get()
    assert same(final_state(run), final_state(disk)) and trained.objects("damaged/12")
    assert [line["fell_back"]["to"] for line in lines(trained.read("metrics.jsonl") or b"") if "fell_back" in line] == [8]
    trained.write("run.json", (trained.read("run.json") or b"").replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(SystemExit) as end:
        check.main([run, "--repair"])
    assert end.value.code == 1 and "run.json" not in trained.objects() and "damaged/run.json" in trained.objects()


@pytest.fixture
def pictures(bucket, tmp_path) -> str:
    """A data set of six pairs in the bucket, and an archive beside them."""
    local, remote = tmp_path / "data", BucketFolder(f"{bucket}/data")
    rng = np.random.default_rng(0)
    for i in range(6):
        for kind, shape in (("photographs", (32, 64, 3)), ("layouts", (32, 64))):
            file = local / kind / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 19, shape, np.uint8)).save(file)
            remote.write(f"{kind}/{i}.png", file.read_bytes())
    remote.write("all.zip", b"large")
    return remote.address


def examples_of(root: str, cache: str | None = None) -> list[dict[str, np.ndarray]]:
    sources._COPIES.clear()
    data = DataConfig("folder", root=root, labels="cityscapes_trainids", cache=cache)
    source = sources.open_source(data, "train", (32, 64))
    return [source[i] for i in range(len(source))]


def test_data_and_their_cache_are_copied_to_the_disk(pictures, bucket, tmp_path, monkeypatch):
    local, cache = examples_of(str(tmp_path / "data")), f"{bucket}/cache"
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_outlined", lambda *_: pytest.fail("an outline is of use only for a cache in a bucket"))
        assert len(local) == 5 and same(examples_of(pictures), local)
        assert same(examples_of(pictures, str(tmp_path / "cache")), local)
    assert not (buckets.copy_of(pictures) / "all.zip").exists()
    assert same(examples_of(pictures, cache), local)
    (name,) = {name.split("/")[0] for name in BucketFolder(cache).objects()}
    there = BucketFolder(f"{cache}/{name}")
    assert {"cache.json", "layout.npy/000000", "photograph.npy/000000", "checksums/000000"} < set(there.objects())

    # Another host has no copies, and decodes nothing. Its fetching is interrupted.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
    monkeypatch.setattr(cache_module._Writer, "write", lambda *_: pytest.fail("it was decoded"))
    got: list[str] = []

    def read(self, name, read=BucketFolder.read):
        got.append(name)
        if len(got) == 3:
            raise OSError(5, "the network is down", f"{self.address}/{name}")
        return read(self, name)

    monkeypatch.setattr(sources, "_copied", lambda *_: pytest.fail("all files were copied"))
    with monkeypatch.context() as patch:
        patch.setattr(BucketFolder, "read", read)
        patch.setattr(buckets, "_TRANSFERS", 1)
        with pytest.raises(UserError, match=f"The cache cannot be fetched from {there.address} .*the network is down"):
            examples_of(pictures, cache)
        place = buckets.copy_of(there.address)
        assert not (place / "cache.json").exists()
        first, got[:] = got[1], ["", "", ""]
        assert same(examples_of(pictures, cache), local) and first not in got and "photograph.npy/000000" in got
    (place / "photograph.npy").write_bytes((place / "photograph.npy").read_bytes()[:-1] + b"?")
    assert same(examples_of(pictures, cache), local)  # it is fetched anew
    for file in ("layout.npy", "photograph.npy", "checksums", "done"):
        assert b"".join(there.read(piece) or b"" for piece in sorted(there.objects(file))) == (place / file).read_bytes()


def test_a_cache_with_instances(bucket, tmp_path, monkeypatch):
    data = DataConfig("streets", num_scenes=2, cache=f"{bucket}/with instances")
    drawn = [sources.open_source(data, "train", (16, 32), instances=True)[i] for i in range(2)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
    monkeypatch.setattr(cache_module._Writer, "write", lambda *_: pytest.fail("it was drawn"))
    source = sources.open_source(data, "train", (16, 32), instances=True)
    assert drawn[0].keys() == {"layout", "photograph", "instances"} and same([source[i] for i in range(2)], drawn)
    assert {"instances.npy", "layout.npy"} <= {file.name for file in source.folder.iterdir()}
    (piece,) = BucketFolder(source.bucket.address).objects("instances.npy")
    source.bucket.write(piece, b"damaged before it was sent")
    shutil.rmtree(source.folder)
    with pytest.raises(UserError, match=f"the cache is damaged .*delete {source.bucket.address}, too"):
        sources.open_source(data, "train", (16, 32), instances=True)


def test_a_cache_of_many_pieces(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_in_bucket, "PIECE", 1000)
    place, fetched, there = tmp_path / "place", tmp_path / "fetched", BucketFolder(f"{bucket}/pieces")
    contents = {"layout.npy": bytes(range(256)) * 40, "photograph.npy": b"x" * 3000, "checksums": b"", "done": b"\1" * 7}
    for folder in (place, fetched):
        folder.mkdir()
    for name, content in contents.items():
        (place / name).write_bytes(content)
    fetch_cache(there, fetched)
    assert not list(fetched.iterdir())  # there is none yet
    (place / "cache.json").write_text("{}")
    upload_cache(there, place)
    assert len(there.objects("layout.npy")) == 11 and len(there.objects("photograph.npy")) == 3
    fetch_cache(there, fetched)
    assert {name: (fetched / name).read_bytes() for name in contents} == contents and (fetched / "cache.json").exists()
    (fetched / "cache.json").unlink()
    monkeypatch.setattr(BucketFolder, "read", lambda self, name: b"{}" if name == "cache.json" else b"something else")
    fetch_cache(there, fetched)  # all is there
    (fetched / "done").write_bytes(b"\2" * 7)
    (fetched / "cache.json").unlink()
    with pytest.raises(UserError, match="done/000000: what is fetched does not have the checksum"):
        fetch_cache(there, fetched)


def test_two_processes_of_which_one_is_killed_as_it_saves(bucket, capfd):
    """`python -m tests.support.kills --bucket` does it with whole trainings: see docs/buckets.md."""
    run = BucketFolder(f"{bucket}/runs/two")

    def processes(*rest: int) -> list[subprocess.Popen]:
        port = free_port()
        words = [[run.address, port, 2, i, *rest] for i in range(2)]
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
        command = [sys.executable, "-m", "tests.support.savers"]
        return [subprocess.Popen([*command, *map(str, each)], cwd=ROOT, env=environment) for each in words]

    first, second = processes(4, 3)
    try:
        assert second.wait(PATIENCE) == -signal.SIGKILL
    finally:
        first.kill()  # it waits for the other
        first.wait(PATIENCE)
    begun = {name.split("/")[1] for name in run.objects("checkpoints")}
    assert {"1", "2"} <= begun <= {"1", "2", "3"} and f"checkpoints/3/{COMMITTED}" not in run.objects()
    assert [process.wait(PATIENCE) for process in processes(5)] == [0, 0]
    assert {name.split("/")[1] for name in run.objects("checkpoints")} == {"4", "5"}
    checkpoints = Checkpoints(f"{run.address}/checkpoints")
    shapes = {"step": jax.ShapeDtypeStruct((), np.int32), "w": jax.ShapeDtypeStruct(savers.SHAPE, np.float32)}
    for step in (4, 5):
        state = checkpoints.load(step, TrainState(shapes["step"], {"w": shapes["w"]}, {}, None, None))
        np.testing.assert_array_equal(state.params["w"], savers.expected(step))
        assert checkpoints.manifest(step).arrays["params/w"].shape == savers.SHAPE
        assert len(checkpoints.manifest(step).arrays["params/w"].blocks) == 2
    assert "Traceback" not in capfd.readouterr().err
