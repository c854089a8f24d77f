"""Grains of a measured nickel EBSD map against the published segmentation of the same map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.analyse.grains import segment_orientations
from pipeline.analyse.merging import cubic
from schemas.recipe import GrainSettings

DATA = Path(__file__).parents[2] / "../shared/data/nickel-ebsd"
SHAPE = (1, 243, 359)

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the EBSD map is not here: {DATA} (see the data page)"
)


@pytest.fixture(scope="module")
def orientations() -> np.ndarray:
    """Quaternions (w, x, y, z) from sample to crystal, so that the equivalents stand left."""
    layout = [("phase", "u1"), ("euler", "<f4", 3), ("mad", "<f4"), ("b", "u1", 4), ("f", "<f4")]
    records = np.fromfile(DATA / "testDataEBSD.crc", dtype=np.dtype(layout))
    crystal_to_sample = Rotation.from_euler("ZXZ", records["euler"].astype(float))
    return crystal_to_sample.inv().as_quat(scalar_first=True)


@pytest.mark.parametrize(("min_voxels", "n_grains"), [(0, 141), (10, 109), (100, 76)])
def test_same_grains_as_published(orientations, min_voxels, n_grains):
    settings = GrainSettings(
        method="connected", misorientation_deg=5, min_voxels=max(1, min_voxels), small="drop"
    )
    label = segment_orientations(orientations, np.ones(SHAPE, bool), settings, cubic())[0]
    expected = np.load(DATA / f"ebsd_grains_5deg_{min_voxels}.npz")["grains"]
    assert label.max() == n_grains
    # The same partition: as many pairs of labels as there are labels.
    pairs = np.unique(np.stack([label.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(expected))
