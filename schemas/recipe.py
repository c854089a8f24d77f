"""The recipe: every setting of every stage, with the reason for its default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel
from schemas.cluster import Cluster
from schemas.operation import ApprovalSettings, PreviewSettings, QualityLimits

Polarisations = Literal["auto", "difference", "joint"]
"""How frames of linear polarisations are fitted."""


def _check_levels(stage: str, levels: list[int]) -> None:
    """Refuse binning factors that do not fall to 1 or above."""
    if levels != sorted(set(levels), reverse=True) or levels[-1] < 1:
        raise ValueError(f"{stage}.levels: expected falling factors >= 1, found {levels}")


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
        _check_levels("align", self.levels)
        return self


class RegisterSettings(StrictModel):
    """Mountings brought into one sample frame."""

    enabled: bool = True
    """Off trusts the nominal tilts and a common rotation centre."""

    refine_rotation: bool = True
    """Measure the rotation between mountings too: stages are off by tenths of a degree."""

    iterations: int = Field(default=30, ge=1, le=500)
    """Most Gauss-Newton steps of the rigid registration."""

    largest_turn_deg: float = Field(default=10.0, gt=0.0, le=180.0)
    """A mounting that is found further from its nominal rotation is refused [degree]: hands and
    goniometers are off by a few degrees, wrong rows or a wrong sense of rotation by far more, and
    the axes would be wrong with nothing else to show it."""


class ProjectionSettings(StrictModel):
    """How the sample becomes the projections that a reconstruction fits."""

    point_spread_px: float = Field(default=0.4, ge=0.0, le=0.7)
    """Standard deviation of the blur of the projections [pixel], which reconstruction undoes: data
    cannot tell it from a blurred sample. No image is sharper than its pixels, and 0.4 is what
    linear interpolation, the projector of the published codes, undoes unasked."""


class AngleSettings(StrictModel):
    """Refinement of the rotation of every projection, interleaved with a reconstruction."""

    enabled: bool = False
    """Off, because encoders of rotation stages are better than images are; on for samples that were
    mounted by hand for every direction, or goniometers that do not say where they stand."""

    rounds: int = Field(default=12, ge=1, le=200)
    """Most rounds of reconstruction and turns; six are usual for errors of a degree."""

    tolerance_deg: float = Field(default=0.01, gt=0.0, le=5.0)
    """Ends when the rms turn of a round is smaller [degree]: a hundredth of a degree moves the edge
    of a sample of 1000 voxels by a tenth of one."""

    expected_deg: float = Field(default=1.0, gt=0.0, le=20.0)
    """Error of the given angles [degree], by which directions that the data hardly see are held;
    a degree is what a goniometer without encoder keeps."""


class SupportSettings(StrictModel):
    """Where the sample is."""

    threshold: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Fraction of the material's typical density; Otsu's threshold when absent."""

    dilate: int = Field(default=1, ge=0, le=20)
    """Voxels added around the thresholded sample, so that its blurred edge stays inside."""


