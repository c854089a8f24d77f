"""The measured tilt series of a Ta film against the published RESIRE volume, in its middle rows.

The film goes on beyond the frames; the tilt axis is vertical to half a degree, so that a few rows
tell what all do (`tests/benchmarks/reconstruction.py --rows film` takes all).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import scalar_weights
from pipeline.tomography.geometry import euler_rotations
from pipeline.tomography.projector import Projector
from schemas.recipe import ScalarSettings

DATA = Path(__file__).parents[2] / "../shared/data/ta-film-tilt-series"
ROWS = slice(38 - 6, 38 + 7)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="needs the published data set in ../shared/data"),
]


def test_middle_of_the_film_agrees_with_the_published_volume():
    measured = loadmat(DATA / "Projections_area23.mat")["Proj_sub"].transpose(2, 1, 0)[:, ROWS]
    published = loadmat(DATA / "ReconObj_sub23.mat")["reconstruction"].transpose(2, 1, 0)[:, ROWS]
    rotations = euler_rotations(loadmat(DATA / "angles.mat")["angle"])
    weights = scalar_weights(len(rotations))
    stack = DifferencedStack(
        np.ascontiguousarray(measured, np.float32), rotations, weights, "scalar", 1e-10, 0.0
    )
    settings = ScalarSettings(extend=[1.0, 1.0, 1.5], iterations=40)
    found = reconstruct_scalar(stack, None, settings, volume_shape=published.shape)
    pearson = np.corrcoef(found.volume.ravel(), published.ravel())[0, 1]
    projector = Projector(
        found.extended.shape, measured.shape[1:], rotations, weights, "four-subvoxel"
    )
    calculated = projector.forward(found.extended[None])
    misfit = np.abs(calculated - measured).sum() / np.abs(measured).sum()
    assert pearson > 0.93  # of all rows, whose outermost are not cut off, 0.968
    assert misfit < 0.15
