"""Benchmark of grains and grain boundaries against planted truth.

    python tests/benchmarks/analysis.py [--size tiny|demo|paper] [--rows WORD] [--json]

Orientation fields are drawn on a grid twice as fine, averaged as `a aᵀ`, blurred and made noisy as
the reconstruction of the demo is: median error 1.5 degrees, root mean square 2.6 degrees, the tails
where grains meet. `paper` adds the time and memory of 330 x 330 x 540 labels. Each row prints what
was measured beside its floor and goal.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from table import Row, Table

from pipeline.analyse.axes import axis_tensor, principal_axis
from pipeline.analyse.boundaries import GrainBoundaries, find_boundaries
from pipeline.analyse.boundary_mesh import mesh_labels
from pipeline.analyse.grain_table import FACES, grain_table, shifted
from pipeline.analyse.grains import segment_grains
from pipeline.analyse.merging import find_roots, join_edges
from pipeline.analyse.score import SMALLEST_GRAIN, adjusted_rand_index
from pipeline.io.products import GrainMap
from schemas.recipe import BoundarySettings, GrainSettings

PIXEL_M = 31e-9
NOISE_DEG, CORRELATION, BLUR = 1.0, 0.8, 0.6
"""Noise of each component of the axis, and width of its correlation and of the blur [voxel]."""

FACES_FOUND = 9
"""Voxel faces of contact from which a true boundary is asked for: three by three."""


@dataclass(frozen=True)
class Planted:
    """A polycrystal: truth on the coarse grid, and the orientation field as it is measured.

    Attributes
    ----------
    label : (z, y, x) int, true grain of a corner of the voxel.
    pure : (z, y, x) bool, where the whole voxel is of that grain.
    axes : (k, 3) true axes.
    axis : (3, z, y, x) float32, with blur and noise.
    mask : (z, y, x) bool, a pillar.
    error_deg : (z, y, x), angle to the truth.
    """

    label: NDArray[np.int64]
    pure: NDArray[np.bool_]
    axes: NDArray[np.float64]
    axis: NDArray[np.float32]
    mask: NDArray[np.bool_]
    error_deg: NDArray[np.float64]


def units(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Random directions, (n, 3)."""
    vectors = rng.standard_normal((n, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def fine_grid(n: int) -> NDArray[np.float64]:
    """x, y, z [coarse voxel] of a grid twice as fine, (3, 2n, 2n, 2n)."""
    line = (np.arange(2 * n) + 0.5) / 2.0 - 0.5 - n // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    return np.stack([x, y, z])


def measured(
    field: NDArray[np.floating], rng: np.random.Generator, noise_deg: float = NOISE_DEG
) -> NDArray[np.float32]:
    """What is reconstructed of axes on the fine grid."""
    n = field.shape[1] // 2
    tensor = axis_tensor(field).reshape(6, n, 2, n, 2, n, 2).mean(axis=(2, 4, 6))
    noisy = []
    for index, component in enumerate(tensor):
        noise = ndimage.gaussian_filter(rng.standard_normal(component.shape), CORRELATION)
        # Off the diagonal an angle shows once in the tensor, on it twice.
        scale = math.radians(noise_deg) * (math.sqrt(2.0) if index < 3 else 1.0)
        noisy.append(ndimage.gaussian_filter(component, BLUR) + scale * noise / noise.std())
    return principal_axis(np.stack(noisy)).astype(np.float32)


def pillar_mask(n: int) -> NDArray[np.bool_]:
    """A cylinder about y."""
    z, _, x = np.indices((n, n, n)) - n // 2
    return np.asarray(z**2 + x**2 < (0.47 * n) ** 2)


def planted(
    fine: NDArray[np.int64],
    axes: NDArray[np.float64],
    rng: np.random.Generator,
    turn_deg: float = 0.0,
) -> Planted:
    """A polycrystal of these labels and axes, each grain turning by `turn_deg` in ten voxels."""
    n = fine.shape[0] // 2
    field = axes[fine].transpose(3, 0, 1, 2)
    if turn_deg > 0:
        field = _turning(field, fine, len(axes), math.radians(turn_deg) / 10.0, rng)
    axis = measured(field, rng)
    blocks = fine.reshape(n, 2, n, 2, n, 2).transpose(0, 2, 4, 1, 3, 5).reshape(n, n, n, 8)
    cosine = np.abs((axis * field[:, ::2, ::2, ::2]).sum(axis=0))
    return Planted(
        label=blocks[..., 0],
        pure=(blocks == blocks[..., :1]).all(axis=-1),
        axes=axes,
        axis=axis,
        mask=pillar_mask(n),
        error_deg=np.degrees(np.arccos(np.minimum(cosine, 1.0))),
    )


def _turning(
    field: NDArray[np.float64],
    fine: NDArray[np.int64],
    n_grains: int,
    rate: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Turn the axes of each grain about an axis, along a direction, both its own [rad/voxel]."""
    about, along = units(rng, n_grains), units(rng, n_grains)
    grid = fine_grid(fine.shape[0] // 2)
    counts = np.maximum(np.bincount(fine.ravel(), minlength=n_grains), 1)
    angle = np.zeros(fine.shape)
    for c in range(3):
        middle = np.bincount(fine.ravel(), grid[c].ravel(), n_grains) / counts
        angle += rate * (grid[c] - middle[fine]) * along[:, c][fine]
    turns = about[fine.ravel()] * angle.reshape(-1, 1)
    turned = Rotation.from_rotvec(turns).apply(field.reshape(3, -1).T)
    return np.asarray(turned.T.reshape(field.shape))


def polycrystal(
    n: int, diameter: float, rng: np.random.Generator, stretch: tuple[float, float, float]
) -> NDArray[np.int64]:
    """Voronoi grains of a mean diameter [voxel] on the fine grid, flat or long by `stretch`."""
    grid = fine_grid(n).reshape(3, -1).T
    count = max(2, round(n**3 / (math.pi / 6 * diameter**3)))
    seeds = rng.uniform(-n / 2, n / 2, (count, 3))
    nearest = cKDTree(seeds * stretch).query(grid * stretch)[1]
    return np.asarray(nearest.reshape(2 * n, 2 * n, 2 * n))


def lamellae(n: int, thickness: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Parallel plates on the fine grid."""
    normal = units(rng, 1)[0]
    index = np.floor((np.einsum("c,czyx->zyx", normal, fine_grid(n)) + n) / thickness)
    return np.asarray(index - index.min(), np.int64)


def touching(label: NDArray[np.int64], mask: NDArray[np.bool_]) -> dict[tuple[int, int], int]:
    """Pairs of labels that share voxel faces in the mask, and how many."""
    found: dict[tuple[int, int], int] = {}
    for offset in FACES:
        (a, b), (inside, too) = shifted(label, offset), shifted(mask, offset)
        differs = (a != b) & inside & too
        pairs = np.sort(np.stack([a[differs], b[differs]], axis=1), axis=1)
        for (i, j), count in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
            found[int(i), int(j)] = found.get((int(i), int(j)), 0) + int(count)
    return found


def axes_apart(
    fine: NDArray[np.int64], least_deg: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Random axes, those of grains that touch at least so far apart [degree]."""
    axes = units(rng, int(fine.max()) + 1)
    pairs = np.array(list(touching(fine, np.ones(fine.shape, bool))))
    for _ in range(1000):
        cosine = np.abs(np.sum(axes[pairs[:, 0]] * axes[pairs[:, 1]], axis=1))
        close = pairs[cosine > math.cos(math.radians(least_deg))]
        if len(close) == 0:
            return axes
        axes[close[:, 0]] = units(rng, len(close))
    raise RuntimeError("no axes far enough apart were found")


def grain_scores(truth: Planted, settings: GrainSettings) -> tuple[float, GrainMap]:
    """Adjusted Rand index over grains of 27 voxels and more, touching ones below 10° as one."""
    made = segment_grains(truth.axis, truth.mask, settings, pixel_size_m=PIXEL_M)
    counts = np.bincount(truth.label[truth.pure & truth.mask], minlength=len(truth.axes))
    scored = truth.pure & truth.mask & (counts[truth.label] >= SMALLEST_GRAIN) & (made.label > 0)
    pairs = np.array(list(touching(truth.label, truth.mask)))
    cosine = np.abs(np.sum(truth.axes[pairs[:, 0]] * truth.axes[pairs[:, 1]], axis=1))
    close = pairs[cosine > math.cos(math.radians(settings.misorientation_deg))]
    root = find_roots(join_edges(close.astype(np.int64), len(truth.axes)))
    return adjusted_rand_index(made.label[scored], root[truth.label[scored]]), made


def boundary_scores(truth: Planted, made: GrainMap) -> tuple[float, float]:
    """Share of boundaries above 10° that are found, and their median misorientation error."""
    found = find_boundaries(made, truth.axis, BoundarySettings())
    rows = {
        (int(a), int(b)): k
        for k, (a, b) in enumerate(
            zip(found.table["first_grain"], found.table["second_grain"], strict=True)
        )
    }
    inside = truth.pure & truth.mask & (made.label > 0)
    together = np.zeros((len(truth.axes), int(made.label.max()) + 1), np.int64)
    np.add.at(together, (truth.label[inside], made.label[inside]), 1)
    best, counts = together.argmax(axis=1), together.sum(axis=1)
    asked, errors = 0, []
    for (a, b), faces in touching(truth.label, truth.mask).items():
        angle = math.degrees(math.acos(min(1.0, abs(float(truth.axes[a] @ truth.axes[b])))))
        if angle <= 10 or min(counts[a], counts[b]) < SMALLEST_GRAIN or faces < FACES_FOUND:
            continue
        asked += 1
        row = rows.get((min(best[a], best[b]), max(best[a], best[b])))
        if row is not None:
            errors.append(abs(found.table["misorientation_deg"][row] - angle))
    return len(errors) / max(asked, 1), float(np.median(errors)) if errors else 90.0


def shapes(size: str) -> dict[str, Callable[[np.random.Generator], NDArray[np.int64]]]:
    """Polycrystals by name."""
    tiny = {
        "grains of 12 voxels": lambda rng: polycrystal(28, 12.0, rng, (1, 1, 1)),
        "lamellae of 6 voxels": lambda rng: lamellae(24, 6.0, rng),
    }
    if size == "tiny":
        return tiny
    return {
        "grains of 8 voxels": lambda rng: polycrystal(40, 8.0, rng, (1, 1, 1)),
        "grains of 14 voxels": lambda rng: polycrystal(52, 14.0, rng, (1, 1, 1)),
        "grains of 24 voxels": lambda rng: polycrystal(60, 24.0, rng, (1, 1, 1)),
        "plates": lambda rng: polycrystal(48, 14.0, rng, (2.5, 1, 1)),
        "needles": lambda rng: polycrystal(48, 14.0, rng, (2.0, 2.0, 0.7)),
        "lamellae of 4 voxels": lambda rng: lamellae(36, 4.0, rng),
        "lamellae of 6 voxels": lambda rng: lamellae(36, 6.0, rng),
    }


def grain_rows(size: str) -> Iterator[Row]:
    """Grains and boundaries of polycrystals; touching grains are at least 12 degrees apart."""
    for name, shape in shapes(size).items():
        for turn in (0.0, 3.0):
            rng = np.random.default_rng(7)
            fine = shape(rng)
            truth = planted(fine, axes_apart(fine, 12.0, rng), rng, turn)
            score, made = grain_scores(truth, GrainSettings())
            where = name if turn == 0 else f"{name}, turning {turn:g}° in 10 voxels"
            error = truth.error_deg[truth.pure & truth.mask]
            noise = f"error median {np.median(error):.2f}°, rms {np.sqrt(np.mean(error**2)):.2f}°"
            yield Row(f"Rand index, {where}", score, 0.95, 0.985, "", noise)
            if turn == 0:
                share, off = boundary_scores(truth, made)
                yield Row(f"boundaries found, {where}", 100 * share, 90, 97, "%")
                yield Row(f"misorientation error, {where}", off, 2.0, 0.7, "degree", "median")


def method_rows(size: str) -> Iterator[Row]:
    """The methods of segmentation on one polycrystal of axes without any preference."""
    rng = np.random.default_rng(11)
    n, diameter = (28, 12.0) if size == "tiny" else (52, 14.0)
    fine = polycrystal(n, diameter, rng, (1, 1, 1))
    truth = planted(fine, units(rng, int(fine.max()) + 1), rng)
    for method in ("region-merging", "mean-shift", "connected"):
        score, made = grain_scores(truth, GrainSettings(method=method))
        floor, goal = (0.95, 0.985) if method == "region-merging" else (None, None)
        detail = "touching grains below 10° as one"
        if method == "region-merging":
            inside = truth.pure & truth.mask & (made.label > 0)
            each = adjusted_rand_index(made.label[inside], truth.label[inside])
            detail += f"; each by itself {each:.3f}"
        yield Row(f"Rand index, random axes, {method}", score, floor, goal, "", detail)


def plant_boundary(
    kind: str, theta_deg: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normal of a plane, and the axes (2, 3) on its sides.

    A tilt is at least 15 degrees off both mirror planes, else it would be near a twin.
    """
    normal, other = units(rng, 2)
    inside = np.cross(normal, other)
    inside /= np.linalg.norm(inside)
    half = math.radians(theta_deg) / 2
    if kind == "twist":
        start, about = inside, normal
    else:
        off = {"twin": rng.integers(0, 2) * 90.0, "tilt": rng.uniform(15.0, 75.0)}[kind]
        start = Rotation.from_rotvec(inside * math.radians(off)).apply(normal)
        about = inside
    pair = [Rotation.from_rotvec(about * sign * half).apply(start) for sign in (-1, 1)]
    return normal, np.array(pair)


def kind_rows(size: str) -> Iterator[Row]:
    """Planted boundaries, from orientation field to kind."""
    n, repeats = (20, 1) if size == "tiny" else (26, 4)
    angles = (15, 45, 90) if size == "tiny" else (15, 20, 30, 45, 60, 75, 90)
    rng = np.random.default_rng(3)
    grid = fine_grid(n)
    off_normal, off_angle = [], []
    for kind in ("tilt", "twist", "twin"):
        right = []
        for theta in np.repeat(angles, repeats):
            normal, axes = plant_boundary(kind, float(theta), rng)
            side = np.einsum("c,czyx->zyx", normal, grid) > rng.uniform(-1, 1)
            truth = planted(side.astype(np.int64), axes, rng)
            made = segment_grains(truth.axis, truth.mask, GrainSettings(), pixel_size_m=PIXEL_M)
            found = find_boundaries(made, truth.axis, BoundarySettings())
            right.append(_kind_of_largest(found) == kind)
            if found.n_boundaries:
                row = int(np.argmax(found.table["area_m2"]))
                cosine = abs(float(found.table["normal"][row] @ normal))
                off_normal.append(math.degrees(math.acos(min(1.0, cosine))))
                off_angle.append(abs(found.table["misorientation_deg"][row] - theta))
        yield Row(f"right kind, {kind}", 100 * float(np.mean(right)), 90, 98, "%", f"{len(right)}")
    yield Row("misorientation error, planted", float(np.median(off_angle)), 2.0, 0.7, "degree")
    yield Row("normal error, planted", float(np.median(off_normal)), 5.0, 2.0, "degree")


def _kind_of_largest(found: GrainBoundaries) -> str:
    if found.n_boundaries == 0:
        return "none"
    return str(found.table["kind"][int(np.argmax(found.table["area_m2"]))])


def area_rows() -> Iterator[Row]:
    """Bias of the area of spheres and of slanted planes."""
    worst = 0.0
    x, y, z = (part[::2, ::2, ::2] for part in fine_grid(36))
    for radius in (8.0, 12.0, 15.0):
        label = ((x - 0.2) ** 2 + (y + 0.3) ** 2 + z**2 < radius**2).astype(np.int32) + 1
        mesh = mesh_labels(label)
        area = float(mesh.areas[mesh.sides[:, 0] > 0].sum())
        worst = max(worst, abs(area / (4 * math.pi * radius**2) - 1.0))
    yield Row("area of spheres, worst bias", 100 * worst, 5.0, 2.0, "%", "radius 8, 12, 15 voxels")
    worst = 0.0
    for normal in ((1, 0, 0), (1, 0.3, 0.2), (0.9, 0.8, 0.1), (1, 1, 1)):
        unit = np.array(normal) / np.linalg.norm(normal)
        label = np.where(x * unit[0] + y * unit[1] + z * unit[2] > 0.2, 2, 1).astype(np.int32)
        mesh = mesh_labels(label)
        centre = mesh.points[mesh.triangles].mean(axis=1)
        inner = (mesh.sides[:, 0] > 0) & (np.abs(centre[:, 1:]) < 6).all(axis=1)
        area = float(mesh.areas[inner].sum()) * unit[0]
        worst = max(worst, abs(area / 144.0 - 1.0))
    yield Row("area of planes, worst bias", 100 * worst, 5.0, 2.0, "%", "four directions, a middle")


def speed_rows() -> Iterator[Row]:
    """Time and memory of boundaries and table of 330 x 330 x 540 labels."""
    shape, count = (330, 330, 540), 100
    rng = np.random.default_rng(0)
    tree = cKDTree(rng.uniform(0, 1, (count, 3)) * shape)
    label = np.zeros(shape, np.int32)
    yx = np.stack(np.meshgrid(*(np.arange(n) for n in shape[1:]), indexing="ij"), -1).reshape(-1, 2)
    for z in range(shape[0]):
        plane = np.column_stack([np.full(len(yx), z), yx])
        nearest = tree.query(plane)[1].reshape(shape[1:]) + 1
        label[z] = np.where(
            (z - 165) ** 2 + (yx[:, 0].reshape(shape[1:]) - 165) ** 2 < 160**2, nearest, 0
        )
    axes = np.vstack([np.zeros(3), units(rng, count)]).astype(np.float32)
    axis = np.stack([axes[:, c][label] for c in range(3)])
    started, used = time.perf_counter(), time.process_time()
    table = grain_table(label, axis, PIXEL_M)
    grains = GrainMap(label, np.zeros((1, 1, 1), np.uint8), table, PIXEL_M)
    found = find_boundaries(grains, axis, BoundarySettings())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    used = time.process_time() - used
    detail = f"{used:.0f} s of one core; {found.n_boundaries} boundaries, "
    detail += f"{len(found.triangles)} triangles"
    yield Row("boundaries and table, 330x330x540", seconds, 90, 45, "s", detail)
    yield Row("peak memory of the process", peak, 8.0, 6.0, "GiB")


def rows(size: str, wanted: str = "") -> Iterator[Row]:
    """All rows of one size whose part of the benchmark has this word in its name."""
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "kinds": lambda: kind_rows(size),
        "grains": lambda: grain_rows(size),
        "methods": lambda: method_rows(size),
        "area": area_rows,
    }
    if size == "paper":
        parts["speed"] = speed_rows
    return (row for name, part in parts.items() if wanted in name for row in part())


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "demo", "paper"), default="demo")
    parser.add_argument("--rows", default="", help="kinds, grains, methods, area or speed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    table = Table[Row](as_json=options.json, label="name")
    table.add(rows(options.size, options.rows))
    return table.complete()


if __name__ == "__main__":
    sys.exit(0 if all(row.met for row in main()) else 1)
