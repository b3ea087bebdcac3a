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


def packaged_layouts(file: Path) -> tuple[Path, ...]:
    """Returns the layouts to try that come with a packaged run, by the run's file."""
    return tuple(sorted((file.parent / f"{file.stem}_layouts").glob("*.png")))
