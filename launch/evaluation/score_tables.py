"""Shows the scores of launch.evaluate as tables in a terminal."""

import contextlib
from typing import Any

import numpy as np
import rich.table
from rich.text import Text

from crn_jax.vgg_layers import TAPS


def scores_table(evaluation: dict[str, Any]) -> rich.table.Table:
    """Returns a table with a row for each score and a column for each method.

    The best value is bold. Methods that have seen the photograph do not compete.
    """
    candidates = evaluation["candidates"]
    names = [candidate["name"] for candidate in candidates]
    table = rich.table.Table("", *names, title=evaluation["title"], title_justify="left", box=None, header_style="dim")
    for score in evaluation["scores"]:
        cells = [candidate["scores"].get(score["key"]) for candidate in candidates]
        honest = [cell for cell, candidate in zip(cells, candidates) if candidate["kind"] in ("run", "images")]
        best = _best(score["better"], honest)
        unit = f", {score['unit']}" if score["unit"] else ""
        texts = [cell_text(cell, "bold" if cell and cell is best else "") for cell in cells]
        table.add_row(f"{score['title']}{unit}", *texts)
    resources = {
        "layouts a second": lambda r: number(r["layouts_per_second"], 3),
        "parameters": lambda r: f"{r['parameters']:,}",
        "peak memory in MB, by the compiler": lambda r: f"{r['peak_bytes'] / 1e6:,.0f}",
        "peak memory in MB, on the device": lambda r: f"{r['peak_bytes_in_use'] / 1e6:,.0f}",
    }
    for title, text in resources.items():
        with contextlib.suppress(KeyError):  # some devices have no counter
            table.add_row(title, *(text(c["resources"]) if c["resources"] else "" for c in candidates))
    return table


def layers_table(evaluation: dict[str, Any]) -> rich.table.Table:
    """Returns a table of the terms of the perceptual distance, layer by layer."""
    table = rich.table.Table("mean absolute difference", *TAPS, box=None, header_style="dim")
    for candidate in evaluation["candidates"]:
        table.add_row(candidate["name"], *(number(candidate["terms"][tap]) for tap in TAPS))
    return table


def protocols_table(evaluation: dict[str, Any]) -> rich.table.Table:
    """Returns a table with a row for each protocol and score, and a column for each method."""
    candidates = evaluation["candidates"]
    heads = ["protocol", "size", "void", "", *(candidate["name"] for candidate in candidates)]
    table = rich.table.Table(
        *heads, title="The same images by each protocol", title_justify="left", box=None, header_style="dim"
    )
    titles = {"miou": "mIoU, %", "accuracy": "accuracy, %", "fid": "FID"}
    for protocol in evaluation["protocols"]:
        size = "x".join(map(str, protocol["size"]))
        first = [protocol["name"], size, "wrong in accuracy" if protocol["counts_void"] else "left out"]
        for key, title in titles.items():
            cells = [candidate["protocols"][protocol["name"]].get(key) for candidate in candidates]
            if any(cells):
                table.add_row(*first, title, *(cell_text(cell, "") for cell in cells))
                first = ["", "", ""]
    return table


def _best(better: str | None, cells: list[dict[str, float] | None]) -> dict[str, float] | None:
    known = [cell for cell in cells if cell and not np.isnan(cell["value"])]
    if better is None or len(known) < 2:
        return None
    return (max if better == "higher" else min)(known, key=lambda cell: cell["value"])


def cell_text(cell: dict[str, float] | None, style: str) -> Text:
    """Returns the text of a table's cell: the value, with its spread or its interval."""
    if cell is None:
        return Text()
    texts = {key: "0" if abs(value) <= 1e-9 else number(value) for key, value in cell.items()}
    if "std" in cell:
        return Text(f"{texts['value']} ± {number(cell['std'], 2)}", style)
    if "low" not in cell or cell["low"] == cell["high"]:
        return Text(texts["value"], style)
    return Text.assemble(texts["value"], (f"\n{texts['low']} to {texts['high']}", "dim"), style=style)


def number(value: float, digits: int = 4) -> str:
    """Formats a number with so many digits, or with all digits before the point. Large ones have no exponent."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
