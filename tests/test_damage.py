"""Damaged checkpoints: refused in words, or harmless; a training goes on from the newest one that is whole."""

import functools
import gc
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crn_jax.checkpoint import Checkpoints, DamagedCheckpoint
from crn_jax.checksums import crc32c, sealed, unsealed
from crn_jax.errors import UserError
from crn_jax.manifest import named_leaves
from crn_jax.run import load_run
from crn_jax.sharding import ShardingConfig, make_mesh
from crn_jax.train import abstract_state, init_state
from launch import check, convert, synthesize
from launch.common.terminal import console
from launch.training.metrics_log import read_metrics
from tests.damage import KINDS, STEP, Target, campaign
from tests.support.commands import final_state, redescribe, refused, refused_run, run
from tests.test_checkpoint import objective


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def flip_a_bit(folder: Path) -> Path:
    """Flips a bit in the middle of the largest file, which holds arrays."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.quick
def test_crc32c_is_the_published_one():
    """RFC 3720, B.4; and of arrays, whatever their order in memory."""
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43 and crc32c(bytes(range(32))) == 0x46DD794E
    array = np.arange(300_000, dtype=np.float32).reshape(3, -1)
    assert crc32c(array) == crc32c(array.tobytes()) == crc32c(np.asfortranarray(array))
    assert crc32c(jnp.bfloat16(1.5).__array__()) == crc32c(b"\xc0\x3f") and crc32c(np.zeros((0, 3))) == 0


def test_a_sealed_object_may_be_laid_out_anew_but_not_changed():
    fields = sealed({"b": [1.5, None], "a": {1: "x"}})
    assert unsealed(json.loads(json.dumps(dict(reversed(fields.items())), indent=3))) == {"b": [1.5, None], "a": {"1": "x"}}
    with pytest.raises(ValueError, match="crc32c"):
        unsealed(fields | {"b": [1.5, 0]})
    assert unsealed({"a": 1}) == {"a": 1}
    for key in ("crc3tc", "", "from2c", "a"):  # else whatever else is damaged would pass
        with pytest.raises(ValueError, match="key of its checksum"):
            unsealed({"b": [1.5, 0], key: fields["crc32c"]})


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Target:
    return Target(tmp_path_factory.mktemp("damage"))


def test_every_damage_is_refused_or_harmless(target, capfd):
    """Each kind on several files; `python -m tests.damage` does a thousand. The reads that Orbax gives up print nothing."""
    silent = []
    counts, alarms = campaign(target, 3 * len(KINDS), 2, 0, silent.append)
    assert not silent and not alarms
    assert sum(counter["refused"] for counter in counts.values()) > len(KINDS)
    assert counts["link"]["refused"] == counts["link"].total()
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def test_every_flip_of_an_arrays_data_is_named_with_the_array(target):
    """Where the data of arrays lie, a flip damages one of them, which the message names."""
    names = {name for name, _ in named_leaves(target.abstract)}
    for chance in range(3):
        place = target.restore()
        flip_a_bit(place / "state" / "d" if chance == 0 else place / "state")
        with pytest.raises(DamagedCheckpoint, match=f"{place}: the checkpoint") as error:
            Checkpoints(target.checkpoints).load(STEP, target.abstract)
        if "checksums" in str(error.value):
            assert any(name in str(error.value) for name in names)
    gc.collect()


def test_a_part_that_is_not_read_is_not_verified(target):
    """A partial load verifies what it reads; the other arrays may be damaged."""
    target.restore()
    step, checkpoints = str(STEP), Checkpoints(target.checkpoints)
    path = target.checkpoints / step / "checksums" / "process_0.json"
    fields = unsealed(json.loads(path.read_text()))
    array = fields["arrays"]["params/to_rgb/kernel"]
    array["blocks"][0][2] ^= 1
    path.write_text(json.dumps(sealed(fields)))
    checkpoints.load_params(STEP, target.abstract)  # the moving average
    with pytest.raises(DamagedCheckpoint, match=r"not what was saved, by their checksums: params/to_rgb/kernel\."):
        checkpoints.load_fields(STEP, target.abstract, "params")


@pytest.mark.parametrize(("saved", "loaded"), [((1, 8), (2, 2)), ((2, 2), (1, 8)), ((1, 1), (2, 4)), ((2, 4), None)])
def test_any_mesh_verifies_what_any_other_has_saved(saved, loaded, tmp_path):
    trained = objective(width=16, ema_decay=0.5)
    abstract = [abstract_state(trained, make_mesh(ShardingConfig(mesh), 2, 16)) if mesh else abstract_state(trained)
                for mesh in (saved, loaded)]  # fmt: skip
    state = init_state(trained, 0, abstract[0])
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(0, state, None, {})
        checkpoints.wait()
        recorded = checkpoints.manifest(0).arrays["params/module_0/conv2/kernel"].blocks
        assert len(recorded) == (np.prod(saved) if np.prod(saved) > 1 else 1)
        assert_same(checkpoints.load(0, abstract[1]), jax.tree.map(np.asarray, state))
    path = tmp_path / "0" / "checksums" / "process_0.json"
    fields = unsealed(json.loads(path.read_text()))
    fields["arrays"]["params/module_0/conv2/kernel"]["blocks"][-1][2] ^= 1 << 31
    path.write_text(json.dumps(sealed(fields)))
    with pytest.raises(DamagedCheckpoint, match=r"checksums: params/module_0/conv2/kernel\."):
        Checkpoints(tmp_path).load(0, abstract[1])


def test_what_is_saved_is_what_was_handed_over(tmp_path):
    """The checksums are of the state at the time of the call, though the next step reuses its memory at once."""
    state = init_state(objective(width=64), 0)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).copy(), state)
    overwrite = jax.jit(functools.partial(jax.tree.map, lambda leaf: leaf * 0 - 1), donate_argnums=0)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(0, state, None, {})
        jax.block_until_ready(overwrite(state))
        checkpoints.wait()
        assert_same(checkpoints.load(0, abstract_state(objective(width=64))), expected)


def test_a_damaged_small_file_of_an_old_checkpoint_is_in_nobodys_way(target):
    """Whatever Orbax itself keeps beside the arrays; before, each of these stopped every use of the run."""
    for name in ("_CHECKPOINT_METADATA", "checksums/process_0.json", "state/_METADATA"):
        target.restore()
        (target.checkpoints / "2" / name).write_bytes(b"\0\xff{")
        with Checkpoints(target.checkpoints, keep_last=2) as checkpoints:
            assert checkpoints.steps() == [2, STEP] and checkpoints.best_step() == STEP
            state = checkpoints.load(STEP, target.abstract)
            checkpoints.save(6, state._replace(step=jnp.int32(6)), None, {})
        assert Checkpoints(target.checkpoints).steps() == [STEP, 6]


@pytest.fixture(scope="module")
def undisturbed(tiny, trained_streets, tmp_path_factory) -> Path:
    """The run of `trained_streets`, which has checkpoints at 8 and 12, trained on from step 8 to 18."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(trained_streets, folder)
    shutil.rmtree(folder / "checkpoints" / "12")
    run([*tiny, "--epochs", "3", "--run.checkpoint_every", "4"], folder)
    return folder


