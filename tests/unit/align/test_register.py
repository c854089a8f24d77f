"""Rigid registration against Gaussian blobs, whose motion is known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flows.steps import stages
from pipeline.align.register import register_volumes
from pipeline.errors import GeometryError
from pipeline.tomography.geometry import rotation_y, rotation_z
from schemas.recipe import RegisterSettings

RNG = np.random.default_rng(5)
BLOBS = [(RNG.normal(size=3) * [7, 10, 7], RNG.uniform(1.8, 4), RNG.choice([1, 1, -0.4]))
         for _ in range(25)]  # fmt: skip
NOMINAL = rotation_z(np.deg2rad(30)) @ rotation_y(np.deg2rad(90))


def tomogram(rotation, shift, shape=(56, 64, 56)):
    """Volume V with `V(rotation r + shift) = f(r)`."""
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    volume = np.zeros(shape)
    for centre, width, value in BLOBS:
        at = rotation @ centre + shift
        volume += value * np.exp(
            -((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2) / (2 * width**2)
        )
    return volume.astype(np.float32)


REFERENCE = tomogram(np.eye(3), np.zeros(3))


def error_deg(found, truth):
    return np.rad2deg(Rotation.from_matrix(found @ truth.T).magnitude())


def wrong_by(degrees, axis):
    axis = np.array(axis) / np.linalg.norm(axis)
    return Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix() @ NOMINAL


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (1.3, -0.7, 2.2), (11.0, -12.0, 10.0)])
def test_wrong_tilt_and_shift_are_measured(shift):
    truth = wrong_by(3.0, [1.0, -2.0, 0.5])
    moving = tomogram(truth, np.array(shift), (80, 90, 80))
    noise = np.random.default_rng(0).normal(0, 0.01, moving.shape).astype(np.float32)
    found = register_volumes(REFERENCE, 0.8 * moving + 0.01 + noise, NOMINAL)
    # Noise and interpolation.
    assert error_deg(found.rotation, truth) < 0.06
    assert np.abs(found.shift - shift).max() < 0.05
    assert found.correlation > 0.9


def test_heavy_noise_is_survived():
    truth = wrong_by(2.0, [0.0, 1.0, 1.0])
    rng = np.random.default_rng(1)
    noisy = [
        volume + rng.normal(0, 0.12, volume.shape).astype(np.float32)
        for volume in (REFERENCE, tomogram(truth, np.array([2.0, 1.0, -1.5])))
    ]
    found = register_volumes(*noisy, NOMINAL)
    assert error_deg(found.rotation, truth) < 0.4
    assert np.abs(found.shift - [2.0, 1.0, -1.5]).max() < 0.1


def test_settings_keep_the_rotation_or_everything():
    moving = tomogram(NOMINAL, np.array([3.0, 0.0, 1.0]))
    fixed = register_volumes(REFERENCE, moving, NOMINAL, RegisterSettings(refine_rotation=False))
    assert np.array_equal(fixed.rotation, NOMINAL)
    assert np.abs(fixed.shift - [3.0, 0.0, 1.0]).max() < 0.02
    off = register_volumes(
        REFERENCE, tomogram(NOMINAL, np.zeros(3)), NOMINAL, RegisterSettings(enabled=False)
    )
    assert not off.shift.any()
    assert off.steps == 0
    assert off.correlation > 0.99


def test_nonsense_is_refused():
    with pytest.raises(GeometryError, match="expected a rotation matrix"):
        register_volumes(REFERENCE, REFERENCE, np.ones((3, 3)))
    with pytest.raises(GeometryError, match="the moving tomogram is empty or not finite"):
        register_volumes(REFERENCE, np.zeros_like(REFERENCE), np.eye(3))
    noise = np.random.default_rng(2).normal(size=REFERENCE.shape).astype(np.float32)
    with pytest.raises(GeometryError, match="the tomograms do not match"):
        register_volumes(REFERENCE, noise, np.eye(3))


@pytest.mark.parametrize(("off_deg", "refused"), [(3.0, False), (7.0, True)])
def test_a_mounting_far_from_its_nominal_rotation_is_refused(
    tmp_path: Path, off_deg: float, refused: bool
) -> None:
    moving = tomogram(wrong_by(off_deg, [1.0, -2.0, 0.5]), np.zeros(3))
    for name, volume in (("reference", REFERENCE), ("moving", moving)):
        np.save(tmp_path / f"{name}.npy", volume)
    arguments = (
        tmp_path,
        tmp_path / "reference.npy",
        tmp_path / "moving.npy",
        NOMINAL.tolist(),
        RegisterSettings(largest_turn_deg=5.0),
    )
    if refused:
        with pytest.raises(
            GeometryError, match=r"register: tilt2 was found 7\.0 degrees .* expected within 5"
        ):
            stages.register(*arguments, name="tilt2")
        assert not (tmp_path / "motion.npz").exists()
    else:
        stages.register(*arguments, name="tilt2")
        with np.load(tmp_path / "motion.npz") as found:
            assert found["turned_deg"] == pytest.approx(off_deg, abs=0.06)
