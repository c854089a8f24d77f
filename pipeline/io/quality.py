"""The quality of a series between two steps, as `.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.io.products import SeriesQuality


def save_quality(path: Path, quality: SeriesQuality) -> None:
    """Write the quality of a series as `.npz`."""
    arrays = {name: np.asarray(value) for name, value in vars(quality).items()}
    for name in ("reasons", "notes"):
        arrays[name] = arrays[name].astype(np.str_)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_quality(path: Path) -> SeriesQuality:
    """Read what `save_quality` wrote."""
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    return SeriesQuality(
        **{name: arrays[name] for name in ("angles_deg", "indices", "measures", "scores")},
        outliers=arrays["outliers"],
        reasons=tuple(arrays["reasons"].tolist()),
        excluded=tuple(int(index) for index in arrays["excluded"]),
        notes=tuple(arrays["notes"].tolist()),
    )
