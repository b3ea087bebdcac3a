"""Runs on the Hugging Face Hub, from a stand-in of its HTTP interface on this machine."""

import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.errors import UserError
from crn_jax.generator import init_params
from crn_jax.run import describe_run, load_run
from launch import convert
from launch.common.command_line import parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the interface that a snapshot needs: a repository's list of files, and the files."""

    folder: Path

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/somebody/streets/tree/{COMMIT}"):
            files = [{"type": "file", "path": file.name, "size": 1, "oid": COMMIT} for file in self.folder.iterdir()]
            self.answer(json.dumps(files).encode())
        elif path.startswith("/api/models/somebody/streets"):
            names = [{"rfilename": file.name} for file in self.folder.iterdir()]
            self.answer(json.dumps({"id": "somebody/streets", "sha": COMMIT, "siblings": names}).encode())
        elif path.startswith(f"/somebody/streets/resolve/{COMMIT}/"):
            self.answer((self.folder / path.rpartition("/")[2]).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch) -> Path:
    """The folder that the Hub serves as somebody/streets, with a run of which nothing was trained."""
    import huggingface_hub.constants

    experiment = parse([*tiny, "--run.folder", str(tmp_path / "run")]).experiment
    description = describe_run(experiment, CITYSCAPES, {"weights": "file", "file": "vgg19.h5"}, {"examples": 6})
    convert.write_run(tmp_path / "run", experiment, description, init_params(experiment.cascade, jax.random.key(0)), 7)
    convert.main(["export", str(tmp_path / "run"), str(tmp_path / "artifact")])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"folder": tmp_path / "artifact"}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    server.shutdown()
    server.server_close()


def test_a_run_is_fetched_and_loaded(hub):
    run = load_run("hf://somebody/streets")
    assert run.step == 7
    jax.tree.map(np.testing.assert_array_equal, run.params, load_run(hub / "run").params)
    fetched = {path.name for path in (hub / "cache").rglob("snapshots/*/*")}
    assert "weights.safetensors" in fetched and "synthesize.bin" not in fetched
    assert load_run(Path("hf://somebody/streets")).step == 7  # as the command line gives it


def test_an_uploaded_run_folder_is_told_what_to_upload(hub):
    shutil.rmtree(hub / "artifact")
    (hub / "artifact").mkdir()
    shutil.copy(hub / "run" / "run.json", hub / "artifact")
    with pytest.raises(UserError, match="hf://somebody/streets: the repository has no artifact.json") as refusal:
        load_run("hf://somebody/streets")
    assert "launch.convert export RUN ARTIFACT" in str(refusal.value) and "safetensors" not in str(refusal.value)


def test_an_uploaded_file_is_named_as_what_can_be_loaded(hub):
    shutil.rmtree(hub / "artifact")
    (hub / "artifact").mkdir()
    convert.main(["safetensors", str(hub / "run"), str(hub / "artifact" / "streets.safetensors")])
    with pytest.raises(UserError, match="If its streets.safetensors is a run of launch.convert") as refusal:
        load_run("hf://somebody/streets")
    assert load_run(str(refusal.value).rpartition(": ")[2]).step == 7


def test_a_run_that_is_not_there(hub):
    with pytest.raises(UserError, match="hf://nobody/nothing: the run cannot be fetched from the Hugging Face Hub"):
        load_run("hf://nobody/nothing")
