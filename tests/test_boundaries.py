"""Instance boundaries: their definition, their channel in the cascade, and a run that has them from training to export."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from crn_jax import load_run
from crn_jax.boundaries import boundaries_of
from crn_jax.cascade import CascadeConfig
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.sources import open_source
from crn_jax.evaluation import DISTANCE_WEIGHTS
from crn_jax.generator import generate, init_params, layout_of, num_channels
from crn_jax.growth import grow
from crn_jax.load_artifact import load
from crn_jax.losses import layer_terms
from crn_jax.settings import ShardingConfig
from crn_jax.sharding import make_mesh, put_batch
from crn_jax.synthesize import synthesize
from crn_jax.train import abstract_batch_of
from crn_jax.vgg_weights import load_vgg19
from launch import ablate, convert, evaluate, train
from launch import synthesize as launch_synthesize
from launch.common.command_line import parse
from launch.common.terminal import console
from launch.cost.flops import forward_flops
from tests.support.commands import refused, refused_run

CONFIG = CascadeConfig(5, widths=(12, 8, 6), base=(4, 6), boundaries=True)
PLAIN = dataclasses.replace(CONFIG, boundaries=False)


def by_hand(ids: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel."""
    height, width = ids.shape
    marked = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
            marked[y, x] = any(ids[place] != ids[y, x] for place in inside)
    return marked


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 2), (9, 13)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_pixel_is_marked_if_one_of_its_four_neighbours_is_of_another_instance(shape, dtype):
    ids = np.random.default_rng(0).integers(0, 3, (2, *shape)).astype(dtype) * np.iinfo(dtype).max // 3
    expected = np.stack([by_hand(each) for each in ids])
    np.testing.assert_array_equal(boundaries_of(ids), expected)
    np.testing.assert_array_equal(boundaries_of(jnp.asarray(ids)), expected)


@pytest.mark.quick
def test_only_differences_count_and_mirroring_mirrors():
    ids = np.random.default_rng(1).integers(0, 4, (1, 8, 12))
    marked = boundaries_of(ids)
    np.testing.assert_array_equal(boundaries_of(np.array([900, 3, 70, 1])[ids]), marked)
    np.testing.assert_array_equal(boundaries_of(ids[:, :, ::-1]), marked[:, :, ::-1])
    np.testing.assert_array_equal(boundaries_of(ids[:, ::-1]), marked[:, ::-1])
    assert not boundaries_of(np.full((1, 5, 5), 7)).any() and 0 < marked.mean() < 1


