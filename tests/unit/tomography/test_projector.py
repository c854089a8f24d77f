from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.tomography import projector
from pipeline.tomography.contrast import linear_difference_weights, scalar_weights
from pipeline.tomography.geometry import rotation_z, series_rotations
from pipeline.tomography.kernels.twins import CPU
from pipeline.tomography.projector import Projector, Scheme, Slices, fastest_scheme
from pipeline.tomography.series import Series

SCHEMES = ("series", "general", "four-subvoxel")


@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_a_voxel_lands_where_its_rotation_says(scheme: Scheme) -> None:
    field = np.zeros((1, 9, 9, 9), np.float32)
    field[0, 4 + 3, 4 - 2, 4 + 1] = 1.0  # x = 1, y = -2, z = 3
    rotations = series_rotations([0.0, 90.0, 180.0, -90.0])
    stack = Projector((9, 9, 9), (9, 9), rotations, np.ones((4, 1)), scheme).forward(field)
    expected = np.zeros((4, 9, 9))
    for image, column in zip(expected, (1, 3, -1, -3), strict=True):
        image[4 - 2, 4 + column] = 1.0
    np.testing.assert_allclose(stack, expected, atol=1e-6)  # rounding of the cosine


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turned_mountings_are_exact(size: int, quarters: int) -> None:
    rng = np.random.default_rng(0)
    field = rng.standard_normal((1, size, size, size)).astype(np.float32)
    rotation = rotation_z(quarters * np.pi / 2)[None]
    images = (size + 2, size + 2)
    stacks = [
        Projector(field.shape[1:], images, rotation, np.ones((1, 1)), scheme).forward(field)
        for scheme in SCHEMES[:2]
    ]
    np.testing.assert_allclose(stacks[0], stacks[1], atol=1e-5)  # rounding


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mass_is_kept_while_the_shadow_is_inside(scheme: Scheme) -> None:
    rng = np.random.default_rng(1)
    field = np.zeros((1, 16, 16, 16), np.float32)
    field[0, 5:11, 5:11, 5:11] = rng.random((6, 6, 6))
    rotations = series_rotations([0.0, 33.0, 100.0], 30.0, 40.0)
    projector = Projector((16, 16, 16), (24, 24), rotations, np.ones((3, 1)), scheme)
    sums = projector.forward(field).sum(axis=(1, 2))
    # The splines keep the mass but for sampling them at the turned grid, 1 % on white noise.
    tolerance = 0.01 if scheme == "series" else 1e-5
    np.testing.assert_allclose(sums, field.sum(), rtol=tolerance)


def test_nothing_outside_the_images_wraps_round() -> None:
    field = np.zeros((1, 3, 3, 21), np.float32)
    field[0, 1, 1, 0] = 1.0
    field[0, 1, 1, -1] = 1.0
    rotations = series_rotations([0.0, 1.0, 180.0])
    for scheme in SCHEMES:
        stack = Projector((3, 3, 21), (3, 9), rotations, np.ones((3, 1)), scheme).forward(field)
        assert not stack.any()


