"""What travels: the exported function with its weights, loaded where there is nothing but jax and numpy; one-file runs."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from crn_jax import load_artifact
from crn_jax.artifact import export_synthesize, without_folders, write_artifact
from crn_jax.cascade import CascadeConfig
from crn_jax.checksums import KEY, sealed
from crn_jax.data.labels.published import CITYSCAPES, LABEL_SPACES
from crn_jax.errors import UserError
from crn_jax.files import sha256_of
from crn_jax.generator import init_params
from crn_jax.resuming import description_changes
from crn_jax.run import describe_run, load_run, read_description
from crn_jax.synthesize import synthesize
from launch import convert
from launch import synthesize as launch_synthesize
from launch.common.command_line import parse
from launch.common.output import write_json
from launch.conversion.model_card import model_card
from tests.support import commands

refused = functools.partial(commands.refused, convert.main)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """A run of two images a layout, 48x64; nobody has trained it."""
    folder = tmp_path_factory.mktemp("run") / "travelled"
    experiment = parse([*tiny, "--cascade.num_images", "2", "--run.folder", str(folder)]).experiment
    description = describe_run(experiment, CITYSCAPES, {"weights": "file", "file": "vgg19.h5"}, {"examples": 6})
    convert.write_run(folder, experiment, description, init_params(experiment.cascade, jax.random.key(0)), 7)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 7, "validation": {"distance": 171.84}}) + "\n")
    return folder


# The artifact


@pytest.fixture(scope="module")
def artifact(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "out"
    convert.main(["export", str(trained), str(folder)])
    return folder


@pytest.fixture(scope="module")
def jax_alone(tmp_path_factory) -> Path:
    """A folder to import from, with jax, numpy and what those install."""
    site, seen, wanted = tmp_path_factory.mktemp("site"), set(), ["jax", "numpy"]
    while wanted:
        distribution = importlib.metadata.distribution(wanted.pop())
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] != ".."}:
            (site / top).exists() or (site / top).symlink_to(distribution.locate_file(top))
        requirements = [r for r in distribution.requires or () if "extra ==" not in r]
        wanted += [re.match(r"[\w.-]+", requirement).group() for requirement in requirements]
    assert "flax" not in seen and "flatbuffers" not in seen
    return site


def run_alone(site: Path, folder: Path, program: str) -> subprocess.CompletedProcess:
    """A program in an interpreter that has nothing else, started within the artifact's folder."""
    begin = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(site)!r}]\n"
    return subprocess.run([sys.executable, "-S", "-c", begin + program], cwd=folder, capture_output=True, text=True)