def ids_of(batch: int = 2, config: CascadeConfig = CONFIG) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    classes = rng.integers(0, config.num_classes, (batch, *config.size)).astype(np.uint8)
    blocks = rng.integers(0, 9, (batch, *(side // 4 for side in config.size)))
    return classes, blocks.repeat(4, 1).repeat(4, 2).astype(np.uint16)


def test_the_channel_comes_last_and_is_halved_like_the_others():
    classes, instances = ids_of()
    layout = np.asarray(layout_of(CONFIG, classes, instances))
    assert layout.shape[-1] == num_channels(CONFIG) == 6 and num_channels(PLAIN) == 5
    np.testing.assert_array_equal(layout[..., :5], np.eye(5)[classes])
    np.testing.assert_array_equal(layout[..., 5], boundaries_of(instances))

    @jax.jit
    def layouts_of_modules(params, layout):
        seen = []

        def look(next_function, args, kwargs, context):
            if context.module.name == "conv1":
                seen.append(args[-1])
            return next_function(*args, **kwargs)

        with nn.intercept_methods(look):
            generate(CONFIG, params, layout)
        return seen

    seen = layouts_of_modules(init_params(CONFIG, jax.random.key(0)), layout)
    for i, halved in enumerate(seen):
        n = 2 ** (2 - i)
        height, width = (side // n for side in CONFIG.size)
        np.testing.assert_allclose(halved, layout.reshape(2, height, n, width, n, 6).mean((2, 4)), atol=1e-6)
    assert len(seen) == 3


def test_without_weights_for_boundaries_the_images_are_those_of_classes_alone():
    classes, instances = ids_of()
    plain = init_params(PLAIN, jax.random.key(1))
    padded = {}
    for name, part in plain.items():
        padded[name] = part
        if name.startswith("module_"):
            kernel = jnp.pad(part["conv1"]["kernel"], ((0, 0), (0, 0), (0, 1), (0, 0)))
            padded[name] = {**part, "conv1": {"kernel": kernel}}
    assert jax.tree.map(jnp.shape, padded) == jax.tree.map(jnp.shape, init_params(CONFIG, jax.random.key(0)))
    expected = np.asarray(synthesize(PLAIN, plain, classes)).astype(int)
    assert np.abs(np.asarray(synthesize(CONFIG, padded, classes, instances)) - expected).max() <= 1
    fresh = init_params(CONFIG, jax.random.key(0))
    others = [np.asarray(synthesize(CONFIG, fresh, classes, ids)) for ids in (instances, np.zeros_like(instances))]
    assert (others[0] != others[1]).any()


def test_rows_that_are_split_over_devices_have_the_boundaries_of_whole_images():
    config = dataclasses.replace(CONFIG, widths=(6,) * 4, base=(8, 2))
    classes, instances = ids_of(2, config)
    mesh = make_mesh(ShardingConfig((2, 4)), 2, config.size[0])
    batch = put_batch(mesh, 2, {"layout": classes, "instances": instances})
    with jax.set_mesh(mesh):
        layout = jax.jit(functools.partial(layout_of, config))(batch["layout"], batch["instances"])
    np.testing.assert_array_equal(layout[..., -1], boundaries_of(instances))
    params = init_params(config, jax.random.key(0))
    split = np.asarray(synthesize(config, params, batch["layout"], batch["instances"])).astype(int)
    assert np.abs(split - np.asarray(synthesize(config, params, classes, instances))).max() <= 1


def test_what_does_not_go_together_is_refused():
    classes, instances = ids_of()
    params = init_params(CONFIG, jax.random.key(0))
    with pytest.raises(ValueError, match="takes instance boundaries, so it needs the instances"):
        synthesize(CONFIG, params, classes)
    with pytest.raises(ValueError, match="trained without instance boundaries"):
        synthesize(PLAIN, init_params(PLAIN, jax.random.key(0)), classes, instances)
    with pytest.raises(ValueError, match="Instance ids are integers, not bool"):
        synthesize(CONFIG, params, classes, instances > 3)
    with pytest.raises(ValueError, match=r"shape of their layouts, \[2, 16, 24\], not \[1, 16, 24\]"):
        synthesize(CONFIG, params, classes, instances[:1])
    with pytest.raises(ValueError, match=r"must be \[B, H, W, 6\] with instance boundaries after void"):
        generate(CONFIG, params, jnp.zeros((1, 16, 24, 5)))
    large = instances.astype(np.int64) << 32  # the same to 32 bits
    np.testing.assert_array_equal(synthesize(CONFIG, params, classes, large), synthesize(CONFIG, params, classes, instances))


def test_its_cost_is_counted():
    height, width = CONFIG.size
    kernels = sum(9 * d * height * width // 4 ** (2 - i) for i, d in enumerate(CONFIG.widths))
    assert forward_flops(CONFIG) - forward_flops(PLAIN) == 2 * kernels
    with_boundaries, without = (parse(["demo", *flags]).experiment for flags in (["--cascade.boundaries"], []))
    batches = [abstract_batch_of(experiment.objective(1), 3) for experiment in (with_boundaries, without)]
    assert batches[0].pop("instances").shape == (3, 64, 128) and batches[0] == batches[1]


# A run


@pytest.fixture(scope="module")
def bounded(tiny, once) -> Path:
    """The folder of a run with instance boundaries, of six steps."""
    arguments = [*tiny, "--epochs", "1", "--cascade.boundaries"]
    return once("bounded", lambda folder: train.main([*arguments, "--run.folder", str(folder)]))


@pytest.fixture
def folder(bounded, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(bounded, tmp_path / "bounded")


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_run_leaves_layouts_and_instances_to_try(folder):
    run = load_run(folder)
    source = open_source(run.experiment.data, "val", run.experiment.size, instances=True)
    assert [path.name for path in run.instances] == [path.name for path in run.layouts] == ["0.png", "1.png"]
    np.testing.assert_array_equal(run.read_instances(run.instances[0]), source[0]["instances"])
    np.testing.assert_array_equal(read(run.instances[1]), source[63]["instances"])
    assert run.params["module_0"]["conv1"]["kernel"].shape[2] == 21


def test_images_are_made_with_instances_and_not_without(folder, trained_streets, tmp_path):
    layouts, instances = folder / "layouts", folder / "instances"
    said = refused(launch_synthesize.main, folder, layouts)
    assert "needs the instance map of each layout: --instances FOLDER" in said.replace("\n", " ")
    plain = shutil.copytree(trained_streets, tmp_path / "plain")
    said = refused(launch_synthesize.main, plain, layouts, "--instances", instances)
    assert "was trained without instance boundaries. Leave this option out" in said.replace("\n", " ")
    launch_synthesize.main([str(folder), str(layouts), "--instances", str(instances), "--sheet"])
    run = load_run(folder)
    layout, ids = run.read_layout(run.layouts[0]), run.read_instances(run.instances[0])
    expected = np.asarray(synthesize(run.generator, run.params, layout[None], ids[None]))[0, 0]
    np.testing.assert_array_equal(read(folder / "synthesized" / "0.png"), expected)
    single = ["--instances", str(run.instances[0]), "--out", str(tmp_path / "single")]
    launch_synthesize.main([str(folder), str(run.layouts[0]), *single])
    np.testing.assert_array_equal(read(tmp_path / "single" / "0.png"), expected)

    before = (folder / "synthesized" / "0.png").stat().st_mtime_ns
    again = [str(folder), str(layouts), "--instances", str(tmp_path / "others")]
    shutil.copytree(instances, tmp_path / "others")
    launch_synthesize.main(again)
    assert (folder / "synthesized" / "0.png").stat().st_mtime_ns == before  # the same ids
    Image.fromarray(np.zeros_like(ids)).save(tmp_path / "others" / "0.png")
    launch_synthesize.main(again)
    assert (read(folder / "synthesized" / "0.png") != expected).any()


def test_instance_maps_that_do_not_belong_to_the_layouts_are_named(folder, tmp_path):
    layouts = folder / "layouts"
    said = refused(launch_synthesize.main, folder, layouts, "--instances", layouts).replace("\n", " ")
    assert "0.png is the layout itself" in said
    shutil.copytree(folder / "instances", tmp_path / "maps")
    (tmp_path / "maps" / "1.png").unlink()
    said = refused(launch_synthesize.main, folder, layouts, "--instances", tmp_path / "maps").replace("\n", " ")
    assert "1 layout has no instance map there: 1." in said
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(tmp_path / "maps" / "1.png")
    said = refused(launch_synthesize.main, folder, layouts, "--instances", tmp_path / "maps").replace("\n", " ")
    assert "1.png is 24x32, but its layout" in said and "is 48x64" in said
    assert not (folder / "synthesized").exists()
    said = refused(launch_synthesize.main, folder, layouts, "--instances", tmp_path / "none").replace("\n", " ")
    assert "there is no folder" in said


def test_a_run_is_resumed_with_boundaries_only_and_starts_no_run_without(tiny, folder, trained_streets, tmp_path):
    more = [*tiny, "--epochs", "1"]
    said = refused_run(more, folder).replace("\n", " ")
    assert "cascade.boundaries: True, now False" in said
    train.main([*more, "--cascade.boundaries", "--steps", "7", "--run.folder", str(folder)])
    assert load_run(folder).step == 7
    said = refused_run([*more, "--init_from", str(folder)], tmp_path / "a").replace("\n", " ")
    assert "that run's layouts have instance boundaries. Add --cascade.boundaries" in said
    said = refused_run([*more, "--cascade.boundaries", "--init_from", str(trained_streets)], tmp_path / "b").replace("\n", " ")
    assert "that run's layouts have no instance boundaries. Leave out --cascade.boundaries" in said
    run = load_run(folder)
    taller = dataclasses.replace(run.generator, widths=(8, 8, 8, 8, 6))
    grown, fresh = grow(init_params(taller, jax.random.key(0)), run.params)
    assert fresh == ["module_4", "to_rgb"] and grown["module_4"]["conv1"]["kernel"].shape[2] == 8 + 21


def test_runs_with_and_without_boundaries_are_scored_on_the_pixels_of_classes(
    folder, trained_streets, random_vgg_file, tmp_path
):
    arguments = [str(trained_streets), str(folder), "--classes", "car", "person", "--examples", "3", "--out", str(tmp_path)]
    with console.capture() as capture:
        evaluate.main(arguments)
    assert "chosen classes" in capture.get()
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    run, vgg = load_run(folder), load_vgg19(random_vgg_file)
    source = open_source(run.experiment.data, "val", run.experiment.size, instances=True)
    scores = evaluation["candidates"][2]["per_image"]
    for n, i in enumerate((0, 32, 63)):
        example = source[i]
        ids = example["layout"][None], example["instances"][None]
        image = jnp.asarray(synthesize(run.generator, run.params, *ids), jnp.float32)
        inside = np.isin(ids[0], [CITYSCAPES.classes.index(name) for name in ("car", "person")])
        regions = np.stack([inside, ~inside], -1).astype(np.float32)
        terms = layer_terms(vgg, jnp.asarray(example["photograph"][None]), image, jnp.asarray(regions))
        terms = np.asarray(terms)[0, 0] @ DISTANCE_WEIGHTS
        assert scores["class_distance"][n] == pytest.approx(terms[0] / inside.mean(), rel=1e-4)
        assert scores["distance"][n] == pytest.approx(terms.sum(), rel=1e-4)
    said = refused(evaluate.main, folder, "--classes", "cars").replace("\n", " ")
    assert "there is no class 'cars'. Did you mean 'car'" in said
    said = refused(evaluate.main, trained_streets, "--instances", tmp_path).replace("\n", " ")
    assert "no run was trained with instance boundaries" in said


def test_exports_take_instances_too(folder, tmp_path):
    run = load_run(folder)
    layout, ids = run.read_layout(run.layouts[0])[None], run.read_instances(run.instances[0])[None]
    expected = np.asarray(synthesize(run.generator, run.params, layout, ids))
    convert.main(["export", str(folder), str(tmp_path / "artifact")])
    function, about = load(tmp_path / "artifact")
    assert about["boundaries"] and "synthesize(layout_ids, instance_ids)" in (tmp_path / "artifact" / "README.md").read_text()
    for each in (ids, ids.astype(np.int64) << 33):
        np.testing.assert_array_equal(function(layout, each), expected)
    with pytest.raises(ValueError, match="needs instances, too"):
        function(layout)
    with pytest.raises(ValueError, match="Instances must be an integer array"):
        function(layout, ids[:, :24])
    assert load_run(tmp_path / "artifact").generator == run.generator

    convert.main(["safetensors", str(folder), str(tmp_path / "run.safetensors")])
    convert.main(["run", str(tmp_path / "run.safetensors"), str(tmp_path / "again")])
    again = load_run(tmp_path / "again")
    np.testing.assert_array_equal(synthesize(again.generator, again.params, layout, ids), expected)


def test_an_onnx_file_finds_boundaries_itself(tmp_path):
    import onnxruntime

    from crn_jax.formats.onnx_file import onnx_model

    params = jax.tree.map(np.asarray, init_params(CONFIG, jax.random.key(3)))
    session = onnxruntime.InferenceSession(onnx_model(CONFIG, params, np.uint8).SerializeToString())
    for batch, size in ((1, CONFIG.size), (2, (4, 36))):
        config = dataclasses.replace(CONFIG, base=(size[0] // 4, size[1] // 4))
        classes, instances = ids_of(batch, config)
        instances = instances.astype(np.int32) << 14
        found = session.run(None, {"layout_ids": classes, "instance_ids": instances})[0]
        difference = np.abs(found.astype(int) - np.asarray(synthesize(config, params, classes, instances)))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_the_ablation_judges_the_classes_that_it_names(tmp_path):
    with console.capture() as capture, pytest.raises(SystemExit, match="0"):
        ablate.main(["boundaries", "--dry_run", "--seeds", "2", "--budget", "8", "--out", str(tmp_path)])
    said = capture.get()
    assert said.count("launch.train demo") == 4 and said.count("--cascade.boundaries") == 2
    asked = ablate.Arguments("boundaries", budget="8", out=tmp_path)
    _, entries = ablate.plan(asked, ablate.suite(asked), ablate.Budget.parse("8"), tmp_path)
    commands = list(entries[1].task.commands())
    assert commands[1][-3:] == ["--classes", "car", "person"]
    assert commands[2][-2:] == ["--instances", str(entries[1].task.folder / "instances")]
    assert "--instances" not in list(entries[0].task.commands())[2]
