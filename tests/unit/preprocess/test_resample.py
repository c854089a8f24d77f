"""Fourier interpolation against closed-form band-limited images."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.preprocess.resample import (
    fourier_resample,
    fourier_shift,
    resampled_shape,
)


def _waves(rng, scale=1.0, shift=(0.0, 0.0), shape=(120, 131), highest=0.25):
    """Real and complex band-limited images sampled at `scale`, moved by `shift`."""
    y = (np.arange(shape[0]) - shape[0] // 2)[:, None] * scale - shift[0]
    x = (np.arange(shape[1]) - shape[1] // 2)[None, :] * scale - shift[1]
    waves = rng.uniform(-highest, highest, (20, 2))
    phases = rng.uniform(0, 2 * np.pi, 20)
    image = sum(
        np.exp(2j * np.pi * (a * y + b * x) + 1j * p)
        for (a, b), p in zip(waves, phases, strict=True)
    )
    return image


@pytest.mark.parametrize(("pixel_in", "pixel_out"), [(31.29, 30.91), (30.91, 31.29)])
@pytest.mark.parametrize("real", [True, False])
def test_band_limited_interior(pixel_in, pixel_out, real):
    image = _waves(np.random.default_rng(1))
    wanted = _waves(np.random.default_rng(1), pixel_out / pixel_in)
    if real:
        image, wanted = image.real, wanted.real
    found = fourier_resample(image, pixel_in, pixel_out)
    inner = np.s_[32:-32, 32:-32]
    # Discretisation: what the mirrored border leaks into the interior.
    assert np.abs((found - wanted)[inner]).max() < 1e-3 * np.abs(wanted).max()
    assert found.dtype == image.dtype


def test_air_bounded_sample_is_exact_to_its_tails():
    y, x = np.mgrid[:96, :80].astype(float)
    blob = np.exp(-((y - 45.3) ** 2) / 60 - (x - 41.1) ** 2 / 45)
    ratio = 30.91 / 31.29
    yo, xo = (y - 48) * ratio + 48, (x - 40) * ratio + 40
    wanted = np.exp(-((yo - 45.3) ** 2) / 60 - (xo - 41.1) ** 2 / 45)
    assert np.abs(fourier_resample(blob, 31.29, 30.91) - wanted).max() < 1e-6


def test_equal_pixels_are_the_identity():
    image = np.random.default_rng(0).normal(size=(33, 40)).astype(np.float32)
    assert np.array_equal(fourier_resample(image, 3e-8, 3e-8), image)
    larger = fourier_resample(image, 3e-8, 3e-8, (41, 52))
    assert np.allclose(larger[4:37, 6:46], image, atol=1e-5)


def test_stack_is_resampled_frame_by_frame():
    stack = np.random.default_rng(3).normal(size=(3, 20, 24)).astype(np.float32)
    whole = fourier_resample(stack, 1.0, 2.0, (10, 12))
    assert np.allclose(whole[1], fourier_resample(stack[1], 1.0, 2.0, (10, 12)), atol=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 1.5, 2.0, 3.7])
@pytest.mark.parametrize("n", [7, 64, 65])
def test_other_pixels_show_the_image_and_nothing_beyond(n, ratio):
    m = resampled_shape((n, n), ratio)[0]
    at = (np.arange(m) - m // 2) * ratio + n // 2
    assert at[0] >= -0.5
    assert at[-1] <= n - 0.5
    more = (np.arange(m + 1) - (m + 1) // 2) * ratio + n // 2
    assert more[0] < -0.5 or more[-1] > n - 0.5


def test_pixels_that_are_nearly_as_wide_keep_the_shape():
    assert resampled_shape((128, 127), 31.29 / 30.91) == (128, 127)
    assert resampled_shape((128, 127), 30.91 / 31.29) == (128, 127)


def test_a_sample_at_the_border_is_not_shown_twice():
    y, x = np.indices((64, 64)) - 32
    image = np.exp(-((y - 3.0) ** 2 + (x - 22.0) ** 2) / (2 * 4.0**2))
    wide = fourier_resample(image, 1.0, 2.0)
    assert wide.shape == (32, 32)
    assert wide.sum() * 4 == pytest.approx(image.sum(), rel=0.01)


def test_bad_input_says_so():
    with pytest.raises(InputError, match="expected positive pixel sizes, found 0 m and 1 m"):
        fourier_resample(np.ones((4, 4)), 0.0, 1.0)
    with pytest.raises(InputError, match=r"at least 2 x 2 pixels, found \(1, 4\)"):
        fourier_resample(np.ones((1, 4)), 1.0, 2.0)


@pytest.mark.parametrize("shape", [(64, 64), (65, 80)])
@pytest.mark.parametrize("real", [True, False])
def test_shift_moves_the_content(shape, real):
    shift = (3.37, -5.81)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)

    def blob(dy, dx):
        image = np.exp(-((y - 32 - dy) ** 2 + (x - 30 - dx) ** 2) / 40) * (1.0 if real else 1 + 2j)
        return image + 0.5

    found = fourier_shift(blob(0, 0), *shift)
    # The tail of the blob at the border is all that mirroring can disturb.
    assert np.abs(found - blob(*shift)).max() < 1e-6


def test_shift_does_not_wrap_around():
    image = np.zeros((40, 40), np.float32)
    image[:, 36:] = 1.0
    moved = fourier_shift(image, 0.0, 8.0)
    assert np.abs(moved[:, :12]).max() < 0.1
    assert moved.dtype == np.float32


def test_zero_shift_is_a_copy():
    image = np.random.default_rng(4).normal(size=(9, 12))
    moved = fourier_shift(image, 0.0, 0.0)
    assert np.array_equal(moved, image)
    assert moved is not image