class ScalarSettings(StrictModel):
    """Reconstruction of a scalar field."""

    method: Literal["resire", "fbp", "art", "sirt"] = "resire"
    """RESIRE (least squares with positivity), filtered back-projection, or the classical ART and
    SIRT, to repeat a published analysis as it was."""

    iterations: int = Field(default=60, ge=1, le=5000)
    """Most iterations of RESIRE; all of SIRT."""

    sweeps: int = Field(default=20, ge=1, le=1000)
    """Sweeps of ART over all rays; twenty were published for battery cathodes."""

    relaxation: float = Field(default=0.2, gt=0.0, lt=2.0)
    """Part of its step that ART takes at every ray; small steps average the noise of many rays.
    SIRT, which averages anyway, takes the whole step."""

    extend: list[float] = Field(default=[1.0, 1.0, 1.0], min_length=3, max_length=3)
    """Factors by which the volume is larger than the frames along z, y and x while it is solved
    for: 1 for a sample that all frames hold; 1.5 across the rotation axis for a film that goes on
    beyond them, so that what is outside does not have to be explained by what is inside."""

    positivity: bool = True
    """Electron density and optical density are not negative."""

    fbp_filter: Literal["ram-lak", "shepp-logan", "hann"] = "ram-lak"
    """Window of the ramp filter."""

    @model_validator(mode="after")
    def _extended(self) -> ScalarSettings:
        if any(not 1.0 <= factor <= 4.0 for factor in self.extend):
            raise ValueError(f"scalar.extend: expected factors from 1 to 4, found {self.extend}")
        if self.method in ("fbp", "art") and self.extend != [1.0, 1.0, 1.0]:
            raise ValueError(f"scalar.extend: method '{self.method}' knows no larger volume")
        return self


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

    prior_order: Literal[1, 2] = 1
    """Derivative that the gradient prior asks to be small; the first also holds what no projection
    sees, the second lets the field run on along slopes."""

    surface: float = Field(default=0.0, ge=0.0)
    """Strength of RESIRE-V's boundary term `‖∇M·n‖²` in both stages, relative to the data term,
    dimensionless; off, because the edge-preserving prior asks the same everywhere."""

    levels: list[int] = Field(default=[4, 2, 1], min_length=1)
    """Binning factors, coarse to fine, of the solves that each start from the one before: what is
    large is found where an iteration costs a part, so that few are left at full resolution. Levels
    on which the sample would be narrower than ten voxels are skipped; [1] has none."""

    refine_iterations: int = Field(default=40, ge=0, le=5000)
    """Quasi-Newton steps with an edge-preserving prior after `cg`; 0 stops before."""

    edge_preserving: float | None = Field(default=None, ge=0.0)
    """Strength of that prior in units of the noise of one voxel's gradient, dimensionless; 1.5
    when absent, just above what noise does by chance, and 3 with one magnitude."""

    descent_step: float = Field(default=2.0, gt=0.0, le=4.0)
    """Step of `gradient-descent` in units of `1 / (n N_z)`, for n projections and N_z voxels along
    the beam: 2 in the published script; the paper's text divides it by the root of three."""

    constant_magnitude: bool = False
    """Refine with one magnitude everywhere in the support: right for a saturated magnet whose
    support is tight, wrong where the support holds anything else, so it must be asked for."""

    @model_validator(mode="after")
    def _descending(self) -> VectorSettings:
        _check_levels("vector", self.levels)
        return self


class OrientationSettings(StrictModel):
    """XL-DOT: crystal axis from linear dichroism."""

    polarisations: Polarisations = "auto"
    """What is fitted: the `difference` of partners LH and LV, from which all but the dichroism is
    gone, with projections whose partner is missing left out; or the frames of all polarisations
    `joint`ly, with the isotropic part as an unknown of its own, which uses every frame and any list
    of polarisation angles, in several times the time. `auto` takes the difference, which no error
    of the isotropic part can spoil, unless a mounting has other polarisations or more projections
    without a partner than pairs."""

    method: Literal["tensor", "random-starts"] = "tensor"
    """Convex tensor solve and rank-one refinement, or the published random-start scheme."""

    iterations: int = Field(default=30, ge=1, le=5000)
    """Most conjugate-gradient iterations of the tensor stage at full resolution; with a prior it
    has converged by then, and earlier from a coarser start."""

    smoothness: float | None = Field(default=None, ge=0.0)
    """Strength of the gradient prior relative to the data term, dimensionless; the one that
    predicts held-out projections best when absent."""

    prior_order: Literal[1, 2] = 1
    """Derivative that the gradient prior asks to be small: the first suits grains, the second axes
    that turn steadily."""

    levels: list[int] = Field(default=[4, 2, 1], min_length=1)
    """Binning factors, coarse to fine, of the solves that each start from the one before: what is
    large is found where an iteration costs a part, so that few are left at full resolution. Levels
    on which the sample would be narrower than ten voxels are skipped; [1] has none."""

    refine_iterations: int = Field(default=40, ge=0, le=5000)
    """Most quasi-Newton steps on the rank-one manifold, the first fifth with a convex prior; they
    end when none changes anything that matters. 0 stops after the tensor stage."""

    edge_preserving: float | None = Field(default=None, ge=0.0)
    """Strength of the edge-preserving prior of the rank-one stage, in units of the noise of one
    voxel's gradient, dimensionless; 2.5 when absent, well above what noise does by chance, which
    leaves boundaries as they are because the prior hardly grows beyond 12 degrees."""

    magnitude: Literal["free", "density"] = "free"
    """Dichroic contrast of every voxel for itself, or that of the measured density up to one
    factor: right where one material is dichroic and its density well known, so it must be asked
    for."""

    starts: int = Field(default=5, ge=1, le=100)
    """Random starts of `random-starts`; five were published."""

    start_iterations: int = Field(default=50, ge=1, le=5000)
    """Iterations from each random start; fifty were published."""

    start_range: float = Field(default=0.05, gt=0.0, le=10.0)
    """Half width of the random starts per component of `√|f| a` [root of radian per voxel]; as
    published, about the size of that vector in vanadium pentoxide at 31 nm voxels."""

    @model_validator(mode="after")
    def _descending(self) -> OrientationSettings:
        _check_levels("orientation", self.levels)
        return self


