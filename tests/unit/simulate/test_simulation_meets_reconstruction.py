"""Two codes, one physics: what is simulated is what the reconstruction's projector expects."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pipeline.simulate.beamtime import DICHROIC_PHASE_RAD, clean_projection, plan_beamtime
from pipeline.simulate.phantoms import MATERIALS, Phantom, pillar
from pipeline.simulate.presets import PRESETS
from pipeline.tomography.contrast import linear_difference_weights, scalar_weights
from pipeline.tomography.projector import Projector

PRESET = replace(
    PRESETS["tiny"],
    n_projections=5,
    n_off_resonance=5,
    shift_px=0.0,
    displacement_px=0.0,
    axis_offset_px=0.0,
)
SHAPE = (32, 36, 32)


def coarse(field: np.ndarray) -> np.ndarray:
    """Mean over the pixel (two fine voxels wide) around each pixel centre; origin `n // 2` kept."""
    smooth = ndimage.convolve1d(field, [0.25, 0.5, 0.25], axis=0)
    smooth = ndimage.convolve1d(smooth, [0.25, 0.5, 0.25], axis=1)
    smooth = ndimage.convolve1d(smooth, [0.25, 0.5, 0.25], axis=2)
    picks = [2 * (np.arange(n) - n // 2) + m // 2 for n, m in zip(SHAPE, field.shape, strict=True)]
    return smooth[np.ix_(*picks)].astype(np.float32)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return pillar(PRESET, np.random.default_rng(0))


@pytest.mark.parametrize("tilt", ["tilt1", "tilt3"])
def test_linear_difference(phantom: Phantom, tilt: str) -> None:
    first, *others = np.random.SeedSequence(0).spawn(10)
    series = {truth.series.name: truth for truth in plan_beamtime(PRESET, first, others)}
    lh, lv = series[f"{tilt}_lh"], series[f"{tilt}_lv"]
    x, y, z = phantom.axis.T
    grain = phantom.material == MATERIALS.index("V2O5")
    components = [x * x, y * y, z * z, y * z, x * z, x * y]
    tensor = np.stack(
        [coarse((DICHROIC_PHASE_RAD * grain * c)[phantom.labels]) for c in components]
    )
    weights = linear_difference_weights(lh.rotations, lh.series.polarisation.degree)
    projector = Projector(SHAPE, PRESET.frame_shape, lh.rotations, weights)
    expected = projector.forward(tensor)
    measured = np.stack(
        [
            clean_projection(PRESET, phantom, lv, i)[0]
            - clean_projection(PRESET, phantom, lh, i)[0]
            for i in range(5)
        ]
    )
    agreement = np.corrcoef(expected.ravel(), measured.ravel())[0, 1]
    assert agreement > 0.997  # the coarse grid blurs the grains' boundaries
    slope = (expected * measured).sum() / (expected**2).sum()
    assert slope == pytest.approx(1.0, abs=0.03)


def test_scalar(phantom: Phantom) -> None:
    first, *others = np.random.SeedSequence(0).spawn(10)
    truth = plan_beamtime(PRESET, first, others)[6]
    density = phantom.electron_density
    field = coarse((0.02 * density)[phantom.labels])
    projector = Projector(SHAPE, PRESET.frame_shape, truth.rotations, scalar_weights(5))
    expected = projector.forward(field[None])
    off = replace(truth, series=truth.series.model_copy(update={
        "energy": truth.series.energy.model_copy(update={"resonant": False})
    }))  # fmt: skip
    measured = np.stack([-clean_projection(PRESET, phantom, off, i)[0] for i in range(5)])
    assert np.corrcoef(expected.ravel(), measured.ravel())[0, 1] > 0.999