def test_it_gives_the_same_images_with_jax_and_numpy_alone(trained, artifact, jax_alone, tmp_path):
    layouts = np.random.default_rng(0).integers(0, 20, (3, 48, 64)).astype(np.uint8)
    np.save(tmp_path / "layouts.npy", layouts)
    program = f"""
import importlib.util
assert not any(map(importlib.util.find_spec, ("flax", "crn_jax", "flatbuffers", "optax", "PIL")))
import numpy as np
from load import load
synthesize, about = load(".")
layouts = np.load({str(tmp_path / "layouts.npy")!r})
np.save({str(tmp_path / "three.npy")!r}, synthesize(layouts))
np.save({str(tmp_path / "one.npy")!r}, synthesize(layouts[:1].astype(int).tolist()))
for wrong in (layouts[:, :32], layouts + 20, layouts[0], layouts / 1, layouts.astype(int) - 1, layouts[:0]):
    try:
        synthesize(wrong)
    except ValueError as error:
        print(error)
"""
    result = run_alone(jax_alone, artifact, program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Layouts must be integer arrays [B, 48, 64] of class ids below 20") == 5
    assert "There are no layouts: the class ids have the shape [0, 48, 64]." in result.stdout
    run = load_run(trained)
    expected = np.asarray(synthesize(run.experiment.cascade, run.params, layouts)).astype(int)
    three, one = np.load(tmp_path / "three.npy"), np.load(tmp_path / "one.npy")
    assert three.shape == (3, 2, 48, 64, 3) and three.dtype == np.uint8
    assert np.abs(three - expected).max() <= 1 and np.abs(one - expected[:1]).max() <= 1


@pytest.mark.parametrize("name", ["synthesize.bin", "weights.safetensors", "flatbuffers.zip"])
def test_a_changed_file_is_refused_before_it_is_read(artifact, jax_alone, tmp_path, name):
    copy = shutil.copytree(artifact, tmp_path / "copy")
    contents = bytearray((copy / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (copy / name).write_bytes(contents)
    result = run_alone(jax_alone, copy, "from load import load; load('.')")
    assert f"ValueError: {name} is not the file that was exported; fetch it again." in result.stderr


def changed(artifact: Path, copy: Path, change: Callable[[dict], object]) -> Path:
    """A copy of an artifact whose artifact.json says something else, with the right checksum."""
    shutil.copytree(artifact, copy)
    about = json.loads((copy / "artifact.json").read_text())
    del about[KEY]
    change(about)
    (copy / "artifact.json").write_text(json.dumps(sealed(about)))
    return copy


WRONG = {
    "no date": lambda about: about.update(exported="yesterday"),
    "no text": lambda about: about.update(exported=20261128),
    "the last day": lambda about: about.update(exported="9999-12-31"),
    "a convention in words": lambda about: about.update(calling_convention="ten"),
    "a truth as a convention": lambda about: about.update(calling_convention=True),
    "a convention without a day": lambda about: about.pop("calling_convention"),
    "boundaries in words": lambda about: about.update(boundaries="no"),
    "boundaries as a number": lambda about: about.update(boundaries=0),
    "a digest that is a number": lambda about: about["sha256"].update({"synthesize.bin": 5}),
    "digests in a list": lambda about: about.update(sha256=list(about["sha256"])),
    "sizes in words": lambda about: about.update(size=["48", "64"]),
    "nothing": lambda about: about.clear(),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_forged_description_is_refused_in_words(artifact, tmp_path, change):
    copy = changed(artifact, tmp_path / "copy", change)
    for read in (load_artifact.load, load_artifact.read):
        with pytest.raises(ValueError, match=r"artifact\.json is not the file that was exported \(.+\); fetch it again\.$"):
            read(copy)


def test_the_loader_as_a_program_ends_without_a_traceback(artifact, jax_alone, tmp_path):
    program = "import runpy; runpy.run_path('load.py', run_name='__main__')"
    result = run_alone(jax_alone, changed(artifact, tmp_path / "copy", WRONG["no date"]), program)
    assert result.returncode == 1 and result.stderr.startswith("artifact.json is not the file that was exported")
    assert result.stderr.count("\n") == 1


def test_an_artifact_of_the_first_version_has_no_date(artifact, tmp_path):
    def older(about: dict) -> None:
        for key in ("exported", "calling_convention", "boundaries"):
            del about[key]

    about, _ = load_artifact.read(changed(artifact, tmp_path / "copy", older))
    assert load_artifact.window(about).startswith(f"Exported by jax {jax.__version__}, and artifact.json does not say when")


def test_an_older_jax_is_refused(artifact, jax_alone, tmp_path):
    assert json.loads((artifact / "artifact.json").read_text())["jax"] == jax.__version__
    copy = changed(artifact, tmp_path / "copy", lambda about: about.update(jax="99.1.0"))
    result = run_alone(jax_alone, copy, "from load import load; load('.')")
    assert f"needs jax 99.1.0 or later, not {jax.__version__}: pip install -U jax" in result.stderr


def test_weights_lie_beside_the_function(artifact, trained):
    """The exported function is for all three platforms and any batch, and says nothing of its maker's disks."""
    stored = safetensors.numpy.load_file(artifact / "weights.safetensors")
    expected = flax.traverse_util.flatten_dict(load_run(trained).params, sep="/")
    assert stored.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(stored[name], leaf)
    exported = jax.export.deserialize(bytearray((artifact / "synthesize.bin").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(n) for n in exported.in_avals[-1].shape] == ["batch", "48", "64"]
    function = (artifact / "synthesize.bin").read_bytes()
    assert b".py" in function and not [place for place in (commands.ROOT, sys.prefix) if str(place).encode() in function]
    about = (artifact / "artifact.json").read_text()
    assert str(trained.parent) not in about and json.loads(about)["experiment"]["run"]["folder"] == "travelled"


def test_an_artifact_is_a_run_and_is_renewed(artifact, trained, tmp_path, monkeypatch):
    """Its function may be one that no jax reads any more: weights and configuration suffice."""
    old = shutil.copytree(artifact, tmp_path / "old")
    (old / "synthesize.bin").write_bytes(b"a function of long ago")
    about = json.loads((old / "artifact.json").read_text())
    about["sha256"]["synthesize.bin"] = sha256_of(old / "synthesize.bin")
    (old / "artifact.json").write_text(json.dumps(sealed({key: value for key, value in about.items() if key != KEY})))
    with pytest.raises(
        RuntimeError, match="can no longer read .*old. To renew it .*: python -m launch.convert export .*old NEW"
    ):
        load_artifact.load(old)
    run, renewed = load_run(old), tmp_path / "renewed"
    assert run.step == 7 and run.generator == load_run(trained).generator
    jax.tree.map(np.testing.assert_array_equal, run.params, load_run(trained).params)
    convert.main(["export", str(old), str(renewed)])
    for name in ("weights.safetensors", "README.md"):
        assert (renewed / name).read_bytes() == (artifact / name).read_bytes(), name
    layouts = np.random.default_rng(0).integers(0, 20, (1, 48, 64))
    monkeypatch.setattr(sys, "path", [*sys.path])  # the loader adds to it
    np.testing.assert_array_equal(*(load_artifact.load(folder)[0](layouts) for folder in (artifact, renewed)))
    assert "without Adam's moments" in str(pytest.raises(UserError, load_run, old, moments=True).value)
    assert "Steps saved: 7." in str(pytest.raises(UserError, load_run, old, 3).value)


def test_an_artifact_says_how_long_jax_reads_it(artifact, jax_alone):
    text = run_alone(jax_alone, artifact, "import runpy; runpy.run_path('load.py', run_name='__main__')").stdout
    about = json.loads((artifact / "artifact.json").read_text())
    assert f"Exported on {about['exported']} by jax {jax.__version__} with calling convention" in text
    newest = jax.export.maximum_supported_calling_convention_version
    assert f"reads {jax.export.minimum_supported_calling_convention_version} to {newest}." in text
    until = datetime.date.fromisoformat(about["exported"]) + datetime.timedelta(days=182)
    assert f"until {until}" in text and "python -m launch.convert export" in text


def test_weights_are_not_within_the_function():
    config = CascadeConfig(num_classes=300, widths=(64, 64), base=(2, 2))
    leaves = flax.traverse_util.flatten_dict(init_params(config, jax.random.key(0)), sep="/")
    params = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    function = export_synthesize(config, params, (4, 4), np.uint16)  # as ids past 256 classes are
    assert len(function) < sum(leaf.nbytes for leaf in params.values()) / 10


def test_folders_are_not_told_but_words_are(tmp_path):
    fields = {"about": "day and/or night", "data": {"root": "/home/me/CamVid"}, "vgg": {"weights": "a/b.h5"}}
    told = {"about": "day and/or night", "data": {"root": "CamVid"}, "vgg": {"weights": "b.h5"}}
    assert without_folders(fields) == told


def test_a_renewed_artifact_keeps_its_size(trained, tmp_path):
    convert.main(["export", str(trained), str(tmp_path / "wide"), "--size", "48", "128"])
    convert.main(["export", str(tmp_path / "wide"), str(tmp_path / "renewed")])
    assert json.loads((tmp_path / "renewed" / "artifact.json").read_text())["size"] == [48, 128]
    assert "layout of 48x128 pixels" in (tmp_path / "renewed" / "README.md").read_text()


@pytest.mark.parametrize(
    ("space", "told"), [(LABEL_SPACES["gta5"], "- GTA5 (Playing for Data)"), (None, "If the photographs are the published")]
)
def test_the_model_card_names_a_published_data_set_by_its_classes(trained, space, told):
    """Data of one's own may lie in folders like those of a published data set."""
    run = load_run(trained)
    data = dataclasses.replace(run.experiment.data, source="gta5", root="data", labels=None if space else "labels.json")
    own = dataclasses.replace(CITYSCAPES, name="labels")
    vgg = dataclasses.replace(run.experiment.vgg, allow_random=False)
    run = run._replace(experiment=dataclasses.replace(run.experiment, data=data, vgg=vgg), label_space=space or own)
    card = model_card(run, trained, "")
    assert told in card and ('"gta5"]' in card) == (space is not None) and ("of the owner's data." in card) == (space is None)


def test_the_model_card(artifact, trained):
    card = (artifact / "README.md").read_text()
    for part in (
        '---\nlicense: "other"\n',
        "# demo",
        "makes 2 photographs of each semantic layout of 48x64 pixels",
        "images = synthesize(layout_ids)  # class ids [B, 48, 64] -> uint8 [B, 2, 48, 64, 3]",
        "0 road, 1 sidewalk",
        "7 steps. Each batch has 1 example of streets.",
        '"learning_rate": 0.001',
        "The held-out perceptual distance at step 7 is 171.8.",
        "Procedural streets: made by crn_jax, free of others' rights.",
        "`flatbuffers.zip` is under Apache 2.0.",
    ):
        assert part in card, part
    assert str(trained.parent) not in card


def test_the_model_card_has_the_scores_of_its_own_step_alone(trained, tmp_path):
    folder = tmp_path / "travelled"
    shutil.copytree(trained, folder)
    (folder / "evaluation").mkdir()
    run, fields = load_run(folder), {"title": "held-out", "versions": {}, "device": "", "notes": []}
    for step, is_told in ((7, True), (70, False), (8, False)):
        scored = [  # the names tell apart what has the same last part
            {"name": name, "kind": kind, "about": f"step {at}, k = 2", "resources": {}, "per_image": {"distance": [1.0]}}
            | {"scores": {"distance": {"value": value}}}
            for name, kind, at, value in (
                ("photographs", "photographs", 0, 0.0),
                ("a/travelled", "run", step, 160.25),
                ("a/travelled, best of 2", "chosen", step, 150.75),
                ("b/travelled", "run", 7, 170.5),
            )
        ]
        scores = [{"key": "distance", "title": "perceptual distance", "unit": ""}]
        write_json(folder / "evaluation" / "evaluation.json", fields | {"scores": scores, "candidates": scored})
        card = model_card(run, folder, "")
        assert ("| perceptual distance | 160.2 |" in card) == is_told and card.count("| perceptual distance |") == is_told


def test_an_artifact_does_not_tell_why_there_were_no_weights(trained, tmp_path):
    run = load_run(trained)._replace(vgg19={"weights": "random", "because": f"{tmp_path} is full"})
    assert write_artifact(tmp_path / "artifact", run)["vgg19"] == {"weights": "random"}


def test_another_size_and_one_that_does_not_fit(trained, tmp_path):
    convert.main(["export", str(trained), str(tmp_path / "wide"), "--size", "48", "128"])
    assert json.loads((tmp_path / "wide" / "artifact.json").read_text())["size"] == [48, 128]
    message = refused("export", trained, tmp_path / "odd", "--size", "50", "64")
    assert "A layout of 50x64 does not fit 4 modules" in message and not (tmp_path / "odd").exists()
    assert f"{tmp_path / 'wide'} exists already" in refused("export", trained, tmp_path / "wide")
    assert "this is not a run folder" in refused("export", tmp_path, tmp_path / "none")


# One file


def test_a_round_trip_is_bit_exact(trained, tiny, tmp_path):
    file, back = tmp_path / "run.safetensors", tmp_path / "back"
    convert.main(["safetensors", str(trained), str(file)])
    convert.main(["run", str(file), str(back)])
    (one, other), (_, _, described), (_, _, original) = map(load_run, (trained, back)), *map(read_description, (back, trained))
    assert (one.step, one.experiment, one.label_space) == (other.step, other.experiment, other.label_space)
    assert described | {"data": None} == original | {"data": None}
    assert description_changes(described, original) == ["data.examples: None, now 6"]
    message = commands.refused_run([*tiny, "--cascade.num_images", "2"], back)  # it has neither λ nor Adam's moments
    assert "was converted from run.safetensors, without all that a training needs" in message and "--init_from" in message
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(other.params))


def test_half_precision(trained, tmp_path, monkeypatch):
    """The file is half as large, is a run itself, and becomes a run folder and a file of the same tensors again."""
    monkeypatch.chdir(tmp_path)
    convert.main(["safetensors", str(trained), "whole.safetensors"])
    convert.main(["safetensors", str(trained), "half.safetensors", "--dtype", "float16"])
    tensors = [safetensors.numpy.load_file(tmp_path / f"{name}.safetensors") for name in ("half", "whole")]
    half, whole = (sum(tensor.nbytes for tensor in each.values()) for each in tensors)
    assert half == whole / 2
    run, exact = load_run("half.safetensors"), load_run(trained)
    jax.tree.map(
        lambda found, params: np.testing.assert_array_equal(found, params.astype(np.float16).astype(np.float32)),
        run.params,
        exact.params,
    )
    convert.main(["run", "half.safetensors", "back"])
    convert.main(["safetensors", "back", "again.safetensors", "--dtype", "float16"])
    jax.tree.map(np.testing.assert_array_equal, safetensors.numpy.load_file("again.safetensors"), tensors[0])
    Image.fromarray(np.zeros((48, 64), np.uint8)).save("road.png")
    launch_synthesize.main(["half.safetensors", "road.png"])
    assert sorted(path.name for path in (tmp_path / "half_synthesized").iterdir()) == ["road_0.png", "road_1.png"]


def test_a_file_that_is_not_as_it_was_written_is_refused(trained, tmp_path):
    """Cut short anywhere, or with any byte changed: its header's, its tensors'."""
    file = tmp_path / "run.safetensors"
    convert.main(["safetensors", str(trained), str(file)])
    intact = file.read_bytes()
    header = 8 + int.from_bytes(intact[:8], "little")
    for length in range(0, len(intact), len(intact) // 20):
        file.write_bytes(intact[:length])
        assert "run.safetensors: this is no safetensors file, or it is cut short" in refused("run", file, tmp_path / "out")
    positions = [*range(0, header, header // 60), *range(header, len(intact), (len(intact) - header) // 20)]
    for position in positions:
        changed = bytearray(intact)
        changed[position] ^= 1 << position % 7
        file.write_bytes(changed)
        assert "run.safetensors: " in refused("run", file, tmp_path / "out")
    renamed = intact.replace(b"module_0/conv1/kernel", b"module_0/conv9/kernel", 1)
    assert renamed != intact
    file.write_bytes(renamed)
    assert "its contents are not those that were written" in refused("run", file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_refused(trained, tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, other)
    assert "other.safetensors: launch.convert has not written this file" in refused("run", other, tmp_path / "out")
    assert "none.safetensors: there is no such file" in refused("run", tmp_path / "none.safetensors", tmp_path / "out")
    assert "exists already. Give another name." in refused("safetensors", trained, other)
    assert "cannot be written" in refused("safetensors", trained, tmp_path / "missing" / "x.safetensors")
