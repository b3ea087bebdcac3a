"""Runs that come with crn_jax: `load_run` and the commands take their names, such as "streets".

Each is a file NAME.safetensors in the folder packaged_runs, with held-out layouts to try in the folder NAME beside it.
`tests/support/record_packaged.py` writes them.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "packaged_runs"
"""Where the runs lie."""


def packaged_names() -> list[str]:
    """Returns the names of the packaged runs."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def packaged(source: str | Path) -> str | Path:
    """Returns the file of the packaged run of this name, or `source` itself if it is something else.

    A file or folder of that name in the current folder comes first.
    """
    return FOLDER / f"{source}.safetensors" if str(source) in packaged_names() and not Path(source).exists() else source


def layouts_of(file: str | Path) -> tuple[Path, ...]:
    """Returns the files of the layouts to try that come with the file of a packaged run; there are none with others."""
    return tuple(sorted(Path(file).with_suffix("").glob("[!.]*.png"))) if Path(file).parent == FOLDER else ()
