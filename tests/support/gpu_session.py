"""Does what needs a GPU within a bounded time, stops itself, and gathers what came of it in a few files.

    python -m tests.support.gpu_session photographs --data DIR --out OUT --minutes 9.5
    python -m tests.support.gpu_session speed --out OUT --minutes 8
    python -m tests.support.gpu_session photographs --data DIR --out OUT --rehearse   # a small network and few steps, on a CPU

photographs: CamVid at 192x256 by the paper's widths, for 200 epochs with λ rescaled at epoch 100, as in the paper.
compact: the same by a cascade of 24M parameters, which is stored in pieces.
paper: the paper's comparison at 96x128 with three seeds.
speed: training steps and synthesis of several sizes, numbers of images, batches and dtypes, the most wanted first.

Given again with the same --work, a part goes on where it was stopped. The table is printed last.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np

from crn_jax.formats.safetensors_file import save_run
from crn_jax.run import load_run, read_description
from launch.ablation.record import FILE
from launch.evaluation.evaluation_file import read_evaluation

COMPACT = "640 640 512 512 256 128 64"
SMALL = "8 8 8 8 8 8 8"
PIECE = 15 << 20  # bytes

SCORES_TAKE = 120.0
"""The seconds that are kept for scoring after a training. Compiling takes most of them."""

SPEED = (  # experiment, dtype, k, batch
    ("cityscapes_256p", "bfloat16", 1, 1),
    ("cityscapes_1024p", "bfloat16", 1, 1),
    ("cityscapes_256p", "bfloat16", 1, 8),
    ("cityscapes_512p", "bfloat16", 1, 1),
    ("cityscapes_256p", "bfloat16", 9, 1),
    ("cityscapes_256p", "float32", 1, 1),
    ("cityscapes_1024p", "bfloat16", 1, 4),
    ("cityscapes_512p", "bfloat16", 1, 4),
    ("cityscapes_1024p", "float32", 1, 1),
    ("cityscapes_256p", "bfloat16", 1, 4),
    ("cityscapes_512p", "bfloat16", 9, 1),
    ("cityscapes_1024p", "bfloat16", 9, 1),
    ("cityscapes_512p", "float32", 1, 1),
    ("cityscapes_256p", "float32", 1, 8),
)


class Session:
    """The commands of one call, which all end before its time is over."""

    def __init__(self, asked: argparse.Namespace):
        self.asked, self.ends = asked, time.monotonic() + 60 * asked.minutes
        self.out, self.work = Path(asked.out), Path(asked.work) / ("rehearsal" if asked.rehearse else "")
        for folder in (self.out, self.work):
            folder.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self.ends - time.monotonic()

    def run(self, log: str, *arguments: object, keep: float = 0.0) -> None:
        """Runs a command of `launch`. It is stopped when only `keep` seconds are left; a training then saves first.

        The output is in OUT/LOG.txt. A command that fails ends the session.
        """
        words = [str(each) for each in arguments]
        print("+", *words, flush=True)
        with open(self.out / f"{log}.txt", "a") as file:
            process = subprocess.Popen([sys.executable, "-m", *words], stdout=file, stderr=subprocess.STDOUT)
            try:
                if status := process.wait(max(1.0, self.left() - keep)):
                    raise SystemExit(f"This command ended with status {status}; {file.name} says why.")
                return
            except subprocess.TimeoutExpired:
                process.terminate()
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def trained(session: Session, name: str, *arguments: str) -> list[str]:
    """Trains camvid_192x256 as in the paper, scores it with and without its moving average, and returns lines of a table."""
    folder = session.work / name
    length = "--epochs 200 --lambdas.rescale_epoch 100 --run.validate_every 7340 --run.checkpoint_every 3670"
    small = f"--steps 12 --run.validation_examples 4 --cascade.widths {SMALL} --run.validate_every 6 --run.checkpoint_every 6"
    settings = [*arguments, *(small if session.asked.rehearse else length).split(), "--run.folder", folder]
    data = ["--data.root", session.asked.data, "--data.cache", session.work / "cache"]
    session.run(name, "launch.train", "camvid_192x256", *data, "--cascade.dtype", "bfloat16", *settings, keep=SCORES_TAKE)
    run, (_, _, description) = load_run(folder, moments=True), read_description(folder)
    plain = session.work / f"{name}_without_average.safetensors"
    save_run(plain, run.params, description | {"step": run.step})
    scores = session.work / f"{name}_scores"
    few = ("--examples", "4") if session.asked.rehearse else ()
    (scores / "evaluation.json").unlink(missing_ok=True)  # that of an earlier call is of another step
    session.run(name, "launch.evaluate", folder, plain, "--out", scores, "--save_images", *few)
    gather(session, name, folder, scores)
    if name == "compact":
        averaged = load_run(folder).params
        half = session.work / "compact.safetensors"
        save_run(half, jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), averaged), description | {"step": run.step})
        content = half.read_bytes()
        for number, start in enumerate(range(0, len(content), PIECE)):
            (session.out / f"compact.safetensors.{number}").write_bytes(content[start : start + PIECE])
    if not (scores / "evaluation.json").is_file():
        return [f"{name}: step {run.step:,}, not scored in time; give the command again"]
    scored = read_evaluation(scores / "evaluation.json")["candidates"]
    means = [{key: score["value"] for key, score in each["scores"].items()} for each in scored]
    return [f"{name}: step {run.step:,}", *(f"{each['name']}: {values}" for each, values in zip(scored, means))]


def gather(session: Session, name: str, folder: Path, scores: Path) -> None:
    """Copies the metrics, the last contact sheet and the scores, and packs the images."""
    sheets = sorted((folder / "contact_sheets").glob("*.png"))
    files = [folder / "metrics.jsonl", folder / "run.json", *sheets[-1:], scores / "evaluation.json", scores / "report.html"]
    with zipfile.ZipFile(session.out / f"{name}.zip", "w") as archive:
        for file in [*files, *scores.glob("images/**/*.png")]:
            if file.is_file():
                archive.write(file, file.relative_to(session.work), zipfile.ZIP_DEFLATED)
    if sheets:
        shutil.copy(sheets[-1], session.out / f"{name}_sheet.png")


def papers_comparison(session: Session) -> list[str]:
    """Runs the suite `paper`, and returns its table."""
    tiny = ("--train=--steps 4 --run.validation_examples 4", "--budget", "4", "--examples", "4", "--only", "cascade")
    small = tiny if session.asked.rehearse else ()
    full = () if session.asked.rehearse else ("--budget", "8808", "--seeds", "3")
    out = session.work / "paper"
    session.run("paper", "launch.ablate", "paper", "--data", session.asked.data, "--out", out, *small, *full, keep=20)
    for name in ("ablation.html", "ablation.json", "ablation.md", FILE):
        if (out / name).is_file():
            shutil.copy(out / name, session.out)
    return (out / "ablation.md").read_text().splitlines() if (out / "ablation.md").is_file() else ["no results yet"]


def speeds(session: Session) -> list[str]:
    """Measures case by case, each with the rate of a matrix product at that moment, until the time is over."""
    lines = []
    for name, dtype, k, batch in SPEED[: 1 if session.asked.rehearse else None]:
        file = session.work / f"speed_{name}_{dtype}_{k}_{batch}.json"
        settings = ("--dtypes", dtype, "--remats", "none", "--num_images", k, "--batch_sizes", batch, "--json", file)
        small = ("--widths", *SMALL.split(), "--steps", "1") if session.asked.rehearse else ()
        if not file.exists() and session.left() > 60:
            session.run("speed", "launch.benchmark", name, *settings, *small, keep=15)
        if file.exists():
            (case,) = json.loads(file.read_text())["cases"]
            seconds = {key: case[key]["median"] for key in ("step_s", "forward_s") if key in case}
            lines.append(json.dumps({k: v for k, v in case.items() if not isinstance(v, list | dict)} | seconds))
    (session.out / "speed.jsonl").write_text("\n".join(lines) + "\n")
    return lines


PARTS = {
    "photographs": lambda session: trained(session, "photographs"),
    "compact": lambda session: trained(session, "compact", "--cascade.widths", *COMPACT.split()),
    "paper": papers_comparison,
    "speed": speeds,
}


def main() -> None:
    """Runs the parts that are asked for, one after the other, and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--data", help="CamVid's folder")
    parser.add_argument("--out", required=True, help="the folder for results")
    parser.add_argument("--work", default="runs/gpu_session", help="the folder for run folders")
    parser.add_argument("--minutes", type=float, default=9.5, help="after this time, everything has ended")
    parser.add_argument("--rehearse", action="store_true", help="small networks and few steps")
    asked = parser.parse_args()
    if asked.data is None and set(asked.parts) != {"speed"}:
        parser.error("the trainings need --data, CamVid's folder")
    session = Session(asked)
    tables = [PARTS[part](session) for part in asked.parts]
    print(*(line for table in tables for line in table), sep="\n")


if __name__ == "__main__":
    main()
