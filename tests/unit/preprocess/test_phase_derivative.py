"""The phase's derivative and the phase that it adds up to, against phases that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.errors import InputError
from pipeline.preprocess.air import fit_air
from pipeline.preprocess.phase import extract_phase
from pipeline.preprocess.phase_derivative import (
    integrate_differences,
    integrate_phase,
    phase_differences,
)
from pipeline.preprocess.residues import phase_residues
from schemas.recipe import PhaseSettings

N = 96
Y, X = np.mgrid[:N, :N].astype(float) - N // 2
SMOOTH = -14.0 * np.exp(-(X**2) / 2 / 13**2 - Y**2 / 2 / 17**2)
SMOOTH += 0.8 * np.exp(-((X - 5) ** 2 + (Y + 6) ** 2) / 2 / 3**2)


def dipole(y: float, x: float, dy: float, dx: float) -> NDArray[np.float64]:
    """Phase of two vortices of opposite sign, `(dy, dx)` apart, about `(y, x)`."""
    one = np.arctan2(Y - y - dy / 2, X - x - dx / 2)
    return one - np.arctan2(Y - y + dy / 2, X - x + dx / 2)


VORTICES = dipole(4.3, -7.6, 6.0, 2.0) + dipole(-12.4, 6.7, -1.0, 9.0) + dipole(9.6, 9.4, 4.0, -4.0)


def level(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    return phase - np.median(phase[SMOOTH > -0.01])


def test_differences_do_not_know_of_wrapping() -> None:
    wave = np.exp(1j * (SMOOTH + 2.0))
    assert phase_residues(np.angle(wave))[0] == 0
    np.testing.assert_allclose(
        phase_differences(wave)[:, :-1], np.diff(SMOOTH, axis=1), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        phase_differences(wave, "y")[:-1], np.diff(SMOOTH, axis=0), rtol=0, atol=1e-6
    )
    assert not phase_differences(wave)[:, -1].any()
    with pytest.raises(InputError, match="expected a complex image, found float64 of shape"):
        phase_differences(SMOOTH)


def test_differences_are_second_order_at_the_border_of_two_pixels() -> None:
    errors = []
    for step in (0.4, 0.2):
        x = step * np.arange(40.0)
        wave = np.exp(1j * np.sin(x))[None]
        middle = np.cos(x[:-1] + step / 2)
        errors.append(np.abs(phase_differences(wave)[0, :-1] / step - middle).max())
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_without_residues_the_integral_is_the_phase() -> None:
    found = integrate_phase(np.exp(1j * SMOOTH))
    assert found.mean() == pytest.approx(0.0, abs=1e-9)
    assert np.abs(level(found) - level(SMOOTH)).max() < 1e-5
    image = np.random.default_rng(0).normal(size=(17, 24))
    across, down = (np.diff(image, axis=a, append=0.0) for a in (1, 0))
    # Any size and any steepness: what agrees with itself is not touched by the weights.
    again = integrate_differences(3.0 * across, 3.0 * down)
    np.testing.assert_allclose(again, 3.0 * (image - image.mean()), rtol=0, atol=1e-2)


def test_vortices_drop_out() -> None:
    wave = np.exp(1j * (SMOOTH + VORTICES))
    assert phase_residues(np.angle(wave))[0] == 6
    found = level(integrate_phase(wave)) - level(SMOOTH)
    inside = SMOOTH < -0.5
    path = extract_phase(wave, PhaseSettings(entry="phase")).phase - SMOOTH
    assert np.sqrt(np.mean(found[inside] ** 2)) < 0.15
    assert np.sqrt(np.mean(path[inside] ** 2)) > 3 * np.sqrt(np.mean(found[inside] ** 2))


def test_steps_beyond_pi_hardly_count() -> None:
    # The rim of this pillar rises by up to 3.5 rad from pixel to pixel.
    steep = -8.0 * np.clip(1 - (X / 22) ** 2 - (Y / 30) ** 2, 0, None) ** 0.25
    steep = gaussian_filter(steep, 0.5)
    assert np.abs(np.diff(steep)).max() > 3.4
    wave = np.exp(1j * steep)
    assert phase_residues(np.angle(wave))[0] > 10
    found = level(integrate_phase(wave)) - level(steep)
    assert np.abs(found).max() < 0.02


def test_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(InputError, match=r"along x and y, found \(4, 5\) and \(5, 4\)"):
        integrate_differences(np.zeros((4, 5)), np.zeros((5, 4)))


def test_auto_takes_the_derivative_about_residues_only() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.02, (2, N, N))
    ramp = 0.05 * X - 0.03 * Y + 1.0
    for vortices, integrated in ((0.0 * X, False), (VORTICES, True)):
        wave = np.exp(1j * (SMOOTH + vortices + ramp)) + noise[0] + 1j * noise[1]
        found = extract_phase(wave.astype(np.complex64))
        assert (found.wrapped, found.integrated) == (True, integrated)
        assert np.sqrt(np.mean((found.phase - SMOOTH)[SMOOTH < -0.5] ** 2)) < 0.2
        forced = extract_phase(wave.astype(np.complex64), PhaseSettings(entry="derivative"))
        assert forced.integrated
        np.testing.assert_allclose(forced.phase, found.phase, rtol=0, atol=1e-3)


def test_an_integral_that_bends_the_air_is_not_taken() -> None:
    # Noise on an edge of 4 rad from pixel to pixel: no weights tell its ends.
    rng = np.random.default_rng(0)
    phase = -12.0 * np.clip(1 - (X / 22) ** 2 - (Y / 30) ** 2, 0, None) ** 0.25
    phase = gaussian_filter(phase, 0.6)
    noise = rng.normal(0.0, 0.1, (2, N, N))
    wave = (np.exp(1j * phase) + noise[0] + 1j * noise[1]).astype(np.complex64)
    found = extract_phase(wave)
    assert found.residues > 10
    assert not found.integrated
    fit = fit_air(wave)
    forced = extract_phase(wave, PhaseSettings(entry="derivative"), fit)
    bent = np.angle(np.exp(1j * forced.phase[fit.air]))
    assert np.sqrt(np.mean(bent**2)) > 1.2 * fit.noise
    assert np.sqrt(np.mean(found.phase[fit.air] ** 2)) < 1.2 * fit.noise


def test_phase_images_that_came_wrapped(tmp_path: Path) -> None:
    import h5py

    from flows.steps.prepare import prepare
    from pipeline.io.quality import read_quality
    from pipeline.io.stacks import load_phase
    from schemas.recipe import ResampleSettings
    from schemas.series import Series

    noise = np.random.default_rng(0).normal(0.0, 0.02, (3, N, N))
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["exchange/data"] = np.angle(np.exp(1j * (SMOOTH + noise))).astype(np.float32)
        file["exchange/theta"] = np.arange(3.0)
    series = Series(
        name="s",
        state="phase",
        format="dataexchange",
        files=["stack.h5"],
        tilt={"name": "t"},
        energy={"energy_ev": 900.0},
        pixel_size_m=1e-8,
    )
    for settings in (PhaseSettings(), PhaseSettings(entry="derivative")):
        out = tmp_path / settings.entry
        out.mkdir()
        prepare(out, series, tmp_path, [], 1e-8, ResampleSettings(), settings)
        found = load_phase(out / "phase.h5").data
        notes = read_quality(out / "quality.npz").notes
        right = np.abs(found - SMOOTH).max() < 0.2
        assert right == (settings.entry == "derivative")
        assert any("in 3 of 3 images: they seem to be wrapped" in note for note in notes) != right


def test_contradictory_settings() -> None:
    with pytest.raises(ValueError, match="'never' does not go with entry 'derivative'"):
        PhaseSettings(entry="derivative", unwrap="never")
