"""Records runs, a cache, an artifact and an ablation as the code of some commit stores them, into tests/data/stored.tar.xz.

    git worktree add /tmp/old COMMIT
    PYTHONPATH=/tmp/old python tests/support/record_stored.py tests/data/stored.tar.xz

The recorded file is of commit 812cfbe, before the modules were moved into rooms, with Python 3.11, jax 0.10.2 and Pillow 13.0.0
on a CPU. It holds what test_stored.py shows to be read by the code of today, so a newer commit must not replace it. Everything
is made by relative paths, with random VGG-19 weights, of images of 16x16.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from unittest import mock

# As conftest.py has them, so that training goes on with the same sums.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_collective_call_terminate_timeout_seconds=300"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(FLAGS), "JAX_NUM_CPU_DEVICES": "8"}
os.environ.pop("CRN_JAX_VGG19", None)

import h5py  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
from PIL import Image  # noqa: E402

import configs  # noqa: E402
from crn_jax import authors, vgg_weights  # noqa: E402
from crn_jax.ablation import Ablation, Variant  # noqa: E402
from crn_jax.data.sources import DataConfig, label_space_of, open_source  # noqa: E402
from crn_jax.errors import UserError  # noqa: E402
from crn_jax.experiment import Experiment, SegmenterExperiment, Synthesis  # noqa: E402
from crn_jax.synthesize import synthesize  # noqa: E402
from launch import ablate, convert, evaluate, train  # noqa: E402

# An exported function names the lines that it comes from: without the folders that the code lies in.
jax.config.update("jax_hlo_source_file_canonicalization_regex", r"^.*/(?=(crn_jax|launch|tests|site-packages)/)")

DATA = Path(__file__).resolve().parents[1] / "data"
SIZE, CLASSES = (16, 16), 20
STEPS, FURTHER = 10, 5
TIME = 10**9  # of the files, in seconds; a fingerprint depends on it, too
HERE = "/tmp/crn_jax_stored"  # the folder in which everything is made, since a cache's fingerprint depends on its files' folder

_TRAINED = (
    "--data.num_scenes 4 --run.validation_examples 2 --run.sheet_examples 1 --run.validate_every 5 --run.keep_last 1 "
    "--sharding.mesh 1 1"
)
_STREETS = f"--data.source streets --data.clear_days --vgg.allow_random {_TRAINED}"
RUNS = {
    "cascade": f"demo --cascade.base 4 4 --cascade.widths 4 3 2 --cascade.num_images 2 --lambdas.rescale_epoch 1 "
    f"--optimizer.ema_decay 0.9 {_TRAINED}",
    "encoder_decoder": "camvid_encoder_decoder --baseline.num_classes 20 --baseline.size 16 16 --baseline.widths 2 3 "
    f"{_STREETS}",
    "full_resolution": "camvid_full_resolution --baseline.num_classes 20 --baseline.size 16 16 --baseline.maps 2 "
    f"--baseline.layers 6 {_STREETS}",
    "segmenter": "segmenter_camvid --segmenter.num_classes 20 --segmenter.size 16 16 --segmenter.widths 2 3 "
    f"--data.source streets --data.clear_days --batch_size 2 {_TRAINED}",
    "pix2pix": "camvid_pix2pix --gan.num_classes 20 --gan.size 16 16 --gan.widths 2 2 2 "
    f"--gan.discriminator_widths 2 2 {_STREETS}",
    "gan_segmentation": "camvid_gan_segmentation --segmenter segmenter --gan.num_classes 20 --gan.size 16 16 "
    f"--gan.widths 2 3 4 --gan.discriminator_widths 2 3 {_STREETS}",
}
"""The arguments of launch.train, by run folder."""
RESUMED = ("cascade", "segmenter", "gan_segmentation")
"""The runs that the recorder resumes, to store where more steps lead."""
CACHED = (
    "demo --cascade.base 4 4 --cascade.widths 4 3 2 --vgg.no_allow_random --data.source folder --data.root own "
    "--data.labels cityscapes --data.cache caches --cache_only"
)
SUITE = {
    "as it is": f"demo --cascade.base 4 4 --cascade.widths 2 2 2 {_TRAINED}",
    "two images": f"demo --cascade.base 4 4 --cascade.widths 2 2 2 --cascade.num_images 2 {_TRAINED}",
}
ABLATION = "tiny --budget 4 --examples 2 --out ablation --vgg vgg19.h5"


def flat(name: str, tree) -> dict[str, np.ndarray]:
    """A tree's leaves by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def state_of(folder: str, kind: type) -> dict[str, np.ndarray]:
    """All that `load_run` gives of a run: parameters, and the SHA-256 of Adam's moments."""
    trained, shown = convert.load_run(folder, kind=kind, moments=True), convert.load_run(folder, kind=kind)
    digest = hashlib.sha256()
    for path, leaf in sorted(flat("", trained.opt_state).items()):
        digest.update(f"{path} {leaf.dtype.str} {leaf.shape}\n".encode() + leaf.tobytes())
    averaged = flat("shown", shown.params) if trained.experiment.optimizer.ema_decay else {}
    return flat("params", trained.params) | averaged | {"opt_state": np.array(digest.hexdigest())}


