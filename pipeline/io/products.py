"""What a run leaves behind: the products, as plain dataclasses of arrays.

Volumes are `(z, y, x)` with the origin at voxel `n // 2`; frames and units: the table in
`pipeline/__init__.py`. `pipeline/io/results.py` writes and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.provenance import Provenance

if TYPE_CHECKING:
    from pipeline.io.product import Product

UNKNOWN_PIXEL_SIZE_M = 1.0
"""Stands for a pixel size that the data do not tell; lengths are then in voxels."""


@dataclass(frozen=True)
class Figure:
    """A number that a person would quote."""

    value: float
    unit: str
    uncertainty: float | None = None
    """One standard deviation, in `unit`."""
    description: str = ""
    """One sentence: what was measured, over what."""


FAINT = 0.25
"""Part of the typical dichroic contrast below which a voxel shows no axis."""


def stated(uncertainty: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """An uncertainty (z, y, x) float32 as files hold it: NaN, not 0, where none was asked for."""
    return None if uncertainty is None else np.where(uncertainty == 0.0, np.nan, uncertainty)


@dataclass(frozen=True)
class OrientationMap:
    """Crystal axis in the sample frame; an axis has no sign, `a` is the same as `-a`.

    Attributes
    ----------
    tensor : (6, z, y, x) float32 [rad/voxel], order xx yy zz yz xz xy.
    axis : (3, z, y, x) float32, unit vectors x, y, z; zero outside `support`.
    magnitude : (z, y, x) float32 [rad/voxel], dichroic contrast.
    uniaxiality : (z, y, x) float32, 0 (isotropic) to 1 (one axis).
    support : (z, y, x) bool.
    uncertainty_deg : (z, y, x) float32 [degree], rms angle of the axis, if known; 0 where not
        asked for.
    magnitude_error : (z, y, x) float32 [rad/voxel], standard deviation of the magnitude without
        what is common to all voxels, if known; 0 where not asked for.
    """

    tensor: NDArray[np.float32]
    axis: NDArray[np.float32]
    magnitude: NDArray[np.float32]
    uniaxiality: NDArray[np.float32]
    support: NDArray[np.bool_]
    uncertainty_deg: NDArray[np.float32] | None = None
    magnitude_error: NDArray[np.float32] | None = None

    @property
    def carries(self) -> NDArray[np.bool_]:
        """(z, y, x) bool, voxels of some dichroism: where there is hardly any, an axis is noise."""
        inside = self.support & (np.linalg.norm(self.axis, axis=0) > 0.5)
        if not inside.any():
            return inside
        return np.asarray(inside & (self.magnitude > FAINT * np.median(self.magnitude[inside])))


@dataclass(frozen=True)
class MagnetisationMap:
    """Magnetisation in the sample frame.

    Attributes
    ----------
    vector : (3, z, y, x) float32, components x, y, z.
    support : (z, y, x) bool.
    unit : unit of the dichroic signal per voxel.
    """

    vector: NDArray[np.float32]
    support: NDArray[np.bool_]
    unit: str = "rad/voxel"


@dataclass(frozen=True)
class ScalarMap:
    """A scalar tomogram.

    Attributes
    ----------
    volume : (z, y, x) float32, positive where matter is.
    support : (z, y, x) bool.
    unit : unit per voxel.
    """

    volume: NDArray[np.float32]
    support: NDArray[np.bool_]
    unit: str = "rad/voxel"


@dataclass(frozen=True)
class DensityMap:
    """Electron density and materials.

    Attributes
    ----------
    electron_density : (z, y, x) float32 [e/Å³].
    materials : (z, y, x) uint8; 0 is none of them, `i + 1` is `names[i]`.
    names : names of the materials.
    windows : (n_materials, 2) float64 [e/Å³], lower and upper threshold of each.
    keep : (z, y, x) bool, False in the damaged shell and outside the sample; None: no shell.
    noise : float [e/Å³], rms in air; 0 when unknown.
    systematic : (n_materials,) float64 [e/Å³], standard deviation of each material's density beyond
        its scatter, `pipeline.analyse.density_budget`; None when unknown.
    """

    electron_density: NDArray[np.float32]
    materials: NDArray[np.uint8]
    names: tuple[str, ...]
    windows: NDArray[np.float64]
    keep: NDArray[np.bool_] | None = None
    noise: float = 0.0
    systematic: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class GrainMap:
    """Grains by misorientation, possibly on a coarser grid.

    Attributes
    ----------
    label : (z, y, x) int32; 0 is no grain.
    boundaries : (z, y, x) uint8, 1 on both sides of a face between two grains.
    table : column name -> (n_grains,) or (n_grains, 3) array, rows in order of the label.
    pixel_size_m : float [m], edge of a voxel of `label`.
    offset_m : z, y, x [m] of the centre of voxel `n // 2` in the sample frame; zero unless coarser.
    """

    label: NDArray[np.int32]
    boundaries: NDArray[np.uint8]
    table: Mapping[str, NDArray[Any]]
    pixel_size_m: float
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


GRAIN_UNITS: Mapping[str, str] = {
    "label": "",
    "voxels": "voxel",
    "volume_m3": "m^3",
    "equivalent_diameter_m": "m",
    "surface_m2": "m^2",
    "sphericity": "",
    "sphericity_36pi": "",
    "semi_axes_m": "m",
    "long_axis": "",
    "elongation": "",
    "flatness": "",
    "neighbours": "",
    "axis": "",
    "axis_sigma_deg": "degree",
    "spread_deg": "degree",
    "centroid_m": "m",
    "electron_density": "e/angstrom^3",
}
"""Unit of each column of a grain table."""


@dataclass(frozen=True)
class ResolutionCurve:
    """Fourier shell correlation of two independent halves.

    Attributes
    ----------
    frequency : (k,) float64 [1/m], of the shells.
    correlation : (k,) float64.
    half_bit, one_bit : (k,) float64, thresholds for 1/2 and 1 bit of information.
    half_bit_resolution_m, one_bit_resolution_m : float [m], half period `1 / (2 f)` where the
        curve first falls below the threshold; NaN without a crossing.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    half_bit: NDArray[np.float64]
    one_bit: NDArray[np.float64]
    half_bit_resolution_m: float
    one_bit_resolution_m: float


