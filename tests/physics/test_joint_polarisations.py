"""Polarisations that are fitted jointly, against the difference of partners and against the truth.

The phantom is that of `test_orientation_phantom.py`: twice as fine as the reconstruction, projected
by marching rays, here in any polarisation, with the blur of a microscope and with the isotropic
part, ten times as strong as the dichroism. Noise is planted at a signal-to-noise ratio of the
difference of 2.5: at 9 the sharp edges of the isotropic part limit what the means of views tell.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.align.assemble import difference
from pipeline.align.views import PolarisedStack, joint_rows, match_views, partners
from pipeline.reconstruct.joint_orientation import measure_rows, row_kinds, trust_means, weigh_rows
from pipeline.reconstruct.orientation import reconstruct_orientation, reconstruct_weighed
from pipeline.stacks import AlignedStack, DifferencedStack
from schemas.recipe import OrientationSettings

N, GRAINS, ANGLES = 28, 8, 20
ISOTROPIC = 0.0158
SNR = 2.5
SPREAD = 0.4
SETTINGS = OrientationSettings(smoothness=1.0)


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"phantom_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Sample:
    """Frames without noise in any polarisation, and what they are made of."""

    def __init__(self, angles_deg: Sequence[float], n_angles: int = ANGLES, seed: int = 1):
        self.phantom: Any = _load("test_orientation_phantom")
        rng = np.random.default_rng(seed)
        labels = self.phantom._labels(N, GRAINS, rng)
        axes = rng.normal(size=(GRAINS + 2, 3))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        strength = np.full(GRAINS + 2, self.phantom.CONTRAST)
        strength[:2] = 0.0
        isotropic = np.full(GRAINS + 2, ISOTROPIC)
        isotropic[:2] = 0.0, 0.4 * ISOTROPIC
        self.rotations = self.phantom._rotations(n_angles)
        self.degree = self.phantom.DEGREE
        self.clean: dict[float, NDArray[np.float64]] = {}
        for angle in angles_deg:
            c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            field = c * self.rotations[:, 0] + s * self.rotations[:, 1]
            other = -s * self.rotations[:, 0] + c * self.rotations[:, 1]
            seen = 0.5 * (1.0 + self.degree) * (field @ axes.T) ** 2
            seen += 0.5 * (1.0 - self.degree) * (other @ axes.T) ** 2
            values = isotropic + strength * seen
            stack = np.zeros((len(self.rotations), N, N))
            for m, rotation in enumerate(self.rotations):
                self.phantom._march(labels, values[m], rotation, stack[m])
            # The blur of a microscope, as in the simulated beamtimes.
            self.clean[angle] = ndimage.gaussian_filter(stack, (0.0, 0.5, 0.5))
        blocks = labels.reshape(N, 2, N, 2, N, 2).transpose(0, 2, 4, 1, 3, 5).reshape(N, N, N, 8)
        alone = np.all(blocks == blocks[..., :1], axis=-1)
        self.support = ndimage.binary_dilation((blocks > 0).any(axis=-1))
        self.axis = np.moveaxis(axes[blocks[..., 0]], -1, 0)
        self.one_grain = alone & (blocks[..., 0] >= 2)
        self.isotropic = (isotropic + strength / 3.0)[blocks[..., 0]]
        signal = self.clean[angles_deg[0]] - self.clean[angles_deg[1]]
        inside = self.clean[angles_deg[0]] > 0
        self.noise = float(np.sqrt(np.mean(signal[inside] ** 2)) / SNR / np.sqrt(2.0))

    def members(
        self, kept: Mapping[float, NDArray[np.int64]], seed: int = 2
    ) -> tuple[list[PolarisedStack], NDArray[np.int64]]:
        """Noisy series of which some frames are kept, and their views."""
        rng = np.random.default_rng(seed)
        members, numbers = [], []
        for angle, chosen in kept.items():
            data = self.clean[angle] + rng.normal(scale=self.noise, size=self.clean[angle].shape)
            frames = (-data[chosen]).astype(np.float32)
            stack = AlignedStack(frames, self.rotations[chosen], 3e-8, 5468.0, self.noise)
            members.append(PolarisedStack(stack, angle, self.degree))
            numbers.append(chosen.astype(np.float64))
        return members, match_views(numbers)

    def error_deg(self, axis: NDArray[np.float32]) -> float:
        """Median angle between found and true axis, voxels of one grain."""
        cosine = np.abs(np.einsum("czyx,czyx->zyx", axis.astype(float), self.axis))
        angles = np.rad2deg(np.arccos(np.clip(cosine[self.one_grain], 0.0, 1.0)))
        return float(np.median(angles))


def rows_of(sample: Sample, kept: Mapping[float, NDArray[np.int64]]) -> DifferencedStack:
    return replace(joint_rows(*sample.members(kept)), point_spread_px=SPREAD)


EVERY = np.arange(4 * ANGLES)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample((0.0, 90.0))


def by_difference(
    sample: Sample,
    kept: Mapping[float, NDArray[np.int64]],
    settings: OrientationSettings = SETTINGS,
) -> float:
    pair = partners(*sample.members(kept))
    assert pair is not None
    stack = replace(difference(*pair, sample.degree), point_spread_px=SPREAD)
    return sample.error_deg(reconstruct_orientation(stack, sample.support, settings).axis)


def jointly(
    sample: Sample,
    kept: Mapping[float, NDArray[np.int64]],
    settings: OrientationSettings = SETTINGS,
) -> float:
    rows = rows_of(sample, kept)
    return sample.error_deg(reconstruct_orientation(rows, sample.support, settings).axis)


def test_with_every_partner_both_ways_are_as_good(sample):
    kept = {0.0: EVERY, 90.0: EVERY}
    # 1.59 and 1.42 degrees: the sharp edges of the isotropic part cost what its rows add.
    assert jointly(sample, kept) <= 1.2 * by_difference(sample, kept)


def test_frames_without_a_partner_help(sample):
    half = {0.0: EVERY, 90.0: EVERY[::2]}
    # 1.32 and 1.37 degrees with strengths from the data; with the one that other tests give for
    # speed, 1.53 and 1.46: what frames without a partner add is little.
    default = OrientationSettings()
    assert jointly(sample, half, default) < by_difference(sample, half, default)


def test_means_are_trusted_as_far_as_they_help_to_predict_differences(sample):
    # A transmission that drifts with the angle, in both partners: of the strong isotropic part it
    # makes what looks like dichroism in the means, of the difference it changes next to nothing.
    turn = np.pi * (EVERY % ANGLES) / ANGLES
    drift = 1.0 + 0.1 * np.cos(2.0 * turn)[:, None, None]
    drifting = copy(sample)
    drifting.clean = {angle: clean * drift for angle, clean in sample.clean.items()}
    rows = rows_of(drifting, {0.0: EVERY, 90.0: EVERY[::2]})
    noise = measure_rows(rows, sample.support)
    trusted = trust_means(rows, sample.support, noise)
    assert trusted[0] == noise[0]
    assert trusted[2] > 2.0 * noise[2]


def test_any_list_of_angles_and_the_isotropic_part():
    angles = (0.0, 60.0, 120.0)
    sample = Sample(angles, n_angles=12)
    every = np.arange(len(sample.rotations))
    rows = rows_of(sample, dict.fromkeys(angles, every))
    assert sorted(set(row_kinds(rows).tolist())) == [0, 3]
    weighed = weigh_rows(rows, measure_rows(rows, sample.support))
    found = reconstruct_weighed(weighed, sample.support, SETTINGS)
    assert sample.error_deg(found.axis) < 5.0
    assert found.isotropic is not None
    off = (found.isotropic - sample.isotropic)[sample.one_grain]
    # Edges and noise; a bias would be the dichroism mistaken for it, of which it holds a third.
    assert abs(np.median(off)) < 0.01 * ISOTROPIC
    assert np.abs(found.tensor[:3].sum(axis=0)).max() < 1e-2 * sample.phantom.CONTRAST
