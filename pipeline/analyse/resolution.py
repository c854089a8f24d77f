"""Resolution by Fourier shell correlation of two independent halves of the data.

Frames and units: the table in `pipeline/__init__.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from pipeline.errors import InputError
from pipeline.io.product import Curve, Product, Table
from pipeline.io.products import Figure, ResolutionCurve

FROBENIUS = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0)
"""How often each of xx yy zz yz xz xy stands in the scalar product of two symmetric tensors."""


def soft_mask(
    support: NDArray[np.bool_], edge_voxels: float = 3.0, grow_voxels: int = 2
) -> NDArray[np.float32]:
    """Mask with a smooth edge, since a hard one correlates the halves at every frequency.

    Parameters
    ----------
    support : (z, y, x) bool, where the sample is.
    edge_voxels : standard deviation of the edge [voxel].
    grow_voxels : voxels by which the support grows first, so that the edge lies in air.

    Returns
    -------
    (z, y, x) float32, 0 to 1; it also falls to zero at the border of the volume.
    """
    grown = ndimage.binary_dilation(support, iterations=grow_voxels) if grow_voxels else support
    mask: NDArray[np.float32] = ndimage.gaussian_filter(
        grown.astype(np.float32), edge_voxels, mode="constant"
    )
    return mask


def interior_mask(support: NDArray[np.bool_], edge_voxels: float = 6.0) -> NDArray[np.float32]:
    """Mask with a smooth edge inside the support, for fields that were made zero outside of it.

    Both halves of such a field end at the same sharp surface, which correlates them at every
    frequency where the mask does not keep away from it.

    Parameters
    ----------
    support : (z, y, x) bool, where the field may differ from zero.
    edge_voxels : depth [voxel] over which the mask rises from zero to one, as a squared sine.

    Returns
    -------
    (z, y, x) float32, 0 to 1.
    """
    depth = ndimage.distance_transform_edt(np.pad(support, 1))[1:-1, 1:-1, 1:-1]
    rise = np.clip((depth - 1.0) / edge_voxels, 0.0, 1.0)
    mask: NDArray[np.float32] = (np.sin(0.5 * np.pi * rise) ** 2).astype(np.float32)
    return mask


def fourier_shell_correlation(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    pixel_size_m: float,
    mask: NDArray[np.floating] | None = None,
) -> ResolutionCurve:
    """Correlation of two volumes in shells of spatial frequency.

    Parameters
    ----------
    first, second : (..., y, x) or (..., z, y, x) of equal shape and two or three dimensions, made
        from independent halves of the data.
    pixel_size_m : edge of a voxel [m].
    mask : same shape, 0 to 1, smooth; both are multiplied with it, less their mean inside it.

    Returns
    -------
    Curve up to the Nyquist frequency, in shells as wide as one Fourier pixel of the longest axis.
    The resolution is the half period `1 / (2 f)` where the curve first stays below the threshold
    of half a bit or one bit of information per voxel.

    Raises
    ------
    InputError
        If the shapes differ or the volumes are not finite.

    Notes
    -----
    van Heel, Schatz, J. Struct. Biol. 151, 250 (2005), doi 10.1016/j.jsb.2005.05.009: thresholds
    from the number of independent Fourier voxels in a shell, eqs. 12-17. They hold for the full
    data when the volumes are its halves.
    """
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise InputError(
            f"expected two volumes of one shape, found {first.shape} and {second.shape}"
        )
    return _curve([(first, second, 1.0)], pixel_size_m, mask)


def tensor_shell_correlation(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    pixel_size_m: float,
    mask: NDArray[np.floating] | None = None,
) -> ResolutionCurve:
    """Correlation of two symmetric tensor fields in shells, by their scalar product.

    Parameters
    ----------
    first, second : (6, ...) of equal shape, xx yy zz yz xz xy; the last three count twice, as in
        the Frobenius product, so that the curve does not depend on the axes of the grid.
    pixel_size_m, mask : as in `fourier_shell_correlation`.

    Returns
    -------
    As `fourier_shell_correlation`. Its thresholds are those of one component: a tensor of several
    independent ones scatters less.

    Raises
    ------
    InputError
        If the shapes differ, are not those of tensors, or the fields are not finite.
    """
    if first.shape != second.shape or first.ndim not in (3, 4) or len(first) != 6:
        raise InputError(
            f"expected two tensor fields (6, ...) of one shape, found {first.shape} and "
            f"{second.shape}"
        )
    pairs = list(zip(first, second, FROBENIUS, strict=True))
    return _curve(pairs, pixel_size_m, mask)


def tensor_curves(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    pixel_size_m: float,
    mask: NDArray[np.floating] | None = None,
) -> dict[str, ResolutionCurve]:
    """Curves of xx, yy, zz (published as LDx, LDy, LDz) and of the whole tensor.

    Parameters, errors: as `tensor_shell_correlation`.
    """
    whole = tensor_shell_correlation(first, second, pixel_size_m, mask)
    curves = {
        name: fourier_shell_correlation(first[index], second[index], pixel_size_m, mask)
        for index, name in enumerate(("LDx", "LDy", "LDz"))
    }
    return {**curves, "tensor": whole}


def _curve(
    pairs: Sequence[tuple[NDArray[np.floating], NDArray[np.floating], float]],
    pixel_size_m: float,
    mask: NDArray[np.floating] | None,
) -> ResolutionCurve:
    """Curve of the weighted sum of pairs of volumes."""
    shape = pairs[0][0].shape
    shell, multiplicity, n_shells = _shells(shape)
    total = np.zeros((3, n_shells))
    for first, second, weight in pairs:
        a, b = (_spectrum(volume, mask) for volume in (first, second))
        for k, values in enumerate(((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)):
            sums = np.bincount(shell, (multiplicity * values).ravel(), n_shells)
            total[k] += weight * sums[:n_shells]
    cross, power_a, power_b = total[:, 1:]
    counts = np.bincount(shell, multiplicity.ravel(), n_shells).astype(np.float64)[1:n_shells]
    counts *= independent_share(mask)
    norm = np.sqrt(power_a * power_b)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    frequency = np.arange(1, n_shells) / (max(shape) * pixel_size_m)
    half_bit, one_bit = information_threshold(counts, 0.5), information_threshold(counts, 1.0)
    return ResolutionCurve(
        frequency=frequency,
        correlation=correlation,
        half_bit=half_bit,
        one_bit=one_bit,
        half_bit_resolution_m=crossing(frequency, correlation, half_bit),
        one_bit_resolution_m=crossing(frequency, correlation, one_bit),
    )


def _spectrum(
    volume: NDArray[np.floating], mask: NDArray[np.floating] | None
) -> NDArray[np.complexfloating]:
    """Half transform of a masked volume without its mean, which would show the mask's shape."""
    if not np.isfinite(volume).all():
        raise InputError("expected finite volumes for a Fourier shell correlation")
    if mask is None:
        found = fft.rfftn(volume)
    else:
        weight = float(mask.sum(dtype=np.float64))
        mean = float((volume * mask).sum(dtype=np.float64)) / weight if weight > 0 else 0.0
        found = fft.rfftn((volume - volume.dtype.type(mean)) * mask)
    return np.asarray(found)


