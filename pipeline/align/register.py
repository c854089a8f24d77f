"""Rigid registration of tomograms: where the sample of one mounting lies in another.

Coordinates are `r = (x, y, z)` about the centre voxel `n // 2`, in voxels. The motion found is
`reference(r) = moving(rotation r + shift)`: it takes a point of the reference to the same point of
the sample in the moving tomogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from pipeline.align.pairs import band_pass
from pipeline.errors import GeometryError
from pipeline.progress import Progress, ProgressCallback, silent
from schemas.recipe import RegisterSettings

BANDS = ((4.0, 16.0), (2.0, 6.0), (1.0, 3.0))
"""Gaussian blurs between which the tomograms are compared, coarse to fine [voxel]: three degrees
move the end of a sample by a few voxels, which the first band bridges; the last keeps edges, which
all mountings share, and leaves out the broad differences of dichroism and of few angles."""

NOISY_BAND = (1.0, np.inf)
"""Used instead of the last where edges drown in noise: all detail helps then."""

TRUSTED = 0.9
"""Least correlation in the last band for edges to be trusted alone."""

MOST_POINTS = 300_000
"""Voxels compared: far more than six numbers need, few enough for a step in half a second."""

CLOSE = 1e-3
"""A step that moves no voxel of the sample by more ends a band [voxel]."""

COARSE_SIZE = 64
"""Edge of the volumes of the first correlation [voxel]."""


@dataclass(frozen=True)
class RigidMotion:
    """`reference(r) = moving(rotation r + shift)`.

    Attributes
    ----------
    rotation : (3, 3) float64.
    shift : (3,) float64 `(x, y, z)` [voxel].
    correlation : Pearson correlation of the two, registered, in the last band that was used.
    steps : Gauss-Newton steps made.
    """

    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    correlation: float
    steps: int


def register_volumes(
    reference: NDArray[np.float32],
    moving: NDArray[np.float32],
    nominal: NDArray[np.float64],
    settings: RegisterSettings | None = None,
    progress: ProgressCallback = silent,
    *,
    stage: str = "register",
) -> RigidMotion:
    """Find the rigid motion between two tomograms of one sample.

    Parameters
    ----------
    reference, moving : (z, y, x) float32, matter positive; shapes may differ.
    nominal : (3, 3) rotation expected; may be wrong by a few degrees.
    settings : steps, and whether the rotation is measured or kept; `enabled: false` returns the
        nominal rotation without shift.
    progress : told after every step; its residual is the step's largest motion [voxel].
    stage : name under which progress is told.

    Raises
    ------
    GeometryError
        If `nominal` is not a rotation, a volume is empty, or the two have nothing in common.

    Notes
    -----
    Inverse compositional Gauss-Newton: Baker and Matthews, Int. J. Comput. Vis. 56, 221 (2004),
    doi 10.1023/B:VISI.0000011205.11775.fd. Factor and offset between the grey values are fitted
    along, so that tomograms at different energies register.
    """
    settings = settings or RegisterSettings()
    rotation = np.asarray(nominal, np.float64)
    if rotation.shape != (3, 3) or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6:
        raise GeometryError(f"register: expected a rotation matrix, found {nominal!r}")
    for name, volume in (("reference", reference), ("moving", moving)):
        if volume.ndim != 3 or not np.isfinite(volume).all() or not volume.max() > 0:
            raise GeometryError(f"register: the {name} tomogram is empty or not finite")
    shift = np.zeros(3)
    if settings.enabled:
        shift = _coarse_shift(reference, moving, rotation)
    before = rotation, shift
    tell = _Steps(progress, stage, len(BANDS) * settings.iterations)
    points = _points(reference)
    if not settings.enabled:
        correlation = _Pair(reference, moving, points, NOISY_BAND).correlation(rotation, shift)
    for band in BANDS if settings.enabled else ():
        pair = _Pair(reference, moving, points, band)
        before = rotation, shift
        rotation, shift = _settle(pair, rotation, shift, settings, tell)
        correlation = pair.correlation(rotation, shift)
    if settings.enabled and correlation < TRUSTED:
        pair = _Pair(reference, moving, points, NOISY_BAND)
        rotation, shift = _settle(pair, *before, settings, tell)
        correlation = pair.correlation(rotation, shift)
    if not correlation > 0.3:
        raise GeometryError(
            f"register: the tomograms do not match (correlation {correlation:.2f}, expected above "
            "0.3); is the nominal tilt right?"
        )
    return RigidMotion(rotation, shift, correlation, tell.done)


class _Steps:
    """Counts Gauss-Newton steps and tells of them."""

    def __init__(self, progress: ProgressCallback, stage: str, total: int) -> None:
        self.progress, self.stage, self.total, self.done = progress, stage, total, 0

    def add(self, size: float) -> None:
        self.done += 1
        self.progress(Progress(self.stage, self.done, max(self.done, self.total), size))


def _settle(
    pair: _Pair,
    rotation: NDArray[np.float64],
    shift: NDArray[np.float64],
    settings: RegisterSettings,
    tell: _Steps,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Newton steps in one band, until they are small."""
    for _ in range(settings.iterations):
        turn, move = pair.step(rotation, shift, settings.refine_rotation)
        rotation = rotation @ Rotation.from_rotvec(-turn).as_matrix()
        shift = shift - rotation @ move
        size = float(max(np.abs(move).max(), np.linalg.norm(turn) * pair.radius))
        tell.add(size)
        if size < CLOSE:
            break
    return rotation, shift


