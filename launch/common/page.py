"""Writes pages: HTML files that open from disk and load no other file."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crn_jax.files import replace_text
from launch.common.output import finite


def write_page(template: str, data: Any, path: Path) -> None:
    """Writes an HTML file from a template in `launch/pages`.

    `data` takes the place of {{data}} as JSON, with null for NaN and infinities. style.css and elements.js, which the pages
    share, take the places of {{style}} and {{elements}}.
    """
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"))
    harmless = text.replace("<", "\\u003c")  # "</script>" in a name would end the data, and "<!--" would hide it
    pages = Path(__file__).parents[1] / "pages"
    page = (pages / template).read_text("utf-8")
    for place, file in (("{{style}}", "style.css"), ("{{elements}}", "elements.js")):
        page = page.replace(place, (pages / file).read_text("utf-8"))
    replace_text(path, page.replace("{{data}}", harmless, 1))


def data_url(picture: np.ndarray, lossless: bool, quality: int = 92) -> str:
    """Returns a picture, uint8 `[H, W, 3]`, as a data URL.

    It is a PNG file if `lossless`, else a JPEG file of this quality without chroma subsampling.
    """
    settings: dict[str, Any]
    kind, settings = ("png", {}) if lossless else ("jpeg", {"quality": quality, "subsampling": 0})
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
