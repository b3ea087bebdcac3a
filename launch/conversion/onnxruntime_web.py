"""onnxruntime-web, which runs ONNX models in browsers: the files of its npm package that a page needs, and their download."""

import base64
import io
import json
import tarfile
from pathlib import Path, PurePosixPath

from crn_jax.errors import UserError
from crn_jax.files import download

VERSION = "1.30.0"
"""The release that is downloaded. The tests run it."""
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""What the registry's metadata say about this release (`dist.integrity`), and what a package-lock.json would hold."""

MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The two files in `dist` that run models in WebAssembly on a CPU."""
_ABOUT = "package.json"


def runtime_files(folder: Path | None) -> dict[str, bytes]:
    """Returns MODULE, WASM and the package's package.json, which says release and licence, by their names.

    Args:
      folder: the folder of the package, or `dist` in it. None: the package is downloaded, or taken from the cache.

    Raises:
      UserError: if a file is missing, or if the package cannot be fetched.
    """
    found = _in_folder(folder) if folder else _in_archive(download_package())
    if missing := {MODULE, WASM, _ABOUT} - found.keys():
        where = folder or ADDRESS
        raise UserError(
            f"{where}: this is not the npm package onnxruntime-web, since {', '.join(sorted(missing))} is not there. Give the "
            f"folder node_modules/onnxruntime-web, which `npm install onnxruntime-web@{VERSION}` makes, with --onnxruntime."
        )
    return found


def version_of(files: dict[str, bytes]) -> str:
    """Returns the release that the files of `runtime_files` are of."""
    try:
        return str(json.loads(files[_ABOUT])["version"])
    except (ValueError, KeyError, TypeError):
        return "of an unknown release"


def download_package(
    folder: Path | None = None, url: str = ADDRESS, integrity: str = INTEGRITY, progressbar: bool = True
) -> Path:
    """Downloads the package (33 MB) into the cache, unless it is there already, and returns its path.

    Raises:
      UserError: if the package cannot be fetched or written, or if what was fetched fails the checksum.
    """
    remedy = (
        f"Install it elsewhere by `npm install onnxruntime-web@{VERSION}`, and give its folder, "
        "node_modules/onnxruntime-web, with --onnxruntime."
    )
    method, _, digest = integrity.partition("-")
    known_hash = f"{method}:{base64.b64decode(digest).hex()}"
    return download(url, known_hash, ARCHIVE, folder, what="onnxruntime-web", remedy=remedy, progressbar=progressbar)


def _in_folder(folder: Path) -> dict[str, bytes]:
    """Reads the files that are in the folder, its `dist`, or the folder around it."""
    places = {name: [folder / name, folder / "dist" / name] for name in (MODULE, WASM)}
    places[_ABOUT] = [folder / _ABOUT, folder.parent / _ABOUT]
    there = {name: next((path for path in paths if path.is_file()), None) for name, paths in places.items()}
    try:
        return {name: path.read_bytes() for name, path in there.items() if path}
    except OSError as error:
        raise UserError(f"{error.filename}: the file cannot be read ({error.strerror}).") from error


def _in_archive(archive: Path) -> dict[str, bytes]:
    """Reads the files from the package, of which nothing else is unpacked."""
    wanted = {f"package/dist/{MODULE}", f"package/dist/{WASM}", f"package/{_ABOUT}"}
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes()), mode="r:gz") as package:
        members = [member for member in package if member.name in wanted and member.isfile()]
        opened = {PurePosixPath(member.name).name: package.extractfile(member) for member in members}
        return {name: file.read() for name, file in opened.items() if file}
