"""Tables and curves as CSV: units in the header, every row, every digit."""

from __future__ import annotations

from pathlib import Path

from pipeline.io.csv_text import curve_csv, table_csv
from pipeline.io.export.content import result_curves, result_tables
from pipeline.io.products import ResultData


def export_csv(folder: Path, data: ResultData) -> list[Path]:
    """Write every table and curve, and the numbers to quote, each into a file of its own."""
    texts = {name: table_csv(table) for name, table in result_tables(data).items()}
    texts |= {name: curve_csv(curve) for name, curve in result_curves(data).items()}
    written = []
    for name, text in texts.items():
        written.append(folder / f"{name}.csv")
        written[-1].write_text(text, encoding="utf-8")
    return written