class _Pair:
    """Both tomograms in one band, compared at given points of the reference."""

    def __init__(
        self,
        reference: NDArray[np.float32],
        moving: NDArray[np.float32],
        points: NDArray[np.intp],
        band: tuple[float, float],
    ) -> None:
        smooth = band_pass(reference, *band)
        index = tuple(points[::-1])
        self.values = smooth[index].astype(np.float64)
        slopes = [np.gradient(smooth, axis=axis)[index] for axis in (2, 1, 0)]
        self.slope = np.stack(slopes).astype(np.float64)
        centre = np.array(reference.shape[::-1])[:, None] // 2
        self.at = (points - centre).astype(np.float64)
        self.radius = float(np.linalg.norm(self.at, axis=0).max())
        # The spline's own filter is made once; sampling then is local.
        self.spline = ndimage.spline_filter(band_pass(moving, *band), 3, np.float32)

    def moved(
        self, rotation: NDArray[np.float64], shift: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The moving tomogram where it meets the points, (n,)."""
        centre = np.array(self.spline.shape[::-1])[:, None] // 2
        at = rotation @ self.at + shift[:, None] + centre
        found = ndimage.map_coordinates(
            self.spline, at[::-1], order=3, prefilter=False, mode="constant"
        )
        return found.astype(np.float64)

    def step(
        self, rotation: NDArray[np.float64], shift: NDArray[np.float64], turning: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Motion `(ω, u)` of the reference, `r + ω × r + u`, that brings it onto the moving one."""
        moved = self.moved(rotation, shift)
        turn = np.cross(self.at, self.slope, axis=0)
        columns = [*self.slope, *(turn if turning else ()), -moved, -np.ones_like(moved)]
        design = np.stack(columns)
        normal = design @ design.T
        normal[np.diag_indices(len(design))] *= 1.0 + 1e-9
        solution = np.linalg.solve(normal, -design @ self.values)
        return (solution[3:6] if turning else np.zeros(3)), solution[:3]

    def correlation(self, rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> float:
        """Pearson correlation at the points."""
        moved = self.moved(rotation, shift)
        if moved.std() == 0.0 or self.values.std() == 0.0:
            return 0.0
        return float(np.corrcoef(self.values, moved)[0, 1])


def _points(reference: NDArray[np.float32]) -> NDArray[np.intp]:
    """Voxels `(x, y, z)` in and around the sample, (3, n), thinned evenly."""
    smooth = ndimage.gaussian_filter(reference, 2.0)
    typical = float(np.median(smooth[smooth > 0.3 * smooth.max()]))
    inside = ndimage.binary_dilation(smooth > 0.3 * typical, iterations=4)
    found = np.flatnonzero(inside)
    # A step that shares no factor with the edges would fall on lines of voxels: thin by a fixed
    # pseudo-random choice instead.
    if found.size > MOST_POINTS:
        chosen = np.random.default_rng(0).choice(found.size, MOST_POINTS, replace=False)
        found = found[np.sort(chosen)]
    z, y, x = np.unravel_index(found, reference.shape)
    return np.stack([x, y, z])


def _coarse_shift(
    reference: NDArray[np.float32],
    moving: NDArray[np.float32],
    rotation: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Shift by cross-correlation of the reference with the moving tomogram, turned as expected."""
    size = max(*reference.shape, *moving.shape)
    step = max(1.0, size / COARSE_SIZE)
    edge = int(np.ceil(size / step)) + 1
    one = _turned(reference, np.eye(3), edge, step)
    two = _turned(moving, rotation, edge, step)
    double = [fft.next_fast_len(2 * edge, real=True)] * 3
    spectrum = np.conj(fft.rfftn(one, s=double)) * fft.rfftn(two, s=double)
    correlation = fft.irfftn(spectrum, s=double)
    peak = np.unravel_index(np.argmax(correlation), correlation.shape)
    lag = [float(k - n if k > n // 2 else k) * step for k, n in zip(peak, double, strict=True)]
    result: NDArray[np.float64] = rotation @ np.array(lag[::-1])
    return result


def _turned(
    volume: NDArray[np.float32], rotation: NDArray[np.float64], edge: int, step: float
) -> NDArray[np.float32]:
    """`volume(rotation r)` on a coarse cube, without its mean inside."""
    smooth = ndimage.gaussian_filter(volume, 0.5 * step)
    # Axes of arrays run z, y, x.
    matrix = rotation[::-1, ::-1] * step
    centre = np.array(volume.shape) // 2
    offset = centre - matrix @ np.full(3, edge // 2)
    turned: NDArray[np.float32] = ndimage.affine_transform(
        smooth, matrix, offset, (edge,) * 3, np.float32, order=1, mode="constant"
    )
    return turned
