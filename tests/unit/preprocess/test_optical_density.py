"""Optical density against a pillar whose absorption is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.io import reader_for
from pipeline.preprocess.optical_density import optical_density, prepare_optical_density
from schemas.recipe import PhaseSettings, ResampleSettings

N = 96
Y, X = np.mgrid[:N, :N].astype(float) - N // 2
NOISE = 5e-3
REAL = Path(__file__).parents[3] / "../shared/data/als-cosmic-856ev/ptycho-scan-856eV.cxi"


def pillar(depth: float = 1.2, height: float = 30.0, centre: float = 0.0) -> np.ndarray:
    return depth * np.sqrt(np.clip(1 - ((X - centre) / 25) ** 2 - (Y / height) ** 2, 0, None))


def intensity(density: np.ndarray, incident: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0.0, NOISE, density.shape)
    return incident * (np.exp(-density) + noise)


def amplitude(density: np.ndarray, incident: float, seed: int = 0) -> np.ndarray:
    values = intensity(density, incident, seed)
    return np.sign(values) * np.sqrt(np.abs(values))


def wave(density: np.ndarray, incident: float, seed: int = 0) -> np.ndarray:
    phase = -0.4 * density + 0.07 * X - 0.02 * Y + 1.0
    return amplitude(density, incident, seed) * np.exp(1j * phase)


@pytest.mark.parametrize(
    ("make", "kind"), [(intensity, "intensity"), (amplitude, "amplitude"), (wave, "intensity")]
)
@pytest.mark.parametrize("height", [30.0, 200.0])
@pytest.mark.parametrize("incident", [1.0, 5e4])
def test_density_and_incident_beam(make, kind, height, incident) -> None:
    truth = pillar(height=height)
    found = optical_density(
        make(truth, incident).astype(np.complex64 if make is wave else "f4"), kind
    )
    air = truth == 0.0
    assert found.incident == pytest.approx(incident, rel=1e-3)
    assert found.noise == pytest.approx(NOISE, rel=0.1)
    # Noise averaged over the air and over the sample.
    assert abs(found.density[air].mean()) < 1e-3
    assert abs((found.density - truth)[~air].mean()) < 1e-3
    assert not (found.air & (truth > 0.2)).any()
    assert (found.nonpositive, found.bright) == (0, 0)
    assert found.density.dtype == np.float32


def test_zero_and_negative_transmission_are_filled_and_counted() -> None:
    truth = pillar()
    frame = intensity(truth, 100.0)
    frame[40:42, 50] = 0.0
    frame[60, 30:33] = -2.0
    found = optical_density(frame)
    assert found.nonpositive == 5
    assert np.abs(found.density - truth).max() < 0.2
    frame[46:54, 46:54] = 0.0
    found = optical_density(frame)
    assert np.isfinite(found.density).all()
    # The middle of a hole has no neighbours to be filled from and is held at 1e-4.
    assert found.density[50, 50] == pytest.approx(-np.log(1e-4), abs=0.01)


def test_bright_artefacts_are_counted_and_left() -> None:
    frame = intensity(pillar(), 1.0)
    frame[48, 48:51] = 3.0
    found = optical_density(frame)
    assert found.bright == 3
    assert found.density[48, 49] == pytest.approx(-np.log(3.0), abs=0.01)


@pytest.mark.parametrize("air", ["left", "right"])
def test_named_side(air: str) -> None:
    truth = pillar(height=200.0, centre=20.0 if air == "left" else -20.0)
    found = optical_density(intensity(truth, 7.0), settings=PhaseSettings(air=air))
    assert found.incident == pytest.approx(7.0, rel=2e-3)


def test_frames_without_transmission() -> None:
    with pytest.raises(InputError, match="carries no transmission"):
        optical_density(np.zeros((16, 16)))
    with pytest.raises(InputError, match=r"expected an image, found shape \(3, 4, 4\)"):
        optical_density(np.zeros((3, 4, 4)))


def test_series_with_a_beam_that_drifts() -> None:
    truth = pillar()
    incident = np.array([100.0, 80.0, 125.0])
    frames = [intensity(truth, beam, k) for k, beam in enumerate(incident)]
    stack = prepare_optical_density(iter(frames), np.arange(3.0), 3e-8, 700.0)
    np.testing.assert_allclose(stack.diagnostics["incident"], incident, rtol=1e-3)
    # Matter is negative in every stack.
    assert np.abs(stack.data + truth).max() < 0.1
    assert stack.noise == pytest.approx(NOISE, rel=0.1)
    assert (stack.pixel_size_m, stack.energy_ev) == (3e-8, 700.0)


def test_series_on_another_pixel_size() -> None:
    frames = [intensity(pillar(), 10.0)]
    stack = prepare_optical_density(frames, np.zeros(1), 3e-8, 700.0, 3.3e-8)
    assert stack.pixel_size_m == 3.3e-8
    middle = stack.data.shape[1] // 2
    assert stack.data.shape[1] < N
    assert -stack.data[0, middle, middle] == pytest.approx(1.2, abs=0.03)
    with pytest.raises(InputError, match=r"resample.enabled: pixel size 3e-08 m differs"):
        prepare_optical_density(
            frames, np.zeros(1), 3e-8, 700.0, 3.3e-8, resample=ResampleSettings(enabled=False)
        )


def test_frames_and_angles_must_match() -> None:
    frame = intensity(pillar(), 10.0)
    for frames, text in (
        ([frame], "expected 2 frames, one for each angle, found 1"),
        ([frame] * 3, "expected 2 frames, one for each angle, found more"),
        ([frame, frame[:5]], "frame 1: expected shape"),
        ([frame, 0 * frame], "frame 1: the frame carries no transmission"),
    ):
        with pytest.raises(InputError, match=text):
            prepare_optical_density(frames, np.zeros(2), 3e-8, 700.0)


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/data/als-cosmic-856ev")
def test_real_soft_xray_image() -> None:
    (frame,) = reader_for("cxi").frames(REAL)
    found = optical_density(frame)
    by_amplitude = optical_density(np.abs(frame), "amplitude")
    # Air was found by its phase and by its brightness: the same level either way.
    assert found.incident == pytest.approx(by_amplitude.incident, rel=1e-3)
    assert 0.3 < found.air.mean() < 0.6
    assert found.noise < 0.02
    assert (found.nonpositive, found.bright) == (0, 0)
    assert found.density[180:220, 100:180].mean() > 0.3
