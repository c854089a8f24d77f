"""A series over all its files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.io.ptychoshelves import write_projection
from pipeline.io.raw import (
    inspect_series,
    load_rotations,
    load_stack,
    read_series,
    sample_series,
)
from schemas.series import Series


@pytest.fixture
def frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.exp(1j * rng.normal(size=(4, 6, 8))).astype(np.complex64)


@pytest.fixture
def series(tmp_path: Path, frames: np.ndarray) -> Series:
    for index, frame in enumerate(frames):
        path = tmp_path / f"{index}_recons.h5"
        write_projection(
            path, frame, pixel_size_m=30.91e-9, energy_ev=5468.0, angle_deg=float(index)
        )
    return Series(name="s", files=["*_recons.h5"], tilt={"name": "t"}, energy={"energy_ev": 5468.0})


def test_frames_in_order(tmp_path: Path, series: Series, frames: np.ndarray) -> None:
    read = list(read_series(series, tmp_path))
    np.testing.assert_array_equal(read, frames)
    assert all(frame.dtype == np.complex64 for frame in read)


def test_excluded_frames_are_left_out_unread(
    tmp_path: Path, series: Series, frames: np.ndarray
) -> None:
    bad = np.full((6, 8), np.nan, np.complex64)
    path = tmp_path / "2_recons.h5"
    write_projection(path, bad, pixel_size_m=30.91e-9, energy_ev=5468.0, angle_deg=2.0)
    kept = series.model_copy(update={"exclude": [2]})
    np.testing.assert_array_equal(list(read_series(kept, tmp_path)), frames[[0, 1, 3]])


def test_inspection(tmp_path: Path, series: Series) -> None:
    info = inspect_series(series, tmp_path)
    assert (info.n_frames, info.shape, info.counts) == (4, (6, 8), (1, 1, 1, 1))
    assert info.pixel_size_m == pytest.approx(30.91e-9)
    assert info.energy_ev == 5468.0


def test_a_rounded_pixel_size_is_no_contradiction(tmp_path: Path, series: Series) -> None:
    rounded = series.model_copy(update={"pixel_size_m": 30.9e-9})
    assert inspect_series(rounded, tmp_path).pixel_size_m == 30.9e-9


def test_no_rotations_of_their_own(tmp_path: Path, series: Series) -> None:
    assert load_rotations(series, tmp_path) is None


def test_conjugated_files_have_matter_negative(
    tmp_path: Path, series: Series, frames: np.ndarray
) -> None:
    turned = series.model_copy(update={"conjugate": True})
    np.testing.assert_array_equal(list(read_series(turned, tmp_path)), frames.conj())


def test_rows_that_run_down_are_turned(tmp_path: Path, series: Series, frames: np.ndarray) -> None:
    assert series.rows == "up"
    turned = series.model_copy(update={"rows": "down"})
    np.testing.assert_array_equal(list(read_series(turned, tmp_path)), frames[:, ::-1])
    both = series.model_copy(update={"rows": "down", "conjugate": True})
    np.testing.assert_array_equal(list(read_series(both, tmp_path)), frames[:, ::-1].conj())
    with pytest.raises(ValidationError, match="Input should be 'up' or 'down'"):
        Series.model_validate(series.model_dump() | {"rows": "sideways"})


@pytest.mark.parametrize("ny", [6, 7])
@pytest.mark.parametrize("state", ["phase", "aligned", "differenced"])
def test_aligned_rows_keep_their_origin(tmp_path: Path, ny: int, state: str) -> None:
    stack = np.random.default_rng(0).normal(size=(3, ny, 8)).astype(np.float32)
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["exchange/data"] = stack
        file["exchange/theta"] = np.arange(3.0)
    series = Series(
        name="s",
        state=state,
        format="dataexchange",
        files=["stack.h5"],
        rows="down",
        tilt={"name": "t"},
        energy={"energy_ev": 700.0},
        contrast="scalar" if state == "differenced" else None,
    )
    found = load_stack(series, tmp_path)
    if state == "phase":
        np.testing.assert_array_equal(found, stack[:, ::-1])
        return
    # Row n // 2 stays where it is; what has no place beyond it is the lowest row of the file.
    np.testing.assert_array_equal(found[:, ny // 2], stack[:, ny // 2])
    above = stack[:, : ny // 2][:, ::-1] if ny % 2 else stack[:, 1 : ny // 2][:, ::-1]
    np.testing.assert_array_equal(found[:, ny // 2 + 1 :], above)


def test_samples_are_spread_and_other_files_stay_closed(
    tmp_path: Path, series: Series, frames: np.ndarray
) -> None:
    np.testing.assert_array_equal(list(sample_series(series, tmp_path, 2)), frames[[0, 3]])
    np.testing.assert_array_equal(list(sample_series(series, tmp_path, 9)), frames)
    kept = series.model_copy(update={"exclude": [0, 3]})
    np.testing.assert_array_equal(list(sample_series(kept, tmp_path, 2)), frames[[1, 2]])


def test_angles_may_differ_by_whole_turns_and_by_a_readback(tmp_path: Path, series: Series) -> None:
    stated = series.model_copy(update={"angles_deg": [360.0, 1.01, 2.0, 3.0]})
    assert inspect_series(stated, tmp_path).n_frames == 4


def test_an_excluded_projection_may_contradict(tmp_path: Path, series: Series) -> None:
    stated = series.model_copy(update={"angles_deg": [0.0, 77.0, 2.0, 3.0], "exclude": [1]})
    assert inspect_series(stated, tmp_path).n_frames == 4


def test_optical_density_is_of_complex_frames_too(tmp_path: Path, series: Series) -> None:
    density = series.model_copy(update={"quantity": "optical-density"})
    assert density.absorbing
    assert len(list(read_series(density, tmp_path))) == 4
    counts = series.model_copy(update={"quantity": "intensity"})
    with pytest.raises(
        InputError,
        match="expected real projections for state 'raw' and quantity 'intensity', found complex",
    ):
        inspect_series(counts, tmp_path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"quantity": "amplitude", "state": "phase"},
            "quantity 'amplitude' applies to state 'raw' only, found state 'phase'",
        ),
        (
            {"quantity": "intensity", "conjugate": True},
            "conjugate applies to quantity 'phase' only, found 'intensity'",
        ),
    ],
)
def test_quantities_that_make_no_sense(series: Series, changes: dict, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Series.model_validate(series.model_dump() | changes)
