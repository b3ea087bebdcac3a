"""The container image, which cannot be built here: what it copies is there, and what it installs suits the project."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ("cpu", "cuda12", "cuda13", "tpu")


def locked(devices: str) -> dict[str, str]:
    """The versions in a lock file, each of which has hashes."""
    text = (ROOT / "docker" / f"{devices}.txt").read_text()
    entries = [entry for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]
    assert all("--hash=sha256:" in entry for entry in entries)
    return dict(entry.split()[0].split("==") for entry in entries)


@pytest.mark.quick
@pytest.mark.parametrize("devices", DEVICES)
def test_an_image_has_all_that_the_project_needs(devices):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    needed += project["project"]["optional-dependencies"].get(devices, [])
    versions = locked(devices)
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
    plugin = {"cpu": "jaxlib", "tpu": "libtpu"}.get(devices, f"jax-{devices}-plugin")
    assert plugin in versions


@pytest.mark.quick
def test_the_image_copies_only_what_is_there_and_not_ignored():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored  # but for these
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for name in copied:
        for each in [name.replace("${DEVICES}", devices) for devices in DEVICES]:
            assert (ROOT / each).exists() and any(fnmatch.fnmatch(each, pattern) for pattern in kept), each


@pytest.mark.quick
def test_the_images_that_guides_and_manifests_build_are_known():
    texts = [path.read_text() for path in (ROOT / "Dockerfile", *ROOT.glob("launch/*.yaml"), *ROOT.glob("docs/*.md"))]
    shown = re.findall(r"--build-arg (\w+)=(\w+)", "\n".join(texts))
    assert len(shown) >= 3 and set(shown) <= {("DEVICES", devices) for devices in DEVICES}
