"""The recipe: every setting of every stage, with the reason for its default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel
from schemas.cluster import Cluster


class ResampleSettings(StrictModel):
    """Fourier resampling to one pixel size."""

    pixel_size_m: float | None = Field(default=None, gt=0.0, lt=1e-3)
    """Common pixel size [m]; the reference mounting's first series when absent, so that most
    data stay as they are."""

    enabled: bool = True
    """Off refuses series of different pixel size instead of resampling them."""


class PhaseSettings(StrictModel):
    """Phase with offset and ramp removed, air at zero."""

    air: Literal["auto", "left-right", "left", "right", "top-bottom", "top", "bottom", "none"] = (
        "auto"
    )
    """Where the air is: found by itself, or the sides of the frame (`top` is the last rows, +y up).
    `none` removes the plane of the whole frame, with a warning: without air neither the level nor
    the slope of a projection is known. A series may say more exactly where its air is."""

    air_fraction: float = Field(default=0.08, gt=0.0, le=0.5)
    """Width of an air side as a fraction of the frame, where a side is named."""

    unwrap: Literal["auto", "always", "never"] = "auto"
    """`auto` unwraps a projection only where neighbouring pixels differ by more than pi."""

    entry: Literal["auto", "phase", "derivative"] = "auto"
    """What enters alignment and reconstruction: the `phase`, unwrapped along a path, or the
    integral of its `derivative` along both axes, which is the same but where the phase winds about
    residues. `auto` takes the derivative for projections with residues, about which a path has no
    right way, unless its integral bends the air."""

    @model_validator(mode="after")
    def _one_way(self) -> PhaseSettings:
        if self.entry == "derivative" and self.unwrap != "auto":
            raise ValueError(
                f"phase.unwrap: '{self.unwrap}' does not go with entry 'derivative', which needs "
                "no unwrapping"
            )
        return self


class AlignSettings(StrictModel):
    """Tomographic consistency of one series."""

    enabled: bool = True
    """Off keeps the frames where they are."""

    levels: list[int] = Field(default=[4, 2, 1], min_length=1)
    """Binning factors, coarse to fine: coarse ones catch large shifts, the last one is exact."""

    iterations: int = Field(default=12, ge=1, le=200)
    """Most reconstruct-reproject-register rounds at each level."""

    tolerance_px: float = Field(default=0.01, gt=0.0, le=1.0)
    """A level ends when no projection moves by more than this [pixel at full resolution]."""

    model: Literal["shift", "similarity"] = "shift"
    """What moves a frame: stages only shift it; `similarity` adds in-plane rotation and scale, for
    full-field microscopes that are refocused at every angle."""

    refine_axis: bool = True
    """Correct a measured tilt of the rotation axis against the detector's columns, where it moves
    content by more than a tenth of a pixel; smaller ones are reported only."""

    joint_rounds: int = Field(default=1, ge=0, le=5)
    """Rounds in which partners are registered again with their dichroism in the model, without
    which a magnetic vortex passes for a shift; a second one changes little, 0 leaves it out."""

    @model_validator(mode="after")
    def _descending(self) -> AlignSettings:
        if self.levels != sorted(set(self.levels), reverse=True) or self.levels[-1] < 1:
            raise ValueError(f"align.levels: expected falling factors >= 1, found {self.levels}")
        return self


class RegisterSettings(StrictModel):
    """Mountings brought into one sample frame."""

    enabled: bool = True
    """Off trusts the nominal tilts and a common rotation centre."""

    refine_rotation: bool = True
    """Measure the rotation between mountings too: stages are off by tenths of a degree."""

    iterations: int = Field(default=30, ge=1, le=500)
    """Most Gauss-Newton steps of the rigid registration."""


class SupportSettings(StrictModel):
    """Where the sample is."""

    threshold: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Fraction of the material's typical density; Otsu's threshold when absent."""

    dilate: int = Field(default=1, ge=0, le=20)
    """Voxels added around the thresholded sample, so that its blurred edge stays inside."""


class ScalarSettings(StrictModel):
    """Reconstruction of a scalar field."""

    method: Literal["resire", "fbp"] = "resire"
    """RESIRE (least squares with positivity) or filtered back-projection."""

    iterations: int = Field(default=60, ge=1, le=5000)
    """Most iterations of RESIRE."""

    positivity: bool = True
    """Electron density and optical density are not negative."""

    fbp_filter: Literal["ram-lak", "shepp-logan", "hann"] = "ram-lak"
    """Window of the ramp filter."""


