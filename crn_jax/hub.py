"""Runs on the Hugging Face Hub, fetched into its cache on this machine: "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION"."""

import re
from pathlib import Path

from crn_jax.errors import UserError

_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # a Path has made one slash of two
_FILES = ["*.json", "*.safetensors", "README.md", "metrics.jsonl"]  # a run needs no function that was exported


def fetched(source: str | Path) -> str | Path:
    """Returns the local folder of a run on the Hub, which it fetches if needed, or `source` itself if that is no such address.

    Raises:
      UserError: if huggingface_hub is not installed, if the run cannot be fetched, or if the repository holds no artifact.
    """
    match = _ADDRESS.fullmatch(str(source))
    if not match:
        return source
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{source} needs the package huggingface_hub: pip install 'crn_jax[hub]'") from error
    repository, revision = match.groups()
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # the Hub's client raises errors of many classes, and those of its HTTP library
        raise UserError(
            f"{source}: the run cannot be fetched from the Hugging Face Hub ({type(error).__name__}: {error})."
        ) from error
    if not (folder / "artifact.json").exists():
        raise UserError(f"{source}: {_no_artifact(folder)}")
    return folder


def _no_artifact(folder: Path) -> str:
    """Says what to do about a repository, fetched into a folder, that holds something else."""
    files = sorted(folder.glob("*.safetensors"))
    file = f" If its {files[0].name} is a run of launch.convert, give that file instead: {files[0]}" if len(files) == 1 else ""
    return (
        "the repository has no artifact.json, so it holds no artifact. Upload the artifact that "
        f"`python -m launch.convert export RUN ARTIFACT` makes: hf upload OWNER/NAME ARTIFACT.{file}"
    )
