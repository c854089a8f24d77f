"""What less data would have given: parts of a measurement against all of it.

The parts are those of the published study (Apseros et al., Nature 636, 354 (2024),
doi 10.1038/s41586-024-08233-y, supplementary figure 14): fewer tilts, half of the angles, one
polarisation. An error here is a difference from the reconstruction of all data, not from the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io.product import Curve, Map, Product, Table
from pipeline.io.products import Figure
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import TENSOR_COMPONENTS, linear_weights
from pipeline.tomography.geometry import group_by_axis
from pipeline.tomography.projector import Projector

TENSOR = len(TENSOR_COMPONENTS)

FEWEST = 4
"""Projections of an axis below which nothing is left to be thinned out."""

WITHIN_DEG = 10.0
"""Angle that counts as the same grain, as in the segmentation."""

BINS = 180


@dataclass(frozen=True)
class Part:
    """A part of a measurement.

    Attributes
    ----------
    name : of its step.
    title : for people.
    indices : projections of the whole stack, ascending.
    one_polarisation : use horizontal polarisation alone.
    """

    name: str
    title: str
    indices: NDArray[np.int64]
    one_polarisation: bool = False


def parts_of(stack: DifferencedStack, *, with_means: bool = False) -> list[Part]:
    """Parts that a study compares: angles thinned out, mountings left out, one polarisation.

    Parameters
    ----------
    stack : of all mountings.
    with_means : whether the partners' means are there, which one polarisation needs.
    """
    axes = group_by_axis(stack.rotations)
    groups = [group.indices for group in axes]
    # Rows of one angle, the difference and the mean of a view say, stay or go together.
    ranks = [np.unique(group.angles_rad, return_inverse=True)[1] for group in axes]
    total = len(stack.data)
    found = []
    for step, word in ((2, "half"), (4, "a quarter")):
        if min(int(rank.max()) + 1 for rank in ranks) >= FEWEST * step:
            kept = [g[rank % step == 0] for g, rank in zip(groups, ranks, strict=True)]
            chosen = np.sort(np.concatenate(kept))
            found.append(Part(f"angles-{step}", f"{word} of the angles", chosen))
    # Where nearly every projection has an axis of its own there are no mountings to leave out.
    if len(groups) <= total // FEWEST:
        for n in range(len(groups) - 1, 0, -1):
            chosen = np.sort(np.concatenate(groups[:n]))
            found.append(Part(f"tilts-{n}", f"{n} of {len(groups)} tilts", chosen))
    if with_means and stack.contrast == "linear" and stack.weights.shape[1] == TENSOR:
        everything = np.arange(total, dtype=np.int64)
        found.append(Part("polarisation-1", "one polarisation", everything, one_polarisation=True))
    return found


def horizontal(stack: DifferencedStack, mean: DifferencedStack) -> DifferencedStack:
    """Projections in horizontal polarisation alone: the partners' mean and half their difference.

    Parameters
    ----------
    stack : linear difference, matter positive.
    mean : half the sum of the partners, matter positive, projection by projection as `stack`.

    Raises
    ------
    InputError : the stacks do not belong together.
    """
    if stack.data.shape != mean.data.shape or stack.contrast != "linear":
        raise InputError(
            f"expected a linear stack and its mean of one shape, found {stack.data.shape} "
            f"and {mean.data.shape}"
        )
    return replace(mean, data=mean.data + 0.5 * stack.data)


def one_polarisation(
    stack: DifferencedStack, single: DifferencedStack, volume: NDArray[np.float32]
) -> DifferencedStack:
    """What one polarisation tells about the tensor, the bulk of its isotropic part taken off.

    With one polarisation the trace of the tensor is seen, and takes up what is left of the
    isotropic part; the axis is that of the rest.

    Parameters
    ----------
    stack : linear difference, for its geometry and degree of polarisation.
    single : projections in horizontal polarisation, as from `horizontal`.
    volume : (z, y, x) scalar tomogram of `single`.
    """
    projector = Projector(
        volume.shape, single.data.shape[1:], stack.rotations, np.ones((len(stack.data), 1))
    )
    data = single.data - projector.forward(volume[None].astype(np.float32))
    # A difference has the weights `p (r_x r_xᵀ − r_y r_yᵀ)`, whose norm is p √2.
    diagonal, across = stack.weights[:, :3], 0.5 * stack.weights[:, 3:]
    size = np.sqrt(np.sum(diagonal**2, axis=1) + 2.0 * np.sum(across**2, axis=1))
    degree = float(np.clip(np.median(size) / np.sqrt(2.0), 0.0, 1.0))
    return replace(stack, data=data, weights=linear_weights(stack.rotations, 0.0, degree))


def angle_deg(
    field: NDArray[np.floating], reference: NDArray[np.floating], *, signed: bool
) -> NDArray[np.float32]:
    """Angle between two fields, voxel by voxel.

    Parameters
    ----------
    field, reference : (3, ...) of any length; 90 degrees where one vanishes.
    signed : vectors; else axes, which are the same with either sign.

    Returns
    -------
    (...) float32 [degree].
    """
    cross = np.sqrt(np.sum(np.cross(field, reference, axis=0) ** 2, axis=0))
    dot = np.sum(field * reference, axis=0)
    angle = np.arctan2(cross, dot if signed else np.abs(dot))
    nothing = (cross == 0) & (dot == 0)
    return np.where(nothing, 90.0, np.degrees(angle)).astype(np.float32)


@dataclass(frozen=True)
class Robustness:
    """Parts of a measurement against all of it.

    Attributes
    ----------
    parts : that were reconstructed.
    total : projections of the whole.
    angles_deg : name of a part -> (n,) float32 [degree], error of every voxel of `mask`.
    mask : (z, y, x) bool, voxels that are compared.
    pixel_size_m : edge of a voxel [m].
    signed : vectors rather than axes.
    """

    parts: tuple[Part, ...]
    total: int
    angles_deg: Mapping[str, NDArray[np.float32]]
    mask: NDArray[np.bool_]
    pixel_size_m: float
    signed: bool

    def as_product(self) -> Product:
        """The same as a table, cumulative distributions, and maps of the error."""
        errors = [self.angles_deg[part.name] for part in self.parts]
        notes = []
        if not self.parts:
            notes.append("There are too few projections to leave any out.")
        if any(part.one_polarisation for part in self.parts):
            notes.append(
                "With one polarisation the isotropic part is not subtracted but fitted, from the "
                "same projections; the axis is that of the tensor, without the rank-one stage."
            )
        if not self.mask.any():
            notes.append("No voxel carries a direction, so there is nothing to compare.")
        quantity = "magnetisation" if self.signed else "crystal axis"
        return Product(
            name="robustness",
            title="Robustness: less data",
            summary=f"The {quantity} was reconstructed again from parts of the aligned "
            "projections, with the settings of the run. An error is the angle to the "
            "reconstruction of all data: it tells what the data that were left out had to say, "
            "and includes the noise of either reconstruction.",
            maps=self._maps(errors),
            tables={"parts": self._table(errors)},
            curves={"cumulative": self._curve(errors)} if self.parts else {},
            figures={
                f"robustness_{part.name.replace('-', '_')}": Figure(
                    float(np.median(error)),
                    "degree",
                    None,
                    f"Median difference of the {quantity} with {part.title} from that of all data.",
                )
                for part, error in zip(self.parts, errors, strict=True)
                if error.size
            },
            notes=tuple(notes),
        )

    def _table(self, errors: Sequence[NDArray[np.float32]]) -> Table:
        def column(measure: str) -> NDArray[np.float64]:
            return np.array([_measure(error, measure) for error in errors], dtype=np.float64)

        used = [len(part.indices) for part in self.parts]
        share = np.array(used, dtype=np.float64) / max(1, self.total)
        # One polarisation halves the exposures, not the angles.
        share *= [0.5 if part.one_polarisation else 1.0 for part in self.parts]
        return Table(
            {
                "data": np.array([part.title for part in self.parts], dtype=np.str_),
                "projections": np.array(used, dtype=np.int64),
                "exposures": 100.0 * share,
                "median_error": column("median"),
                "90_percentile": column("90"),
                "within_10_degrees": column("within"),
            },
            {
                "exposures": "percent",
                "median_error": "degree",
                "90_percentile": "degree",
                "within_10_degrees": "percent",
            },
            "Difference from the reconstruction of all data",
        )

    def _curve(self, errors: Sequence[NDArray[np.float32]]) -> Curve:
        top = 180.0 if self.signed else 90.0
        edges = np.linspace(0.0, top, BINS + 1)
        lines = {}
        for part, error in zip(self.parts, errors, strict=True):
            counts = np.histogram(error, edges)[0].astype(np.float64)
            lines[part.title] = 100.0 * np.cumsum(counts) / max(1, error.size)
        return Curve(
            edges[1:],
            lines,
            "angle to the reconstruction of all data [degree]",
            "voxels within it [percent]",
            "Share of the voxels whose direction differs by no more than an angle",
        )

    def _maps(self, errors: Sequence[NDArray[np.float32]]) -> dict[str, Map]:
        found = {}
        for part, error in zip(self.parts, errors, strict=True):
            values = np.full(self.mask.shape, np.nan, np.float16)
            values[self.mask] = error
            name = f"error_{part.name.replace('-', '_')}"
            title = f"error with {part.title}"
            found[name] = Map(values, "degree", "scalar", self.pixel_size_m, title)
        return found


def _measure(error: NDArray[np.float32], name: str) -> float:
    if error.size == 0:
        return float("nan")
    if name == "within":
        return float(100.0 * np.mean(error <= WITHIN_DEG))
    return float(np.median(error) if name == "median" else np.quantile(error, 0.9))
