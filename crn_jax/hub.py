"""Runs on the Hugging Face Hub, fetched into its cache on this machine: "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION"."""

import re
from pathlib import Path

from crn_jax.errors import UserError

_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # a Path has made one slash of two
_FILES = ["*.json", "*.safetensors", "README.md", "metrics.jsonl"]  # a run needs no function that was exported


def fetched(source: str | Path) -> str | Path:
    """Returns the local folder of a run on the Hub, which it fetches if needed, or `source` itself if that is no such address.

    Raises:
      UserError: if huggingface_hub is not installed, or the run cannot be fetched.
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
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # the Hub's client raises errors of many classes, and those of its HTTP library
        raise UserError(
            f"{source}: the run cannot be fetched from the Hugging Face Hub ({type(error).__name__}: {error})."
        ) from error
