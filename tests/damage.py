"""Damages a checkpoint a thousand times, and counts what loading it makes of that: `python -m tests.damage [--damages N]`.

Every damage is refused, or it is harmless: every array that loads is the one that was saved, bit by bit. Anything else is
silent, and there must be none of that. As many loads of the intact checkpoint must all succeed. The results stand in
docs/reliability.md.
"""

import argparse
import collections
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import absl.logging
import numpy as np

KINDS = ("flip", "burst", "zeros", "noise", "truncated", "longer", "empty", "missing", "swapped", "foreign", "link", "folder")
STEP = 4


class Target:
    """A checkpoint of a small cascade with Adam's moments and a moving average, beside an older one and another run's.

    Args:
      folder: an empty folder to work in.
    """

    def __init__(self, folder: Path):
        import jax
        import jax.numpy as jnp

        from crn_jax.cascade import CascadeConfig
        from crn_jax.checkpoint import Checkpoints
        from crn_jax.lambdas import LambdaConfig
        from crn_jax.objective import Objective
        from crn_jax.train import OptimizerConfig, abstract_state, init_state

        objective = Objective(CascadeConfig(3, (24, 16, 8)), LambdaConfig(), OptimizerConfig(ema_decay=0.5), "average", 5)
        self.abstract = abstract_state(objective)
        self.checkpoints = folder / "run" / "checkpoints"
        for seed, place in enumerate((self.checkpoints, folder / "other" / "checkpoints")):
            with Checkpoints(place, keep_last=3) as checkpoints:
                for step in (2, STEP):
                    state = init_state(objective, 10 * seed + step)._replace(step=jnp.int32(step))
                    # As after a training: moments and sums that are not zeros.
                    moments = jax.tree.map(lambda leaf: leaf + 1, state.opt_state)
                    state = state._replace(opt_state=moments)
                    checkpoints.save(step, state, 100.0 - step - seed, {})
                    if place == self.checkpoints and step == STEP:
                        self.saved = [np.asarray(leaf).copy() for leaf in jax.tree.leaves(state)]
        self.intact, self.other = folder / "intact", folder / "other" / "checkpoints" / str(STEP)
        shutil.copytree(self.checkpoints, self.intact)

    @property
    def files(self) -> list[Path]:
        """Every file of the checkpoint, relative to it."""
        place = self.intact / str(STEP)
        return sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())

    def restore(self) -> Path:
        """Puts the intact checkpoints back, and returns the folder of the one to be damaged."""
        shutil.rmtree(self.checkpoints)
        shutil.copytree(self.intact, self.checkpoints)
        return self.checkpoints / str(STEP)

    def verdict(self) -> str:
        """Loads the checkpoint as a resumed training does, and returns refused, harmless, silent, or the name of an error."""
        import jax

        from crn_jax.checkpoint import Checkpoints
        from crn_jax.errors import UserError

        try:
            with Checkpoints(self.checkpoints) as checkpoints:
                if STEP not in checkpoints.steps():
                    return "refused"
                state = checkpoints.load(STEP, self.abstract)
                best = checkpoints.best_step()
        except UserError:
            return "refused"
        except Exception as error:
            return f"a traceback: {error!r:.200}"
        loaded = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        same = [a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(loaded, self.saved)]
        return "harmless" if len(loaded) == len(self.saved) and all(same) and best == STEP else "silent"

    def damage(self, kind: str, file: Path, chance: np.random.Generator) -> str:
        """Damages a file of the checkpoint in one way, and returns what was done."""
        place = self.restore()
        path, data = place / file, bytearray((place / file).read_bytes())
        where = int(chance.integers(max(len(data), 1)))
        length = int(min(chance.integers(1, 4097), len(data) - where))
        others = [other for other in self.files if other != file]
        match kind:
            case "flip" if data:
                data[where] ^= 1 << int(chance.integers(8))
            case "burst":
                for i in range(where, min(where + 8, len(data))):
                    data[i] ^= int(chance.integers(1, 256))
            case "zeros":
                data[where : where + length] = bytes(length)
            case "noise":
                data[where : where + length] = chance.bytes(length)
            case "truncated":
                del data[where:]
            case "longer":
                data += chance.bytes(int(chance.integers(1, 1000)))
            case "empty":
                data.clear()
            case "missing":
                path.unlink()
                return f"{file} missing"
            case "swapped":
                other = others[int(chance.integers(len(others)))]
                (place / other).rename(path.with_name("swap"))
                path.rename(place / other)
                path.with_name("swap").rename(path)
                return f"{file} swapped with {other}"
            case "foreign":
                return self._foreign(path, file, chance)
            case "link":
                shutil.rmtree(place)
                place.symlink_to(self.checkpoints / "2")
                return "the step's folder is a link to step 2"
            case "folder":
                return self._folder(place, chance)
        path.write_bytes(data)
        return f"{kind} in {file} at {where}"

    def _foreign(self, path: Path, file: Path, chance: np.random.Generator) -> str:
        """Replaces a file by one of another step or run; data files, whose names differ, by whichever is there."""
        source = (self.other, self.intact / "2")[int(chance.integers(2))]
        same = source / file
        if not same.is_file():
            candidates = sorted(other for other in same.parent.glob("*") if other.is_file())
            same = candidates[int(chance.integers(len(candidates)))]
        shutil.copyfile(same, path)
        return f"{file} from {source.parent.parent.name}/{source.name}"

    def _folder(self, place: Path, chance: np.random.Generator) -> str:
        """Swaps, removes or exchanges a whole folder."""
        which = int(chance.integers(4))
        items = sorted(path.name for path in place.iterdir() if path.is_dir())
        item = items[int(chance.integers(len(items)))]
        if which == 0:
            place.rename(place.with_name("swap"))
            place.with_name("2").rename(place)
            place.with_name("swap").rename(place.with_name("2"))
            return "the folders of steps 2 and 4 swapped"
        shutil.rmtree(place / item)
        if which == 1:
            return f"{item}/ missing"
        source = (self.other, self.intact / "2")[which - 2]
        shutil.copytree(source / item, place / item)
        return f"{item}/ from {source.parent.parent.name}/{source.name}"


