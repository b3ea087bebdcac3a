"""The jitted function, and the command around it."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image

from crn_jax.baselines.gan import GANConfig
from crn_jax.cascade import Cascade, CascadeConfig
from crn_jax.data.labels.published import CITYSCAPES
from crn_jax.data.streets import render_street
from crn_jax.diversity import assemble
from crn_jax.errors import UserError
from crn_jax.generator import init_params
from crn_jax.run import load_run
from crn_jax.settings import FullResolutionConfig
from crn_jax.synthesize import synthesize
from launch import convert
from launch import synthesize as command
from launch.common.contact_sheet import Row, contact_sheet
from launch.common.output import write_png
from launch.common.terminal import console
from launch.synthesis import stream
from launch.synthesis.layouts import fitted
from launch.synthesize import picked
from tests.support.compiling import compiled
from tests.support.rounding import assert_same_images

CONFIG = CascadeConfig(num_classes=5, widths=(6, 4), base=(2, 3), num_images=3)


@pytest.mark.quick
def test_images_are_rounded_and_clipped():
    params = init_params(CONFIG, jax.random.key(0))
    params["to_rgb"]["bias"] += np.repeat(np.array([0, 5, -5], np.float32), 3)  # greens too large, blues too small
    layout_ids = np.random.default_rng(0).integers(0, 5, (2, *CONFIG.size)).astype(np.uint8)
    images = np.asarray(synthesize(CONFIG, params, layout_ids))
    assert images.shape == (2, 3, *CONFIG.size, 3) and images.dtype == np.uint8
    linear = np.asarray(jax.jit(Cascade(CONFIG).apply)({"params": params}, np.eye(5, dtype=np.float32)[layout_ids]))
    assert linear.max() > 256 and linear.min() < -1
    np.testing.assert_array_equal(images, np.clip(np.round(linear), 0, 255))


def test_it_compiles_once_per_shape():
    params = init_params(CONFIG, jax.random.key(0))
    with compiled() as programs:
        for fill in (0, 1, 2):
            synthesize(CONFIG, params, np.full((1, *CONFIG.size), fill, np.uint8))
    assert programs == ["_synthesize"]


@pytest.mark.quick
@pytest.mark.parametrize("index", [np.uint8(255), np.int64(-1), np.int32(5)])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(ValueError, match=rf"id {index} is out of range: this generator knows 0\.\.4"):
        synthesize(CONFIG, {}, np.full((1, *CONFIG.size), index))


@pytest.mark.quick
def test_no_layouts_are_refused_in_words():
    for nothing in (np.zeros((0, *CONFIG.size), np.uint8), jax.numpy.zeros((0, *CONFIG.size), np.uint8)):
        with pytest.raises(ValueError, match=r"There are no layouts: the class ids have the shape \[0, 4, 6\]"):
            synthesize(CONFIG, {}, nothing)


@pytest.mark.parametrize("kind", [np.float32, bool])
def test_ids_that_are_no_integers_are_refused(kind):
    for layout in (np.ones((1, *CONFIG.size), kind), jax.numpy.ones((1, *CONFIG.size), kind)):
        with pytest.raises(ValueError, match=f"Class ids are integers, not {np.dtype(kind)}"):
            synthesize(CONFIG, {}, layout)


def test_ids_of_any_byte_order_and_lists_are_read():
    params = init_params(CONFIG, jax.random.key(0))
    layout = np.random.default_rng(0).integers(0, 5, (1, *CONFIG.size)).astype(np.uint16)
    expected = np.asarray(synthesize(CONFIG, params, layout))
    for same in (layout.astype(">u2"), layout.astype("<u2"), layout.tolist()):
        np.testing.assert_array_equal(synthesize(CONFIG, params, same), expected)


def test_sizes_that_are_no_sizes_are_refused_in_words():
    for size in ((0, 6), (4, 0)):
        with pytest.raises(ValueError, match=f"A layout of {size[0]}x{size[1]} has no pixels. This network was made for 4x6"):
            synthesize(CONFIG, {}, np.zeros((1, *size), np.uint8))
    network = GANConfig(5, (64, 128), "pix2pix")
    for size in ((32, 64), (128, 256)):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} does not fit: this network makes images of 64x128 only"):
            synthesize(network, {}, np.zeros((1, *size), np.uint8))


@pytest.mark.parametrize("axes", [("data",), ("data", "model"), ("spatial",)])
def test_a_mesh_of_the_calling_program_is_left_alone(axes):
    """Many programs have an axis `data`, but no axis for rows."""
    params = init_params(CONFIG, jax.random.key(0))
    layout = np.zeros((1, *CONFIG.size), np.uint8)
    expected = np.asarray(synthesize(CONFIG, params, layout))
    for kind in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(jax.make_mesh((1,) * len(axes), axes, (kind,) * len(axes), devices=jax.devices()[:1])):
            np.testing.assert_array_equal(synthesize(CONFIG, params, layout), expected)


@pytest.fixture(scope="module")
def trained(trained_streets, tmp_path_factory):
    """A run folder, and a folder with layouts of ids, of colours, and at twice the size."""
    folder = shutil.copytree(trained_streets, tmp_path_factory.mktemp("run") / "streets")
    layouts = tmp_path_factory.mktemp("layouts")
    ids = render_street(3, (48, 64)).layout
    raw = np.array([0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
    label_ids = raw[(ids + 1) % 20].astype(np.uint8)  # class n has labelId raw[n + 1], void has 0
    Image.fromarray(label_ids).save(layouts / "ids.png")
    Image.fromarray(CITYSCAPES.draw(ids)).save(layouts / "colours.png")
    Image.fromarray(label_ids.repeat(2, 0).repeat(2, 1)).save(layouts / "large.png")
    return folder, layouts


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_command_takes_a_run_and_layouts_and_nothing_else(trained):
    folder, layouts = trained
    with console.capture() as capture:
        command.main([str(folder), str(layouts)])
    out = folder / "synthesized"
    assert sorted(p.name for p in out.iterdir()) == ["colours.png", "ids.png", "large.png"]
    assert f"3 images in {out}" in capture.get()
    run = load_run(folder)
    expected = np.asarray(synthesize(run.experiment.cascade, run.params, render_street(3, (48, 64)).layout[None]))[0, 0]
    for name in ("ids", "colours", "large"):
        np.testing.assert_array_equal(read(out / f"{name}.png"), expected)


def test_the_example_of_the_guide(trained):
    """Runs the guide's program, from a layout of another size than the run's, and `assemble` with what it leaves behind."""
    folder, layouts = trained
    root = Path(__file__).resolve().parents[1]
    (program,) = re.findall(r"```python\n(from crn_jax import .*?)```", (root / "docs" / "synthesis.md").read_text(), re.DOTALL)
    for example, here in (("runs/camvid_96x128", folder), ("LAYOUT.png", layouts / "large.png")):
        assert example in program
        program = program.replace(example, str(here))
    names = {"choice": np.zeros(20, int), "assemble": assemble}
    exec(program + "assembled = assemble(images[0], layout, choice)", names)
    expected = synthesized_by_hand(folder, render_street(3, (48, 64)).layout)
    np.testing.assert_array_equal(names["images"][0, 0], expected)
    np.testing.assert_array_equal(names["assembled"], expected)
    assert "`crn_jax.diversity.assemble(images[0], layout, choice)`" in (root / "docs" / "diversity.md").read_text()


def test_a_run_brings_layouts_to_try(trained, tmp_path):
    folder, _ = trained
    command.main([str(folder), str(folder / "layouts"), "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "1.png"]


def test_a_run_is_loaded_with_its_average_at_any_checkpoint(trained):
    folder, _ = trained
    assert [load_run(folder, c).step for c in ("latest", "best", "8", 8, np.int64(12))] == [12, 12, 8, 8, 12]
    run = load_run(folder)
    assert run.label_space == CITYSCAPES and run.experiment.cascade.widths == (8, 8, 8, 8)
    for missing in ("5", 5, "\u00b2", "-8", "newest"):
        with pytest.raises(UserError, match=rf"no checkpoint '{missing}'. Steps saved: 8, 12"):
            load_run(folder, missing)


def test_a_sheet_beside_the_images(trained, tmp_path):
    folder, layouts = trained
    command.main([str(folder), str(layouts / "ids.png"), "--out", str(tmp_path), "--sheet"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["contact_sheet.png", "ids.png"]
    assert read(tmp_path / "contact_sheet.png").shape[1] == 2 * 256 + 3 * 4


def save_layout(path, shape, seed=0):
    """A street of any size; returns its class ids."""
    ids = np.random.default_rng(seed).integers(0, 4, (-(-shape[0] // 16), -(-shape[1] // 16))).repeat(16, 0).repeat(16, 1)
    ids = ids[: shape[0], : shape[1]].astype(np.uint8)
    Image.fromarray(CITYSCAPES.draw(ids)).save(path)
    return ids


def synthesized_by_hand(folder, ids):
    run = load_run(folder)
    return np.asarray(synthesize(run.experiment.cascade, run.params, ids[None]))[0, 0]


def test_layouts_of_any_size(trained, tmp_path):
    """Run at 48x64, four modules: multiples of 8 are its own, as panorama and portrait; others as asked."""
    folder, _ = trained
    out = tmp_path / "out"
    panorama, portrait = (save_layout(tmp_path / f"{name}.png", shape) for name, shape in (("a", (32, 112)), ("b", (64, 40))))
    command.main([str(folder), str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--out", str(out), "--sheet"])
    for name, ids in (("a", panorama), ("b", portrait)):
        np.testing.assert_array_equal(read(out / f"{name}.png"), synthesized_by_hand(folder, ids))
    assert read(out / "contact_sheet.png").shape[1] == 2 * 224 + 3 * 4  # the panorama's columns, twice enlarged

    odd, square = save_layout(tmp_path / "odd.png", (30, 101)), save_layout(tmp_path / "whole.png", (48, 64))
    sizes = ["--out", str(out), "--fit"]
    command.main([str(folder), str(tmp_path / "odd.png"), *sizes, "pad"])
    padded = synthesized_by_hand(folder, np.pad(odd, ((0, 2), (0, 3)), mode="edge"))
    np.testing.assert_array_equal(read(out / "odd.png"), padded[:30, :101])
    command.main([str(folder), str(tmp_path / "odd.png"), str(tmp_path / "whole.png"), *sizes, "resize"])
    stretched = synthesized_by_hand(folder, np.asarray(Image.fromarray(odd).resize((104, 32), Image.Resampling.NEAREST)))
    expected = np.asarray(Image.fromarray(stretched).resize((101, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read(out / "odd.png"), expected)
    np.testing.assert_array_equal(read(out / "whole.png"), synthesized_by_hand(folder, square))

    save_layout(tmp_path / "twice.png", (96, 128))  # of the run's aspect ratio: reduced, unless its own size is asked for
    command.main([str(folder), str(tmp_path / "twice.png"), "--out", str(out)])
    assert read(out / "twice.png").shape == (48, 64, 3)
    command.main([str(folder), str(tmp_path / "twice.png"), *sizes, "own"])
    assert read(out / "twice.png").shape == (96, 128, 3)


@pytest.mark.parametrize("fit", ["resize", "crop", "random_crop", "pad", "stretch"])
def test_a_panorama_loses_nothing_unless_it_is_asked_for(tmp_path, fit):
    """However the run's own examples reached its size."""
    path, twice = tmp_path / "panorama.png", tmp_path / "twice.png"
    save_layout(path, (32, 112))
    save_layout(twice, (96, 128))
    cascade, gan = CascadeConfig(20, (8, 8, 8, 8), (6, 8)), GANConfig(20, (48, 64), "pix2pix")
    assert fitted(path, cascade, fit, None).size == (32, 112)
    assert fitted(twice, cascade, fit, None).size == fitted(twice, gan, fit, None).size == (48, 64)
    with pytest.raises(UserError, match="it is 32x112, but this network makes images of 48x64 only"):
        fitted(path, gan, fit, None)
    if fit != "resize":
        assert fitted(path, gan, fit, "run").size == (48, 64)
        save_layout(path, (30, 101))
        with pytest.raises(UserError, match=f"no multiple of 8x8.*--fit run brings it to the run's size, .* by {fit}"):
            fitted(path, cascade, fit, None)


