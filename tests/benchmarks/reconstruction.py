"""Benchmark of the reconstructions against known truth and published volumes.

    python tests/benchmarks/reconstruction.py [--size tiny|demo|paper] [--rows ...] [--json]

Rows: `metalattice` (the published RESIRE-V simulation), `film` (the measured Ta film, against the
published RESIRE volume), `orientation` (a pillar in four mountings with true geometry and without
inverse crime; another pillar; the published random starts), `angles` (rotations that are off) and
`scale` (what a run of the published size takes: `reconstruction_scale.py`). Published data are read
from ../shared/data; their rows are left out where it is absent, and at the size `tiny`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from reconstruction_cases import (
    PUBLISHED,
    coarse_pillar_of,
    film,
    metalattice,
    misoriented,
    misoriented_channels,
    oriented,
    pillar_of,
)
from reconstruction_scale import RANK_ONE, TENSOR, counted, full_size
from table import Row, Table

from pipeline.align.angles import refine_angles
from pipeline.align.turns import misorientation_rms_deg
from pipeline.reconstruct.orientation import reconstruct_orientation
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.reconstruct.vector import reconstruct_vector
from pipeline.stacks import DifferencedStack
from pipeline.tomography.projector import Projector
from schemas.recipe import AngleSettings, OrientationSettings, ScalarSettings, VectorSettings

Misoriented = tuple[
    DifferencedStack | list[DifferencedStack], NDArray[np.bool_], NDArray[np.float64]
]


def correlations(vector: NDArray[np.float32], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each component over the whole volume without removing means, as published."""
    found = vector.reshape(3, -1).astype(np.float64)
    model = truth.reshape(3, -1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(model, axis=1)
    return np.asarray((found * model).sum(axis=1) / norms)


def metalattice_rows(size: str) -> list[Row]:
    """Correlations with the model of the published RESIRE-V simulation."""
    if size == "tiny" or not PUBLISHED.is_dir():
        return []
    stack, support, truth = metalattice()
    bars = {
        "no magnitude prior": ((0.977, 0.974, 0.9955), (0.985, 0.985, 0.997)),
        "constant magnitude": ((0.989, 0.989, 0.998), (0.993, 0.993, 0.999)),
    }
    rows = []
    for constant, (name, (floors, goals)) in enumerate(bars.items()):
        started = time.perf_counter()
        settings = VectorSettings(constant_magnitude=bool(constant))
        found = correlations(reconstruct_vector(stack, support, settings).vector, truth)
        seconds = f"{time.perf_counter() - started:.0f} s"
        rows += [
            Row(f"RESIRE-V set, {name}: correlation {axis}", float(value), floor, goal, "",
                seconds)
            for axis, value, floor, goal in zip("xyz", found, floors, goals, strict=True)
        ]  # fmt: skip
    return rows


def film_rows(size: str) -> list[Row]:
    """The measured Ta film against the volume that its authors published."""
    if size == "tiny" or not PUBLISHED.is_dir():
        return []
    rows = []
    for area in (20, 23):
        stack, published = film(area)
        started = time.perf_counter()
        found, misfit = reconstruct_film(stack, published.shape)
        seconds = f"{time.perf_counter() - started:.0f} s"
        pearson = float(np.corrcoef(found.ravel(), published.ravel())[0, 1])
        rows += [
            Row(f"Ta film, area {area}: Pearson with the published", pearson, 0.952, 0.98, "",
                seconds),
            Row(f"Ta film, area {area}: R1", misfit, 0.141, 0.12),
        ]  # fmt: skip
    return rows


def reconstruct_film(
    stack: DifferencedStack, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], float]:
    """Volume (z, y, x) of a film that is larger than the frames, and the R1 of its projections.

    The default recipe, told that the object goes on beyond the frames along the axis across the
    rotation axis.
    """
    settings = ScalarSettings(extend=[1.0, 1.0, 1.5])
    found = reconstruct_scalar(stack, None, settings, volume_shape=shape)
    projector = Projector(
        found.extended.shape, stack.data.shape[1:], stack.rotations, stack.weights
    )
    calculated = projector.forward(found.extended[None])
    misfit = np.abs(calculated - stack.data).sum() / np.abs(stack.data).sum()
    return found.volume, float(misfit)


