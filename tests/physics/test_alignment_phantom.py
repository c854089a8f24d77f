"""Alignment of whole series: a closed-form phantom, a simulated beamtime, published frames."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from pipeline.align.assemble import nominal_base, place
from pipeline.align.consistency import align_series, alignment_residual
from pipeline.align.motion import move_frame
from pipeline.align.pairs import average_pair, register_pair
from pipeline.align.register import register_volumes
from pipeline.io.beamtime import load_beamtime, series_angles
from pipeline.io.raw import inspect_series, read_series
from pipeline.preprocess.prepare import prepare_series
from pipeline.preprocess.resample import shift_frames
from pipeline.simulate.beamtime import simulate_beamtime
from pipeline.stacks import PhaseStack
from pipeline.tomography.geometry import rotation_y
from schemas.recipe import AlignSettings

FEPT = Path(__file__).parents[2] / "../shared/data/fept-misaligned"


def ellipsoid_frames(parts, angles, shifts, n=64, over=3):
    """Chords through ellipsoids `(centre, matrix, value)`, averaged over each pixel."""
    fine = ((np.arange(n) - n // 2)[:, None] + (np.arange(over) - (over - 1) / 2) / over).ravel()
    frames = np.zeros((len(angles), n, n))
    for index, angle in enumerate(angles):
        turn = rotation_y(angle)
        for centre, matrix, value in parts:
            c, a = turn @ centre, turn @ matrix @ turn.T
            x = fine[None, :] - shifts[index, 1] - c[0]
            y = fine[:, None] - shifts[index, 0] - c[1]
            linear = a[0, 2] * x + a[1, 2] * y
            rest = a[0, 0] * x**2 + 2 * a[0, 1] * x * y + a[1, 1] * y**2 - 1
            chord = 2 * np.sqrt(np.clip(linear**2 - a[2, 2] * rest, 0, None)) / a[2, 2]
            frames[index] += value * chord.reshape(n, over, n, over).mean(axis=(1, 3))
    return frames


@pytest.fixture(scope="module")
def phantom():
    """Pillar-like phantom: 48 frames over half a turn, shifted by up to 9 pixels."""
    rng = np.random.default_rng(11)
    parts = [(np.array([1.0, -1.0, 2.0]), np.diag([1 / 14**2, 1 / 19**2, 1 / 12**2]), 0.03)]
    for _ in range(14):
        axes, _triangle = np.linalg.qr(rng.normal(size=(3, 3)))
        matrix = axes @ np.diag(1 / rng.uniform(2, 5, 3) ** 2) @ axes.T
        centre = parts[0][0] + rng.uniform(-0.5, 0.5, 3) * [14, 19, 12]
        parts.append((centre, matrix, 0.03 * rng.choice([-0.6, 0.3])))
    angles = np.arange(48) * np.pi / 48
    shifts = rng.uniform(-9, 9, (48, 2))
    return ellipsoid_frames(parts, angles, shifts), angles, shifts


def test_shifts_of_a_noisy_series(phantom):
    matter, angles, shifts = phantom
    noise = np.random.default_rng(0).normal(0, 3e-3, matter.shape)
    found = align_series((-matter + noise).astype(np.float32), angles)
    rms, _ = alignment_residual(found.shifts, -shifts, angles)
    # Noise and few angles.
    assert rms < 0.03
    assert found.converged


def test_left_over_offset_and_slope_do_not_move_frames(phantom):
    matter, angles, shifts = phantom
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    planes = rng.normal(0, 0.005, (3, 48, 1, 1))
    phase = -matter + planes[0] + planes[1] * y + planes[2] * x
    found = align_series(phase.astype(np.float32), angles)
    assert alignment_residual(found.shifts, -shifts, angles)[0] < 0.05


def test_an_axis_off_the_centre_is_found(phantom):
    matter, angles, shifts = phantom
    found = align_series(np.roll(-matter, 3, axis=2).astype(np.float32), angles)
    offset = np.array([0.0, 3.0])
    assert alignment_residual(found.shifts, -shifts - offset, angles)[0] < 0.05


def test_a_tilt_of_the_axis_is_corrected(phantom):
    matter, angles, shifts = phantom
    turned = [move_frame(frame, 0.0, 0.0, np.deg2rad(1.0)) for frame in matter.astype(np.float32)]
    found = align_series(-np.stack(turned), angles)
    assert found.axis_tilt_deg == pytest.approx(-1.0, abs=0.05)
    assert np.allclose(found.turns_rad, np.deg2rad(found.axis_tilt_deg), atol=1e-3)
    # Frames are turned back first, then shifted as if the axis had been upright.
    assert alignment_residual(found.shifts, -shifts, angles)[0] < 0.03
    kept = align_series(-np.stack(turned), angles, AlignSettings(refine_axis=False))
    # One round sees most of a tilt, but not all while the volume is blurred by it.
    assert -1.0 < kept.axis_tilt_deg < -0.5
    assert not kept.turns_rad.any()


def test_similarity_finds_turns_and_scales_too(phantom):
    matter, angles, shifts = phantom
    rng = np.random.default_rng(2)
    turns, scales = rng.normal(0, 0.01, 48), np.exp(rng.normal(0, 0.006, 48))
    frames = np.stack(
        [
            move_frame(frame, 0.0, 0.0, turn, scale)
            for frame, turn, scale in zip(matter.astype(np.float32), turns, scales, strict=True)
        ]
    )
    found = align_series(-frames, angles, AlignSettings(model="similarity"))
    assert alignment_residual(found.shifts, -shifts, angles)[0] < 0.06
    sinusoid = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rest = found.turns_rad + turns
    rest -= sinusoid @ np.linalg.lstsq(sinusoid, rest, rcond=None)[0]
    assert rest.std() < 1e-3
    growth = np.log(found.scales * scales)
    assert growth.std() < 1e-3


@pytest.mark.parametrize("columns", [slice(24, None), slice(0, 42)])
def test_a_sample_that_leaves_the_field_is_aligned(phantom, columns):
    matter, angles, shifts = phantom
    noise = np.random.default_rng(4).normal(0, 3e-3, matter.shape)
    frames = (-matter + noise)[:, :, columns].astype(np.float32)
    centre = (frames.shape[2] // 2) - (32 - (columns.start or 0))
    found = align_series(frames, angles)
    assert found.partial.sum() > 20
    rms, _ = alignment_residual(found.shifts, -shifts + [0.0, centre], angles)
    # Nearly a third of the sample is never seen in some of the frames.
    assert rms < 0.15
    assert found.volume.shape[0] > frames.shape[2] // 2


def test_what_is_aligned_stays_and_costs_little(phantom):
    matter, angles, shifts = phantom
    still = shift_frames(-matter.astype(np.float32), -shifts)
    found = align_series(still, angles)
    # A round costs less by the cube of its binning: two at full resolution, and little beside.
    assert np.sum(1.0 / found.levels.astype(np.float64) ** 3) < 2.5
    assert alignment_residual(found.shifts, np.zeros((48, 2)), angles)[0] < 0.02
    again = align_series(still, angles, start=found.shifts)
    assert set(again.levels) == {1}
    assert np.abs(again.shifts - found.shifts).max() < 0.03


def test_stopping_early_keeps_what_is_there(phantom):
    matter, angles, shifts = phantom
    found = align_series(-matter.astype(np.float32), angles, stop=lambda: True)
    assert len(found.residual) == 1
    assert not found.converged
    assert alignment_residual(found.shifts, -shifts, angles)[0] < 0.5
    assert found.volume.max() > 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Phase stacks and truth of the smallest simulated beamtime, three of its mountings."""
    folder = tmp_path_factory.mktemp("aligned") / "tiny"
    loaded = load_beamtime(simulate_beamtime(folder, "tiny", 0))
    stacks: dict[str, PhaseStack] = {}
    for series in loaded.beamtime.series:
        info = inspect_series(series, loaded.folder)
        stacks[series.name] = prepare_series(
            read_series(series, loaded.folder),
            series_angles(series, loaded.folder),
            info.pixel_size_m,
            series.energy.energy_ev,
            30.91e-9,
        )
    return stacks, folder / "truth.h5"


