"""Fourier shell correlation against what theory says about two noisy copies."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analyse.resolution import (
    as_product,
    crossing,
    fourier_shell_correlation,
    independent_share,
    information_threshold,
    interior_mask,
    soft_mask,
    tensor_curves,
    tensor_shell_correlation,
)
from pipeline.errors import InputError

N = 64
PIXEL = 30e-9


def _copies(shape: tuple[int, ...], cutoff: float, snr: float, n_pairs: int) -> list[np.ndarray]:
    """Pairs of noisy copies of signals with a Gaussian spectrum, white noise of known SNR."""
    rng = np.random.default_rng(5)
    axes = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    pairs = []
    for _ in range(n_pairs):
        spectrum = np.fft.fftn(rng.standard_normal(shape)) * np.exp(-0.5 * (radius / cutoff) ** 2)
        noise = rng.standard_normal((2, *shape)) / np.sqrt(snr)
        pairs.append(np.fft.ifftn(spectrum).real + noise)
    return pairs


def test_curve_is_that_of_the_known_signal_to_noise_ratio():
    """FSC = S / (S + N): the power of the signal is exp(-(f/cutoff)^2), that of the noise 1/snr."""
    cutoff, snr = 0.15, 20.0
    pairs = _copies((N, N, N), cutoff, snr, 4)
    curves = [fourier_shell_correlation(a, b, PIXEL) for a, b in pairs]
    found = np.mean([curve.correlation for curve in curves], axis=0)
    power = snr * np.exp(-((curves[0].frequency * PIXEL / cutoff) ** 2))
    # Shells of few voxels scatter; from the tenth on each holds more than a thousand.
    error = (found - power / (1 + power))[9:]
    assert np.abs(error).max() < 0.02  # noise of the smallest of these shells
    assert np.abs(error).mean() < 0.005
    assert abs(error.mean()) < 0.002
    assert found[0] > 0.9


def test_resolution_is_where_the_analytic_curve_crosses():
    cutoff, snr = 0.15, 20.0
    (a, b), *_ = _copies((N, N, N), cutoff, snr, 1)
    curve = fourier_shell_correlation(a, b, PIXEL)
    power = snr * np.exp(-((curve.frequency * PIXEL / cutoff) ** 2))
    expected = crossing(curve.frequency, power / (1 + power), curve.half_bit)
    assert curve.half_bit_resolution_m == pytest.approx(expected, rel=0.03)
    assert curve.one_bit_resolution_m > curve.half_bit_resolution_m
    assert curve.half_bit_resolution_m > PIXEL  # half period at Nyquist is one pixel


def test_identical_volumes_are_resolved_to_the_pixel():
    volume = np.random.default_rng(0).standard_normal((16, 20, 17)).astype(np.float32)
    curve = fourier_shell_correlation(volume, volume, PIXEL)
    np.testing.assert_allclose(curve.correlation, 1.0, atol=1e-6)  # rounding
    assert curve.frequency[-1] == pytest.approx(0.5 / PIXEL)
    assert curve.half_bit_resolution_m == pytest.approx(PIXEL)


def test_independent_noise_has_no_resolution():
    rng = np.random.default_rng(0)
    curve = fourier_shell_correlation(*rng.standard_normal((2, 32, 32, 32)), PIXEL)
    assert np.isnan(curve.half_bit_resolution_m)
    assert np.abs(curve.correlation[5:]).max() < 0.15


def test_images_work_like_volumes():
    (a, b), *_ = _copies((128, 128), 0.1, 30.0, 1)
    curve = fourier_shell_correlation(a, b, PIXEL)
    assert 2 * PIXEL < curve.half_bit_resolution_m < 6 * PIXEL


def test_thresholds_are_the_published_ones():
    n = np.array([10.0, 1000.0])
    half = (0.2071 + 1.9102 / np.sqrt(n)) / (1.2071 + 0.9102 / np.sqrt(n))
    one = (0.5 + 2.4142 / np.sqrt(n)) / (1.5 + 1.4142 / np.sqrt(n))
    np.testing.assert_allclose(information_threshold(n, 0.5), half, atol=1e-4)
    np.testing.assert_allclose(information_threshold(n, 1.0), one, atol=1e-4)


def test_a_single_dip_is_not_the_resolution():
    frequency = np.arange(1.0, 7.0)
    threshold = np.full(6, 0.2)
    dip = np.array([1.0, 0.1, 0.9, 0.4, 0.0, 0.0])
    assert crossing(frequency, dip, threshold) == pytest.approx(0.5 / 4.5)


def test_soft_mask_has_no_hard_edge():
    support = np.zeros((40, 40, 40), bool)
    support[14:26, 14:26, 14:26] = True
    mask = soft_mask(support)
    assert mask.dtype == np.float32
    assert mask[20, 20, 20] > 0.9
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in range(3)) < 0.2
    assert mask[0, 0, 0] == pytest.approx(0.0, abs=1e-3)


def test_bad_volumes_are_refused():
    a = np.zeros((4, 4, 4))
    with pytest.raises(InputError, match=r"two volumes of one shape, found \(4, 4, 4\) and \(4"):
        fourier_shell_correlation(a, np.zeros((4, 4, 5)), PIXEL)
    with pytest.raises(InputError, match="expected finite volumes"):
        fourier_shell_correlation(a, np.full((4, 4, 4), np.nan), PIXEL)


def test_empty_volumes_give_a_curve_of_zeros():
    a = np.zeros((8, 8, 8), np.float32)
    curve = fourier_shell_correlation(a, a, PIXEL)
    assert not curve.correlation.any()
    assert np.isnan(curve.half_bit_resolution_m)


def test_a_common_surface_is_not_resolution() -> None:
    """Independent noise that ends at the same sharp support agrees at no frequency."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices((48, 48, 48)) - 24
    support = (x**2 + y**2 + z**2) < 20**2
    halves = [(1.0 + 0.3 * rng.standard_normal(support.shape)) * support for _ in range(2)]
    inside = fourier_shell_correlation(*halves, 1e-9, interior_mask(support))
    whole = fourier_shell_correlation(*halves, 1e-9)
    high = slice(len(inside.correlation) // 2, None)
    assert np.abs(inside.correlation[high]).mean() < 0.03
    assert whole.correlation[high].mean() > 3 * np.abs(inside.correlation[high]).mean()


def test_an_interior_mask_is_zero_at_the_surface_and_one_inside() -> None:
    support = np.zeros((30, 30, 30), bool)
    support[2:28, 2:28, :] = True
    mask = interior_mask(support, 4.0)
    assert mask[2].max() == 0.0
    assert mask[:, :, 0].max() == 0.0
    assert mask[15, 15, 15] == 1.0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.5


def _ball(n: int, radius: float) -> np.ndarray:
    z, y, x = np.indices((n, n, n)) - n // 2
    return (x**2 + y**2 + z**2) < radius**2


def test_a_soft_mask_leaves_the_analytic_curve_and_its_scatter_is_foreseen() -> None:
    """The mean over pairs meets S / (S + N) as without a mask; single pairs scatter more."""
    n, cutoff, snr = 48, 0.15, 20.0
    mask = soft_mask(_ball(n, 14))
    curves = np.array(
        [
            fourier_shell_correlation(a, b, PIXEL, mask).correlation
            for a, b in _copies((n, n, n), cutoff, snr, 12)
        ]
    )
    power = snr * np.exp(-((np.arange(1, n // 2 + 1) / n / cutoff) ** 2))
    expected = power / (1 + power)
    error = (curves.mean(axis=0) - expected)[3:]
    assert np.abs(error).mean() < 0.01
    assert abs(error.mean()) < 0.005
    shells = np.arange(6, n // 2)
    counts = 4 * np.pi * (shells + 1.0) ** 2
    plain = (1 - expected[shells] ** 2) / np.sqrt(counts)
    measured = np.sqrt(np.mean((curves.std(axis=0, ddof=1)[shells] / plain) ** 2))
    assert 1 / np.sqrt(independent_share(mask)) == pytest.approx(measured, rel=0.2)
    assert measured > 1.3
    assert independent_share(None) == 1.0


def test_thresholds_rise_where_a_mask_leaves_fewer_independent_voxels() -> None:
    (a, b), *_ = _copies((N, N, N), 0.15, 20.0, 1)
    plain = fourier_shell_correlation(a, b, PIXEL)
    masked = fourier_shell_correlation(a, b, PIXEL, soft_mask(_ball(N, 16)))
    assert (masked.half_bit >= plain.half_bit).all()
    assert masked.half_bit[-1] > 0.2071 / 1.2071


def _rotation_of_tensor(tensor: np.ndarray) -> np.ndarray:
    """Components after x -> y -> z -> x, with the volume's axes turned alike."""
    xx, yy, zz, yz, xz, xy = tensor
    turned = np.stack([zz, xx, yy, xy, yz, xz])
    # New x is the old z and so on, so that the volume [z, y, x] becomes [y, x, z].
    return turned.transpose(0, 2, 3, 1)


def test_the_tensor_is_correlated_as_a_whole() -> None:
    rng = np.random.default_rng(4)
    pairs = [_copies((32, 32, 32), 0.15, snr, 1)[0] for snr in (20, 10, 5, 2, 1, 0.5)]
    first, second = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
    curves = tensor_curves(first, second, PIXEL)
    assert list(curves) == ["LDx", "LDy", "LDz", "tensor"]
    lone = fourier_shell_correlation(first[1], second[1], PIXEL)
    np.testing.assert_array_equal(curves["LDy"].correlation, lone.correlation)
    # The scalar product of tensors does not know the axes; a sum without weights two would.
    turned = tensor_shell_correlation(
        _rotation_of_tensor(first), _rotation_of_tensor(second), PIXEL
    )
    np.testing.assert_allclose(turned.correlation, curves["tensor"].correlation, atol=1e-10)
    mixed = 0.5**0.5 * np.stack([first[0] - first[1], second[0] - second[1]])
    plane = np.zeros((2, 6, 32, 32, 32))
    plane[:, 0], plane[:, 1] = mixed, -mixed
    off = np.zeros_like(plane)
    off[:, 5] = mixed
    np.testing.assert_allclose(
        tensor_shell_correlation(*plane, PIXEL).correlation,
        tensor_shell_correlation(*off, PIXEL).correlation,
        atol=1e-10,
    )
    both = plane + np.stack([off[0], rng.standard_normal(off[0].shape) * (off[1] != 0)])
    assert (tensor_shell_correlation(*both, PIXEL).correlation[:4] < 0.9).all()
    with pytest.raises(InputError, match=r"expected two tensor fields \(6, ...\) of one shape"):
        tensor_shell_correlation(first[:5], second[:5], PIXEL)


def test_the_product_names_every_curve_and_says_what_does_not_agree() -> None:
    (a, b), *_ = _copies((32, 32, 32), 0.15, 20.0, 1)
    noise = np.random.default_rng(0).standard_normal((2, 32, 32, 32))
    product = as_product(
        {
            "density": fourier_shell_correlation(a, b, PIXEL),
            "noise": fourier_shell_correlation(*noise, PIXEL),
        }
    )
    assert list(product.curves) == ["density", "noise"]
    assert product.notes == ("The halves of noise agree at no frequency.",)
    figure = product.figures["half_bit_density"]
    assert figure.unit == "nm"
    assert 30 < figure.value < 200
    assert as_product({}).notes == ("There are no halves to compare.",)