def test_errors_name_operator_and_shapes() -> None:
    projector = Projector((4, 5, 6), (5, 6), series_rotations([0.0, 10.0]), np.ones((2, 3)))
    with pytest.raises(
        GeometryError,
        match=r"Projector.forward: expected shape \(3, 4, 5, 6\) \(to give \(2, 5, 6\)\), "
        r"found \(3, 4, 5, 5\)",
    ):
        projector.forward(np.zeros((3, 4, 5, 5), np.float32))
    with pytest.raises(
        GeometryError,
        match=r"Projector.adjoint: expected shape \(2, 5, 6\) \(to give \(3, 4, 5, 6\)\), "
        r"found \(1, 5, 6\)",
    ):
        projector.adjoint(np.zeros((1, 5, 6), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_numbers_that_are_not_finite(bad: float) -> None:
    projector = Projector((4, 5, 6), (5, 6), series_rotations([0.0, 10.0]), np.ones((2, 1)))
    field, stack = np.zeros(projector.field_shape, "f4"), np.zeros(projector.stack_shape, "f4")
    field[0, 1, 2, 3] = stack[1, 2, 3] = bad
    with pytest.raises(
        GeometryError,
        match=r"Projector.forward: expected finite values of shape \(1, 4, 5, 6\) "
        r"\(to give \(2, 5, 6\)\), found NaN or infinity",
    ):
        projector.forward(field)
    with pytest.raises(GeometryError, match=r"Projector.adjoint: expected finite values"):
        projector.adjoint(stack)


@pytest.mark.parametrize(
    ("volume", "image", "weights", "scheme", "message"),
    [
        ((4, 4, 4), (4, 4), np.ones((3, 1)), "series", r"weights \(n, c\) for n = 2"),
        ((4, 4, 4), (4, 4), np.full((2, 1), np.nan), "series", "expected finite weights"),
        ((4, 0, 4), (4, 4), np.ones((2, 1)), "series", r"3 positive volume sizes, found \(4, 0, 4"),
        ((4, 4, 4), (4,), np.ones((2, 1)), "series", r"2 positive image sizes, found \(4,\)"),
        ((4, 4, 4), (4, 4), np.ones((2, 1)), "joseph", "expected scheme series, general, four"),
    ],
)
def test_refuses(
    volume: tuple[int, ...],
    image: tuple[int, ...],
    weights: np.ndarray,
    scheme: Scheme,
    message: str,
) -> None:
    with pytest.raises(GeometryError, match=message):
        Projector(volume, image, series_rotations([0.0, 10.0]), weights, scheme)


def test_refuses_a_support_of_another_shape() -> None:
    rotations = series_rotations([0.0])
    with pytest.raises(GeometryError, match=r"bool support \(4, 4, 4\), found bool \(4, 4, 3\)"):
        Projector(
            (4, 4, 4), (4, 4), rotations, np.ones((1, 1)), support=np.ones((4, 4, 3), np.bool_)
        )


def test_scheme_follows_the_number_of_axes() -> None:
    series = series_rotations(np.arange(0.0, 180.0, 20.0), 30.0)
    refined = np.array([rotation @ rotation_z(1e-4 * i) for i, rotation in enumerate(series)])
    assert fastest_scheme(series) == "series"
    assert fastest_scheme(series[:1]) == "series"
    assert fastest_scheme(refined) == "fourier"


def test_choice_where_finufft_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "fourier_available", lambda: False)
    refined = np.stack([rotation_z(a) for a in np.linspace(0.0, 0.5, 9)])
    assert fastest_scheme(refined) == "series"


@pytest.mark.parametrize("scheme", ["series", "general", "four-subvoxel", "fourier"])
def test_pixels_that_are_not_valid_contribute_nothing(scheme: Scheme) -> None:
    rotations = series_rotations([-40.0, 0.0, 35.0, 80.0], 30.0)
    rng = np.random.default_rng(5)
    valid = rng.random((4, 11, 12)) < 0.6
    weights = scalar_weights(4)
    whole = Projector((10, 10, 10), (11, 12), rotations, weights, scheme)
    masked = Projector((10, 10, 10), (11, 12), rotations, weights, scheme, valid=valid)
    x = rng.standard_normal(whole.field_shape).astype(np.float32)
    y = rng.standard_normal(whole.stack_shape).astype(np.float32)
    projected = masked.forward(x)
    assert not projected[~valid].any()
    np.testing.assert_array_equal(projected[valid], whole.forward(x)[valid])
    broken = np.where(valid, y, np.float32(np.nan))
    expected = whole.adjoint(np.where(valid, y, np.float32(0.0)))
    # finufft adds up in an order of its own.
    scale = 1e-6 * np.abs(expected).max() if scheme == "fourier" else 0.0
    np.testing.assert_allclose(masked.adjoint(broken), expected, atol=scale, rtol=0.0)
    left = np.vdot(projected.astype(np.float64), y)
    right = np.vdot(x.astype(np.float64), masked.adjoint(broken))
    assert abs(left - right) <= 5e-7 * np.linalg.norm(projected) * np.linalg.norm(y)
    part = masked.subset([2, 0]).forward(x)
    np.testing.assert_allclose(part, projected[[2, 0]], atol=1e-5 * np.abs(projected).max())


def test_normal_is_there_and_back() -> None:
    rotations = series_rotations([-40.0, 0.0, 35.0], 30.0)
    rng = np.random.default_rng(6)
    projector = Projector(
        (6, 7, 8), (7, 9), rotations, scalar_weights(3), valid=rng.random((3, 7, 9)) < 0.8
    )
    x = rng.standard_normal(projector.field_shape).astype(np.float32)
    weights = rng.random(projector.stack_shape).astype(np.float32)
    np.testing.assert_array_equal(projector.normal(x), projector.adjoint(projector.forward(x)))
    weighted = projector.adjoint(weights * projector.forward(x))
    np.testing.assert_array_equal(projector.normal(x, weights), weighted)


def test_a_mask_of_another_shape_is_named() -> None:
    with pytest.raises(
        GeometryError,
        match=r"expected a bool mask of valid pixels \(1, 4, 4\), found float64 \(1, 4, 5\)",
    ):
        Projector((4, 4, 4), (4, 4), np.eye(3)[None], [[1.0]], valid=np.ones((1, 4, 5)))


@pytest.mark.parametrize(("tilt", "pre"), [(0.0, 0.0), (30.0, 0.0), (-41.0, 90.0), (29.0, 33.0)])
@pytest.mark.parametrize("supported", [False, True])
def test_rows_that_are_left_out_hold_nothing(tilt: float, pre: float, supported: bool) -> None:
    volume = (35, 50, 90)
    rotations = series_rotations([0.0, 20.0], tilt, pre)
    support = np.zeros(volume, np.bool_)
    support[12:20, 5:45, 30:60] = True
    projector = Projector(
        volume, (120, 60), rotations, scalar_weights(2), support=support if supported else None
    )
    (series,) = projector._series
    assert isinstance(series, Series)
    field = np.random.default_rng(7).standard_normal(projector.field_shape).astype(np.float32)
    turned = series._rows_last(series._turned(field, CPU), CPU)
    rows, (low, high) = np.arange(turned.shape[3]), series.filled.T[:, :, None]
    left_out = (rows < low) | (rows >= high)
    assert np.abs(turned[:, :, left_out]).max(initial=0.0) < 1e-6
    if tilt == 30.0:
        # A turned box fills two thirds of the box around it.
        assert left_out.mean() > 0.15


def test_only_the_box_around_the_support_is_turned() -> None:
    volume = (40, 40, 40)
    support = np.zeros(volume, np.bool_)
    support[15:25, 14:26, 16:24] = True
    rotations = series_rotations([0.0, 50.0, 100.0], 30.0, 33.0)
    weights = scalar_weights(3)
    boxed = Projector(volume, (44, 40), rotations, weights, support=support)
    whole = Projector(volume, (44, 40), rotations, weights)
    x = np.random.default_rng(8).standard_normal(whole.field_shape).astype(np.float32) * support
    (series,) = boxed._series
    assert isinstance(series, Series)
    assert [part.stop - part.start for part in series.box] == [20, 22, 18]
    expected = whole.forward(x)
    # What a spline still is five voxels outside.
    assert np.linalg.norm(boxed.forward(x) - expected) < 1e-3 * np.linalg.norm(expected)
    y = np.random.default_rng(9).standard_normal(whole.stack_shape).astype(np.float32)
    back = boxed.adjoint(y)
    left = np.vdot(boxed.forward(x).astype(np.float64), y)
    assert abs(left - np.vdot(x.astype(np.float64), back)) < 5e-7 * np.linalg.norm(
        expected
    ) * np.linalg.norm(y)
    assert not back[:, ~support].any()


@pytest.mark.parametrize("slices", ["footprints", "spectra"])
@pytest.mark.parametrize("scheme", ["series", "fourier", "general"])
def test_only_a_stack_that_may_be_overwritten_is(scheme: Scheme, slices: Slices) -> None:
    rotations = series_rotations(np.arange(0.0, 180.0, 20.0), 30.0)
    projector = Projector(
        (16, 16, 16), (20, 20), rotations, linear_difference_weights(rotations), scheme,
        point_spread_px=0.4, slices=slices,
    )  # fmt: skip
    stack = np.random.default_rng(3).standard_normal(projector.stack_shape, np.float32)
    kept = stack.copy()
    expected = projector.adjoint(stack)
    np.testing.assert_array_equal(stack, kept)
    # Only finufft adds up in the order of its threads.
    rounding = 1e-5 * np.abs(expected).max() if scheme == "fourier" else 0.0
    found = projector.adjoint(stack, overwrite=True)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=rounding)