@pytest.mark.parametrize("how", ["flipped", "link"])
def test_a_training_falls_back_to_the_newest_checkpoint_that_is_whole(how, tiny, trained_streets, undisturbed, tmp_path):
    """It says so, moves the damaged one aside, and ends bit by bit where an undisturbed run ends."""
    folder = tmp_path / "run"
    shutil.copytree(trained_streets, folder)
    newest = folder / "checkpoints" / "12"
    if how == "flipped":
        flip_a_bit(newest / "state")
    else:
        newest.rename(tmp_path / "elsewhere")
        newest.symlink_to(tmp_path / "elsewhere")
    with console.capture() as capture:
        run([*tiny, "--epochs", "3", "--run.checkpoint_every", "4"], folder)
    printed = capture.get()
    assert f"{newest}: the checkpoint" in printed and "The run goes on from step 8" in printed
    assert (folder / "damaged" / "12").exists()
    lines = read_metrics(folder / "metrics.jsonl")
    (event,) = (line for line in lines if "fell_back" in line)
    assert event["step"] == event["fell_back"]["to"] == 8 and list(event["fell_back"]["damaged"]) == ["12"]
    assert_same(final_state(folder), final_state(undisturbed))
    untimed = [
        [(line["step"], line.get("loss"), line.get("validation")) for line in read_metrics(path / "metrics.jsonl")]
        for path in (folder, undisturbed)
    ]
    assert [line for line in untimed[0] if line != (8, None, None)] == untimed[1]
    gc.collect()


def test_if_no_checkpoint_is_whole_nothing_is_moved(tiny, trained_streets, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained_streets, folder)
    for step in ("8", "12"):
        shutil.rmtree(folder / "checkpoints" / step / "state")
    message = refused_run([*tiny, "--epochs", "3"], folder)
    assert "No checkpoint in" in message and f"{folder}/checkpoints/8" in message and f"{folder}/checkpoints/12" in message
    assert not (folder / "damaged").exists()
    assert "No other checkpoint" in refused(synthesize.main, folder, folder / "layouts")
    gc.collect()


def test_a_checkpoint_of_another_run_is_refused(tiny, trained_streets, tmp_path):
    """Though it is whole: a folder that was copied from a run of other settings."""
    folder, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(trained_streets, folder)
    run([*tiny, "--seed", "1", "--epochs", "2", "--run.checkpoint_every", "4"], other)
    shutil.rmtree(folder / "checkpoints" / "12")
    shutil.copytree(other / "checkpoints" / "12", folder / "checkpoints" / "12")
    with pytest.raises(
        UserError, match=r"(?s)the checkpoint belongs to another run: seed: 1, now 0\..*step 8 is whole.*--checkpoint 8"
    ):
        load_run(folder)
    assert load_run(folder, 8).step == 8


