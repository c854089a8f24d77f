from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.errors import GeometryError
from pipeline.tomography.contrast import linear_difference_weights, scalar_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.twins import CPU
from pipeline.tomography.projector import Projector
from pipeline.tomography.series import Series
from pipeline.tomography.spectra import SliceSpectra, plan_spectra

ANGLES = np.deg2rad([-171.0, -90.0, -45.0, -3.0, 0.0, 17.0, 45.0, 88.0, 90.0, 133.0])
INTERPOLATION = 6e-4
"""Of the norm, on white noise up to the edges of the slices; measured 4e-4."""


def spectra(box, n_columns: int, blur: float = 0.0, r: int = 1) -> SliceSpectra:
    """Plan lines about y for the ranges `box` (z, x), all angles weighted differently."""
    coefficients = np.random.default_rng(1).uniform(0.5, 1.5, (len(ANGLES), r)).astype(np.float32)
    indices = np.arange(len(ANGLES))[::-1].copy()
    return plan_spectra(
        (np.sin(ANGLES), np.cos(ANGLES)), box, coefficients, n_columns, indices, blur
    )


def band_limited(volume: NDArray[np.float32], box, lines: SliceSpectra, n_columns: int):
    """The projections by plain sums: every voxel's shadow is a Dirichlet kernel of the frame."""
    n = lines.corners.shape[1]
    z, x = (np.arange(low, high + 1) for low, high in box)
    u = np.arange(n_columns) - n_columns // 2
    waves = np.arange(-(n // 2), n // 2 + 1) * 2.0 * np.pi / n
    stack = np.zeros((len(ANGLES), volume.shape[2], n_columns))
    for m, angle in enumerate(ANGLES):
        shadow = np.cos(angle) * x + np.sin(angle) * z[:, None]
        to = np.exp(-1j * waves[:, None] * shadow.ravel())
        back = np.exp(1j * np.outer(u, waves)) / n
        rows = volume.transpose(0, 2, 1, 3).reshape(*volume.shape[:1], volume.shape[2], -1)
        for r, field in enumerate(rows):
            images = (field @ to.T @ back.T).real
            stack[lines.indices[m]] += lines.coefficients[m, r] * images
    stack[:, :, : lines.columns[0]] = 0.0
    stack[:, :, lines.columns[1] :] = 0.0
    return stack


@pytest.mark.parametrize(
    ("box", "n_columns"),
    [
        (((-10, 11), (-16, 15)), 32),  # corners leave the detector
        (((-8, 8), (-7, 6)), 60),  # the detector is wider than any shadow
        (((3, 19), (-25, -4)), 30),  # off the axis
        (((-20, 20), (-21, 20)), 7),  # most falls beside the detector
        (((0, 0), (0, 0)), 5),  # one voxel
    ],
)
def test_lines_are_those_of_plain_sums(box, n_columns: int) -> None:
    lines = spectra(box, n_columns, r=2)
    sizes = [high - low + 1 for low, high in box]
    volume = np.random.default_rng(2).standard_normal((2, sizes[0], 23, sizes[1]), np.float32)
    stack = np.zeros((len(ANGLES), 23, n_columns), np.float32)
    lines.project(volume, (0, 22), stack, 0, CPU)
    expected = band_limited(volume, box, lines, n_columns)
    assert np.linalg.norm(stack - expected) < INTERPOLATION * np.linalg.norm(expected)
    assert np.linalg.norm(expected) > 0.0


def test_a_part_of_the_slices_becomes_a_part_of_the_rows() -> None:
    lines = spectra(((-6, 6), (-6, 6)), 16)
    volume = np.random.default_rng(3).standard_normal((1, 13, 40, 13), np.float32)
    whole, part = np.zeros((len(ANGLES), 40, 16), "f4"), np.full((len(ANGLES), 30, 16), 7.0, "f4")
    lines.project(volume, (0, 39), whole, 0, CPU)
    lines.project(volume, (5, 29), part, 3, CPU)
    scale = np.abs(whole).max()
    seen = slice(*lines.columns)
    np.testing.assert_allclose(
        part[:, 3:28, seen], whole[:, 5:30, seen], atol=1e-6 * scale
    )  # rounding
    assert (part[:, :3] == 7.0).all()
    assert (part[:, 28:] == 7.0).all()
    back = np.full((1, 13, 40, 13), 5.0, np.float32)
    lines.back_project(part, 3, (5, 29), back, CPU)
    assert (back[:, :, :5] == 5.0).all()
    assert (back[:, :, 30:] == 5.0).all()


def test_nothing_that_misses_the_detector_wraps_onto_it() -> None:
    lines = spectra(((0, 2), (60, 63)), 21)
    volume = np.ones((1, 3, 2, 4), np.float32)
    stack = np.zeros((len(ANGLES), 2, 21), np.float32)
    lines.project(volume, (0, 1), stack, 0, CPU)
    largest = np.abs(stack).max(axis=(1, 2))[lines.indices]
    seen = np.isin(ANGLES, np.deg2rad([-90.0, 88.0, 90.0]))
    # What is left elsewhere is the tail of a sharp edge, one over its distance.
    assert largest[~seen].max() < 0.05 * largest[seen].min()


def test_slices_beyond_the_detector_are_not_projected() -> None:
    support = np.zeros((8, 40, 8), np.bool_)
    support[2:6, :4, 2:6] = True
    projector = Projector(
        support.shape, (6, 9), series_rotations([0.0, 40.0]), scalar_weights(2), support=support,
        slices="spectra",
    )  # fmt: skip
    assert not projector.forward(np.ones(projector.field_shape, np.float32)).any()
    assert not projector.adjoint(np.ones(projector.stack_shape, np.float32)).any()


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.7])
def test_blurs_as_footprints_do(spread: float) -> None:
    angles = np.arange(0.0, 180.0, 30.0)
    rotations = series_rotations(angles)
    z, y, x = np.meshgrid(*[np.arange(24) - 12] * 3, indexing="ij")
    field = np.exp(-(z**2 + y**2 + x**2) / (2.0 * 2.5**2)).astype(np.float32)[None]
    images = [
        Projector(
            (24,) * 3, (30, 30), rotations, scalar_weights(6), point_spread_px=spread, slices=slices
        ).forward(field)
        for slices in ("footprints", "spectra")
    ]
    difference = np.linalg.norm(images[0] - images[1]) / np.linalg.norm(images[1])
    assert difference < 2e-3  # of the footprints


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_bands_share_the_rows_out(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = spectra(((-30, 30), (-20, 20)), 64)
    stack = np.random.default_rng(4).standard_normal((len(ANGLES), 20, 64), np.float32)
    alone, shared = np.zeros((2, 1, 61, 20, 41), np.float32)
    monkeypatch.setattr(numba, "get_num_threads", lambda: 1)
    lines.back_project(stack, 0, (0, 19), alone, CPU)
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    bands = lines._bands()
    assert len(bands) == threads + 1
    assert (np.diff(bands) >= 0).all()
    assert (bands[0], bands[-1]) == (0, lines.grid[0])
    lines.back_project(stack, 0, (0, 19), shared, CPU)
    np.testing.assert_array_equal(shared, alone)


def test_spectra_where_slices_are_large_and_angles_many() -> None:
    def chosen(n: int, k: int) -> str:
        rotations = series_rotations(np.linspace(0.0, 180.0, k, endpoint=False), 30.0)
        return Projector((n,) * 3, (n, n), rotations, scalar_weights(k)).slices

    assert chosen(128, 180) == "spectra"
    assert chosen(128, 4) == "footprints"
    assert chosen(32, 12) == "footprints"


def test_a_subset_keeps_the_choice_of_the_whole() -> None:
    rotations = series_rotations(np.linspace(0.0, 180.0, 180, endpoint=False))
    whole = Projector((8, 96, 96), (96, 96), rotations, scalar_weights(180), slices="spectra")
    part = whole.subset([3, 50])
    assert part.slices == "spectra"
    (series,) = part._series
    assert isinstance(series, Series)
    assert series.spectra is not None


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(
        GeometryError, match=r"slices cheapest, footprints or spectra, found 'rays'"
    ):
        Projector((4, 4, 4), (4, 4), series_rotations([0.0]), scalar_weights(1), slices="rays")


@pytest.mark.parametrize(("pre", "axis"), [(0.0, 0), (90.0, 0), (180.0, 0)])
def test_a_field_that_lies_aslant_is_seen_in_parts(pre: float, axis: int) -> None:
    rotations = series_rotations(np.arange(0.0, 180.0, 9.0), 30.0, pre)
    shape, frame, weights = (24, 150, 24), (140, 110), linear_difference_weights(rotations)
    projector = Projector(shape, frame, rotations, weights, slices="spectra", point_spread_px=0.4)
    series = projector._series[0]
    assert isinstance(series, Series)
    assert series.spectra is not None
    window = series.spectra.window
    assert window is not None
    assert window.axis == axis
    plan = plan_spectra(
        *series._slices, series.coefficients, frame[1], series.indices, -series.sharpening[1]
    )
    assert window.size < plan.grid[axis] / 1.5
    whole = replace(series, spectra=plan)
    rng = np.random.default_rng(4)
    field = np.zeros(projector.field_shape, np.float32)
    field[:, 4:-4, 4:-4, 4:-4] = rng.standard_normal((6, 16, 142, 16))
    field = gaussian_filter(field, (0, 1.5, 1.5, 1.5))  # nearly nothing is left at the surface
    found, expected = projector.forward(field), np.zeros(projector.stack_shape, np.float32)
    whole.forward(field, expected)
    # A frame that is narrower cuts the tails of what lies in it.
    assert np.linalg.norm(found - expected) < INTERPOLATION * np.linalg.norm(expected)
    x = rng.standard_normal(projector.field_shape).astype(np.float32)
    y = rng.standard_normal(projector.stack_shape).astype(np.float32)
    forward, back = projector.forward(x), projector.adjoint(y)
    left, right = np.vdot(forward.astype(np.float64), y), np.vdot(x.astype(np.float64), back)
    assert abs(left - right) < 5e-7 * np.linalg.norm(forward) * np.linalg.norm(y)


def test_slices_that_fill_their_box_have_no_window() -> None:
    rotations = series_rotations(np.arange(0.0, 180.0, 9.0))
    projector = Projector((20, 90, 24), (90, 40), rotations, scalar_weights(20), slices="spectra")
    series = projector._series[0]
    assert isinstance(series, Series)
    assert series.spectra is not None
    assert series.spectra.window is None
