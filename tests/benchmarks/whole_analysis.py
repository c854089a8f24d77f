"""Time and memory of the whole analysis, from maps to result file and report.

    python tests/benchmarks/whole_analysis.py [--size tiny|demo|paper] [--json]

The maps are drawn, not reconstructed: a pillar of Voronoi grains with pores, its density, and two
noisy halves. Each step then runs as in a flow, on the files of the one before: grains, every
analysis of `flows.steps.analyses` that these maps allow, shell correlations, `result.nxs`,
`report.html`. `paper` is 330 x 540 x 330 voxels with about a hundred grains.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from table import Row, Table

from flows.steps import products
from flows.steps.analyses import ANALYSES, Sources
from pipeline.analyse.axes import axis_tensor, principal_axis
from pipeline.io.stacks import save_differenced
from pipeline.stacks import DifferencedStack
from schemas.beamtime import Material
from schemas.energy import Energy
from schemas.provenance import Provenance
from schemas.recipe import Recipe

PIXEL_M = 31e-9
NOISE = 0.03
"""Of each component of the unit tensor: a median error of 1.5 degrees after averaging."""

SHAPES = {"tiny": (24, 32, 24), "demo": (110, 150, 110), "paper": (330, 540, 330)}
MATERIALS = [
    Material(name="V2O5", electron_density_min=0.74, electron_density_max=0.90, formula="V2O5")
]


def draw(folder: Path, shape: tuple[int, int, int]) -> dict[str, Path]:
    """Write the files that a reconstruction leaves behind; by name of its folder."""
    rng = np.random.default_rng(4)
    support, solid, label, directions = _pillar(shape, rng)
    tensor = np.empty((6, *shape), np.float32)
    unit = axis_tensor(directions.T[:, :, None, None])[:, :, 0, 0].astype(np.float32)
    halves = [np.empty((6, *shape), np.float32) for _ in range(2)]
    for component in range(6):
        clean = gaussian_filter(np.where(solid, unit[component][label], 0.0), 0.6)
        for half in halves:
            noise = gaussian_filter(rng.standard_normal(shape, np.float32), 0.8)
            half[component] = 1.8e-3 * (clean + NOISE * noise / noise.std())
        tensor[component] = 0.5 * (halves[0][component] + halves[1][component])
    paths = {name: folder / name for name in ("orientation", "assess", "density", "grains")}
    for path in paths.values():
        path.mkdir()
    np.save(folder / "support.npy", support)
    axis = np.where(support, principal_axis(tensor), 0.0).astype(np.float32)
    magnitude = np.where(support, np.float32(1.8e-3), np.float32(0.0))
    np.savez(
        paths["orientation"] / "fields.npz",
        tensor=tensor,
        axis=axis,
        magnitude=magnitude,
        uniaxiality=np.where(support, np.float32(0.9), np.float32(0.0)),
    )
    (paths["orientation"] / "residuals.json").write_text("[1.0, 0.5]")
    np.savez(
        paths["assess"] / "assessment.npz",
        uncertainty_deg=np.where(solid, np.float32(1.5), np.float32(0.0)),
        magnitude_error=np.where(solid, np.float32(1e-4), np.float32(0.0)),
        mask=solid,
        noise=1.8e-3 * NOISE,
        first=halves[0],
        second=halves[1],
    )
    _draw_density(paths["density"], solid, support, rng)
    rotations = np.eye(3)[None]
    stack = DifferencedStack(
        np.zeros((1, 4, 4), np.float32), rotations, np.zeros((1, 6)), "linear", PIXEL_M, 1e-3
    )
    save_differenced(folder / "differenced.h5", stack)
    return paths


def _pillar(
    shape: tuple[int, int, int], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """Support, matter without pores, grain of each voxel, axis of each grain."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
    seeds = rng.uniform(0, shape, (100, 3))
    label = np.empty(len(grid), np.int64)
    for first in range(0, len(grid), 4_000_000):
        part = slice(first, first + 4_000_000)
        label[part] = cKDTree(seeds).query(grid[part])[1]
    middle = np.array(shape) / 2
    radius = np.hypot(grid[:, 0] - middle[0], grid[:, 2] - middle[2])
    support = (radius < 0.46 * shape[0]).reshape(shape)
    solid = support.copy()
    for pore in rng.uniform(0.2, 0.8, (40, 3)) * shape:
        low = np.maximum(pore.astype(int) - shape[0] // 30, 0)
        high = low + shape[0] // 15 + 1
        solid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = False
    directions = rng.standard_normal((len(seeds), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return support, solid, label.reshape(shape), directions


def _draw_density(
    folder: Path,
    solid: NDArray[np.bool_],
    support: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    clean = gaussian_filter(np.where(solid, np.float32(0.82), np.float32(0.0)), 0.7)
    halves = [
        clean + np.float32(0.02) * rng.standard_normal(clean.shape, np.float32) for _ in range(2)
    ]
    mean = np.float32(0.5) * (halves[0] + halves[1])
    np.savez(
        folder / "density.npz",
        electron_density=mean,
        materials=(solid & (mean > 0.74) & (mean < 0.90)).astype(np.uint8),
        names=np.array(["V2O5"]),
        windows=np.array([[0.74, 0.90]]),
        keep=support,
        noise=0.014,
        budget=np.full((1, 4), 5e-4),
    )
    np.savez(folder / "halves.npz", first=halves[0], second=halves[1])


def measure(size: str, folder: Path) -> tuple[list[Row], dict[str, float]]:
    """Rows of the table, and seconds of each step."""
    shape, recipe = SHAPES[size], Recipe()
    paths = draw(folder, shape)
    seconds: dict[str, float] = {}

    def step(name: str, call: Callable[[], None]) -> None:
        started = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - started

    fields, assessment = paths["orientation"] / "fields.npz", paths["assess"] / "assessment.npz"
    dense, grains = paths["density"] / "density.npz", paths["grains"] / "grains.npz"
    step(
        "grains",
        lambda: products.grains(paths["grains"], fields, assessment, dense, PIXEL_M, recipe.grains),
    )
    sources = Sources(
        pixel_size_m=PIXEL_M,
        support=folder / "support.npy",
        materials=MATERIALS,
        fields=fields,
        assessment=assessment,
        density_file=dense,
        halves=paths["density"] / "halves.npz",
        grains_file=grains,
        linear=[folder / "differenced.h5"],
        resonance=Energy(energy_ev=5468.0, edge="V K"),
        density_energy_ev=5400.0,
    )
    made = {}
    for name, analysis in ANALYSES.items():
        inputs = sources.inputs()
        if analysis.settings is not None:
            inputs["settings"] = getattr(recipe, analysis.settings)
        arguments = analysis.arguments(inputs)
        if arguments is None:
            continue
        made[name] = folder / f"analyse-{name}"
        made[name].mkdir()
        step(name, lambda a=analysis, n=name, k=arguments: a.function(made[n], **k))  # type: ignore[misc]
    parts = products.Parts(
        sample="drawn",
        stacks=[folder / "differenced.h5"],
        support=folder / "support.npy",
        materials=MATERIALS,
        orientation=paths["orientation"],
        assessment=paths["assess"],
        grains=paths["grains"],
        density=paths["density"],
        analyses=made,
    )
    now = datetime.now(UTC)
    provenance = Provenance(
        software_version="0",
        python_version="3",
        packages={},
        device="",
        started=now,
        finished=now,
        beamtime="{}",
        recipe="{}",
        inputs=[],
        steps=[],
    )
    step("result", lambda: products.make_result(folder, parts, [], {}, provenance))
    step("report", lambda: products.make_report(folder, folder / "result.nxs"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:5]
    detail = ", ".join(f"{name} {seconds[name]:.0f} s" for name in slowest)
    voxels = "x".join(map(str, shape))
    return [
        Row(f"whole analysis of {voxels}", sum(seconds.values()) / 60, 20.0, 4.0, "min", detail),
        Row("peak memory, the drawing included", peak, 16.0, 8.0, "GiB"),
    ], seconds


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print the table or JSON, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SHAPES, default="tiny")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        rows, seconds = measure(chosen.size, Path(name))
    if not chosen.json:
        for step, value in seconds.items():
            print(f"  {step:<20} {value:8.1f} s")
    table = Table[Row](as_json=chosen.json)
    table.add(rows)
    return table.complete()


if __name__ == "__main__":
    main(sys.argv[1:])
