"""Errors of a map of composition against the particles of a simulated beamtime."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.align.register import register_volumes
from pipeline.io.product import Product
from schemas.recipe import RegisterSettings

Scores = dict[str, dict[str, Any]]

LEAST_OVERLAP = 0.5
"""Share of a true particle's voxels that one found particle holds for it to count as found."""


def score_composition(product: Product, file: h5py.File) -> Scores:
    """Errors of composition and particles.

    As for labels, only a translation is taken away first. A voxel counts where it lies wholly in
    one half of one particle.

    Parameters
    ----------
    product : chemistry, with the maps `composition`, `composition_uncertainty`, `particle` and the
        amounts.
    file : open `truth.h5` of `pipeline/simulate/chemistry.py`.
    """
    found = product.maps["composition"]
    labels = file["labels"][()]
    fine = float(file["labels"].attrs["voxel_size_m"])
    composition, particle = file["table/composition"][()], file["table/particle"][()]
    pixel = found.pixel_size_m
    total = np.sum(
        [item.values for name, item in product.maps.items() if name.startswith("amount_")], axis=0
    ).astype(np.float32)
    solid = (labels > 0).astype(np.float32)
    shape = tuple(
        max(n, math.ceil(m * fine / pixel)) for n, m in zip(total.shape, labels.shape, strict=True)
    )
    moved = register_volumes(
        total,
        _on_grid(solid, shape, pixel, fine, np.zeros(3)),
        np.eye(3),
        RegisterSettings(refine_rotation=False),
    )
    shift = moved.shift[::-1] * pixel
    filled = _on_grid(solid, total.shape, pixel, fine, shift)
    first = _on_grid(composition[labels].astype(np.float32), total.shape, pixel, fine, shift)
    second = _on_grid(
        (composition[labels] ** 2).astype(np.float32), total.shape, pixel, fine, shift
    )
    pure = (filled > 1.0 - 1e-4) & (second - first**2 < 1e-4)
    scored = pure & np.isfinite(found.values)
    if not scored.any():
        return {}
    error = (found.values - first)[scored].astype(np.float64)
    over = "over voxels inside one component's part of a particle"
    stated = product.maps["composition_uncertainty"].values[scored].astype(np.float64)
    scores = {
        "composition_error_rms": _entry(np.sqrt(np.mean(error**2)), f"rms error, {over}"),
        "composition_error_median": _entry(
            np.median(np.abs(error)), f"median absolute error, {over}"
        ),
        "composition_bias": _entry(np.mean(error), f"mean error, {over}"),
        "composition_coverage": _entry(
            np.count_nonzero(scored) / np.count_nonzero(pure), f"share with a composition, {over}"
        ),
        "composition_uncertainty_calibration": _entry(
            np.median(np.abs(error)) / (0.6745 * np.median(stated)) if stated.any() else math.nan,
            f"median error over the one that the stated uncertainty predicts, {over}; 1 is honest",
        ),
    }
    true = _nearest(particle[labels], total.shape, pixel, fine, shift)
    return scores | _score_particles(product, np.where(filled > 0.5, true, 0))


def _score_particles(product: Product, true: NDArray[np.integer]) -> Scores:
    label = product.maps["particle"].values
    wanted = [number for number in np.unique(true) if number > 0]
    matched = 0
    for number in wanted:
        inside = label[true == number]
        counts = np.bincount(inside[inside > 0], minlength=2)
        best = int(np.argmax(counts))
        own = true[label == best] if counts[best] else np.zeros(0)
        both = counts[best] >= LEAST_OVERLAP * inside.size
        matched += bool(both and np.mean(own == number) >= LEAST_OVERLAP)
    return {
        "particles_found": _entry(int(label.max()), "particles found"),
        "particles_true": _entry(len(wanted), "true particles"),
        "particles_matched": _entry(
            matched, "true particles that share most of their voxels with one found particle"
        ),
    }


def _entry(value: SupportsFloat, description: str) -> dict[str, Any]:
    return {"value": float(value), "unit": "", "description": description}


def _on_grid(
    values: NDArray[np.float32],
    shape: tuple[int, ...],
    pixel_m: float,
    fine_m: float,
    shift_m: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Mean over the voxels of another grid, whose origin lies at `shift_m` (z, y, x)."""
    from pipeline.analyse.score import overlap_matrix

    for axis, n in enumerate(shape):
        overlap = overlap_matrix(n, pixel_m, values.shape[axis], fine_m, float(shift_m[axis]))
        values = np.moveaxis(np.tensordot(overlap, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values, np.float32)


def _nearest(
    values: NDArray[np.integer],
    shape: tuple[int, ...],
    pixel_m: float,
    fine_m: float,
    shift_m: NDArray[np.float64],
) -> NDArray[np.integer]:
    """Value at the centre of each voxel of another grid; 0 beyond the map."""
    padded = np.pad(values, 1)
    places = []
    for n, m, shift in zip(shape, values.shape, shift_m, strict=True):
        centres = (np.arange(n) - n // 2) * pixel_m + shift
        places.append(np.clip(np.rint(centres / fine_m).astype(int) + m // 2 + 1, 0, m + 1))
    return padded[np.ix_(*places)]
