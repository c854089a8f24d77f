"""Parallel-beam projection of a field and its exact adjoint.

`P_m(x, y) = ∫ Σ_c w_mc X_c(R_m^T (x, y, z)) dz` in voxels; frames: the table in
`pipeline/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.backend import array_module
from pipeline.errors import GeometryError
from pipeline.tomography.fourier import FourierSlices, fourier_available, plan_slices
from pipeline.tomography.geometry import check_rotations, group_by_axis
from pipeline.tomography.kernels.passes import all_finite
from pipeline.tomography.kernels.twins import kernels_of
from pipeline.tomography.series import Series, plan_series

Scheme = Literal["series", "general", "four-subvoxel", "fourier"]

Slices = Literal["cheapest", "footprints", "spectra"]

_OFFSETS = {
    "general": [(0.0, 0.0, 0.0)],
    "four-subvoxel": [(x, 0.0, z) for z in (-0.25, 0.25) for x in (-0.25, 0.25)],
}

WIDEST_SPREAD_PX = 0.7
"""Point spread that three taps can hold: nothing is left of the finest detail beyond."""

_WORTH_TURNING = 4
"""Projections per axis from which turning the volume costs less than its whole spectrum."""


def fastest_scheme(rotations: ArrayLike) -> Scheme:
    """Choose the path with the least product of error and time.

    `series` for tilt series; where nearly every projection has its own axis (refined angles)
    `fourier`, or `series` where `finufft` is not installed.

    Parameters
    ----------
    rotations : (n, 3, 3) sample to lab.

    Raises
    ------
    GeometryError
        If `rotations` are not proper rotations.

    Notes
    -----
    Measured figures: the table of paths in `kernels/README.md`. `general` is never chosen: its
    error is a hundred times that of the others, at half their time at best.
    """
    matrices = check_rotations(rotations, "fastest_scheme")
    n_groups = len(group_by_axis(matrices))
    if n_groups <= max(1, len(matrices) // _WORTH_TURNING) or not fourier_available():
        return "series"
    return "fourier"


class Projector:
    """Project a field of c components along n directions.

    Parameters
    ----------
    volume_shape : (z, y, x) of each component.
    image_shape : (ny, nx) of a projection; independent of the volume's. Both are centred at
        n // 2, and what falls outside the images is left out by `forward` and `adjoint` alike.
    rotations : (n, 3, 3) sample to lab.
    weights : (n, c) what each projection sees of each component.
    scheme : `series` groups projections by common axis, turns the field once for each group by
        cubic splines and sums independent slices; `general` splats every voxel bilinearly at any
        rotation, the plainest path, which the others are checked against; `four-subvoxel` is
        RESIRE-V's, with every voxel cut into four at ±1/4 in sample x and z; `fourier` takes
        central slices of the spectrum (`fourier.py`), exact for what the voxels can represent,
        and the cheapest where nearly every projection has an axis of its own.
    support : (z, y, x) bool, optional: voxels outside are taken as zero by `forward` and set to
        zero by `adjoint`; `general` and `four-subvoxel` then visit only those inside.
    valid : (n, ny, nx) bool, optional: pixels that were measured. The others are set to zero by
        `forward` and not looked at by `adjoint`, whatever they hold.
    point_spread_px : standard deviation of the blur of the images [pixel], 0 to 0.7, which a
        reconstruction then undoes; `general` and `four-subvoxel`, which blur by about 0.4 pixel
        themselves, take none beside.
    slices : how `series` projects a turned slice: by `footprints` of its voxels
        (`kernels/slices.py`), by lines of its `spectra` (`spectra.py`), or by whichever takes less
        time: spectra where there are many angles and the slices are large. On a GPU always by
        footprints.

    Raises
    ------
    GeometryError
        If shapes contradict each other, or rotations or weights are not finite.

    Notes
    -----
    Discretisation, measured on Gaussian blobs of 2.5 to 3.5 voxels: `series` by footprints is off
    by 0.1 % of the projections' norm (0.01 % for 4 to 8 voxels): they cancel the moiré of the
    turned grid, and a filter undoes their blur. By spectra it is off by less than 0.02 %, most of
    it from the splines that turn the field. `general` is off by 2.6 %, mostly that moiré,
    `four-subvoxel` by 1.6 %.

    Four sub-voxels: Pham et al., doi 10.1038/s41598-024-59140-1.
    """

    def __init__(
        self,
        volume_shape: Sequence[int],
        image_shape: Sequence[int],
        rotations: ArrayLike,
        weights: ArrayLike,
        scheme: Scheme = "series",
        *,
        support: NDArray[np.bool_] | None = None,
        valid: NDArray[np.bool_] | None = None,
        point_spread_px: float = 0.0,
        slices: Slices = "cheapest",
    ) -> None:
        self.rotations = check_rotations(rotations, "Projector")
        self.weights = np.asarray(weights, dtype=np.float64)
        z, y, x = _positive_shape(volume_shape, 3, "volume")
        self.volume_shape = (z, y, x)
        ny, nx = _positive_shape(image_shape, 2, "image")
        self.image_shape = (ny, nx)
        self.scheme: Scheme = scheme
        self.point_spread_px = _checked_spread(point_spread_px, scheme)
        self.support = _checked_mask(support, self.volume_shape, "support")
        n = len(self.rotations)
        self.valid = _checked_mask(valid, (n, *self.image_shape), "mask of valid pixels")
        if n == 0 or self.weights.ndim != 2 or len(self.weights) != n or self.weights.shape[1] == 0:
            raise GeometryError(
                f"Projector: expected weights (n, c) for n = {n} >= 1 rotations, "
                f"found {self.weights.shape}"
            )
        if not np.isfinite(self.weights).all():
            raise GeometryError("Projector: expected finite weights, found NaN or infinity")
        if slices not in get_args(Slices):
            raise GeometryError(
                f"Projector: expected slices cheapest, footprints or spectra, found {slices!r}"
            )
        self.slices: Slices = slices
        if scheme == "series":
            self._series: list[Series | FourierSlices] = [*self._planned_series(slices)]
        elif scheme == "fourier":
            self._series = [
                plan_slices(
                    self.rotations,
                    self.weights,
                    self.volume_shape,
                    self.image_shape,
                    self.support,
                    self.point_spread_px,
                )
            ]
        elif scheme not in _OFFSETS:
            raise GeometryError(
                "Projector: expected scheme series, general, four-subvoxel or fourier, "
                f"found {scheme!r}"
            )

    def _planned_series(self, slices: Slices) -> list[Series]:
        """Every series; `slices` is settled for all together, and kept by a `subset`."""
        planned = [
            plan_series(
                g,
                self.weights[g.indices],
                self.volume_shape,
                self.image_shape,
                self.support,
                self.point_spread_px,
            )
            for g in group_by_axis(self.rotations)
        ]
        if slices == "cheapest":
            footprints, spectra = np.sum([series.costs() for series in planned], axis=0)
            self.slices = "spectra" if spectra < footprints else "footprints"
        if self.slices == "footprints":
            return planned
        return [series.with_spectra() for series in planned]

    @property
    def field_shape(self) -> tuple[int, int, int, int]:
        """Shape (c, z, y, x) of a field."""
        return (self.weights.shape[1], *self.volume_shape)

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """Shape (n, ny, nx) of a stack of projections."""
        return (len(self.rotations), *self.image_shape)

    @property
    def device_needs(self) -> tuple[str, ...]:
        """Libraries beside cupy without which this scheme does not run on a GPU."""
        return ("cufinufft",) if self.scheme == "fourier" else ()

    def subset(self, indices: ArrayLike) -> Projector:
        """Projector of some of the projections.

        Parameters
        ----------
        indices : (k,) int positions, or a (n,) bool mask.
        """
        chosen = np.asarray(indices)
        part = Projector(
            self.volume_shape,
            self.image_shape,
            self.rotations[chosen],
            self.weights[chosen],
            self.scheme,
            support=self.support,
            valid=None if self.valid is None else self.valid[chosen],
            point_spread_px=self.point_spread_px,
            slices=self.slices,
        )
        if self.scheme == "fourier":
            part._series = [s.subset(chosen) for s in self._series if isinstance(s, FourierSlices)]
        return part

    def forward(self, field: Any) -> Any:
        """Project a field (c, z, y, x) float32: (n, ny, nx) float32, integrated in voxels.

        A field on a GPU (cupy) is projected there, and so are its projections.

        Raises
        ------
        GeometryError
            If the shape is another one, or a number is not finite.
        """
        field = _checked(field, self.field_shape, "forward", self.stack_shape)
        kernels = kernels_of(field)
        xp = kernels.xp
        stack = xp.zeros(self.stack_shape, np.float32)
        if self.scheme in ("series", "fourier"):
            if self.support is not None:
                field = xp.where(xp.asarray(self.support), field, np.float32(0.0))
            for series in self._series:
                series.forward(field, stack, kernels)
        else:
            kernels.splat(field, *self._rays(), self.support, stack)
        if self.valid is not None:
            stack *= xp.asarray(self.valid)
        return stack

    def adjoint(self, stack: Any, *, overwrite: bool = False) -> Any:
        """Back project a stack (n, ny, nx) float32: (c, z, y, x) float32, where `stack` lies.

        A stack that may be overwritten serves as scratch: nothing is copied.

        Raises
        ------
        GeometryError
            If the shape is another one, or a number is not finite.
        """
        if self.valid is not None and stack.shape == self.stack_shape:
            xp = array_module(stack)
            stack = xp.where(xp.asarray(self.valid), stack, np.float32(0.0))
        stack = _checked(stack, self.stack_shape, "adjoint", self.field_shape)
        kernels = kernels_of(stack)
        xp = kernels.xp
        if self.scheme in ("series", "fourier"):
            field: Any = None
            for series in self._series:
                back = series.back_project(stack, kernels, overwrite=overwrite)
                # The field is made here and not before: what that needed for itself is free now.
                field = series.add(back, field, self.volume_shape, kernels)
            if self.support is not None:
                field *= xp.asarray(self.support)
        else:
            field = xp.zeros(self.field_shape, np.float32)
            kernels.gather(stack, *self._rays(), self.support, field)
        return field

    def normal(self, field: Any, pixel_weights: Any = None) -> Any:
        """Project a field and back: `adjoint(pixel_weights * forward(field))`.

        Parameters
        ----------
        field : (c, z, y, x) float32.
        pixel_weights : (n, ny, nx) float32, or what broadcasts to it; 1 when absent.

        Raises
        ------
        GeometryError
            If a shape is another one, or a number is not finite.
        """
        stack = self.forward(field)
        if pixel_weights is not None:
            stack *= pixel_weights
        return self.adjoint(stack, overwrite=True)

    def _rays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        """Sub-voxels, rows x and y of the rotations, weights: what voxels are shared by."""
        rows = np.ascontiguousarray(self.rotations[:, :2])
        return np.array(_OFFSETS[self.scheme]), rows, self.weights.astype(np.float32)


def _positive_shape(shape: Sequence[int], ndim: int, name: str) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in shape)
    if len(sizes) != ndim or min(sizes) < 1:
        raise GeometryError(f"Projector: expected {ndim} positive {name} sizes, found {sizes}")
    return sizes


def _checked_mask(
    mask: NDArray[np.bool_] | None, shape: tuple[int, ...], name: str
) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    if mask.shape != shape or mask.dtype != np.bool_:
        raise GeometryError(
            f"Projector: expected a bool {name} {shape}, found {mask.dtype} {mask.shape}"
        )
    return np.ascontiguousarray(mask)


def _checked_spread(point_spread_px: float, scheme: Scheme) -> float:
    if not 0.0 <= point_spread_px <= WIDEST_SPREAD_PX:
        raise GeometryError(
            f"Projector: expected a point spread of 0 to {WIDEST_SPREAD_PX} pixel, "
            f"found {point_spread_px}"
        )
    return point_spread_px if scheme in ("series", "fourier") else 0.0


def _checked(array: Any, expected: tuple[int, ...], operator: str, other: tuple[int, ...]) -> Any:
    if array.shape != expected:
        raise GeometryError(
            f"Projector.{operator}: expected shape {expected} (to give {other}), "
            f"found {array.shape}"
        )
    if not _finite(array):
        raise GeometryError(
            f"Projector.{operator}: expected finite values of shape {expected} "
            f"(to give {other}), found NaN or infinity"
        )
    return array_module(array).ascontiguousarray(array, dtype=np.float32)


def _finite(array: Any) -> bool:
    """Whether all numbers are finite, without a mask as large as the field."""
    plain = isinstance(array, np.ndarray) and array.dtype == np.float32
    if plain and array.flags.c_contiguous:
        return all_finite(array)
    # The extremes carry NaN and infinity along.
    return bool(np.isfinite(float(array.min())) and np.isfinite(float(array.max())))