def independent_share(mask: NDArray[np.floating] | None) -> float:
    """Share of the Fourier voxels of a shell that are independent of each other under a mask.

    Neighbours within the inverse width of the mask are alike. With `D / L` from the volume that the
    mask fills, `(sum w²)² / sum w⁴` of all, the share is `(D / L)²` on a shell and `D / L` on a
    ring, since a shell one voxel thick has neighbours in two directions only.

    Parameters
    ----------
    mask : (y, x) or (z, y, x), 0 to 1; None for none.

    Notes
    -----
    After the linear size of the object that van Heel and Schatz (2005) put into their thresholds.
    """
    if mask is None or not mask.any():
        return 1.0
    squared = np.square(mask, dtype=np.float64)
    filled = float(squared.sum()) ** 2 / float((squared**2).sum()) / mask.size
    return filled ** ((mask.ndim - 1) / mask.ndim)


def _shells(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Shell of every Fourier voxel (those beyond Nyquist in a last one), how often each counts in
    the full transform, and the number of shells including zero."""
    longest = max(shape)
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    squared = sum(
        np.reshape(axis**2, [-1 if k == i else 1 for k in range(len(axes))])
        for i, axis in enumerate(axes)
    )
    n_shells = longest // 2 + 1
    shell = np.minimum(np.rint(np.sqrt(squared) * longest).astype(np.int64), n_shells)
    multiplicity = np.full(shell.shape, 2.0)
    multiplicity[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        multiplicity[..., -1] = 1.0
    return shell.ravel(), multiplicity, n_shells


def information_threshold(counts: NDArray[np.float64], bits: float) -> NDArray[np.float64]:
    """Threshold for so many bits of information per voxel of the full data.

    Parameters
    ----------
    counts : number of Fourier voxels in each shell.
    bits : 0.5 or 1 by convention.

    Returns
    -------
    Threshold of the correlation of the two halves; `(0.2071 + 1.9102 / sqrt(n)) /
    (1.2071 + 0.9102 / sqrt(n))` for half a bit.
    """
    # The signal-to-noise ratio of each half is half of that of the full data.
    snr = (2.0**bits - 1.0) / 2.0
    root = np.sqrt(np.maximum(counts, 1.0))
    spread = 2.0 * math.sqrt(snr) / root
    threshold: NDArray[np.float64] = np.minimum(
        (snr + spread + 1.0 / root) / (snr + 1.0 + spread), 1.0
    )
    return threshold


def crossing(
    frequency: NDArray[np.float64],
    correlation: NDArray[np.float64],
    threshold: NDArray[np.float64],
) -> float:
    """Half period at which the correlation falls below the threshold, linear between shells.

    Returns
    -------
    [m] for a frequency in 1/m; that of the highest frequency if the curve never falls below, NaN if
    it starts below.
    """
    excess = correlation - threshold
    below = excess < 0
    # A single shell of few voxels dips below by chance; the first of two in a row counts.
    both = below & np.concatenate([below[1:], [True]])
    if len(excess) == 0 or both[0]:
        return math.nan
    if not both.any():
        return float(0.5 / frequency[-1])
    k = int(np.argmax(both))
    step = excess[k - 1] / (excess[k - 1] - excess[k]) if excess[k - 1] > 0 else 1.0
    at = frequency[k - 1] + step * (frequency[k] - frequency[k - 1])
    return float(0.5 / at)


def as_product(curves: Mapping[str, ResolutionCurve]) -> Product:
    """Curves, table and figures of the resolution of several fields.

    Parameters
    ----------
    curves : by name of the field.
    """
    names = list(curves)
    half, one = (
        np.array([getattr(curve, f"{kind}_resolution_m") for curve in curves.values()], np.float64)
        for kind in ("half_bit", "one_bit")
    )
    table = Table(
        {"field": np.array(names, dtype=np.str_), "half_bit_m": half, "one_bit_m": one},
        {"field": "", "half_bit_m": "m", "one_bit_m": "m"},
        "Half period at which the correlation of two halves meets the threshold",
    )
    figures = {
        f"{kind}_{name}": Figure(
            1e9 * value, "nm", description="half period, correlation of two halves of the data"
        )
        for kind, values in (("half_bit", half), ("one_bit", one))
        for name, value in zip(names, values.tolist(), strict=True)
    }
    missing = [name for name, value in zip(names, half.tolist(), strict=True) if math.isnan(value)]
    notes = [f"The halves of {name} agree at no frequency." for name in missing]
    if not names:
        notes.append("There are no halves to compare.")
    return Product(
        "shell_correlation",
        "Resolution in detail",
        "Fourier shell correlation of two independent halves of the data. The thresholds count the "
        "Fourier voxels that are independent under the mask.",
        tables={"resolution": table},
        curves={name: _plot(name, curve) for name, curve in curves.items()},
        figures=figures,
        notes=tuple(notes),
    )


def _plot(name: str, curve: ResolutionCurve) -> Curve:
    return Curve(
        1e-6 * curve.frequency,
        {"correlation": curve.correlation, "half bit": curve.half_bit, "one bit": curve.one_bit},
        "spatial frequency [1/µm]",
        "Fourier shell correlation",
        f"Correlation of the halves of {name}",
    )
