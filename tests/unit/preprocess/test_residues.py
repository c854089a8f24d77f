"""Unwrapping around planted vortices: right everywhere but next to them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from pipeline.preprocess.phase import extract_phase
from pipeline.preprocess.residues import phase_residues, unwrap
from schemas.recipe import PhaseSettings

N = 96
Y, X = np.mgrid[:N, :N].astype(float) - N // 2
SMOOTH = -9.0 * np.exp(-(X**2 + Y**2) / 500.0)


def vortex(y: float, x: float, charge: int = 1) -> np.ndarray:
    return charge * np.angle((X - x) + 1j * (Y - y))


def pair(y: float, x: float, length: float = 4.0) -> np.ndarray:
    """Two vortices of opposite sign above each other, whose phase has died away outside."""
    both = vortex(y - length / 2, x) - vortex(y + length / 2, x)
    both = np.angle(np.exp(1j * both))
    return both * np.exp(-((X - x) ** 2 + (Y - y) ** 2) / (2 * 2.0 * length**2))


def wrapped(phase: np.ndarray) -> np.ndarray:
    return np.angle(np.exp(1j * phase))


def test_without_residues_nothing_is_filled() -> None:
    found, residues, filled = unwrap(wrapped(SMOOTH))
    assert (residues, filled) == (0, 0)
    apart = found - SMOOTH
    np.testing.assert_allclose(apart, apart[0, 0], atol=1e-9)


@pytest.mark.parametrize("places", [[(10.5, 4.5)], [(-8.5, 12.5), (15.5, -9.5), (0.5, 0.5)]])
def test_pairs_are_cut_out_and_the_rest_is_right(places: list[tuple[float, float]]) -> None:
    spoilt = wrapped(SMOOTH + sum(pair(*place) for place in places))
    count, charge = phase_residues(spoilt)
    assert count == 2 * len(places)
    found, residues, filled = unwrap(spoilt)
    assert residues == count
    assert 0 < filled < 60 * len(places)
    far = np.ones((N, N), bool)
    far[:-1, :-1] = charge == 0
    away = distance_transform_edt(far) > 12
    apart = found - SMOOTH
    assert np.abs(apart - np.median(apart))[away].max() < 0.2
    # No step of a turn is left anywhere: the smooth phase climbs by 0.4 rad per pixel at most.
    steps = [np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < np.pi


def test_a_lone_vortex_is_cut_to_the_border() -> None:
    found, residues, filled = unwrap(wrapped(SMOOTH + vortex(38.5, 0.5)))
    assert residues == 1
    assert filled < 40
    middle = np.s_[:80, 8:-8]
    # The vortex itself turns the phase by half a turn at most between far places.
    assert np.abs((found - SMOOTH - vortex(38.5, 0.5))[middle]).max() < 2.1 * np.pi
    assert all(np.abs(np.diff(found[middle], axis=axis)).max() < 1.0 for axis in (0, 1))


def test_more_residues_than_can_be_paired_are_masked() -> None:
    rng = np.random.default_rng(0)
    phase = 0.1 * SMOOTH
    phase[20:60, 20:60] += rng.uniform(-np.pi, np.pi, (40, 40))
    found, residues, filled = unwrap(wrapped(phase))
    assert residues > 400
    assert filled >= 1500
    assert np.isfinite(found).all()
    assert np.abs((found - 0.1 * SMOOTH)[:, 70:]).max() < 1e-6


def test_noise_everywhere_is_no_error() -> None:
    found, residues, _ = unwrap(np.random.default_rng(1).uniform(-np.pi, np.pi, (32, 32)))
    assert residues > 200
    assert np.isfinite(found).all()


def test_frames_count_what_was_repaired() -> None:
    noise = np.random.default_rng(2).normal(0.0, 3e-3, (2, N, N))
    wave = np.exp(1j * (SMOOTH + pair(10.5, 4.5) + 0.1 * X)) + noise[0] + 1j * noise[1]
    found = extract_phase(wave.astype(np.complex64), PhaseSettings(entry="phase"))
    assert (found.wrapped, found.residues, found.integrated) == (True, 2, False)
    assert 0 < found.filled < 60
    assert found.matter < -1.0
    far = (np.hypot(X - 4.5, Y - 10.5) > 14) & (np.hypot(X, Y) < 40)
    assert np.abs(found.phase - SMOOTH)[far].max() < 0.2