@dataclass(frozen=True)
class SeriesAlignment:
    """What alignment did to one series.

    Attributes
    ----------
    shifts_px : (n, 2) float64 [pixel], dy and dx added to bring each frame into place.
    angles_deg : (n,) float64 [degree].
    updates_px : (iterations, n) float64 [pixel], size of each update; empty when not recorded.
    joint_px : (n, 2) float64 [pixel], dy and dx of the part of the shifts that was found with the
        dichroism in the model; empty without such a round.
    left_out : (n,) bool, projections that showed nothing which the others explain; empty when
        alignment did not ask.
    axis_tilt_deg : of the rotation axis against the detector's columns; NaN when not determined.
    axis_pitch_deg, axis_pitch_error_deg : lean of the axis along the beam, and its standard error;
        NaN when not determined, as over half a turn.
    converged : whether the last round moved no projection by more than the tolerance.
    """

    shifts_px: NDArray[np.float64]
    angles_deg: NDArray[np.float64]
    updates_px: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    joint_px: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    left_out: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    axis_tilt_deg: float = np.nan
    axis_pitch_deg: float = np.nan
    axis_pitch_error_deg: float = np.nan
    converged: bool = True


@dataclass(frozen=True)
class SeriesQuality:
    """How good each projection of a series is, and which are proposed for exclusion.

    Attributes
    ----------
    angles_deg : (n,) float64 [degree].
    indices : (n,) int64, of the projections in the files: excluded ones are counted, not listed.
    measures : (n, 5) float64, in the order of `pipeline.preprocess.quality.MEASURES`.
    scores : (n, 5) float64, robust standard deviations from the neighbours; positive is worse.
    outliers : (n,) bool, proposed for exclusion.
    reasons : why, for each projection; empty where nothing stands out.
    excluded : indices that the series leaves out already.
    notes : sentences about the series as a whole.
    """

    angles_deg: NDArray[np.float64]
    indices: NDArray[np.int64]
    measures: NDArray[np.float64]
    scores: NDArray[np.float64]
    outliers: NDArray[np.bool_]
    reasons: tuple[str, ...]
    excluded: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def proposal(self) -> str:
        """Line for the beamtime file that leaves out the outliers too; empty without any."""
        if not self.outliers.any():
            return ""
        return f"exclude: {sorted({*self.excluded, *self.indices[self.outliers].tolist()})}"


