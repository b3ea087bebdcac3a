"""The page of launch.paint as a folder of static files, whose images onnxruntime-web makes in the browser."""

import json
from pathlib import Path
from typing import Any

from crn_jax.errors import UserError
from crn_jax.files import replace_text
from crn_jax.run import Run
from launch.conversion.onnxruntime_web import MODULE, WASM
from launch.painting.painted_run import about_canvas, about_run
from launch.painting.results import layout_png
from launch.painting.scenes import about_scenes, held_out_layouts
from launch.painting.uploads import MAX_BYTES

MODEL = "model.onnx"
_RUNTIME = "onnxruntime"  # the folder of onnxruntime-web
_PAGES = Path(__file__).parents[1] / "pages"

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
"""The page's Content-Security-Policy: it loads from its own server, and sends nothing elsewhere. Its workers inherit it."""
_CHARSET = '<meta charset="utf-8">\n'
_OPENING = ("Connecting…", "Opening… If nothing comes of it, open this folder by a web server, as its README.md says.")


def write_web_page(folder: Path, run: Run, source: str, runtime: dict[str, bytes]) -> None:
    """Writes everything but the model into a folder, which has the model as MODEL already.

    Args:
      folder: the folder.
      run: the run that is painted with.
      source: the run's folder, file or address.
      runtime: the files of onnxruntime-web, by their names.
    """
    _write_page(folder)
    (folder / _RUNTIME).mkdir()
    for name, content in runtime.items():
        (folder / _RUNTIME / name).write_bytes(content)
    layouts, space = held_out_layouts(run), run.label_space
    (folder / "layouts").mkdir()
    for number, layout in enumerate(layouts):
        (folder / "layouts" / f"{number}.png").write_bytes(layout_png(layout, space))
    _write_json(folder / "scenes.json", about_scenes(layouts, space.classes, run.generator.size))
    about = (
        about_canvas(run)
        | _about_files(run)
        | {
            "session": "",  # there is no server that could be restarted
            "runs": [about_run(source, run, run.generator.size)],
            "photographs": False,
            "command": False,
            "max_upload": MAX_BYTES,
            "files": {
                "model": {"name": MODEL, "bytes": (folder / MODEL).stat().st_size},
                "runtime": {
                    "name": f"{_RUNTIME}/{WASM}",
                    "bytes": len(runtime[WASM]),
                    "module": f"{_RUNTIME}/{MODULE}",
                },
            },
        }
    )
    _write_json(folder / "about.json", about)


def check_size(folder: Path) -> None:
    """Raises UserError if the model in the folder has its weights in a second file, which is more than a browser takes."""
    if (folder / f"{MODEL}.data").exists():
        raise UserError(
            "The model has more than 2 GB, which is more than browsers take. Paint with launch.paint, which takes it."
        )


def _about_files(run: Run) -> dict[str, Any]:
    """Describes as JSON how layout files are read and written, which launch/pages/paint_folder/layout_file.js does."""
    space = run.label_space
    return {
        "ids": {str(raw): class_id for raw, class_id in space.ids.items()},
        "void_colors": [list(color) for color in space.void_colors],
        "read_as": space.read_as,
        "fit": run.experiment.data.fit,
    }


def _write_page(folder: Path) -> None:
    """Copies the files of launch.paint's page. Those of the folder's own engine take the places of files of the same name."""
    (folder / "page").mkdir()
    for file in (_PAGES / "style.css", *(_PAGES / "paint").iterdir(), *(_PAGES / "paint_folder").iterdir()):
        if file.name != "index.html":
            (folder / "page" / file.name).write_bytes(file.read_bytes())
    page = (_PAGES / "paint" / "index.html").read_text("utf-8")
    policy = f'{_CHARSET}<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    for old, new in ((_CHARSET, policy), _OPENING):
        assert page.count(old) == 1
        page = page.replace(old, new)
    replace_text(folder / "index.html", page)


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    replace_text(path, json.dumps(fields, separators=(",", ":")))