class DensitySettings(StrictModel):
    """Electron density and materials."""

    method: Literal["fbp", "resire"] = "fbp"
    """Filtered back-projection is linear, so that its density is unbiased."""

    shell_m: float = Field(default=90e-9, ge=0.0, lt=1e-3)
    """Thickness of the damaged outer shell to mask [m]; 90 nm after focused-ion milling."""

    segmentation: Literal["thresholds", "components"] = "thresholds"
    """Where the beamtime names no materials: cut in the minima of the histogram, or where its
    fitted Gaussians are equally probable, which suits materials of very different volume."""

    f1: Literal["none", "xraydb"] = "none"
    """Scattering factors for materials whose formula the beamtime says: `none` is right off
    resonance, `xraydb` takes Chantler's tables (an optional package). A file of scattering factors
    in the beamtime is used in either case."""


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


class DefectSettings(StrictModel):
    """Topological defects of axes and vectors."""

    average_voxels: float = Field(default=1.0, ge=0.0, le=10.0)
    """Standard deviation of the Gaussian over which `a aᵀ` or the vector is averaged [voxel];
    reconstructions resolve two to three voxels, which this leaves, and single-voxel noise does
    not survive it."""

    normal: Literal["x", "y", "z"] = "y"
    """Normal of the slices in which the director's winding is taken; y is the axis of the
    tomographic rotation, so that slices across it are the ones that are resolved alike in both
    directions."""

    escape_deg: float = Field(default=10.0, ge=0.0, lt=90.0)
    """A director nearer to the slice normal than this has no direction in the slice [degree]:
    about the spread within one grain of a measured volume."""

    significance: float = Field(default=3.0, ge=0.0, le=100.0)
    """Opposite charges are a pair made by noise where the field between them is weaker than so
    many standard deviations; three, as for any other feature."""

    core_voxels: float = Field(default=2.0, ge=0.0, le=50.0)
    """Like charges of one half that are nearer to each other are one defect of charge one
    [voxel]: noise of ten degrees parts the two halves of a singular core by less than one."""

    min_extent_voxels: float = Field(default=2.0, ge=0.0, le=100.0)
    """Closed loops that are smaller in every direction are noise [voxel]: a loop about a single
    voxel measures less."""

    surface_voxels: float = Field(default=3.0, ge=0.0, le=100.0)
    """Defects nearer to a surface or pore are labelled so [voxel]: the reach of the averaging,
    which sees only one side there."""


class EdgeSettings(StrictModel):
    """Profiles across material surfaces and grain boundaries."""

    reach_voxels: float = Field(default=6.0, ge=2.0, le=50.0)
    """Half length of a profile [voxel]: twice the width of an edge that is blurred over three
    voxels, so that both plateaus are seen."""

    step_voxels: float = Field(default=0.25, gt=0.0, le=1.0)
    """Distance between the samples of a profile [voxel]; a quarter puts ten on the sharpest edge
    that voxels can show."""

    tolerance_deg: float = Field(default=15.0, gt=0.0, le=60.0)
    """Boundaries within this of 90 degrees are used [degree]: where two axes are perpendicular the
    step in `a aᵀ` is largest, and 15 degrees lower it by 7 %."""

    max_profiles: int = Field(default=20000, ge=1, le=10_000_000)
    """Most profiles of each kind; so many fix the median of the widths to better than 1 %."""