def orientation_rows(size: str) -> list[Row]:
    """Error of the axes of two samples, and of the published scheme on the first."""
    small = size == "tiny"
    kind = "tiny" if small else "demo"
    bars = {
        f"{kind} pillar, SNR 9": (pillar_of(kind), 1, (3.0, 75.0) if small else (1.2, 94.0)),
        "another pillar, SNR 6": (coarse_pillar_of(kind), 2, (3.0, 75.0) if small else None),
    }
    rows = []
    for name, (preset, seed, bar) in bars.items():
        case = oriented(preset, seed)
        started = time.perf_counter()
        found = reconstruct_orientation(case.stack, case.support, OrientationSettings())
        rows += _orientation_pair(
            name, case.errors_deg(found.axis), bar, f"{time.perf_counter() - started:.0f} s"
        )
        if seed == 1:
            published = OrientationSettings(
                method="random-starts",
                starts=2 if small else 5,
                start_iterations=10 if small else 50,
            )
            started = time.perf_counter()
            found = reconstruct_orientation(case.stack, case.support, published)
            rows += _orientation_pair(
                f"the same, {published.starts} random starts",
                case.errors_deg(found.axis),
                None,
                f"{time.perf_counter() - started:.0f} s",
            )
    return rows


def _orientation_pair(
    name: str, errors: NDArray[np.float64], bar: tuple[float, float] | None, detail: str
) -> list[Row]:
    median, within = float(np.median(errors)), 100.0 * float(np.mean(errors <= 4.0))
    floors = bar or (None, None)
    goals = (0.7, 98.0) if bar else (None, None)
    return [
        Row(f"orientation, {name}: median", median, floors[0], goals[0], "degree", detail),
        Row(f"orientation, {name}: within 4°", within, floors[1], goals[1], "%"),
    ]


def angle_rows(size: str) -> list[Row]:
    """Rotations off by 1.7 degrees rms: what is left of it."""
    tiny = size == "tiny"
    n, tilts = (24, 20) if tiny else (64, 45)
    cases: dict[str, Callable[[], Misoriented]] = {
        f"SNR {snr:g}": partial(misoriented, n, tilts, snr) for snr in ([40.0] if tiny else [9, 40])
    }
    cases["SNR 9 beside a scalar channel, 60"] = partial(misoriented_channels, n, tilts, (60, 9))
    rows = []
    for name, case in cases.items():
        stack, support, true = case()
        given = (stack if isinstance(stack, DifferencedStack) else stack[0]).rotations
        started = time.perf_counter()
        found = refine_angles(stack, support, AngleSettings(rounds=4 if tiny else 12))
        seconds = time.perf_counter() - started
        before, after = (misorientation_rms_deg(r, true)[0] for r in (given, found.rotations))
        rows.append(
            Row(
                f"angular refinement, {n} voxels, {name}: left",
                after,
                0.4,
                0.1,
                "degree",
                f"of {before:.2f}; {len(found.updates_deg)} rounds, {seconds:.0f} s",
            )
        )
    return rows


def scale_rows(size: str) -> list[Row]:
    """Time and memory at full size, from products that are counted and steps that are timed."""
    kind = "demo" if size == "paper" else size
    case = oriented(pillar_of(kind), 1)
    found, full = counted(case), full_size({"tiny": 12, "demo": 3}.get(size, 1))
    products = (found.whole + found.coarse) * full.product + found.part * full.part
    steps = found.steps[TENSOR] * full.tensor + found.steps[RANK_ONE] * full.rank_one
    minutes = (products + steps) / 60.0
    memory = (full.peak + full.missing) / 2**30
    paper = size == "paper"
    name = (
        f"{full.projections} differences of {full.frame[1]}x{full.frame[0]}, "
        f"{'x'.join(map(str, full.shape))} voxels"
    )
    detail = (
        f"counted on the {kind} pillar: {found.whole} products, {found.part} with a part of the "
        f"projections, coarse ones {found.coarse:.1f}, steps {found.steps[TENSOR]} and "
        f"{found.steps[RANK_ONE]}"
    )
    return [
        Row(f"{name}: one product", full.product, unit="s"),
        Row("the same, with those that strengths are searched on", full.part, unit="s"),
        Row("the same, a tensor step beside its product", full.tensor, unit="s"),
        Row("the same, a rank-one step beside its product", full.rank_one, unit="s"),
        Row("the same, whole run of default settings", minutes, 60.0 if paper else None,
            20.0 if paper else None, "min",
            detail),
        Row("the same, memory", memory, 20.0 if paper else None, 20.0 if paper else None, "GiB",
            f"peak with one shard {full.peak / 2**30:.1f}, computed for the rest "
            f"{full.missing / 2**30:.1f}"),
    ]  # fmt: skip


ROWS: dict[str, Callable[[str], list[Row]]] = {
    "metalattice": metalattice_rows,
    "film": film_rows,
    "orientation": orientation_rows,
    "angles": angle_rows,
    "scale": scale_rows,
}


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print the table or JSON, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "demo", "paper"), default="tiny")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    table = Table[Row](as_json=chosen.json)
    for name in chosen.rows:
        table.add(ROWS[name](chosen.size))
    return table.complete()


if __name__ == "__main__":
    main(sys.argv[1:])
