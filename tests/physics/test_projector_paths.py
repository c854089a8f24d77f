"""All paths of the projector against closed forms, where geometry is not that of a plain series.

Laminography, refined angles, samples larger than the field of view, frames that are not square.
Tolerances are discretisation, as the projector states it, unless said otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.tomography.contrast import circular_weights
from pipeline.tomography.fourier import FourierSlices
from pipeline.tomography.geometry import rotation_x, rotation_y, rotation_z, series_rotations
from pipeline.tomography.projector import Projector

ERRORS: dict[str, float] = {
    "series": 2e-3,
    "spectra": 1.5e-3,
    "fourier": 1.5e-3,  # what 2.5 voxels wide blobs have beyond the grid's highest frequency
    "general": 0.04,
    "four-subvoxel": 0.03,
}
SIGMA = 2.5


def grid(shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    return np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")


def field_of(centres: NDArray[np.float64], heights: NDArray[np.float64], shape) -> NDArray:
    """(c, z, y, x) of Gaussian blobs; centres (b, 3) x, y, z, heights (b, c)."""
    z, y, x = grid(shape)
    field = np.zeros((heights.shape[1], *shape))
    for (cx, cy, cz), row in zip(centres, heights, strict=True):
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * SIGMA**2))
        field += row[:, None, None, None] * blob
    return field.astype(np.float32)


def projections_of(centres, heights, rotations, weights, shape) -> NDArray[np.float64]:
    """Their projections in closed form (n, ny, nx)."""
    y, x = grid(shape)
    stack = np.zeros((len(rotations), *shape))
    for image, rotation, weight in zip(stack, rotations, weights, strict=True):
        for centre, row in zip(centres, heights, strict=True):
            u, v, _ = rotation @ centre
            shadow = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * SIGMA**2))
            image[...] += weight @ row * np.sqrt(2 * np.pi) * SIGMA * shadow
    return stack


def laminography() -> NDArray[np.float64]:
    """A flat sample that turns about its normal, which is tipped out of the image by 29 degrees."""
    tip = rotation_x(np.deg2rad(61.0))
    return np.array([tip @ rotation_z(a) for a in np.deg2rad(np.arange(0.0, 360.0, 31.0))])


def refined() -> NDArray[np.float64]:
    """A tilt series of which every projection is off by a degree or two about every axis."""
    rng = np.random.default_rng(4)
    return np.array(
        [
            rotation_x(a) @ rotation_y(b) @ rotation_z(c) @ rotation
            for rotation, (a, b, c) in zip(
                series_rotations(np.arange(0.0, 180.0, 17.0), 30.0),
                np.deg2rad(rng.normal(0.0, 1.7, (11, 3))),
                strict=True,
            )
        ]
    )


def path(name: str, *geometry, **options) -> Projector:
    """The projector of a path; `spectra` is `series` by spectra, which small slices do not take."""
    if name == "spectra":
        return Projector(*geometry, "series", slices="spectra", **options)
    return Projector(*geometry, name, **options)


def relative(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


CENTRES = np.array([[9.0, 3.0, -4.0], [-11.0, -6.0, 2.5], [1.0, 10.0, 5.0]])
HEIGHTS = np.array([[1.0, 0.2, -0.5], [-0.7, 0.4, 0.3], [0.5, -0.9, 0.8]])
FLAT = (30, 44, 50)


@pytest.mark.parametrize("scheme", ERRORS)
@pytest.mark.parametrize("geometry", [laminography, refined])
def test_any_rotation(geometry, scheme: str) -> None:
    rotations = geometry()
    weights = circular_weights(rotations)
    projector = path(scheme, FLAT, (41, 52), rotations, weights)
    found = projector.forward(field_of(CENTRES, HEIGHTS, FLAT))
    expected = projections_of(CENTRES, HEIGHTS, rotations, weights, (41, 52))
    assert relative(found, expected) < ERRORS[scheme]


@pytest.mark.parametrize("geometry", [laminography, refined])
def test_paths_agree(geometry) -> None:
    rotations = geometry()
    field = field_of(CENTRES, HEIGHTS, FLAT)
    found = {
        scheme: path(scheme, FLAT, (41, 52), rotations, circular_weights(rotations)).forward(field)
        for scheme in ERRORS
    }
    for scheme, image in found.items():
        assert relative(image, found["fourier"]) < ERRORS[scheme] + ERRORS["fourier"]


# Farther out than the frame is wide, so that what wraps round would fall on the detector.
FAR = np.array([[24.0, 2.0, 1.0], [-25.0, -1.0, -3.0], [0.0, 3.0, 2.0]])


@pytest.mark.parametrize("scheme", ERRORS)
def test_sample_larger_than_the_field_of_view(scheme: str) -> None:
    volume, image = (24, 30, 72), (26, 24)
    rotations = series_rotations(np.arange(-80.0, 90.0, 20.0), 12.0)
    weights = np.ones((len(rotations), 1))
    projector = path(scheme, volume, image, rotations, weights)
    found = projector.forward(field_of(FAR, HEIGHTS[:, :1], volume))
    expected = projections_of(FAR, HEIGHTS[:, :1], rotations, weights, image)
    assert relative(found, expected) < ERRORS[scheme]
    back = projector.adjoint(np.ones(projector.stack_shape, np.float32))
    # At -60 degrees a voxel 24 off the axis is seen; at zero it is not.
    assert back[0, 12, 15, 36 + 24] > 0.0


def test_the_frame_is_what_keeps_periods_apart() -> None:
    volume, image = (24, 30, 72), (26, 24)
    rotations = series_rotations(np.arange(-80.0, 90.0, 20.0), 12.0)
    weights = np.ones((len(rotations), 1))
    projector = Projector(volume, image, rotations, weights, "fourier")
    (slices,) = projector._series
    assert isinstance(slices, FourierSlices)
    field = field_of(FAR, HEIGHTS[:, :1], volume)
    expected = projections_of(FAR, HEIGHTS[:, :1], rotations, weights, image)
    narrow = np.zeros(projector.stack_shape, np.float32)
    replace(slices, frame=image).forward(field, narrow)
    assert relative(narrow, expected) > 0.3
    # A support that the detector sees whole needs no wider frame.
    support = np.zeros(volume, np.bool_)
    support[8:16, 11:19, 32:40] = True
    inside = Projector(volume, image, rotations, weights, "fourier", support=support)
    (small,) = inside._series
    assert isinstance(small, FourierSlices)
    assert small.frame < slices.frame
    assert max(small.frame) <= 30
