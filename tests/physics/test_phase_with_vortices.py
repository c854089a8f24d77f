"""From wrapped projections with vortices to the density: by the phase's derivative, and unwrapped.

The phantom is made of Gaussian blobs, whose projections are known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.align.consistency import align_series, alignment_residual
from pipeline.preprocess.air import fit_air
from pipeline.preprocess.phase_derivative import phase_differences
from pipeline.preprocess.prepare import prepare_series, residue_note
from pipeline.preprocess.resample import shift_frames
from pipeline.tomography.fbp import filtered_back_projection
from schemas.recipe import PhaseSettings

N, FRAMES, DEPTH = 72, 40, 14.0
ANGLES = np.arange(FRAMES) * np.pi / FRAMES
GRID = np.arange(N) - N // 2


@dataclass(frozen=True)
class Measured:
    """Transmissions with up to 14 rad, ramps and two vortex pairs each, and what is true."""

    frames: list[NDArray[np.complex64]]
    phase: NDArray[np.float64]
    volume: NDArray[np.float64]
    shifts: NDArray[np.float64]


@pytest.fixture(scope="module")
def series() -> Measured:
    rng = np.random.default_rng(5)
    blobs = [(np.zeros(3), 8.0, 1.0)]
    blobs += [(rng.uniform(-9, 9, 3), w, 0.3) for w in rng.uniform(2.2, 3.5, 12)]
    shifts = rng.uniform(-5, 5, (FRAMES, 2))
    z, y, x = np.meshgrid(GRID, GRID, GRID, indexing="ij")
    volume = np.zeros((N, N, N))
    depth = np.zeros((FRAMES, N, N))
    for (px, py, pz), width, value in blobs:
        r2 = (x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2
        volume += value * np.exp(-r2 / 2 / width**2)
        for index, angle in enumerate(ANGLES):
            row = GRID[:, None] - py - shifts[index, 0]
            column = GRID - np.cos(angle) * px - np.sin(angle) * pz - shifts[index, 1]
            chord = np.exp(-(row**2 + column**2) / 2 / width**2)
            depth[index] += value * width * np.sqrt(2 * np.pi) * chord
    scale = DEPTH / depth.max()
    frames = []
    for index in range(FRAMES):
        phase = -scale * depth[index]
        for _ in range(2):
            middle, turn = rng.uniform(-11, 11, 2) + shifts[index], rng.uniform(0, 2 * np.pi)
            dy, dx = 3.0 * np.sin(turn), 3.0 * np.cos(turn)
            for sign in (1, -1):
                up = GRID[:, None] - middle[0] - sign * dy
                phase = phase + sign * np.arctan2(up, GRID - middle[1] - sign * dx)
        ramp = rng.uniform(-0.05, 0.05, 2)
        phase += ramp[0] * GRID[:, None] + ramp[1] * GRID + rng.uniform(-3, 3)
        noise = rng.normal(0.0, 0.03, (2, N, N))
        frames.append((np.exp(1j * phase) + noise[0] + 1j * noise[1]).astype(np.complex64))
    return Measured(frames, -scale * depth, scale * volume, shifts)


def density_error(
    stack: NDArray[np.float32], volume: NDArray[np.float64], shifts: NDArray[np.float64]
) -> float:
    found = filtered_back_projection(-shift_frames(stack, shifts), ANGLES, "hann")
    inside = volume > 0.3 * volume.max()
    return float(np.sqrt(np.mean((found - volume)[inside] ** 2)) / volume[inside].mean())


def test_vortices_do_not_reach_the_density(series: Measured) -> None:
    frames, volume, shifts = series.frames, series.volume, series.shifts
    apart, errors = {}, {}
    for entry in ("auto", "phase"):
        stack = prepare_series(
            frames, np.rad2deg(ANGLES), 1e-8, 6000.0, phase=PhaseSettings(entry=entry)
        )
        if entry == "auto":
            assert stack.diagnostics["residues"].min() >= 2
            assert stack.diagnostics["integrated"].mean() > 0.9
            assert "projections is the integral of its derivative" in residue_note(
                stack.diagnostics
            )
        found = align_series(stack.data, ANGLES)
        apart[entry], _ = alignment_residual(found.shifts, -shifts, ANGLES)
        # The common motion that a series cannot tell is taken from the truth.
        errors[entry] = density_error(stack.data, volume, -shifts)
    # What vortices and few angles leave; unwrapped, the cuts move the frames.
    assert apart["auto"] < 0.1
    assert apart["phase"] > 2 * apart["auto"]
    assert errors["auto"] < 0.04
    assert errors["phase"] > 1.3 * errors["auto"]


def test_differences_of_wrapped_frames_are_reconstructed_as_they_are(series: Measured) -> None:
    frames, volume, shifts = series.frames, series.volume, series.shifts
    flat = [fit_air(frame).flatten(frame) for frame in frames]
    differences = shift_frames(np.stack([phase_differences(frame) for frame in flat]), -shifts)
    found = filtered_back_projection(-differences, ANGLES, "hann", "differences")
    inside = volume > 0.3 * volume.max()
    # Rows between two vortices hold a turn too much, which stays where it is.
    assert np.sqrt(np.mean((found - volume)[inside] ** 2)) / volume[inside].mean() < 0.08
    assert found[inside].mean() / volume[inside].mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("spread", "bound"), [(0.02, 0.03), (0.05, 0.08)])
def test_a_level_that_is_not_known_hardly_moves_frames(
    series: Measured, spread: float, bound: float
) -> None:
    rng = np.random.default_rng(0)
    levels = rng.normal(0.0, spread * DEPTH, (FRAMES, 1, 1))
    phase = series.phase + levels + rng.normal(0.0, 0.05, series.phase.shape)
    found = align_series(phase.astype(np.float32), ANGLES)
    apart, _ = alignment_residual(found.shifts, -series.shifts, ANGLES)
    # Levels are fitted with the shifts; what they put into the volume blurs it.
    assert apart < bound