@dataclass(frozen=True)
class Mounting:
    """Where one mounting was found relative to the reference mounting.

    Attributes
    ----------
    rotation : (3, 3) float64, as `pipeline.align.register.RigidMotion.rotation`.
    shift_px : (3,) float64 [voxel], as `RigidMotion.shift`.
    correlation : float, of the registered volumes.
    turned_deg : float, how far the rotation is from the nominal one [degree].
    """

    rotation: NDArray[np.float64]
    shift_px: NDArray[np.float64]
    correlation: float
    turned_deg: float = 0.0


@dataclass(frozen=True)
class AngleRefinement:
    """Rotations of the projections of a mounting or series that were refined one by one.

    Attributes
    ----------
    given, refined : (n, 3, 3) float64, sample to lab.
    turns_deg : (n, 3) float64 rotation vectors in the lab frame [degree], `refined = exp(turn)
        given`; a turn common to all projections that were refined together is the sample's.
    errors_deg : (n, 3) float64 their standard deviations [degree].
    """

    given: NDArray[np.float64]
    refined: NDArray[np.float64]
    turns_deg: NDArray[np.float64]
    errors_deg: NDArray[np.float64]


@dataclass(frozen=True)
class SeriesPreview:
    """A few projections of a series, small enough for the report.

    Attributes
    ----------
    raw : (k, ny, nx) float32 [rad], wrapped phase as it was read.
    aligned : (k, ny, nx) float32 [rad], air at zero, in place.
    angles_deg : (k,) float64 [degree].
    pixel_size_m : float [m], of both.
    """

    raw: NDArray[np.float32]
    aligned: NDArray[np.float32]
    angles_deg: NDArray[np.float64]
    pixel_size_m: float


@dataclass(frozen=True)
class ResultData:
    """Everything that a run leaves behind; products that were not made are None or empty."""

    sample: str
    pixel_size_m: float
    """Edge of a voxel [m]; `UNKNOWN_PIXEL_SIZE_M` where the data do not tell."""
    orientation: OrientationMap | None = None
    magnetisation: MagnetisationMap | None = None
    scalar: ScalarMap | None = None
    density: DensityMap | None = None
    grains: GrainMap | None = None
    resolution: Mapping[str, ResolutionCurve] = field(default_factory=dict)
    """By name of the product."""
    alignment: Mapping[str, SeriesAlignment] = field(default_factory=dict)
    """By name of the series."""
    quality: Mapping[str, SeriesQuality] = field(default_factory=dict)
    """By name of the series."""
    mountings: Mapping[str, Mounting] = field(default_factory=dict)
    """By name of the mounting (tilt)."""
    angles: Mapping[str, AngleRefinement] = field(default_factory=dict)
    """By name of the mounting or series whose rotations were refined."""
    residuals: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """By name of the reconstruction: relative residual after each iteration."""
    previews: Mapping[str, SeriesPreview] = field(default_factory=dict)
    """By name of the series."""
    products: Mapping[str, Product] = field(default_factory=dict)
    """Of the analyses, by name."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Numbers to quote; the same as in `summary.json`."""
    doubts: tuple[str, ...] = ()
    """Measures of the run beyond the limits of its recipe, a line each, the worst first."""
    provenance: Provenance | None = None