def _true_shifts(group, shape, pixel_size_m):
    """Shifts that centre the sample, in pixels of `pixel_size_m`."""
    scale = group.attrs["pixel_size_m"] / pixel_size_m
    return (np.array(shape) // 2 - group["origin_px"][:]) * scale


def test_beamtime_from_raw_frames_to_one_sample_frame(tiny):
    stacks, truth_file = tiny
    shifts, volumes = {}, {}
    with h5py.File(truth_file) as truth:
        for name in ("tilt1", "tilt2", "tilt3"):
            a, b = stacks[f"{name}_lh"], stacks[f"{name}_lv"]
            pair = register_pair(a, b)
            found = align_series(average_pair(a, b, pair), np.deg2rad(a.angles_deg))
            shifts[name], volumes[name] = found.shifts, found.volume
            for partner, total in (("lh", found.shifts), ("lv", found.shifts + pair)):
                group = truth["series"][f"{name}_{partner}"]
                wanted = _true_shifts(group, a.data.shape[1:], a.pixel_size_m)
                rms, _ = alignment_residual(total, wanted, np.deg2rad(a.angles_deg))
                # 24 angles and few detector pixels; dichroism.
                assert rms < 0.15, (name, partner)
        centre = None
        for name, tilt in (("tilt1", (0, 0)), ("tilt2", (30, 0)), ("tilt3", (30, 90))):
            motion = register_volumes(volumes["tilt1"], volumes[name], nominal_base(*tilt))
            placed = place(stacks[f"{name}_lh"], shifts[name], motion.rotation, motion.shift)
            group = truth["series"][f"{name}_lh"]
            error = Rotation.from_matrix(motion.rotation @ group.attrs["mounting"].T).magnitude()
            assert np.rad2deg(error) < 0.2, name
            turns = placed.rotations @ motion.rotation.T
            total = shifts[name] - (turns @ motion.shift)[:, [1, 0]]
            rest = total - _true_shifts(group, placed.data.shape[1:], placed.pixel_size_m)
            # All mountings must agree where the sample's origin lies: three numbers in all.
            rows = group["rotations"][:][:, [1, 0]].reshape(-1, 3)
            if centre is None:
                centre = np.linalg.lstsq(rows, rest.ravel(), rcond=None)[0]
            assert np.sqrt(np.mean((rest.ravel() - rows @ centre) ** 2)) < 0.2, name


def test_tiny_ramps_are_removed(tiny):
    stacks, truth_file = tiny
    with h5py.File(truth_file) as truth:
        for name, stack in stacks.items():
            found = np.stack([stack.diagnostics[f"ramp_{axis}"] for axis in "yx"], axis=1)
            error = np.abs(found - truth["series"][name]["ramps"][:]).max()
            assert error * stack.data.shape[1] < 1e-3


@pytest.mark.skipif(not FEPT.exists(), reason="../shared/data/fept-misaligned is not there")
def test_published_shifts_are_recovered_exactly():
    stored = loadmat(FEPT / "projections_FePt_misaligned.mat")["misaligned_pj"]
    # MATLAB axes: the first runs across the tilt axis, the second along it.
    frames = (-stored / stored.max()).transpose(2, 1, 0).astype(np.float32)
    applied = np.loadtxt(FEPT / "fept_shifts.txt")[:, [1, 0]]
    angles = np.deg2rad(np.arange(-90.0, 91.0, 5.0))
    found = align_series(frames, angles)
    _, residual = alignment_residual(found.shifts, -applied, angles)
    # Whole pixels were applied: rounding what is found gives them, up to a rigid motion.
    assert np.abs(residual).max() < 0.5


@pytest.mark.skipif(not FEPT.exists(), reason="../shared/data/fept-misaligned is not there")
def test_published_missing_wedge_aligns():
    stored = loadmat(FEPT / "projections_FePt_misaligned.mat")["misaligned_pj"][..., 8:29]
    frames = (-stored / stored.max()).transpose(2, 1, 0).astype(np.float32)
    applied = np.loadtxt(FEPT / "fept_shifts.txt")[8:29, [1, 0]]
    angles = np.deg2rad(np.arange(-50.0, 51.0, 5.0))
    found = align_series(gaussian_filter(frames, (0, 0.5, 0.5)), angles)
    assert np.abs(alignment_residual(found.shifts, -applied, angles)[1]).max() < 0.5


@pytest.mark.skipif(not FEPT.exists(), reason="../shared/data/fept-misaligned is not there")
@pytest.mark.parametrize(("name", "kept"), [("noisy", slice(None)), ("mw", slice(8, 29))])
def test_published_shifts_on_noisy_and_missing_wedge_sets(name, kept):
    content = loadmat(FEPT / f"projections_FePt_{name}.mat")
    stored = next(value for key, value in content.items() if not key.startswith("__"))
    applied = np.loadtxt(FEPT / "fept_shifts.txt")[kept][:, [1, 0]]
    frames = (-stored / stored.max()).transpose(2, 1, 0).astype(np.float32)
    moved = [np.roll(f, s.astype(int), (0, 1)) for f, s in zip(frames, applied, strict=True)]
    angles = np.deg2rad(np.arange(-90.0, 91.0, 5.0))[kept]
    found = align_series(np.stack(moved), angles)
    assert np.abs(alignment_residual(found.shifts, -applied, angles)[1]).max() < 0.5