def record_runs() -> None:
    """Trains each run. Parameters, images, and parameters after more steps of those in RESUMED go to expected/NAME.npz."""
    layouts = np.random.default_rng(0).integers(0, CLASSES, (2, *SIZE)).astype(np.uint8)
    for name, arguments in RUNS.items():
        train.main([*arguments.split(), "--run.folder", name, "--steps", str(STEPS)])
        kind = SegmenterExperiment if name == "segmenter" else Synthesis
        expected = state_of(name, kind)
        if name != "segmenter":
            run = convert.load_run(name)
            images = np.asarray(synthesize(run.experiment.generator, run.params, layouts))
            expected |= {"layouts": layouts, "images": images}
        if name in RESUMED:
            shutil.copytree(name, "before")
            train.main([*arguments.split(), "--run.folder", name, "--steps", str(STEPS + FURTHER)])
            expected |= {f"resumed/{path}": leaf for path, leaf in state_of(name, kind).items()}
            shutil.rmtree(name)
            os.rename("before", name)
        np.savez(f"expected/{name}.npz", **expected)
    evaluate.main(["cascade", "--examples", "3"])


def record_conversions() -> None:
    """Records an artifact and one file of the cascade's run, and a run of TensorFlow's recorded checkpoint."""
    convert.main(["export", "cascade", "artifact"])
    convert.main(["safetensors", "cascade", "cascade.safetensors"])
    config, params, moments = authors.load_released(str(DATA / "released.ckpt"))
    Path("labels.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    data = DataConfig("folder", labels="labels.json")
    experiment = Experiment(name="released", data=data, cascade=dataclasses.replace(config, base=(8, 16)))
    description = convert.describe_run(experiment, label_space_of(data), {"weights": "file"}, {})
    convert.write_run(Path("released"), experiment, description, params, 0, moments)
    np.savez("expected/released.npz", **state_of("released", Experiment))


def record_cache() -> None:
    """A data set of streets as files, and its cache."""
    source = open_source(DataConfig("streets", num_scenes=11), "train", (24, 24))
    for i, example in enumerate(source[i] for i in range(len(source))):
        for folder, pixels in (("photographs", example["photograph"]), ("layouts", source.label_space.draw(example["layout"]))):
            path = Path("own") / folder / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            os.utime(path, (TIME, TIME))
    train.main(CACHED.split())


def record_ablation() -> None:
    """Two trainings of four steps, in processes of their own, which find their VGG-19 weights in a file."""
    with h5py.File("vgg19.h5", "w") as file:
        for name, layer in vgg_weights.random_vgg19(3).items():
            if name != "mean":
                keras = f"block{name[4]}_conv{name[6]}"
                file[f"{keras}/kernel:0"], file[f"{keras}/bias:0"] = layer["kernel"], layer["bias"]
    suite = Ablation("Which?", tuple(Variant(name, arguments) for name, arguments in SUITE.items()))
    with mock.patch.dict(configs.ABLATIONS, {"tiny": suite}):
        try:
            ablate.main(ABLATION.split())
        except SystemExit as exit_:
            assert exit_.code == 0, exit_.code
    os.remove("vgg19.h5")


def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without what only people look at, the ablation's checkpoints, which nothing reads, and the names of users."""
    path = Path(info.name)
    unread = path.parts[0] == "ablation" and path.name in ("checkpoints", "accelerators")
    if unread or path.name in ("lock", "contact_sheets", "tensorboard") or path.suffix == ".html":
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = TIME
    return info


def main() -> None:
    out = Path(sys.argv[1]).resolve()
    offline = mock.Mock(side_effect=UserError("These runs are recorded without VGG-19's weights."))
    alone = mock.patch("launch.common.processes.join", lambda processes: None)  # JAX runs here from the first training on
    os.mkdir(HERE)
    os.chdir(HERE)
    try:
        with mock.patch("crn_jax.vgg_weights.download_vgg19", offline), alone:
            os.mkdir("expected")
            record_runs()
            record_conversions()
            record_cache()
            record_ablation()
        recorded = {
            "runs": RUNS, "resumed": RESUMED, "cached": CACHED, "suite": SUITE, "ablation": ABLATION, "steps": STEPS,
            "further": FURTHER, "here": HERE, "time": TIME, "pillow": PIL.__version__, "jax": jax.__version__,
        }  # fmt: skip
        Path("recorded.json").write_text(json.dumps(recorded, indent=1))
        with tarfile.open(out, "w:xz", preset=9) as archive:
            for path in sorted(Path().iterdir()):
                archive.add(path, filter=kept)
    finally:
        shutil.rmtree(HERE)


if __name__ == "__main__":
    main()