class ChemistrySettings(StrictModel):
    """Chemical state from several energies, and the particles that it belongs to."""

    method: Literal["auto", "fbp", "resire"] = "auto"
    """Tomogram of each energy: filtered back-projection, whose noise is that of the air, where
    there is one rotation axis; RESIRE otherwise."""

    background: Literal["auto", "pre-edge", "offset", "none"] = "auto"
    """What else absorbs: the pre-edge series, or a fitted constant. `auto` takes the pre-edge
    series if the beamtime names one, else the offset if there are energies enough, since two
    energies without a background biased a measured composition by a quarter."""

    pre_edge_exponent: float | None = Field(default=None, ge=0.0, le=5.0)
    """The background falls with this power of the energy; when absent 3 for absorption (Victoreen)
    and 2 for phase, as matter behaves away from its edges."""

    max_condition: float = Field(default=100.0, gt=1.0)
    """Energies whose spectra are more alike than this condition number are refused: their noise
    would be multiplied by about as much."""

    significance: float = Field(default=3.0, gt=0.0, le=100.0)
    """Voxels whose total amount is below this many standard deviations have no composition."""

    least_amount: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Nor have voxels with less than this fraction of the median amount: a blurred surface lies
    where half is left."""

    rich: float = Field(default=0.7, gt=0.5, lt=1.0)
    """Share from which on a voxel counts as one component, as published for battery cathodes; below
    one minus this it counts as the other, in between as mixed."""

    active_from: list[float] = Field(default=[0.15, 0.25], min_length=1, max_length=4)
    """A particle is active when its mean composition is at least this; both published limits."""

    neck: float = Field(default=0.7, gt=0.0, le=1.0)
    """Particles that touch are parted where their neck is thinner than this fraction of the thinner
    one; rough surfaces make necks of nine tenths."""

    min_voxels: int = Field(default=27, ge=1)
    """Smallest particle [voxel]: a cube of three voxels is the least that resolution leaves."""

    @model_validator(mode="after")
    def _limits(self) -> ChemistrySettings:
        if any(not 0.0 < limit < 1.0 for limit in self.active_from):
            raise ValueError(
                f"chemistry.active_from: expected shares between 0 and 1, found {self.active_from}"
            )
        return self


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


class GeometrySettings(StrictModel):
    """What a set of tilts and polarisations must be able to tell."""

    force: bool = False
    """Reconstruct even where a component of the field is seen in no direction at all: what is shown
    of it is then made up by the prior, so it must be asked for."""


class Recipe(StrictModel):
    """Settings of a run. An empty recipe is a good recipe."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes every random choice."""

    resample: ResampleSettings = ResampleSettings()
    phase: PhaseSettings = PhaseSettings()
    align: AlignSettings = AlignSettings()
    register_tilts: RegisterSettings = RegisterSettings()
    angles: AngleSettings = AngleSettings()
    projection: ProjectionSettings = ProjectionSettings()
    support: SupportSettings = SupportSettings()
    scalar: ScalarSettings = ScalarSettings()
    vector: VectorSettings = VectorSettings()
    orientation: OrientationSettings = OrientationSettings()
    density: DensitySettings = DensitySettings()
    grains: GrainSettings = GrainSettings()
    defects: DefectSettings = DefectSettings()
    edges: EdgeSettings = EdgeSettings()
    chemistry: ChemistrySettings = ChemistrySettings()
    boundaries: BoundarySettings = BoundarySettings()
    geometry: GeometrySettings = GeometrySettings()
    cluster: Cluster = Cluster()
    preview: PreviewSettings = PreviewSettings()
    limits: QualityLimits = QualityLimits()
    approval: ApprovalSettings = ApprovalSettings()
