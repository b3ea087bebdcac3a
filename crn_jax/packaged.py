"""The trained runs that come with crn_jax: each a `.safetensors` file with layouts to try, which `load_run` finds by name."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "packaged_runs"

PACKAGED = tuple(sorted(file.stem for file in _FOLDER.glob("*.safetensors")))
"""The names of the packaged runs."""


def packaged_file(run: str | Path) -> Path | None:
    """Returns the file of the packaged run of this name.

    The result is None if no packaged run has this name, or if there is a file or a folder of this name, which goes first.
    """
    path = Path(run)
    return _FOLDER / f"{path}.safetensors" if str(path) in PACKAGED and not path.exists() else None


def is_run(path: Path) -> bool:
    """Returns whether `load_run` would take a path for a run: a run folder, an artifact, a file, an address, or a name."""
    is_folder = (path / "run.json").is_file() or (path / "artifact.json").is_file()
    is_file = path.suffix == ".safetensors" and path.is_file()
    return is_folder or is_file or path.parts[:1] == ("hf:",) or packaged_file(path) is not None


def output_folder(run: Path, name: str) -> Path:
    """Returns the folder for what is made with a run: RUN/NAME for a run folder, and RUN_NAME in the current one for others.

    An artifact stays as it was exported, and a folder with the name of a packaged run would hide the run.
    """
    return run / name if (run / "run.json").is_file() else Path(f"{run.absolute().stem}_{name}")


def packaged_layouts(file: Path) -> tuple[Path, ...]:
    """Returns the layouts to try that come with a packaged run, by the run's file."""
    return tuple(sorted((file.parent / f"{file.stem}_layouts").glob("*.png")))