@pytest.mark.parametrize("kind", ["pix2pix", "dcgan"])
def test_an_image_does_not_depend_on_the_rest_of_its_batch(kind):
    """Batch norm takes the statistics of what the network is given at a time, so that is a single layout."""
    config = GANConfig(5, (32, 64), kind, widths=(8, 8, 8))
    params = init_params(config, jax.random.key(0))
    layouts = np.random.default_rng(0).integers(0, 5, (3, 32, 64), np.uint8)
    together = np.asarray(synthesize(config, params, layouts))
    alone = np.concatenate([synthesize(config, params, layouts[i : i + 1]) for i in range(3)])
    np.testing.assert_array_equal(together, alone)


def test_classes_whose_names_have_commas_can_be_picked():
    classes = ("building, edifice", "building", "sky=air", "void")
    assert picked("building, edifice=1,sky=air=2, building=0", classes) == ["building, edifice=1", "sky=air=2", " building=0"]
    assert picked("cloud=1", classes) == ["cloud=1"] and picked("", classes) == [""]


def test_a_network_without_resampling_makes_any_size_that_its_layers_see(tmp_path):
    path, large = tmp_path / "odd.png", tmp_path / "large.png"
    save_layout(path, (33, 47))
    save_layout(large, (16, 65))
    network = FullResolutionConfig(20, (48, 64), maps=4, layers=6)
    for how in ("own", "pad", "resize"):
        assert fitted(path, network, "resize", how).size == (33, 47)
        with pytest.raises(UserError, match="16x65 is too large. This network makes up to 64 pixels"):
            fitted(large, network, "resize", how)
    assert fitted(large, network, "crop", "run").size == (48, 64)


