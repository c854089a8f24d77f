"""Residues that were planted, borders that were spoilt, and projections that were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.errors import InputError
from pipeline.io import reader_for
from pipeline.preprocess.phase import extract_phase
from pipeline.preprocess.quality import (
    MEASURES,
    frame_quality,
    missing_area,
)
from pipeline.preprocess.rectangle import largest_rectangle
from pipeline.preprocess.residues import phase_residues

N = 96
Y, X = np.mgrid[:N, :N].astype(float) - N // 2
DATA = Path(__file__).parents[3] / "../shared/data"
PTYR = DATA / "ptypy-ptyr/scan_scan1.ptyr"
CXI = DATA / "als-cosmic-856ev/ptycho-scan-856eV.cxi"


def vortex(y: float, x: float, charge: int = 1) -> np.ndarray:
    """Phase that winds once about a point between pixels."""
    return charge * np.angle((X - x) + 1j * (Y - y))


@pytest.mark.parametrize("ramp", [0.0, 0.8])
def test_planted_vortices_are_found_where_they_are(ramp: float) -> None:
    places = [(10.5, -20.5, 1), (-30.5, 5.5, -1), (0.5, 0.5, 1)]
    phase = sum(vortex(*place) for place in places) + ramp * X - 0.3 * Y
    for wrapped in (phase, np.angle(np.exp(1j * phase))):
        count, charge = phase_residues(wrapped)
        assert count == 3
        assert charge.shape == (N - 1, N - 1)
        assert charge.dtype == np.int8
        for y, x, sign in places:
            assert charge[int(y - 0.5) + N // 2, int(x - 0.5) + N // 2] == sign
    valid = np.abs(Y - 10) > 2
    assert phase_residues(phase, valid)[0] == 2


def test_a_smooth_phase_of_many_turns_has_no_residues() -> None:
    phase = -20.0 * np.exp(-(X**2 + Y**2) / 600.0)
    assert phase_residues(np.angle(np.exp(1j * phase)))[0] == 0


def frames(n: int = 18) -> list[np.ndarray]:
    """A pillar with texture that moves slowly from frame to frame."""
    rng = np.random.default_rng(0)
    texture = rng.normal(size=(N, N))
    return [frame(k, texture, rng) for k in range(n)]


def frame(k: int, texture: np.ndarray, rng: np.random.Generator, blur: float = 0.7) -> np.ndarray:
    pillar = -1.5 * np.sqrt(np.clip(1 - ((X - k / 6) / 25) ** 2 - (Y / 35) ** 2, 0, None))
    inner = 0.6 * gaussian_filter(np.roll(texture, k // 3, 1), 1.0)
    phase = gaussian_filter(pillar + (pillar < -0.05) * inner, blur)
    wave = np.exp(0.05 * phase + 1j * (phase + 0.03 * X))
    return (wave + 0.01 * complex_noise(rng)).astype(np.complex64)


def complex_noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))


def test_good_projections_are_no_outliers() -> None:
    found = frame_quality(frames())
    assert not found.outliers.any()
    assert set(found.reasons) == {""}
    assert found.scores.shape == (18, len(MEASURES))
    assert found.noise == pytest.approx(np.full(18, 0.01), rel=0.1)
    assert found.residues.max() == found.missing.max() == 0.0


def test_spoilt_projections_are_found_with_their_reason() -> None:
    stack = frames()
    rng = np.random.default_rng(7)
    texture = np.random.default_rng(0).normal(size=(N, N))
    stack[2] = frame(2, texture, rng, blur=2.0)
    stack[5] = stack[5] + 0.08 * complex_noise(rng)
    stack[8] = stack[8].copy()
    stack[8][:9] = 0.3 + 0.1j
    stack[11] = stack[11] * np.exp(1j * 0.2 * (X / (N / 2)) ** 2)
    pairs = [vortex(-20.5 + 4 * k, 3.5) - vortex(-20.5 + 4 * k, 1.5) for k in range(10)]
    stack[14] = stack[14] * np.exp(1j * sum(pairs))
    found = frame_quality(stack)
    assert np.flatnonzero(found.outliers).tolist() == [2, 5, 8, 11, 14]
    for index, reason in ((2, "blur 4"), (5, "noise 0.08"), (8, "9.4% of the frame missing"),
                          (11, "residual ramp 0.1"), (14, "20 phase residues")):  # fmt: skip
        assert reason in found.reasons[index]


def test_neighbours_are_those_in_angle() -> None:
    stack = frames(12)
    order = np.random.default_rng(1).permutation(12)
    in_order = frame_quality(stack)
    shuffled = frame_quality([stack[k] for k in order], angles_deg=order.astype(float))
    np.testing.assert_allclose(shuffled.scores, in_order.scores[order])


def test_dead_projections_are_outliers_and_no_errors() -> None:
    stack = frames(8)
    stack[3] = np.zeros((N, N), np.complex64)
    found = frame_quality(stack)
    assert np.flatnonzero(found.outliers).tolist() == [3]
    assert found.reasons[3] == "100.0% of the frame missing, neighbours 0.0%"


def test_real_phases_are_scored_as_they_are() -> None:
    phases = [extract_phase(item).phase for item in frames(6)]
    phases[4] = phases[4] + np.float32(0.002) * X.astype(np.float32)
    found = frame_quality(phases)
    assert found.ramp[4] == pytest.approx(0.002 * N * 5 / 6, rel=0.1)
    assert np.flatnonzero(found.outliers).tolist() == [4]


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match="expected frames to score, found none"):
        frame_quality([])
    with pytest.raises(InputError, match="expected 3 angles, one for each frame, found 2"):
        frame_quality(frames(3), angles_deg=np.zeros(2))


def test_missing_area() -> None:
    rng = np.random.default_rng(0)
    image = np.exp(1j * rng.normal(size=(20, 20)))
    image[:5, :7] = 1.0 + 1.0j
    image[12, 12] = 0.0
    image[15, 15] = np.nan
    image[18, 3:5] = 2.0
    found = missing_area(image)
    expected = np.zeros((20, 20), bool)
    expected[:5, :7] = expected[12, 12] = expected[15, 15] = True
    np.testing.assert_array_equal(found, expected)


def test_largest_rectangle_against_all_rectangles() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        mask = rng.random((7, 6)) < 0.75
        rows, columns = largest_rectangle(mask)
        assert mask[rows, columns].all()
        best = max(
            (b - a) * (d - c)
            for a in range(7) for b in range(a + 1, 8)
            for c in range(6) for d in range(c + 1, 7)
            if mask[a:b, c:d].all()
        )  # fmt: skip
        assert mask[rows, columns].size == best
    assert largest_rectangle(np.zeros((3, 3), bool)) == (slice(0, 0), slice(0, 0))


@pytest.mark.skipif(not CXI.is_file(), reason="needs ../shared/data/als-cosmic-856ev")
def test_real_reconstruction_with_a_good_border() -> None:
    (image,) = reader_for("cxi").frames(CXI)
    found = extract_phase(image)
    assert found.noise < 0.1
    assert phase_residues(found.phase)[0] == 0