def campaign(
    target: Target, damages: int, intact: int, seed: int, report: Callable[[str], None]
) -> tuple[dict[str, collections.Counter], int]:
    """Damages every file in every way, again and again, and loads the intact checkpoint now and then.

    Args:
      target: what to damage.
      damages: how many damages.
      intact: how many loads of the intact checkpoint.
      seed: where and what the damages are.
      report: is told of every damage that is neither refused nor harmless.

    Returns:
      how often each kind of damage had each verdict, and how many loads of the intact checkpoint failed.
    """
    chance = np.random.default_rng(seed)
    files, counts, alarms = target.files, {kind: collections.Counter() for kind in KINDS}, 0
    for number in range(damages):
        kind = KINDS[number % len(KINDS)]
        for other in range(number // len(KINDS), 2 * damages):
            done = target.damage(kind, files[other % len(files)], chance)
            if not same_files(target.checkpoints, target.intact):
                break  # else the damage was none, such as zeros where there were zeros
        verdict = target.verdict()
        counts[kind][verdict.partition(":")[0]] += 1
        if verdict not in ("refused", "harmless"):
            report(f"{verdict}: {done}")
    target.restore()
    for _ in range(intact):
        alarms += (verdict := target.verdict()) != "harmless"
        if verdict != "harmless":
            report(f"intact: {verdict}")
    return counts, alarms


def same_files(one: Path, other: Path) -> bool:
    """Returns whether two folders hold the same files with the same contents."""
    contents = []
    for folder in (one, other):
        if any(path.is_symlink() for path in folder.iterdir()):
            return False
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    return contents[0] == contents[1]


def main() -> None:
    """Runs the campaign, prints a table, and ends with status 1 if a damage was silent or an intact load failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--intact", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    absl.logging.set_verbosity(absl.logging.FATAL)  # as in all commands: Orbax logs errors before it raises them
    with tempfile.TemporaryDirectory() as folder:
        counts, alarms = campaign(Target(Path(folder)), asked.damages, asked.intact, asked.seed, print)
    verdicts = sorted({verdict for counter in counts.values() for verdict in counter})
    print("damage", *verdicts, sep="\t")
    for kind, counter in counts.items():
        print(kind, *(counter[verdict] for verdict in verdicts), sep="\t")
    total = sum(counts.values(), collections.Counter())
    print("all", *(total[verdict] for verdict in verdicts), sep="\t")
    print(f"false alarms: {alarms} of {asked.intact} intact loads")
    sys.exit(bool(alarms or total.keys() - {"refused", "harmless"}))


if __name__ == "__main__":
    main()
