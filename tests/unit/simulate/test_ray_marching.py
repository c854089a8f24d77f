"""The simulation's projector against closed forms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.simulate.projector import project, ray_pattern


def ellipsoid(shape: tuple[int, int, int], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Label map of an ellipsoid; centre and radii (x, y, z) [voxels] from the origin."""
    z, y, x = np.indices(shape, dtype=float)
    r = np.stack([a - n // 2 for a, n in zip((x, y, z), shape[::-1], strict=True)], axis=-1)
    return ((((r - centre) / radii) ** 2).sum(axis=-1) <= 1.0).astype(np.uint16)


def chords(
    points: np.ndarray, rotation: np.ndarray, centre: np.ndarray, radii: np.ndarray
) -> np.ndarray:
    """Length of the chord along lab z through an ellipsoid at lab positions (..., 2)."""
    lab = np.concatenate([points, np.zeros((*points.shape[:-1], 1))], axis=-1)
    start = (lab @ rotation - centre) / radii  # R^T r, scaled to the unit sphere
    along = rotation[2] / radii
    a = along @ along
    b = start @ along
    c = (start**2).sum(axis=-1) - 1.0
    return 2.0 * np.sqrt(np.maximum(b**2 - a * c, 0.0)) / a


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pixel", [2.0, 1.5])
def test_ellipsoid(seed: int, pixel: float) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=rng).as_matrix()
    centre, radii = rng.uniform(-4, 4, 3), rng.uniform(12, 22, 3)
    labels = ellipsoid((64, 70, 62), centre, radii)
    origin = (20.3, 17.6)
    image = project(
        labels,
        np.array([[0.0, 0.0], [1.0, -2.5]]),
        rotation,
        frame_shape=(40, 36),
        origin_px=origin,
        pixel=pixel,
        rays_per_pixel=8,
    )
    np.testing.assert_allclose(image[1], -2.5 * image[0], rtol=1e-12)  # rounding
    fine = (np.arange(5) + 0.5) / 5 - 0.5
    rows = (np.arange(40)[:, None] + fine - origin[0]) * pixel
    columns = (np.arange(36)[:, None] + fine - origin[1]) * pixel
    y, x = np.meshgrid(rows.ravel(), columns.ravel(), indexing="ij")
    exact = chords(np.stack([x, y], axis=-1), rotation, centre, radii)
    exact = exact.reshape(40, 5, 36, 5).mean(axis=(1, 3))
    # Discretisation: surfaces of the label map are jagged by half a voxel.
    assert np.sqrt(np.mean((image[0] - exact) ** 2)) < 0.5
    volume = 4 / 3 * np.pi * radii.prod()
    assert image[0].sum() * pixel**2 == pytest.approx(volume, rel=0.01)


def test_straight_through_a_box_is_exact() -> None:
    labels = np.zeros((9, 8, 10), np.uint16)
    labels[2:7, 3:5, 4:8] = 1
    image = project(
        labels,
        np.array([[0.0], [1.0]]),
        np.eye(3),
        frame_shape=(8, 10),
        origin_px=(4.0, 5.0),
        pixel=1.0,
    )
    expected = np.zeros((8, 10))
    expected[3:5, 4:8] = 5.0
    np.testing.assert_allclose(image[0], expected, atol=1e-9)


def test_a_block_lands_where_the_rotation_says() -> None:
    rng = np.random.default_rng(4)
    labels = np.zeros((31, 32, 33), np.uint16)
    labels[18:23, 9:14, 23:28] = 1
    r = np.array([25 - 16, 11 - 16, 20 - 15], float)
    rotation = Rotation.random(random_state=rng).as_matrix()
    image = project(
        labels,
        np.array([[0.0], [1.0]]),
        rotation,
        frame_shape=(50, 60),
        origin_px=(24.0, 31.0),
        pixel=1.0,
        rays_per_pixel=21,
    )[0]
    found = [np.average(index, weights=image) for index in np.indices(image.shape)]
    x, y, _ = rotation @ r
    assert found == pytest.approx([24.0 + y, 31.0 + x], abs=0.05)  # rays and steps at its faces


def test_shape_outside_the_frame_and_empty_map() -> None:
    empty = np.zeros((4, 5, 6), np.uint16)
    image = project(
        empty,
        np.ones((1, 1)) * 0.0,
        np.eye(3),
        frame_shape=(3, 3),
        origin_px=(-50.0, 80.0),
        pixel=2.0,
    )
    assert image.shape == (1, 3, 3)
    assert not image.any()


def test_rays_fill_a_pixel_evenly() -> None:
    for count in (2, 3, 5, 8, 13, 144):
        rays = ray_pattern(count)
        np.testing.assert_allclose(rays.mean(axis=0), 0.0, atol=1e-12)
        for axis in range(2):
            np.testing.assert_allclose(
                np.sort(rays[:, axis]), (np.arange(count) + 0.5) / count - 0.5
            )
    with pytest.raises(ValueError, match="expected a Fibonacci number of rays, found 4"):
        ray_pattern(4)
