"""Where a person says that the air of a series is."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io.air import load_air
from schemas.series import Series


def series(**changes: object) -> Series:
    base = {"name": "s", "files": ["*.h5"], "tilt": {"name": "t"}, "energy": {"energy_ev": 700.0}}
    return Series.model_validate(base | changes)


def test_rectangle(tmp_path: Path) -> None:
    assert load_air(series(), tmp_path, (8, 6)) is None
    mask = load_air(series(air={"rows": [0, 3], "columns": [1, 4]}), tmp_path, (8, 6))
    assert mask is not None
    assert np.argwhere(mask).min(axis=0).tolist() == [0, 1]
    assert mask.sum() == 9
    # Counted as in the files; here the first row is at the top.
    turned = load_air(series(air={"rows": [0, 3]}, rows="down"), tmp_path, (8, 6))
    assert turned is not None
    assert turned[5:].all()
    assert turned.sum() == 18


def test_mask(tmp_path: Path) -> None:
    wanted = np.zeros((8, 6), np.uint8)
    wanted[2:5, :2] = 1
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["air"] = wanted
        file["none"] = 0 * wanted
    found = load_air(series(air={"file": "mask.h5"}), tmp_path, (8, 6))
    np.testing.assert_array_equal(found, wanted > 0)
    for air, shape, text in (
        ({"file": "mask.h5", "dataset": "x"}, (8, 6), "expected a dataset 'x', found air, none"),
        (
            {"file": "mask.h5"},
            (8, 7),
            r"air: expected a mask of shape \(8, 7\), found uint8 \(8, 6",
        ),
        ({"file": "mask.h5", "dataset": "none"}, (8, 6), "the mask holds no air"),
        ({"file": "gone.h5"}, (8, 6), "gone.h5: series 's': air.file: file does not exist"),
        ({"rows": [2, 9]}, (8, 6), r"series 's': air: expected rows within 0 to 8, found \[2, 9\]"),
    ):
        with pytest.raises(InputError, match=text):
            load_air(series(air=air), tmp_path, shape)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rows and columns of a rectangle, or a file"):
        series(air={})
    with pytest.raises(ValueError, match="expected rows and columns of a rectangle, or a file"):
        series(air={"rows": [0, 2], "file": "mask.h5"})
    with pytest.raises(
        ValueError, match=r"air\.rows: expected \[first, last \+ 1\], found \[4, 2\]"
    ):
        series(air={"rows": [4, 2]})
    with pytest.raises(ValueError, match="air applies to state 'raw' only, found 'phase'"):
        series(air={"rows": [0, 2]}, state="phase")