def test_a_folder_goes_in_batches_and_goes_on(trained, tmp_path, monkeypatch):
    """The folder has five layouts of two sizes. An image that is there already is made again only if it would change."""
    folder, _ = trained
    layouts, out = tmp_path / "layouts", tmp_path / "out"
    layouts.mkdir()
    shapes = {"a": (48, 64), "b": (32, 40), "c": (48, 64), "d": (32, 40), "e": (48, 64)}
    ids = {name: save_layout(layouts / f"{name}.png", shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    arguments = [str(folder), str(layouts), "--out", str(out), "--batch_size", "2"]

    def written() -> tuple[set[str], str]:
        """The files that a call writes, and what it says."""
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("*")}
        with console.capture() as capture:
            command.main(arguments)
        return {path.stem for path in out.iterdir() if before.get(path.name) != path.stat().st_mtime_ns}, capture.get()

    def stop_at_d(image, path, made):
        if path.stem == "d":
            raise UserError("stopped")
        write_png(image, path, made)

    with monkeypatch.context() as patch:
        patch.setattr(command, "write_png", stop_at_d)
        with pytest.raises(SystemExit):
            command.main(arguments)
    assert {path.name for path in out.iterdir()} == {"a.png", "b.png", "c.png", "e.png"}
    names, said = written()
    assert names == {"d"} and "5 images in" in said and "4 existed already" in said
    for name, layout in ids.items():  # copies of the last layout fill a batch
        assert_same_images(read(out / f"{name}.png"), synthesized_by_hand(folder, layout))

    assert written()[0] == set()
    ids["b"] = save_layout(layouts / "b.png", shapes["b"], 9)
    (out / "e.png").write_bytes((out / "e.png").read_bytes()[:-20])
    assert written()[0] == {"b", "e"}
    arguments += ["--checkpoint", "8"]
    assert written()[0] == set(shapes)
    arguments += ["--overwrite"]
    assert written()[0] == set(shapes)


def test_images_of_another_origin_are_not_overwritten(trained, tmp_path):
    folder, layouts = trained
    photograph = tmp_path / "ids.png"
    Image.new("RGB", (64, 48), (9, 8, 7)).save(photograph)
    arguments = [str(folder), str(layouts), "--out", str(tmp_path)]
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main(arguments)
    assert "ids.png: this image exists already" in capture.get() and "--overwrite" in capture.get()
    assert [path.name for path in tmp_path.iterdir()] == ["ids.png"] and (read(photograph) == (9, 8, 7)).all()
    command.main([*arguments, "--overwrite"])
    assert len(list(tmp_path.iterdir())) == 3 and (read(photograph) != (9, 8, 7)).any()


def test_images_in_the_folder_of_their_layouts_are_no_layouts(trained, tmp_path):
    folder, layouts = trained
    convert.main(["safetensors", str(folder), str(tmp_path / "run.safetensors")])
    together = tmp_path / "together"
    together.mkdir()
    shutil.copy(layouts / "ids.png", together / "ids.PNG")
    for _ in range(2):
        with console.capture() as capture:
            command.main([str(tmp_path / "run.safetensors"), str(together), "--out", str(together)])
    assert "1 image in" in capture.get() and "of which 1 existed already" in capture.get()
    assert {path.name for path in together.glob("*")} == {"ids.PNG", "ids.png"}


def test_layouts_in_subfolders_are_left_out_with_a_word(trained, tmp_path):
    """The folder of the images may be a subfolder."""
    folder, layouts = trained
    convert.main(["safetensors", str(folder), str(tmp_path / "run.safetensors")])
    given = tmp_path / "given"
    given.mkdir()
    shutil.copy(layouts / "ids.png", given)

    def screen() -> str:
        with console.capture() as capture:
            command.main([str(tmp_path / "run.safetensors"), str(given), "--out", str(given / "images")])
        return " ".join(capture.get().split())

    screen()
    assert "are left out" not in screen()
    (given / "images").rename(given / "earlier")  # it comes before the others
    assert "are left out" not in screen()
    shutil.copytree(layouts, given / "more")
    assert "given: layouts in subfolders are left out. Give a subfolder to take them, such as " in screen()


def test_images_of_other_layouts_are_replaced_and_counted(trained, tmp_path):
    folder, _ = trained
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for i in range(3):
            save_layout(tmp_path / name / f"{i}.png", (48, 64), seed if i < 2 else 9)

    def said(layouts: str, *options: str) -> str:
        with console.capture() as capture:
            command.main([str(folder), str(tmp_path / layouts), "--out", str(tmp_path / "out"), *options])
        return capture.get()

    assert "replaced" not in said("a") and "replaced" not in said("a", "--overwrite")
    assert "2 images made from other layouts, runs or options were replaced." in said("b")
    assert "replaced" not in said("b")
    (tmp_path / "b" / "1.png").unlink()
    (tmp_path / "b" / "2.png").unlink()
    assert "1 image made from other layouts, runs or options was replaced." in said("b", "--checkpoint", "8")


def test_layouts_that_launch_segment_made_are_not_replaced(trained, tmp_path):
    folder, layouts = trained
    out = shutil.copytree(layouts, tmp_path / "photographs_labelled")
    with Image.open(layouts / "ids.png") as layout:
        write_png(layout, out / "ids.png", "segmented, 0123456789abcdef01234567")
    before = (out / "ids.png").read_bytes()
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main([str(folder), str(layouts / "ids.png"), "--out", str(out)])
    assert "ids.png: this image exists already" in capture.get() and (out / "ids.png").read_bytes() == before


def test_a_sheet_of_large_images_is_shrunk():
    def sheet(height: int, width: int) -> Image.Image:
        images = np.full((2, height, width, 3), 77, np.uint8)
        return contact_sheet([Row(np.zeros((height, width), np.uint8), images[0], images)] * 3, CITYSCAPES, "large")

    assert sheet(512, 1024).width == 4 * 512 + 5 * 4 and sheet(512, 1024).height < 3 * 256 + 100
    assert sheet(1200, 400).width == 4 * 171 + 5 * 4  # the height counts, too
    assert sheet(256, 512).width == sheet(512, 1024).width
    assert {color for _, color in sheet(1200, 400).crop((4, 60, 175, 500)).getcolors()} == {CITYSCAPES.colors[0]}


def test_a_folder_of_a_mac(trained, tmp_path):
    folder, layouts = trained
    (tmp_path / "layouts").mkdir()
    (tmp_path / "layouts" / "ids.png").write_bytes((layouts / "ids.png").read_bytes())
    (tmp_path / "layouts" / "._ids.png").write_bytes(b"\0\5\x16\7 of macOS")
    command.main([str(folder), str(tmp_path / "layouts"), "--out", str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ids.png"]


def test_a_size_beyond_the_memory_is_refused_with_what_it_needs(trained, tmp_path, monkeypatch):
    folder, layouts = trained
    monkeypatch.setattr(stream, "device_bytes", lambda: 10**5)
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main([str(folder), str(layouts / "ids.png"), "--out", str(tmp_path / "out")])
    assert re.search(
        r"1 at a time, images of 48x64 need \d+\.\d GB, but .* has 0\.0 GB\. Tiles would not fit together", capture.get()
    )


def test_wrong_input_is_named_before_anything_is_written(trained, tmp_path):
    folder, layouts = trained
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(tmp_path / "bad.png")
    Image.fromarray(np.zeros((48, 44), np.uint8)).save(tmp_path / "odd.png")
    (tmp_path / "torn.png").write_bytes((layouts / "ids.png").read_bytes()[:20])
    (tmp_path / "ids.png").write_bytes((layouts / "ids.png").read_bytes())
    (tmp_path / "empty").mkdir()
    cases = {
        (
            folder,
            layouts,
            tmp_path / "odd.png",
        ): "odd.png: 48x44 has another aspect ratio than the run's 48x64, and is no multiple of 8x8",
        (folder, tmp_path / "odd.png", "--fit", "run"): "another aspect ratio than the run's 48x64. --fit pad",
        (folder, layouts, tmp_path / "torn.png"): "torn.png: the image is truncated or damaged",
        (folder, layouts, "--batch_size", "0"): "--batch_size 0",
        (folder, layouts / "ids.png", tmp_path / "ids.png"): "Several layouts are called ids",
        (folder, tmp_path / "empty"): "there is no PNG or WebP file in this folder",
        (folder, tmp_path / "none.png"): "there is no such file or folder",
        (layouts, layouts): "not a run folder",
    }
    before = (layouts / "ids.png").read_bytes()
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main([str(folder), str(layouts), "--out", str(layouts)])
    assert "would overwrite this layout" in capture.get() and (layouts / "ids.png").read_bytes() == before
    for arguments, message in cases.items():
        with console.capture() as capture, pytest.raises(SystemExit):
            command.main([*map(str, arguments), "--out", str(tmp_path / "out")])
        assert message in capture.get()
    assert not (tmp_path / "out").exists()
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main([str(folder), str(layouts), str(tmp_path / "bad.png"), "--out", str(tmp_path / "out")])
    assert "bad.png: label id 77 (3,072 pixels)" in capture.get()
    assert "bad.png" not in {path.name for path in (tmp_path / "out").iterdir()}


def test_without_layouts_those_of_the_run_are_taken(trained, tmp_path):
    folder, _ = trained
    command.main([str(folder), "--out", str(tmp_path / "own")])
    assert {path.name for path in (tmp_path / "own").glob("*.png")} == {path.name for path in (folder / "layouts").iterdir()}
    mapped = load_run(folder)._replace(instances=(tmp_path / "instances" / "0.png",))
    asked = command.with_own_layouts(command.Arguments(folder), mapped)
    assert asked.layouts == mapped.layouts and asked.instances == tmp_path / "instances"
    convert.main(["safetensors", str(folder), str(tmp_path / "run.safetensors")])
    with console.capture() as capture, pytest.raises(SystemExit):
        command.main([str(tmp_path / "run.safetensors"), "--out", str(tmp_path / "none")])
    assert "Give at least one layout PNG" in capture.get() and not (tmp_path / "none").exists()


def test_a_run_without_checkpoints_is_refused_and_left_as_it_is(trained, tmp_path):
    (tmp_path / "run.json").write_bytes((trained[0] / "run.json").read_bytes())
    with pytest.raises(UserError, match="no checkpoint 'latest'. Steps saved: none yet"):
        load_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("whole", [b"[]", b"null", b"5", b'"x"', b"{}", b"{", b"\xff\xfe\x00", b""])
def test_a_run_json_that_is_none_is_named(tmp_path, whole):
    (tmp_path / "run.json").write_bytes(whole)
    with pytest.raises(UserError, match=r"run\.json: .+\. Fetch it again\..* remove it"):
        load_run(tmp_path)


@pytest.mark.parametrize("part", ["experiment", "label_space", "vgg19", "data"])
def test_a_run_json_that_is_damaged_in_part_is_named(trained, tmp_path, part):
    description = json.loads((trained[0] / "run.json").read_text())
    damaged = [{**description, part: value} for value in ("x", 5, None, ["x"])]
    damaged += [{key: value for key, value in description.items() if key != part}]
    for fields in damaged:
        (tmp_path / "run.json").write_text(json.dumps(fields))
        with pytest.raises(UserError, match=r"run\.json: "):
            load_run(tmp_path)


def test_a_run_of_another_version_is_named(trained, tmp_path):
    description = json.loads((trained[0] / "run.json").read_text())
    description["experiment"]["cascade"]["depth"] = 7
    del description["crc32c"]
    (tmp_path / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"run\.json: the stored experiment does not fit this version of crn_jax: .*depth"):
        load_run(tmp_path)
