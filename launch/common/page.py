"""Pages: HTML files that open from disk and ask for nothing else."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from launch.common.output import finite


def write_page(template: str, data: Any, path: Path) -> None:
    """Writes an HTML file: a template of `pages`, filled in with `data` as JSON (see `finite`) in the place of {{data}}.

    style.css and elements.js, which several pages have in common, take the places of {{style}} and {{elements}}.
    """
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"))
    harmless = text.replace("<", "\\u003c")  # neither "</script>" nor "<!--" in a name may end or hide the data
    pages = Path(__file__).parents[1] / "pages"
    page = (pages / template).read_text("utf-8")
    for place, file in (("{{style}}", "style.css"), ("{{elements}}", "elements.js")):
        page = page.replace(place, (pages / file).read_text("utf-8"))
    path.write_text(page.replace("{{data}}", harmless, 1), "utf-8")


def data_url(picture: np.ndarray, lossless: bool, quality: int = 92) -> str:
    """A picture uint8 `[H, W, 3]` as PNG or, if it need not be lossless, as JPEG of this quality without chroma subsampling."""
    kind, settings = ("png", {}) if lossless else ("jpeg", {"quality": quality, "subsampling": 0})
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
