"""A sample that leaves the field on one side: from frames whose shifts are known to the tomogram.

Projected on a grid twice as fine as the frames, which are band-limited.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from flows.steps import stages
from flows.steps.scalar import solve_scalar
from pipeline.io.stacks import load_differenced, save_differenced, save_phase
from pipeline.preprocess.resample import shift_frames
from pipeline.stacks import PhaseStack
from pipeline.tomography.contrast import scalar_weights
from pipeline.tomography.geometry import rotation_y
from pipeline.tomography.projector import Projector
from schemas.recipe import ScalarSettings

N, RADIUS = 44, 15.0
ANGLES = np.arange(36) * 5.0


def sample():
    """Density on the fine grid: a lopsided pillar with pores."""
    fine, rng = 2 * N, np.random.default_rng(8)
    z, y, x = (np.indices((fine,) * 3) - fine // 2) / 2.0
    body = ((z / 12) ** 2 + (x / RADIUS) ** 2 < 1) & (np.abs(y) < 14) & (x - 0.4 * z < 12)
    pores = ndimage.gaussian_filter(rng.normal(size=z.shape), 3.0)
    solid = (body & (pores < 1.3 * pores.std())).astype(np.float32)
    return 0.01 * ndimage.gaussian_filter(solid, 1.0)


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory):
    """Folder of the assembled frames, from which 20 % of the sample's width is cut off, the density
    at their voxels, and the width of the frames."""
    folder, density = tmp_path_factory.mktemp("field"), sample()
    fine, rng = 2 * N, np.random.default_rng(9)
    rotations = np.stack([rotation_y(angle) for angle in np.deg2rad(ANGLES)])
    clean = Projector((fine,) * 3, (fine, fine), rotations, scalar_weights(len(ANGLES))).forward(
        density[None]
    )
    kept = np.ix_(*[np.fft.fftfreq(N, 1 / N).astype(int)] * 2)
    images = np.fft.ifft2(np.fft.fft2(0.5 * clean)[(slice(None), *kept)]).real / 4.0
    moved = rng.uniform(-1.5, 1.5, (len(ANGLES), 2))
    cut = N // 2 - round(0.6 * RADIUS)
    frames = -shift_frames(images.astype(np.float32), -moved)[:, :, cut:]
    frames += rng.normal(0.0, 2e-3 * float(np.abs(frames).max()), frames.shape).astype(np.float32)
    width = frames.shape[2]
    save_phase(folder / "phase.h5", PhaseStack(frames, ANGLES, 3e-8, 700.0, 0.0, {}))
    # What the alignment would leave: it has tests of its own.
    np.savez(
        folder / "alignment.npz",
        shifts_0=moved + np.array([0.0, width // 2 - (N // 2 - cut)]),
        turns_rad=np.zeros(len(ANGLES)),
        scales=np.ones(len(ANGLES)),
        partial=np.ones(len(ANGLES), np.bool_),
    )
    np.save(folder / "volume.npy", np.zeros((N, N, N), np.float32))
    shape = stages.common_shape((N, width), [folder])
    stages.assemble(
        folder, [folder / "phase.h5"], folder / "alignment.npz", None, np.eye(3), shape, None, 1.0
    )
    return folder, density[::2, ::2, ::2], width


def error(volume, truth):
    """Relative rms error, away from the ends of the pillar."""
    rest = (volume - truth)[:, 10:-10]
    return float(np.sqrt(np.mean(rest**2) / np.mean(truth[:, 10:-10] ** 2)))


def test_frames_are_widened_to_hold_the_sample(assembled):
    folder, _, width = assembled
    stack = load_differenced(folder / "scalar.h5")
    assert stack.data.shape[2] == N > width
    assert stack.valid is not None
    assert 0.0 < 1.0 - stack.valid.mean() < 0.5
    whole = np.zeros(len(ANGLES), np.bool_)
    (folder / "whole").mkdir()
    np.savez(folder / "whole" / "alignment.npz", partial=whole)
    assert stages.common_shape((N, width), [folder / "whole"]) == (N, width)


@pytest.mark.parametrize("method", ["resire", "fbp"])
def test_a_tomogram_is_better_for_knowing_what_was_not_measured(assembled, tmp_path, method):
    folder, truth, _ = assembled
    stack = load_differenced(folder / "scalar.h5")
    save_differenced(tmp_path / "blind.h5", replace(stack, valid=None))
    errors = []
    for path in (folder / "scalar.h5", tmp_path / "blind.h5"):
        solve_scalar(tmp_path, [path], ScalarSettings(method=method))
        errors.append(error(np.load(tmp_path / "volume.npy"), truth))
    assert errors[0] < 0.7 * errors[1]