class VectorSettings(StrictModel):
    """RESIRE-V: magnetisation from circular dichroism."""

    method: Literal["cg", "gradient-descent"] = "cg"
    """Conjugate gradients with a gradient prior, or the published descent with its projector."""

    iterations: int | None = Field(default=None, ge=1, le=5000)
    """Most iterations; when absent 40, by which conjugate gradients with a prior have converged,
    and for descent the 150 of the published script."""

    smoothness: float | None = Field(default=None, ge=0.0)
    """Strength of the gradient prior relative to the data term, dimensionless; the most probable
    one given the data when absent, so that no number is tuned to one sample."""

    refine_iterations: int = Field(default=40, ge=0, le=5000)
    """Quasi-Newton steps with an edge-preserving prior after `cg`; 0 stops before."""

    edge_preserving: float | None = Field(default=None, ge=0.0)
    """Strength of that prior in units of the noise of one voxel's gradient, dimensionless; 1.5
    when absent, just above what noise does by chance, and 3 with one magnitude."""

    constant_magnitude: bool = False
    """Refine with one magnitude everywhere in the support: right for a saturated magnet whose
    support is tight, wrong where the support holds anything else, so it must be asked for."""


class OrientationSettings(StrictModel):
    """XL-DOT: crystal axis from linear dichroism."""

    method: Literal["tensor", "random-starts"] = "tensor"
    """Convex tensor solve and rank-one refinement, or the published random-start scheme."""

    iterations: int = Field(default=30, ge=1, le=5000)
    """Most conjugate-gradient iterations of the tensor stage; with a prior it has converged by
    then."""

    smoothness: float | None = Field(default=None, ge=0.0)
    """Strength of the gradient prior relative to the data term, dimensionless; the one that
    predicts held-out projections best when absent."""

    refine_iterations: int = Field(default=40, ge=0, le=5000)
    """Quasi-Newton steps on the rank-one manifold; 0 stops after the tensor stage."""

    edge_preserving: float | None = Field(default=None, ge=0.0)
    """Strength of the edge-preserving prior of the rank-one stage, in units of the noise of one
    voxel's gradient, dimensionless; 1.5 when absent, just above what noise does by chance."""

    starts: int = Field(default=5, ge=1, le=100)
    """Random starts of `random-starts`; five were published."""

    start_iterations: int = Field(default=50, ge=1, le=5000)
    """Iterations from each random start; fifty were published."""

    start_range: float = Field(default=0.05, gt=0.0, le=10.0)
    """Half width of the random starts per component of `√|f| a` [root of radian per voxel]; as
    published, about the size of that vector in vanadium pentoxide at 31 nm voxels."""


class DensitySettings(StrictModel):
    """Electron density and materials."""

    method: Literal["fbp", "resire"] = "fbp"
    """Filtered back-projection is linear, so that its density is unbiased."""

    shell_m: float = Field(default=90e-9, ge=0.0, lt=1e-3)
    """Thickness of the damaged outer shell to mask [m]; 90 nm after focused-ion milling."""


class GrainSettings(StrictModel):
    """Grains by misorientation."""

    method: Literal["region-merging", "connected", "mean-shift"] = "region-merging"
    """Regions merged by their mean axes, which noise and gradients hardly move; `connected` joins
    neighbours pair by pair, as is usual for EBSD; `mean-shift` does so after smoothing the axes
    within the threshold."""

    misorientation_deg: float = Field(default=10.0, gt=0.0, le=90.0)
    """Neighbours that differ by more are different grains [degree]."""

    downsample: int = Field(default=1, ge=1, le=16)
    """Average the axis over blocks of this edge before segmenting; three was published for
    volumes of 330 voxels and more, small volumes need every voxel."""

    min_voxels: int = Field(default=27, ge=1)
    """Smallest grain [voxel]: a cube of three voxels is the least that resolution leaves."""

    small: Literal["merge", "drop"] = "merge"
    """Smaller regions go to the neighbour of nearest orientation; `drop` leaves them unlabelled."""


class BoundarySettings(StrictModel):
    """Kinds of grain boundary."""

    special_width_deg: float = Field(default=2.0, gt=0.0, le=20.0)
    """Standard deviation by which a real twist, tilt or twin may be off its exact geometry
    [degree]: small, because the uncertainty that tomography leaves is added to it."""

    confidence: float = Field(default=0.7, ge=0.5, lt=1.0)
    """Probability from which a boundary is called by its kind: more than twice as likely as all
    other kinds together; below, it is undetermined."""

    high_angle_deg: float = Field(default=15.0, gt=0.0, lt=90.0)
    """Boundaries of more are called high-angle [degree]: the usual limit, above which a boundary is
    no longer a row of dislocations."""

    min_area_voxels: float = Field(default=1.0, ge=0.0)
    """Smaller contacts between two grains are left out [face of a voxel]: they come and go with
    single voxels; larger ones are listed, since distributions weigh them by their area anyway."""


class Recipe(StrictModel):
    """Settings of a run. An empty recipe is a good recipe."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes every random choice."""

    resample: ResampleSettings = ResampleSettings()
    phase: PhaseSettings = PhaseSettings()
    align: AlignSettings = AlignSettings()
    register_tilts: RegisterSettings = RegisterSettings()
    support: SupportSettings = SupportSettings()
    scalar: ScalarSettings = ScalarSettings()
    vector: VectorSettings = VectorSettings()
    orientation: OrientationSettings = OrientationSettings()
    density: DensitySettings = DensitySettings()
    grains: GrainSettings = GrainSettings()
    boundaries: BoundarySettings = BoundarySettings()
    cluster: Cluster = Cluster()
