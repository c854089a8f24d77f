"""Bad files: one line each, with the file and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io.ptychoshelves import write_projection
from pipeline.io.raw import read_series
from schemas.series import Air, Series

ONES = np.ones((32, 32), np.complex64)


def write(
    path: Path, frame: np.ndarray = ONES, pixel: float = 3e-8, energy: float = 5468.0
) -> None:
    write_projection(path, frame, pixel_size_m=pixel, energy_ev=energy, angle_deg=0.0)


def with_value(value: complex) -> np.ndarray:
    frame = ONES.copy()
    frame[3, 4:8] = value
    return frame


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def replace_object(path: Path, value: object) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        if value is not None:
            file["reconstruction/object"] = value


def soft_link_to_external(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        file["away"] = h5py.ExternalLink("0_recons.h5", "/reconstruction/object")
        file["reconstruction/object"] = h5py.SoftLink("/away")


def circular_link(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        file["reconstruction/object"] = h5py.SoftLink("/reconstruction/object")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((32, 32), np.complex64)
    layout[...] = h5py.VirtualSource("0_recons.h5", "reconstruction/object", (32, 32))
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        file.create_virtual_dataset("reconstruction/object", layout)


def damaged_chunk(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        noise = np.random.default_rng(0).normal(size=(32, 32)).astype(np.complex64)
        data = file.create_dataset(
            "reconstruction/object", data=noise, chunks=(32, 32), compression="gzip"
        )
        chunk = data.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    start = chunk.byte_offset + 100
    content[start : start + 500] = b"\xff" * 500
    path.write_bytes(content)


def huge_header(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["reconstruction/object"]
        file.create_dataset("reconstruction/object", (2**20, 2**20), np.complex64, chunks=(64, 64))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "cannot be read as HDF5: the file is truncated"),
    "empty": (lambda p: p.write_bytes(b""), "file is empty (0 bytes), expected HDF5"),
    "text": (lambda p: p.write_text("x" * 3000), "cannot be read as HDF5: this is no HDF5 file"),
    "nan": (
        lambda p: write(p, with_value(np.nan)),
        "frame 1 of series 's' holds 4 non-finite values",
    ),
    "infinite": (
        lambda p: write(p, with_value(np.inf)),
        "frame 1 of series 's' holds 4 non-finite values",
    ),
    "all zero": (lambda p: write(p, 0 * ONES), "frame 1 of series 's' is zero everywhere"),
    "no object": (
        lambda p: replace_object(p, None),
        "expected a dataset 'reconstruction/object' or 'object', found reconstruction",
    ),
    "real": (
        lambda p: replace_object(p, ONES.real),
        "expected complex projections for state 'raw', found real numbers",
    ),
    "text object": (
        lambda p: replace_object(p, "none"),
        "/reconstruction/object: expected complex values, found object",
    ),
    "zero size": (
        lambda p: replace_object(p, np.empty((0, 32), np.complex64)),
        "holds no pixels: 1 frames of shape (0, 32)",
    ),
    "one-dimensional": (
        lambda p: replace_object(p, ONES[0]),
        "expected one frame (ny, nx), found shape (32,)",
    ),
    "other shape": (
        lambda p: write(p, ONES[:30]),
        "expected shape (32, 32) as in 0_recons.h5, found (30, 32)",
    ),
    "other pixel size": (
        lambda p: write(p, pixel=3.1e-8),
        "pixel size 3.1e-08 m, but 3e-08 m in 0_recons.h5",
    ),
    "other energy": (
        lambda p: write(p, energy=5400.0),
        "energy 5400 eV, but 5468 eV in 0_recons.h5",
    ),
    "external link": (soft_link_to_external, "is an external HDF5 link, which is not followed"),
    "circular link": (circular_link, "soft links lead in a circle"),
    "virtual dataset": (virtual, "keeps its values in another file, which is not followed"),
    "damaged chunk": (damaged_chunk, "values cannot be read"),
    "huge header": (huge_header, "frame shape (1048576, 1048576) is too large to be one"),
}


@pytest.fixture
def series(tmp_path: Path) -> Series:
    for index in range(3):
        write(tmp_path / f"{index}_recons.h5")
    return Series(
        name="s",
        files=["*_recons.h5"],
        tilt={"name": "t"},
        energy={"energy_ev": 5468.0},
        angles_deg=[0.0, 0.0, 0.0],
    )


def line(series: Series, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_series(series, folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_file_among_good_ones(tmp_path: Path, series: Series, fault: str) -> None:
    damage, text = BAD[fault]
    path = tmp_path / "1_recons.h5"
    damage(path)
    said = line(series, tmp_path)
    assert text in said
    assert str(path) in said


def test_what_the_beamtime_file_contradicts(tmp_path: Path, series: Series) -> None:
    for changes, text in (
        (
            {"pixel_size_m": 3.2e-8},
            "0_recons.h5: series 's': pixel size 3e-08 m, but the beamtime file says 3.2e-08 m",
        ),
        (
            {"energy": series.energy.model_copy(update={"energy_ev": 5400.0})},
            "0_recons.h5: series 's': energy 5468 eV, but the beamtime file says 5400 eV",
        ),
        (
            {"angles_deg": [0.0, 1.0]},
            "series 's': angles_deg: expected 3 angles, one for each projection, found 2",
        ),
        (
            {"angles_deg": [0.0, 0.0, 12.5]},
            "2_recons.h5: series 's': angle 0 degree of projection 2, but the beamtime file says "
            "12.5 degree",
        ),
        ({"exclude": [7]}, "series 's': exclude: names projection 7, expected 0 to 2"),
        ({"exclude": [0, 1, 2]}, "series 's': exclude: leaves none of the 3 projections"),
        (
            {"air": Air(rows=(0, 40))},
            "series 's': air: expected rows within 0 to 32, found [0, 40]",
        ),
        ({"files": ["gone.h5"]}, "file 'gone.h5' of series 's' does not exist"),
        ({"state": "phase"}, "expected real projections for state 'phase', found complex numbers"),
        ({"dataset": "elsewhere"}, "expected a dataset 'elsewhere', found reconstruction"),
    ):
        assert text in line(series.model_copy(update=changes), tmp_path)


def test_nothing_is_yielded_before_all_files_are_inspected(tmp_path: Path, series: Series) -> None:
    truncate(tmp_path / "2_recons.h5")
    with pytest.raises(InputError, match="truncated"):
        next(read_series(series, tmp_path))
