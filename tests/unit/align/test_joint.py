"""The joint round: what is a shift between partners, and what is their dichroism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.align.joint import align_pairs
from pipeline.errors import GeometryError, InputError
from pipeline.preprocess.resample import shift_frames
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

N = 32
ROTATIONS = np.concatenate([series_rotations(np.arange(16) * 11.25, tilt, 0.0) for tilt in (0, 30)])
WEIGHTS = {"circular": circular_weights, "linear": linear_difference_weights}
SHARE = {"circular": 0.5, "linear": 1.0}
SHIFTS = np.random.default_rng(1).normal((0.0, 0.1), 0.1, (len(ROTATIONS), 2))


def fields():
    """Density of a lopsided body, a vortex around y in it, and a tensor that changes in steps."""
    z, y, x = np.indices((N, N, N)) - N // 2
    body = ((x / 11) ** 2 + (z / 9) ** 2 < 1) & (np.abs(y) < 11) & (x + z < 9)
    density = gaussian_filter(body.astype(np.float32), 0.8)
    radius = np.hypot(x, z) + 2.0
    vortex = 0.05 * density * np.stack([z / radius, 0.0 * x, -x / radius])
    axes = np.random.default_rng(2).normal(size=(8, 3))
    axes /= np.linalg.norm(axes, axis=1)[:, None]
    grain = (4 * (x > 0) + 2 * (y > 1) + (z > -1)).astype(int)
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    tensor = 0.1 * density * np.stack([(axes[:, i] * axes[:, j])[grain] for i, j in pairs])
    made = {"circular": vortex, "linear": tensor}
    return density, {name: field.astype(np.float32) for name, field in made.items()}


DENSITY, FIELDS = fields()
SUPPORT = DENSITY > 0.2


def partners(contrast, shifts, field=None):
    """Difference and mean of partners of which the second lies off by minus `shifts`."""
    field = FIELDS[contrast] if field is None else field
    weights = WEIGHTS[contrast](ROTATIONS)
    half = 0.5 * Projector((N,) * 3, (N, N), ROTATIONS, weights).forward(field)
    half /= SHARE[contrast]
    matter = Projector((N,) * 3, (N, N), ROTATIONS, scalar_weights(len(ROTATIONS)))
    seen = matter.forward(DENSITY[None])
    # Phase: matter is negative; `P_LV - P_LH` is positive along lab x, `P₊ - P₋` along the beam.
    first, second = -seen, -seen
    sign = np.float32(1.0 if contrast == "circular" else -1.0)
    first, second = first + sign * half, second - sign * half
    rng = np.random.default_rng(3)
    first, second = (
        shift_frames(frames, share * shifts) + rng.normal(0, 0.02, frames.shape)
        for frames, share in ((first, 0.5), (second, -0.5))
    )
    data = 0.5 * (first - second) if contrast == "circular" else second - first
    stack = DifferencedStack(data.astype(np.float32), ROTATIONS, weights, contrast, 3e-8, 0.0)
    mean = (-0.5 * (first + second)).astype(np.float32)
    scalar = scalar_weights(len(ROTATIONS))
    return stack, DifferencedStack(mean, ROTATIONS, scalar, "scalar", 3e-8, 0.0)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("contrast", ["circular", "linear"])
def test_planted_shifts_are_found_beside_the_dichroism(contrast):
    told = []
    found = align_pairs(*partners(contrast, SHIFTS), DENSITY, progress=told.append)
    # Noise, and detail that a smooth field leaves: grains have edges, a vortex has few.
    assert rms(found.shifts - SHIFTS) < {"circular": 0.03, "linear": 0.04}[contrast]
    assert found.field.shape == FIELDS[contrast].shape
    inside = found.field[:, SUPPORT], FIELDS[contrast][:, SUPPORT]
    if contrast == "circular":
        assert rms(inside[0] - inside[1]) < 0.4 * rms(inside[1])
    assert found.residuals[-1] < found.residuals[0]
    assert told[-1].stage.startswith("joint alignment")


@pytest.mark.parametrize("contrast", ["circular", "linear"])
def test_nothing_is_invented(contrast):
    found = align_pairs(*partners(contrast, 0.0 * SHIFTS), DENSITY)
    assert rms(found.shifts) < {"circular": 0.02, "linear": 0.03}[contrast]


def test_without_dichroism_it_is_a_plain_registration():
    nothing = np.zeros_like(FIELDS["circular"])
    found = align_pairs(*partners("circular", SHIFTS, nothing), DENSITY)
    assert rms(found.shifts - SHIFTS) < 0.02


def test_what_was_not_measured_takes_no_part():
    difference, means = partners("circular", SHIFTS)
    valid = np.ones(difference.data.shape, np.bool_)
    valid[::2, :, :10] = False
    shifts = []
    for garbage in (0.0, np.nan):
        data, mean = (np.where(valid, s.data, np.float32(garbage)) for s in (difference, means))
        cut = replace(difference, data=data, valid=valid), replace(means, data=mean, valid=valid)
        shifts.append(align_pairs(*cut, DENSITY).shifts)
    assert np.array_equal(shifts[0], shifts[1])
    # Of every other projection only two thirds, and one edge of the sample, are left.
    assert rms(shifts[0] - SHIFTS) < 0.06


def test_large_frames_are_binned():
    difference, means = partners("circular", SHIFTS)
    valid = np.ones(difference.data.shape, np.bool_)
    valid[::2, :, :6] = False
    whole = align_pairs(difference, means, DENSITY, binning=2)
    assert whole.field.shape == (3, N // 2, N // 2, N // 2)
    # At 16 pixels a vortex is a few pixels wide; a shift of the whole is still seen.
    assert rms(whole.shifts - SHIFTS) < 0.5 * rms(SHIFTS)
    data = np.where(valid, difference.data, np.float32(np.nan))
    part = align_pairs(replace(difference, data=data, valid=valid), means, DENSITY, binning=2)
    assert rms(part.shifts - SHIFTS) < 0.6 * rms(SHIFTS)


def test_a_frame_of_air_stays_where_it_is():
    difference, means = partners("circular", SHIFTS)
    for stack in (difference, means):
        stack.data[3] = 0.0
    assert np.abs(align_pairs(difference, means, DENSITY).shifts[3]).max() == 0.0


def test_strangers_are_refused():
    difference, means = partners("circular", SHIFTS)
    with pytest.raises(GeometryError, match=r"expected scalar means \(32, 32, 32\), found scalar "):
        align_pairs(difference, means.subset(slice(4)), DENSITY)
    with pytest.raises(GeometryError, match="found circular"):
        align_pairs(difference, difference, DENSITY)
    with pytest.raises(InputError, match="a joint alignment needs circular contrast, found scalar"):
        align_pairs(means, means, DENSITY)
