"""The Fourier-slice path of the projector: any rotations, errors of a part in ten thousand or less.

The spectrum of a projection is a central slice of the field's (Bracewell 1956). `finufft` evaluates
the field's spectrum on those slices (type 2) and sums slices back (type 1): Barnett, Magland and
af Klinteberg 2019, doi 10.1137/18M120885X. Images are periodic there, so that they are computed on
a frame wide enough for no shadow of a voxel to wrap round into what the detector sees. Sums follow
the order of `finufft`'s threads: the last bits depend on how many there are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.backend import fft_module
from pipeline.errors import InputError
from pipeline.tomography.kernels.twins import CPU, Kernels

TOLERANCE = 2e-5
"""Relative error of the transforms, a fifth of what this path promises."""

_OVERSAMPLING = 1.25
"""Of the grid inside `finufft`: four times as fast at this tolerance as its other choice, 2."""

_SMALL_VOXELS = 32**3
"""Fields of up to so many voxels take 2: there the narrower grid lets rounding grow until forward
and adjoint differ by 2e-7 to 7e-7 (12³ voxels) instead of 6e-9, and time does not matter."""

_BATCH_POINTS = 4_000_000
"""Most points of the slices that are evaluated at a time: 64 MB of them and their values."""

_RANK_TOLERANCE = 1e-10
"""Combinations of components whose singular value is smaller are rounding."""


@dataclass(frozen=True)
class FourierSlices:
    """Forward and adjoint projection by central slices of the spectrum.

    Attributes
    ----------
    volume_shape : (z, y, x).
    image_shape : (ny, nx).
    frame : (ny, nx) on which images are computed, at least as large.
    rotations : (n, 3, 3) float64, sample to lab.
    components : (c, r) float32 orthonormal combinations of the field's components.
    coefficients : (n, r) float32 what each projection takes of each.
    point_spread_px : standard deviation of the images' blur [pixel].
    kept : plans of the transforms, where all projections fit into one batch; not pickled.
    """

    volume_shape: tuple[int, int, int]
    image_shape: tuple[int, int]
    frame: tuple[int, int]
    rotations: NDArray[np.float64]
    components: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    point_spread_px: float = 0.0
    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": {}}

    def subset(self, chosen: NDArray[Any]) -> FourierSlices:
        """Slices of some of the projections, on the same frame."""
        return replace(
            self,
            rotations=self.rotations[chosen],
            coefficients=self.coefficients[chosen],
            kept={},
        )

    def forward(self, field: Any, stack: Any, kernels: Kernels = CPU) -> None:
        """Overwrite `stack` (n, ny, nx) with the projections of `field` (c, z, y, x) float32."""
        xp = kernels.xp
        fft = fft_module(xp)
        mixed = xp.tensordot(xp.asarray(self.components.T), field, axes=1).astype(np.complex64)
        ny, nx = self.image_shape
        y0, x0 = self._corner
        for chosen in self._batches():
            plan = self._planned(2, len(mixed), chosen, xp)
            # One transform comes without its axis, in the library for GPUs too.
            spectra = plan.execute(mixed if len(mixed) > 1 else mixed[0])
            spectra = spectra.reshape(len(mixed), len(chosen), *self._half)
            summed = xp.einsum("mr,rmvu->mvu", xp.asarray(self.coefficients[chosen]), spectra)
            summed *= self._passed(chosen, xp)
            images = fft.fftshift(fft.irfft2(summed, s=self.frame), axes=(1, 2))
            part = slice(int(chosen[0]), int(chosen[-1]) + 1)
            stack[part] = images[:, y0 : y0 + ny, x0 : x0 + nx]

    def back_project(
        self,
        stack: Any,
        kernels: Kernels = CPU,
        *,
        overwrite: bool = False,  # noqa: ARG002 - its batches are copies in any case
    ) -> Any:
        """What `add` adds of `stack` (n, ny, nx): (c, z, y, x)."""
        xp = kernels.xp
        fft = fft_module(xp)
        ny, nx = self.image_shape
        y0, x0 = self._corner
        rank = self.components.shape[1]
        field = xp.zeros((len(self.components), *self.volume_shape), np.float32)
        # The real transform holds half of the plane: its other half counts as the conjugate.
        double = np.full(self._half[1], 2.0, np.float32)
        double[0] = 1.0
        if self.frame[1] % 2 == 0:
            double[-1] = 1.0
        for chosen in self._batches():
            images = xp.zeros((len(chosen), *self.frame), np.float32)
            part = slice(int(chosen[0]), int(chosen[-1]) + 1)
            images[:, y0 : y0 + ny, x0 : x0 + nx] = stack[part]
            spectra = fft.rfft2(fft.ifftshift(images, axes=(1, 2)))
            spectra *= self._passed(chosen, xp)
            spectra *= xp.asarray(double / np.float32(np.prod(self.frame)))
            parts = xp.einsum("mr,mvu->rmvu", xp.asarray(self.coefficients[chosen]), spectra)
            parts = xp.ascontiguousarray(parts.reshape(rank, -1).astype(np.complex64))
            plan = self._planned(1, rank, chosen, xp)
            summed = plan.execute(parts if rank > 1 else parts[0]).reshape(rank, *self.volume_shape)
            field += xp.tensordot(xp.asarray(self.components), summed.real, axes=1)
        return field

    @staticmethod
    def add(back: Any, field: Any, *_: Any) -> Any:
        """Add what `back_project` made to `field` (c, z, y, x), where there is one."""
        return back if field is None else field + back

    @property
    def _corner(self) -> tuple[int, int]:
        """First row and column of the images in the frame."""
        y, x = (m // 2 - n // 2 for n, m in zip(self.image_shape, self.frame, strict=True))
        return y, x

    @property
    def _half(self) -> tuple[int, int]:
        return self.frame[0], self.frame[1] // 2 + 1

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        size = max(1, _BATCH_POINTS // int(np.prod(self._half)))
        n = len(self.rotations)
        for first in range(0, n, size):
            yield np.arange(first, min(first + size, n))

    def _frequencies(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """(3, k, v, u) angular frequencies x, y, z in the sample frame [rad/voxel]."""
        ky = 2.0 * np.pi * np.fft.fftfreq(self.frame[0])[:, None]
        kx = 2.0 * np.pi * np.fft.rfftfreq(self.frame[1])[None, :]
        rows = self.rotations[chosen]
        return rows[:, 0].T[:, :, None, None] * kx + rows[:, 1].T[:, :, None, None] * ky

    def _keep(self, key: Any, chosen: NDArray[np.int64], make: Callable[[], Any]) -> Any:
        """Make what one batch needs, once only where there is no other."""
        if len(chosen) < len(self.rotations):
            return make()
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def _passed(self, chosen: NDArray[np.int64], xp: Any) -> Any:
        """What passes of each frequency (k, v, u): the point spread, inside the cube that the
        voxels sample; outside are only its copies."""

        def make() -> Any:
            frequencies = self._frequencies(chosen)
            inside = np.abs(frequencies).max(axis=0) <= np.pi * (1.0 + 1e-12)
            square = np.sum(frequencies**2, axis=0)
            passed = inside * np.exp(-0.5 * self.point_spread_px**2 * square)
            return xp.asarray(passed.astype(np.float32))

        return self._keep(("passed", self.frame, xp.__name__), chosen, make)

    def _planned(self, kind: int, n_fields: int, chosen: NDArray[np.int64], xp: Any) -> Any:
        key = kind, n_fields, self.frame, xp.__name__
        return self._keep(key, chosen, lambda: self._plan(kind, n_fields, chosen, xp))

    def _plan(self, kind: int, n_fields: int, chosen: NDArray[np.int64], xp: Any) -> Any:
        library = _library(xp)
        small = np.prod(self.volume_shape) <= _SMALL_VOXELS
        options = {"upsampfac": 2.0 if small else _OVERSAMPLING} if xp is np else {}
        x, y, z = (
            xp.asarray(k) for k in self._frequencies(chosen).reshape(3, -1).astype(np.float32)
        )
        plan = library.Plan(
            kind,
            self.volume_shape,
            n_trans=n_fields,
            eps=TOLERANCE,
            isign=-1 if kind == 2 else 1,
            dtype="complex64",
            **options,
        )
        plan.setpts(z, y, x)
        return plan


def fourier_available() -> bool:
    """Whether the library is installed; without one, `forward` and `add_adjoint` say so."""
    return importlib.util.find_spec("finufft") is not None


def _library(xp: Any) -> Any:
    name = "finufft" if xp is np else "cufinufft"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the projector scheme 'fourier' needs the library {name}: pip install {name}"
        ) from error


def plan_slices(
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    volume_shape: tuple[int, int, int],
    image_shape: tuple[int, int],
    support: NDArray[np.bool_] | None = None,
    point_spread_px: float = 0.0,
) -> FourierSlices:
    """Plan the projections along `rotations` (n, 3, 3) with `weights` (n, c).

    The frame is as wide as the detector, or, if a shadow of the support (of the whole volume when
    absent) reaches beyond, so wide that what wraps round stays beside the detector.
    """
    left, singular, right = np.linalg.svd(weights, full_matrices=False)
    rank = max(1, int(np.sum(singular > _RANK_TOLERANCE * singular[0])))
    reach = _shadow(rotations, volume_shape, support)
    frame = []
    for n, far in zip(image_shape, reach, strict=True):
        wide = n if far <= (n - 1) // 2 else n // 2 + int(np.ceil(far)) + 2
        frame.append(scipy.fft.next_fast_len(wide, real=True))
    return FourierSlices(
        volume_shape=volume_shape,
        image_shape=image_shape,
        frame=(frame[0], frame[1]),
        rotations=rotations,
        components=np.ascontiguousarray(right[:rank].T, dtype=np.float32),
        coefficients=np.ascontiguousarray(left[:, :rank] * singular[:rank], dtype=np.float32),
        point_spread_px=point_spread_px,
    )


def _shadow(
    rotations: NDArray[np.float64],
    volume_shape: tuple[int, int, int],
    support: NDArray[np.bool_] | None,
) -> tuple[float, float]:
    """Farthest that any voxel's shadow lies from the middle of the images: (y, x) [pixel]."""
    if support is None:
        edges = [(-(n // 2), n - 1 - n // 2) for n in volume_shape]
        points = np.array([(x, y, z) for z in edges[0] for y in edges[1] for x in edges[2]])
    else:
        points = _ends_of_lines(support)
    reach = np.zeros(2)
    for rotation in rotations:
        reach = np.maximum(reach, np.abs(points @ rotation[:2].T).max(axis=0, initial=0.0))
    return float(reach[1]), float(reach[0])


def _ends_of_lines(support: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Where the support begins and ends on every line along x: (n, 3) x, y, z from the origin."""
    z, y = np.nonzero(support.any(axis=2))
    nx = support.shape[2]
    lines = support[z, y]
    ends = np.argmax(lines, axis=1), nx - 1 - np.argmax(lines[:, ::-1], axis=1)
    oz, oy, ox = (n // 2 for n in support.shape)
    points = [np.stack([x - ox, y - oy, z - oz], axis=1) for x in ends]
    return np.concatenate(points).astype(np.float64)
