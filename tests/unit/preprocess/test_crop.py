"""The common rectangle of a series with empty or spoilt borders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import reader_for
from pipeline.preprocess.crop import common_crop, describe_crop
from pipeline.preprocess.prepare import prepare_series

NY, NX = 96, 90
Y, X = np.mgrid[:NY, :NX].astype(float)
DATA = Path(__file__).parents[3] / "../shared/data"
PTYR = DATA / "ptypy-ptyr/scan_scan1.ptyr"
CXI = DATA / "als-cosmic-856ev/ptycho-scan-856eV.cxi"
WHOLE = (slice(0, NY), slice(0, NX))


def frame(seed: int, noise: float = 0.01) -> np.ndarray:
    """A pillar in air."""
    rng = np.random.default_rng(seed)
    depth = np.sqrt(np.clip(1 - ((X - 45) / 20) ** 2 - ((Y - 48) / 25) ** 2, 0, None))
    both = rng.normal(0.0, noise, (2, NY, NX))
    return (np.exp(-(0.05 + 1j) * depth) + both[0] + 1j * both[1]).astype(np.complex64)


def emptied(seed: int, rows: slice, columns: slice, fill: complex = 0.0) -> np.ndarray:
    """Frame that measured nothing outside some rows and columns."""
    whole = frame(seed)
    made = np.full_like(whole, fill)
    made[rows, columns] = whole[rows, columns]
    return made


def test_whole_frames_stay_to_the_bit() -> None:
    frames = [frame(k) for k in range(3)]
    part = common_crop(frames)
    assert part == WHOLE
    assert describe_crop(part, (NY, NX)) == ""
    angles = np.arange(3.0)
    plain = prepare_series(frames, angles, 1e-8, 900.0)
    np.testing.assert_array_equal(
        prepare_series(frames, angles, 1e-8, 900.0, crop=part).data, plain.data
    )


@pytest.mark.parametrize("fill", [0.0, 1.0, 1.0 + 1.0j, 0.3])
def test_empty_borders_are_cut_off(fill: complex) -> None:
    kept = slice(9, 88), slice(8, 84)
    frames = [emptied(k, *kept, fill) for k in range(4)]
    part = common_crop(frames)
    # The centre pixel 48, 45 stays the centre pixel: 39 and 37 pixels on either side of it.
    assert part == (slice(9, 88), slice(8, 83))
    for side, n in zip(part, (NY, NX), strict=True):
        assert side.start + (side.stop - side.start) // 2 == n // 2
    text = describe_crop(part, (NY, NX))
    assert text.startswith("Cut to rows 9 to 87 and columns 8 to 82 of 96 x 90 pixels")
    stack = prepare_series(frames, np.arange(4.0), 1e-8, 900.0, crop=part)
    assert stack.data.shape == (4, 79, 75)
    assert np.abs(stack.data[:, :10].mean()) < 0.01
    assert stack.diagnostics["quality_missing"].max() == 0.0


def test_borders_of_nan_are_cut_off_and_told(tmp_path: Path) -> None:
    import h5py

    from flows.steps.prepare import prepare
    from pipeline.io.quality import read_quality
    from pipeline.io.stacks import load_phase
    from schemas.recipe import PhaseSettings, ResampleSettings
    from schemas.series import Series

    stack = np.full((4, NY, NX), np.nan + 0j, np.complex64)
    for k in range(4):
        # Constant below, and another width in every frame at the left; a ring of zeros inside.
        stack[k, 9:88, 5 + k : 82] = frame(k)[9:88, 5 + k : 82]
        stack[k, 9, 5 + k : 82] = 0.0
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["exchange/data"] = stack
        file["exchange/theta"] = np.arange(4.0)
    series = Series(
        name="s",
        format="dataexchange",
        files=["stack.h5"],
        tilt={"name": "t"},
        energy={"energy_ev": 900.0},
        pixel_size_m=1e-8,
    )
    (tmp_path / "out").mkdir()
    prepare(tmp_path / "out", series, tmp_path, [], 1e-8, ResampleSettings(), PhaseSettings())
    quality = read_quality(tmp_path / "out" / "quality.npz")
    (note,) = quality.notes
    assert note.startswith("Cut to rows 10 to 86 and columns 8 to 81 of 96 x 90 pixels")
    found = load_phase(tmp_path / "out" / "phase.h5")
    assert np.isfinite(found.data).all()
    assert found.diagnostics["quality_missing"].max() == 0.0
    inside = stack.copy()
    inside[2, 40, 41] = np.nan
    with h5py.File(tmp_path / "stack.h5", "a") as file:
        file["exchange/data"][...] = inside
    text = (
        "frame 2 of series 's' holds 1 non-finite values, the first at row 40, column 41; exclude"
    )
    with pytest.raises(InputError, match=text):
        prepare(tmp_path / "out", series, tmp_path, [], 1e-8, ResampleSettings(), PhaseSettings())


def test_a_border_on_one_side_is_not_cut_from_the_other_too() -> None:
    frames = [emptied(k, slice(0, NY), slice(30, NX)) for k in range(3)]
    assert common_crop(frames) == (slice(0, NY), slice(30, NX))


def test_a_few_bad_frames_do_not_narrow_the_series() -> None:
    frames = [frame(k) for k in range(6)]
    frames[2] = emptied(2, slice(0, NY), slice(50, NX))
    frames[4] = np.zeros_like(frames[4])
    frames += [frame(k) for k in range(6, 9)]
    assert common_crop(frames) == WHOLE


def test_calculated_air_of_one_value_is_no_empty_border() -> None:
    assert common_crop([frame(0, noise=0.0)] * 2) == WHOLE


def test_nothing_usable_is_left_to_the_quality() -> None:
    rng = np.random.default_rng(0)
    noise = np.exp(1j * rng.uniform(-np.pi, np.pi, (NY, NX))).astype(np.complex64)
    assert common_crop([noise]) == WHOLE
    with pytest.raises(InputError, match="expected frames to crop, found none"):
        common_crop([])
    with pytest.raises(InputError, match=r"expected frames of shape \(96, 90\), found \(90, 90\)"):
        common_crop([frame(0), frame(1)[:90]])


@pytest.mark.skipif(not PTYR.is_file(), reason="needs ../shared/data/ptypy-ptyr")
def test_real_reconstruction_with_an_empty_border() -> None:
    (image,) = reader_for("ptypy").frames(PTYR)
    part = common_crop([image] * 3)
    stack = prepare_series([image] * 3, np.arange(3.0), 63.58e-9, 6200.0, crop=part)
    assert stack.data[0].size > 0.35 * image.size
    assert np.isfinite(stack.data).all()
    # Air is the level that most of the frame has; vortices of an unfinished run are cut out.
    assert abs(float(np.median(stack.data))) < 0.1
    assert stack.diagnostics["residues"][0] > 100
    assert 0 < stack.diagnostics["filled"][0] < 0.1 * stack.data[0].size


@pytest.mark.skipif(not CXI.is_file(), reason="needs ../shared/data/als-cosmic-856ev")
def test_real_reconstruction_with_a_good_border() -> None:
    (image,) = reader_for("cxi").frames(CXI)
    part = common_crop([image])
    assert part == (slice(0, 285), slice(0, 285))
    stack = prepare_series([image], np.zeros(1), 6e-9, 855.9, crop=part)
    assert np.isfinite(stack.data).all()
    assert abs(float(np.median(stack.data[0, :10]))) < 0.1
    assert stack.diagnostics["matter"][0] < -0.2
    assert stack.diagnostics["filled"][0] == 0
