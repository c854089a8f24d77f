"""Ramp removal and unwrapping against a pillar whose phase is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.errors import InputError
from pipeline.preprocess.air import fit_air
from pipeline.preprocess.phase import extract_phase
from pipeline.preprocess.prepare import air_note, prepare_series
from schemas.recipe import PhaseSettings, ResampleSettings

N = 96
Y, X = np.mgrid[:N, :N].astype(float) - N // 2
NOISE = 3e-3


def pillar(depth=1.0, centre=(0.0, 0.0), height=30.0):
    """Phase of an ellipsoid with internal structure [rad], negative."""
    r = ((X - centre[1]) / 22) ** 2 + ((Y - centre[0]) / height) ** 2
    phase = -depth * np.sqrt(np.clip(1 - r, 0, None))
    return gaussian_filter(phase, 1.0) - 0.05 * depth * np.where(r < 0.9, np.sin(X / 3), 0)


def transmission(phase, ramp=(0.0, 0.0), offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    wave = np.exp(0.05 * phase + 1j * (phase + ramp[0] * Y + ramp[1] * X + offset))
    noise = rng.normal(0, NOISE, (2, N, N))
    return (wave + noise[0] + 1j * noise[1]).astype(np.complex64)


@pytest.mark.parametrize("cycles", [(0.0, 0.0), (0.31, -0.72), (-3.2, 2.9), (4.7, 5.1)])
@pytest.mark.parametrize(("depth", "height"), [(1.0, 30.0), (1.0, 90.0), (6.0, 30.0), (6.0, 90.0)])
def test_ramp_and_offset_are_removed(cycles, depth, height):
    ramp = 2 * np.pi * np.array(cycles) / N
    truth = pillar(depth, (3.0, -6.0), height)
    found = extract_phase(transmission(truth, ramp, 2.5))
    # Noise and the faint rim of the sample; across the whole frame.
    assert np.abs(found.ramp - ramp).max() * N < 1.5e-3
    assert found.offset == pytest.approx(2.5, abs=5e-4)
    assert np.abs(found.phase - truth).max() < 0.03
    assert found.noise == pytest.approx(NOISE, rel=0.1)
    assert found.phase.dtype == np.float32
    assert not (found.air & (truth < -0.02)).any()


@pytest.mark.parametrize("air", ["left", "right", "left-right", "top", "bottom", "top-bottom"])
def test_named_sides(air):
    ramp = np.array([0.05, -0.08])
    if air in ("top", "bottom", "top-bottom"):
        # Wider than the frame: there is air above and below only.
        place = {"top": -12.0, "bottom": 12.0}.get(air, 0.0)
        truth = pillar(1.0, (place, 0.0), 30.0)
        truth = np.repeat(truth[:, N // 2 - 6, None], N, axis=1)
    else:
        truth = pillar(1.0, (0.0, {"left": 20.0, "right": -20.0}.get(air, 0.0)), 90.0)
    found = extract_phase(transmission(truth, ramp), PhaseSettings(air=air, air_fraction=0.12))
    assert np.abs(found.ramp - ramp).max() * N < 5e-3


def test_air_on_one_side_only_is_found():
    ramp = np.array([0.11, -0.06])
    truth = pillar(1.0, (0.0, 34.0), 70.0)
    found = extract_phase(transmission(truth, ramp))
    assert np.abs(found.ramp - ramp).max() * N < 5e-3


def test_air_where_a_person_says_it_is():
    # A window in a sample that fills the rest of the frame: no search from the border finds it.
    truth = np.where(
        (abs(Y + 12) < 9) & (abs(X - 10) < 12), 0.0, -1.0 - 0.3 * np.sin(X / 9 + Y / 7)
    )
    ramp = np.array([0.07, -0.11])
    region = (abs(Y + 12) < 11) & (abs(X - 10) < 14)
    frame = transmission(truth, ramp, 0.4)
    found = fit_air(frame, region=region)
    assert np.abs(found.ramp - ramp).max() < 1e-4
    assert found.offset == pytest.approx(0.4, abs=2e-3)
    # What lies off the plane is left out of it.
    assert not found.air[truth < -0.1].any()
    crop = (slice(10, 80), slice(20, 90))
    stack = prepare_series([frame], np.zeros(1), 3e-8, 5468.0, air=region, crop=crop)
    assert np.abs(stack.data[0] - truth[crop]).max() < 0.05


def test_air_that_is_none_is_told():
    rng = np.random.default_rng(0)
    rough = gaussian_filter(rng.normal(size=(3, N, N)), (0, 6, 6)) * 14 - 4.0
    frames = [transmission(phase, (0.05, 0.02 * k)) for k, phase in enumerate(rough)]
    stack = prepare_series(frames, np.arange(3.0), 3e-8, 5468.0)
    said = air_note(stack.diagnostics)
    assert said.startswith(
        "What was taken for air may be none in 3 of 3 projections: it is uneven in"
    )
    assert "phase.air: none" in said
    relative = prepare_series(frames, np.arange(3.0), 3e-8, 5468.0, phase=PhaseSettings(air="none"))
    assert air_note(relative.diagnostics).startswith("No air was to be used: level and slope")
    for phase, wanted, k in zip(relative.data, rough, range(3), strict=True):
        # All but a plane, and matter negative.
        rest = phase - wanted
        design = np.stack([np.ones(N * N), Y.ravel(), X.ravel()], axis=1)
        rest = rest.ravel() - design @ np.linalg.lstsq(design, rest.ravel(), rcond=None)[0]
        assert np.abs(rest).max() < 0.05, k
        assert np.percentile(phase, 99) == pytest.approx(0.0, abs=0.02)
    amid = transmission(pillar() + 0.8 * np.exp(-((X + 30) ** 2 + Y**2) / 2 / 9**2))
    said = air_note(prepare_series([amid], np.zeros(1), 3e-8, 5468.0).diagnostics)
    assert "there is phase above and below it in 1." in said
    good = [transmission(pillar(), seed=k) for k in range(3)]
    assert air_note(prepare_series(good, np.arange(3.0), 3e-8, 5468.0).diagnostics) == ""


def test_resampled_air_stays_at_zero():
    for depth in (1.0, 6.0):
        frame = transmission(pillar(depth), (0.05, -0.3), 1.0)
        stack = prepare_series([frame], np.zeros(1), 3.129e-8, 5468.0, 3.091e-8)
        plane = fit_air(np.exp(1j * stack.data[0]))
        assert np.abs(plane.ramp).max() * N < 1e-3
        assert abs(plane.offset) < 1e-3
        assert stack.diagnostics["ramp_x"][0] == pytest.approx(-0.3, abs=2e-5)


def test_unwrapping_only_where_needed():
    shallow = extract_phase(transmission(pillar(1.0)))
    assert not shallow.wrapped
    deep = pillar(7.0)
    assert extract_phase(transmission(deep)).wrapped
    never = extract_phase(transmission(deep), PhaseSettings(unwrap="never"))
    assert never.phase.min() >= -np.pi
    always = extract_phase(transmission(pillar(1.0)), PhaseSettings(unwrap="always"))
    assert np.allclose(always.phase, shallow.phase, atol=1e-5)


def test_unusable_frames_say_so():
    with pytest.raises(InputError, match="expected a complex image, found float64 of shape"):
        extract_phase(np.ones((8, 8)))
    with pytest.raises(InputError, match="carries no transmission"):
        extract_phase(np.zeros((16, 16), np.complex64))


def _series(n=3, **kwargs):
    frames = [transmission(pillar(), (0.02 * k, 0.01), 0.3, seed=k) for k in range(n)]
    return prepare_series(iter(frames), np.arange(3.0), 3e-8, 5468.0, **kwargs)


def test_series_becomes_a_phase_stack():
    told = []
    stack = _series(progress=told.append)
    assert stack.data.shape == (3, N, N)
    assert stack.data.dtype == np.float32
    assert stack.noise == pytest.approx(NOISE, rel=0.1)
    assert stack.diagnostics["ramp_y"] == pytest.approx([0.0, 0.02, 0.04], abs=2e-5)
    assert [event.done for event in told] == [1, 2, 3]
    assert stack.pixel_size_m == 3e-8


def test_series_is_resampled_without_losing_scale():
    ratio = 1.02
    stack = _series(target_pixel_m=3e-8 * ratio)
    back = gaussian_filter(pillar(), 0.0)
    centre = N // 2
    assert stack.data[0, centre, centre] == pytest.approx(back[centre, centre], abs=0.02)
    assert stack.diagnostics["ramp_y"] == pytest.approx([0.0, 0.02, 0.04], abs=2e-5)
    assert stack.pixel_size_m == pytest.approx(3.06e-8)


def test_bad_series_say_so():
    with pytest.raises(InputError, match="expected 3 frames, one for each angle, found 2"):
        _series(2)
    with pytest.raises(InputError, match="expected 3 frames, one for each angle, found more"):
        _series(4)
    frames = [transmission(pillar()), transmission(pillar())[:-1]]
    with pytest.raises(InputError, match=r"frame 1: expected shape \(96, 96\) as in frame 0"):
        prepare_series(iter(frames), np.arange(2.0), 3e-8, 5468.0)
    with pytest.raises(InputError, match="frame 0: the frame carries no transmission"):
        prepare_series(iter([0 * frames[0]]), np.zeros(1), 3e-8, 5468.0)
    with pytest.raises(InputError, match=r"resample\.enabled: pixel size 3e-08 m differs"):
        _series(target_pixel_m=3.1e-8, resample=ResampleSettings(enabled=False))