def test_a_run_is_checked_and_repaired(trained_streets, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained_streets, folder)
    assert checked(folder) == (0, [])
    flip_a_bit(folder / "checkpoints" / "12" / "state")
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\0\0\n")
    broken = ["run.json", "checkpoints/12", "metrics.jsonl"]
    assert checked(folder) == (1, broken)
    assert checked(folder, "--repair") == (1, broken)
    assert sorted(path.name for path in (folder / "damaged").iterdir()) == ["12", "metrics.jsonl", "run.json"]
    assert checked(folder) == (0, [])


def test_what_another_version_wrote_is_not_damaged_and_stays(trained_streets, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained_streets, folder)
    about = unsealed(json.loads((folder / "run.json").read_text()))
    about["experiment"]["cascade"]["newer"] = 1
    (folder / "run.json").write_text(json.dumps(sealed(about)))
    found = {finding.what: finding for finding in check.check(folder)}
    assert found["run.json"].verdict == "unverified" and "does not fit this version" in found["run.json"].note
    assert checked(folder, "--repair") == (0, []) and (folder / "run.json").exists()
    shutil.copy(trained_streets / "run.json", folder)
    file = folder / "checkpoints" / "12" / "checksums" / "process_0.json"
    file.write_text(json.dumps(sealed(unsealed(json.loads(file.read_text())) | {"format": 1000})))
    redescribe(folder, lambda about: about["experiment"].update(seed=3))  # by hand, as run.json's messages propose
    found = {finding.what: (finding.verdict, finding.note) for finding in check.check(folder)}
    assert found["checkpoints/12"][0] == "unverified" and "a later version" in found["checkpoints/12"][1]
    assert found["checkpoints/8"][0] == "unverified" and "belongs to another run: seed: 0, now 3" in found["checkpoints/8"][1]


def test_a_run_whose_checkpoints_were_all_moved_away_does_not_begin_anew(tiny, trained_streets, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained_streets, folder)
    for step in (8, 12):
        flip_a_bit(folder / "checkpoints" / str(step) / "state")
    lines = (folder / "metrics.jsonl").read_bytes()
    assert checked(folder, "--repair") == (1, ["checkpoints/8", "checkpoints/12"])
    message = refused_run([*tiny, "--epochs", "2", "--run.checkpoint_every", "4"], folder)
    assert f"those of steps 8, 12 were damaged and lie in {folder}/damaged" in message
    assert (folder / "metrics.jsonl").read_bytes() == lines


def test_the_weights_of_an_artifact_are_no_damage(trained_streets, tmp_path):
    convert.main(["export", str(trained_streets), str(tmp_path / "artifact")])
    assert checked(tmp_path / "artifact", "--repair") == (0, [])
    assert (tmp_path / "artifact" / "weights.safetensors").exists()


def test_what_has_no_checksum_is_not_called_whole(trained_streets, tmp_path):
    shutil.copy(trained_streets / "run.json", tmp_path)
    redescribe(tmp_path, lambda about: None)
    (tmp_path / "task.json").write_text('{"finished": []}')
    assert {(each.what, each.verdict) for each in check.check(tmp_path)} == {
        ("run.json", "unverified"),
        ("task.json", "unverified"),
    }


def test_a_folder_that_is_none_keeps_no_other_from_being_repaired(trained_streets, tmp_path):
    shutil.copy(trained_streets / "run.json", tmp_path)
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(SystemExit) as exit_:
        check.main([str(tmp_path / "none"), str(tmp_path), "--repair"])
    assert exit_.value.code == 2 and (tmp_path / "damaged" / "task.json").exists()


def test_a_check_goes_on_past_what_cannot_be_read(trained_streets, tmp_path):
    folder, cache, other = tmp_path / "run", tmp_path / "cache" / "48x64-0123456789abcdef", tmp_path / "cache" / "48x64-f"
    for made in (folder / "exported", cache, other / "cache.json"):
        made.mkdir(parents=True)
    shutil.copy(trained_streets / "run.json", folder)
    data = {"source": "cityscapes", "root": "photographs", "cache": str(cache.parent)}
    description = redescribe(folder, lambda about: about["experiment"].update(data=data, vgg={}))
    (cache / "cache.json").write_text(json.dumps({"label_space": description["label_space"]["name"]}))
    (folder / "exported" / "artifact.json").write_text('{"sha256": ["synthesize.bin"]}')
    damaged = [finding for finding in check.check(folder) if finding.verdict == "damaged"]
    assert [finding.what for finding in damaged] == ["exported/artifact.json", str(cache), str(other)]
    check.repair(folder, damaged)
    assert (
        not any(finding.verdict == "damaged" for finding in check.check(folder)) and not cache.exists() and not other.exists()
    )


def checked(folder: Path, *flags: str) -> tuple[int, list[str]]:
    """Returns the exit status of launch.check, and what it calls damaged."""
    with console.capture() as capture, pytest.raises(SystemExit) as exit_:
        check.main([str(folder), *flags])
    rows = [line.split() for line in capture.get().splitlines()]
    gc.collect()
    return exit_.value.code, [row[0] for row in rows if row[1:2] == ["damaged"]]
