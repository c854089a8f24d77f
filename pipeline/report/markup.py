"""Small pieces of HTML: numbers, tables, pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from collections.abc import Sequence
from html import escape

MAX_DOWNLOAD_BYTES = 400_000
"""Largest table inside the page, so that the page stays one that a browser opens at once."""


def format_number(value: float, uncertainty: float | None = None) -> str:
    """A number with the digits that mean something, and its uncertainty if there is one."""
    if not math.isfinite(value):
        return "n/a"
    if uncertainty is not None and math.isfinite(uncertainty) and uncertainty > 0:
        # The value to the place of the first digit of the uncertainty, or the second of a 1.
        leading = math.floor(math.log10(uncertainty))
        digits = max(0, -leading + (uncertainty < 1.95 * 10.0**leading))
        if digits <= 6 and abs(value) < 1e6:
            return f"{value:,.{digits}f} ± {uncertainty:,.{digits}f}".replace(",", " ")
        return f"{value:.3g} ± {uncertainty:.2g}"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace(",", " ")
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"


def typeset(unit: str) -> str:
    """A unit as people write it."""
    return unit.replace("angstrom", "Å").replace("^3", "³").replace("^2", "²")


def words(name: str) -> str:
    """Readable form of a figure's name."""
    text = name.removesuffix("_px").removesuffix("_deg").removesuffix("_percent")
    return escape(re.sub(r"(\d)deg\b", r"\1°", text.replace("_", " ")))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    """Table of cells that are HTML already; columns in `text` stand to the left."""

    def cells(tag: str, row: Sequence[str]) -> str:
        left = ' class="t"'
        return "".join(
            f"<{tag}{left if index in text else ''}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells('th', header)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """Picture inside the page, with a text for those who cannot see it, and a caption."""
    data = base64.b64encode(png).decode("ascii")
    legend = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">{legend}</figure>'


def download(text: str, file: str, label: str, most_bytes: int = MAX_DOWNLOAD_BYTES) -> str:
    """Link that saves `text`, which lies in the page; of a long one the lines that fit."""
    note = ""
    if len(text) > most_bytes:
        text = text[: text.rindex("\n", 0, most_bytes) + 1]
        rows = text.count("\n") - 1
        note = f" (the first {rows} rows; all of them: <code>dichrotomo export --to csv</code>)"
    data = base64.b64encode(text.encode()).decode("ascii")
    return (
        f'<a class="get" download="{escape(file)}" href="data:text/csv;base64,{data}">'
        f"{escape(label)} (CSV)</a>{note}"
    )


def pretty(text: str) -> str:
    """JSON, indented."""
    with contextlib.suppress(ValueError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"
