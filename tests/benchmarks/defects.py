"""Benchmark of defects, resolution and edges against planted truth, the bars beside the values.

    python tests/benchmarks/defects.py [--size tiny|demo|paper] [--json] [--rows NAME]

Defects are planted at random places and in random directions, with noise of 1.5 degrees (median)
and a tail to ten on directors, and of a signal-to-noise ratio of nine on vectors. `demo` takes
several seeds; `paper` adds the time and memory of a volume of 330 x 330 x 540.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation
from scipy.special import erf
from table import Row, Table

from pipeline.analyse.defect_lines import find_disclinations
from pipeline.analyse.defects_plane import ORDER, find_planar_defects
from pipeline.analyse.edges import grain_edges, material_edges
from pipeline.analyse.hedgehogs import find_hedgehogs
from pipeline.analyse.resolution import (
    fourier_shell_correlation,
    soft_mask,
    tensor_shell_correlation,
)
from schemas.recipe import DefectSettings, EdgeSettings

Array = NDArray[np.float64]

SIGMA_DEG = 1.27
"""Standard deviation of each of the two angles whose length has a median of 1.5 degrees."""

TAIL_SHARE, TAIL = 0.02, 3.0
"""Voxels whose noise is so much larger: the largest angles are about ten degrees."""

VECTOR_SNR = 9.0

MATCH = 2.0
"""Voxels within which a found defect is the planted one."""

LINE_STEP = 0.25


@dataclass
class Tally:
    """Matches of found to planted defects over several volumes."""

    planted: int = 0
    matched: int = 0
    false: int = 0
    voxels: int = 0
    errors: list[float] | None = None

    def add(self, planted: int, false: int, errors: Array, voxels: int) -> None:
        """Count one volume."""
        self.planted += planted
        self.matched += len(errors)
        self.false += false
        self.voxels += voxels
        self.errors = [*(self.errors or []), *errors.tolist()]

    def rows(self, what: str) -> list[Row]:
        """Found, false, and position."""
        errors = np.array(self.errors or [np.nan])
        per_million = 1e6 * self.false / max(self.voxels, 1)
        low, high = np.percentile(errors, [50, 95])
        place = f"median {low:.3f}, 95 % {high:.3f}"
        many = f"{self.planted} planted, {self.voxels / 1e6:.2f} million voxels"
        return [
            Row(f"{what}: found", 100 * self.matched / self.planted, 95, 99.5, "%", many),
            Row(f"{what}: false", per_million, 2, 0.1, "per 1e6 voxels", f"{self.false}"),
            Row(f"{what}: position", float(errors.mean()), 1, 0.3, "voxel", place),
        ]


def noisy_axis(axis: Array, rng: np.random.Generator) -> NDArray[np.float32]:
    """Directors with noise of 1.5 degrees and a tail, and signs at random."""
    shape = axis.shape[1:]
    size = np.radians(SIGMA_DEG) * np.where(rng.random(shape) < TAIL_SHARE, TAIL, 1.0)
    moved = axis + size * rng.standard_normal(axis.shape)
    moved *= rng.choice([-1.0, 1.0], shape) / np.linalg.norm(moved, axis=0)
    return moved.astype(np.float32)


def noisy_vector(vector: Array, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vectors of length one with white noise and a tail."""
    shape = vector.shape[1:]
    size = np.where(rng.random(shape) < TAIL_SHARE, TAIL, 1.0) / VECTOR_SNR
    return (vector + size * rng.standard_normal(vector.shape)).astype(np.float32)


def smooth_noise(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> Array:
    """Random field of unit rms with a correlation length [voxel]."""
    field = gaussian_filter(rng.standard_normal(shape), length, mode="wrap")
    return np.asarray(field / field.std())


def spread_places(
    count: int, low: float, high: float, apart: float, rng: np.random.Generator, dim: int
) -> Array:
    """Places in a box that keep their distance."""
    places: list[Array] = []
    for _ in range(2000):
        place = rng.uniform(low, high, dim)
        if all(np.linalg.norm(place - other) >= apart for other in places):
            places.append(place)
        if len(places) == count:
            break
    return np.array(places)


# Slices ----------------------------------------------------------------------------------------


def planar_field(
    n: int, slices: int, rng: np.random.Generator
) -> tuple[Array, Array, list[tuple[float, Array]]]:
    """Components u, v, n of directors (3, n, v, u), and (charge, (slices, 2) places u, v).

    Halves and singular integers wander through the slices; escaped integers point along the normal
    in their middle, over six voxels.
    """
    at = spread_places(9, 12.0, n - 12.0, 15.0, rng, 2)
    kinds = rng.permutation([0.5, 0.5, -0.5, -0.5, 0.5, -0.5, 1.0, 1.0, -1.0])[: len(at)]
    s = np.arange(slices) - slices / 2
    v, u = np.indices((n, n)).astype(float)
    angle = 0.35 * smooth_noise((slices, n, n), 10.0, rng)
    polar = np.full((slices, n, n), np.pi / 2) + 0.35 * smooth_noise((slices, n, n), 10.0, rng)
    planted = []
    for index, (place, charge) in enumerate(zip(at, kinds, strict=True)):
        bend = rng.uniform(-0.06, 0.06, 2)[None] * s[:, None]
        wave = 1.5 * np.sin(s / rng.uniform(6, 12) + rng.uniform(0, 6))[:, None]
        course = place[None] + bend + wave * rng.choice([-1, 1], 2) * 0.5
        du, dv = u[None] - course[:, 0, None, None], v[None] - course[:, 1, None, None]
        angle += charge * np.arctan2(dv, du)
        if abs(charge) == 1 and index % 2:
            near = np.hypot(du, dv) / 6.0
            polar = np.where(near < 1, polar * np.sin(np.pi / 2 * np.minimum(near, 1)), polar)
        planted.append((float(charge), course))
    axis = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)])
    return axis, polar, planted


def slice_rows(size: str) -> list[Row]:
    """Halves and integers in slices of every normal."""
    tally = {"slices, halves": Tally(), "slices, integers": Tally()}
    worst = 0.0
    for seed in range({"tiny": 1, "demo": 9, "paper": 9}[size]):
        rng = np.random.default_rng([1, seed])
        n, slices = (64, 24) if size == "tiny" else (80, 64)
        parts, _, planted = planar_field(n, slices, rng)
        normal = "zyx"[seed % 3]
        order = ORDER[normal]
        back = np.argsort(order)
        # Components u, v, n belong to the volume's axes order[2], order[1], order[0].
        axis = np.empty((3, *(parts[0].transpose(back).shape)))
        for part, where in zip(parts, (order[2], order[1], order[0]), strict=True):
            axis[2 - where] = part.transpose(back)
        mask = np.ones(axis.shape[1:], np.bool_)
        found = find_planar_defects(
            noisy_axis(axis, rng), mask, 1.0, DefectSettings.model_validate({"normal": normal})
        )
        worst = max(worst, float(np.abs(found.slice_sums.sum(axis=1)).max()))
        centre = np.array([k // 2 for k in mask.shape])
        zyx = found.defects.position_m[:, ::-1] + centre
        nvu = zyx[:, list(order)]
        for name, wanted in (("slices, halves", 0.5), ("slices, integers", 1.0)):
            _match_slices(
                tally[name], nvu, found.defects.charge, planted, wanted, slices, mask.size
            )
    rows = [row for name in tally for row in tally[name].rows(name)]
    return [*rows, Row("slices: winding that does not add up", worst, 0, 0, "")]


def _match_slices(
    tally: Tally,
    nvu: Array,
    charge: Array,
    planted: list[tuple[float, Array]],
    size: float,
    slices: int,
    voxels: int,
) -> None:
    """Match the defects of one size in every slice, by charge and place."""
    wanted = [(c, course) for c, course in planted if abs(c) == size]
    errors, false = [], 0
    for s in range(slices):
        here = (np.abs(nvu[:, 0] - s) < 0.5) & (np.abs(charge) == size)
        places = np.array([course[s, ::-1] for _, course in wanted]).reshape(-1, 2)
        signs = np.array([c for c, _ in wanted])
        distance = np.linalg.norm(nvu[here, None, 1:] - places[None], axis=2)
        distance = np.where(charge[here][:, None] == signs[None], distance, 1e3)
        a, b = linear_sum_assignment(distance)
        close = distance[a, b] <= MATCH
        errors.extend(distance[a, b][close])
        false += int(here.sum() - close.sum())
    tally.add(slices * len(wanted), false, np.array(errors), voxels)


# Lines -----------------------------------------------------------------------------------------


def line_field(
    n: int, rng: np.random.Generator
) -> tuple[Array, list[tuple[Array, Array]], list[Array]]:
    """Directors with three straight lines and a ring; (points, profile) of each.

    The director turns in one plane; each line has a direction of its own, so that its profile is
    the cosine between the two, times the sign of the turn.
    """
    turn = Rotation.random(random_state=rng).as_matrix()
    z, y, x = np.indices((n, n, n)) - n // 2
    r = np.stack([x, y, z]).astype(float)
    angle = 0.3 * smooth_noise((n, n, n), 10.0, rng)
    lines = []
    middles: list[Array] = []
    while len(lines) < 3:
        middle = rng.uniform(-0.3 * n, 0.3 * n, 3)
        frame = Rotation.random(random_state=rng).as_matrix()
        along = np.arange(-n, n, LINE_STEP)[:, None]
        points = middle + along * frame[2]
        if (
            any(_closest(points, other) < 14 for other in middles)
            or _closest(points, np.zeros((1, 3))) < 14
        ):
            continue
        middles.append(points)
        sign = rng.choice([-1.0, 1.0])
        away = r - middle[:, None, None, None]
        a, b = (np.tensordot(frame[k], away, 1) for k in (0, 1))
        angle += 0.5 * sign * np.arctan2(b, a)
        profile = np.full(len(points), sign * frame[2] @ turn[2])
        lines.append((points, profile))
    ring = Rotation.random(random_state=rng).as_matrix()
    radius = rng.uniform(5.0, 7.0)
    a, b, c = (np.tensordot(ring[k], r, 1) for k in range(3))
    angle += 0.5 * np.arctan2(c, np.hypot(a, b) - radius)
    phi = np.arange(0, 2 * np.pi, LINE_STEP / radius)[:, None]
    points = radius * (np.cos(phi) * ring[0] + np.sin(phi) * ring[1])
    # The turn from outwards to the ring's normal is left-handed about its course.
    tangent = -np.sin(phi) * ring[0] + np.cos(phi) * ring[1]
    lines.append((points, -(tangent @ turn[2])))
    axis = turn[0][:, None, None, None] * np.cos(angle)
    axis = axis + turn[1][:, None, None, None] * np.sin(angle)
    return axis, lines, middles


def _closest(points: Array, others: Array) -> float:
    step = max(len(points) // 100, 1)
    return float(
        np.linalg.norm(
            points[::step, None] - others[None, :: max(len(others) // 100, 1)], axis=2
        ).min()
    )


def line_rows(size: str) -> list[Row]:
    """Disclination lines by their length: what of it is found, how far off, what is not real."""
    tally, profiles, whole = Tally(), [], 0
    count = {"tiny": 1, "demo": 12, "paper": 12}[size]
    for seed in range(count):
        rng = np.random.default_rng([2, seed])
        n = 48 if size == "tiny" else 64
        axis, lines, _ = line_field(n, rng)
        mask = np.ones((n, n, n), np.bool_)
        found = find_disclinations(noisy_axis(axis, rng), mask, 1.0)
        whole += len(found.closed) == len(lines) and int(found.closed.sum()) == 1
        points = np.concatenate([p for p, _ in lines])
        truth = np.concatenate([p for _, p in lines])
        inner = (np.abs(points) < n / 2 - 2).all(axis=1)
        points, truth = points[inner], truth[inner]
        distance = np.linalg.norm(points[:, None] - found.points_m[None], axis=2)
        nearest = distance.argmin(axis=1)
        hit = distance.min(axis=1) <= MATCH
        off = distance.min(axis=0)
        # A found point is as far off as it is from the planted curve, which is sampled finely.
        core = (np.abs(found.points_m) < n / 2 - 2).all(axis=1)
        errors = off[core & (off <= MATCH)]
        profiles.append(np.abs(found.profile[nearest[hit]] - truth[hit]))
        tally.planted += len(points)
        tally.matched += int(hit.sum())
        tally.false += int(np.count_nonzero(core & (off > MATCH)))
        tally.voxels += mask.size
        tally.errors = [*(tally.errors or []), *errors.tolist()]
    wrong = np.concatenate(profiles)
    rows = tally.rows("disclinations, by length")
    rows.append(Row("disclinations: profile", float(np.mean(wrong)), 0.2, 0.1, "cosine"))
    rows.append(
        Row("disclinations: volumes with the right lines", 100 * whole / count, 95, 99.5, "%")
    )
    return rows


# Points ----------------------------------------------------------------------------------------


def hedgehog_field(n: int, rng: np.random.Generator, pair: bool) -> tuple[Array, Array, Array]:
    """Unit vectors with one point defect of any linear form, or with two opposite ones."""
    z, y, x = np.indices((n, n, n)) - n // 2
    r = np.stack([x, y, z]).astype(float)
    turn = Rotation.random(random_state=rng).as_matrix()
    if pair:
        at = spread_places(2, -0.3 * n, 0.3 * n, 8.0, rng, 3)
        parts = [r - place[:, None, None, None] for place in at]
        field = sum(
            sign * part / (1e-9 + np.linalg.norm(part, axis=0)) ** 3
            for sign, part in zip((1, -1), parts, strict=True)
        )
        field = np.tensordot(turn, np.asarray(field), 1)
        charge = np.array([1, -1])
    else:
        at = rng.uniform(-0.3 * n, 0.3 * n, (1, 3))
        other = Rotation.random(random_state=rng).as_matrix()
        stretch = np.diag(rng.uniform(0.6, 1.5, 3) * [1, 1, rng.choice([-1, 1])])
        linear = turn @ stretch @ other
        field = np.tensordot(linear, r - at[0][:, None, None, None], 1)
        charge = np.array([int(np.sign(np.linalg.det(linear)))])
    field = field / np.linalg.norm(field, axis=0)
    # A smooth twist of everything does not change any charge.
    twist = Rotation.from_rotvec((0.3 * smooth_noise((n, n, n), 8.0, rng)).reshape(-1, 1) * turn[0])
    field = twist.apply(field.reshape(3, -1).T).T.reshape(field.shape)
    return field, at, charge


def hedgehog_rows(size: str) -> list[Row]:
    """Point defects of either sign."""
    tally, unbalanced = Tally(), 0
    for seed in range({"tiny": 4, "demo": 40, "paper": 40}[size]):
        rng = np.random.default_rng([3, seed])
        n = 32 if size == "tiny" else 44
        field, at, charge = hedgehog_field(n, rng, pair=seed % 2 == 0)
        mask = np.ones((n, n, n), np.bool_)
        found = find_hedgehogs(noisy_vector(field, rng), mask, 1.0, maps=False)
        unbalanced += int(found.charge.sum()) + found.outside != 0
        distance = np.linalg.norm(found.position_m[:, None] - at[None], axis=2)
        distance = np.where(found.charge[:, None] == charge[None], distance, 1e3)
        a, b = linear_sum_assignment(distance)
        close = distance[a, b] <= MATCH
        tally.add(len(at), len(found.charge) - int(close.sum()), distance[a, b][close], mask.size)
    rows = tally.rows("hedgehogs")
    return [*rows, Row("hedgehogs: charge that does not add up", unbalanced, 0, 0, "volumes")]


# Noise alone -----------------------------------------------------------------------------------


def quiet_rows(size: str) -> list[Row]:
    """Fields without a defect: whatever is found is false."""
    counts, voxels = {"slices": 0, "lines": 0, "hedgehogs": 0}, 0
    for seed in range({"tiny": 1, "demo": 3, "paper": 3}[size]):
        rng = np.random.default_rng([4, seed])
        n = 40 if size == "tiny" else 100
        angle = 0.4 * smooth_noise((n, n, n), 10.0, rng)
        polar = np.pi / 2 + 0.3 * smooth_noise((n, n, n), 10.0, rng)
        field = np.stack(
            [np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)]
        )
        mask = np.ones((n, n, n), np.bool_)
        axis = noisy_axis(field, rng)
        settings = DefectSettings(normal="z")
        counts["slices"] += len(find_planar_defects(axis, mask, 1.0, settings).defects.charge)
        counts["lines"] += len(find_disclinations(axis, mask, 1.0).closed)
        vector = noisy_vector(field, rng)
        counts["hedgehogs"] += len(find_hedgehogs(vector, mask, 1.0, maps=False).charge)
        voxels += mask.size
    return [
        Row(
            f"no defect planted: false {name}",
            1e6 * count / voxels,
            2,
            0.1,
            "per 1e6 voxels",
            f"{voxels / 1e6:.2f} million voxels",
        )
        for name, count in counts.items()
    ]


# Resolution and edges --------------------------------------------------------------------------


def noisy_copies(
    shape: tuple[int, ...], cutoff: float, snr: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Two copies of a field of power `exp(-(f / cutoff)²)` with white noise of power `1 / snr`."""
    axes = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    squared = sum(axis**2 for axis in axes)
    spectrum = np.fft.fftn(rng.standard_normal(shape)) * np.exp(-0.5 * squared / cutoff**2)
    signal = np.fft.ifftn(spectrum).real
    one, other = rng.standard_normal((2, *shape)) / np.sqrt(snr)
    return signal + one, signal + other


def correlation_error(
    shape: tuple[int, ...], pairs: int, mask: Array | None, parts: int = 1
) -> tuple[float, float]:
    """Mean over shells of the deviation from `S / (S + N)`: of the mean of all pairs, of one."""
    rng = np.random.default_rng([6, len(shape), pairs, parts])
    cutoff, snr = 0.15, 20.0
    curves = []
    for _ in range(pairs):
        copies = [noisy_copies(shape, cutoff, snr, rng) for _ in range(parts)]
        if parts == 1:
            found = fourier_shell_correlation(*copies[0], 1.0, mask)
        else:
            one, other = (np.stack([copy[k] for copy in copies]) for k in (0, 1))
            found = tensor_shell_correlation(one, other, 1.0, mask)
        curves.append(found.correlation)
    power = snr * np.exp(-((found.frequency / cutoff) ** 2))
    # The first shells hold a few dozen voxels, and under a mask fewer that are independent.
    error = (np.array(curves) - power / (1.0 + power))[:, 3:]
    return float(np.abs(error.mean(axis=0)).mean()), float(np.abs(error).mean())


def resolution_rows(size: str) -> Iterator[Row]:
    """Shell and ring correlation of two noisy copies against the analytic curve."""
    n, flat = {"tiny": (32, 256), "demo": (96, 512), "paper": (160, 1024)}[size]
    z, y, x = np.indices((n, n, n)) - n // 2
    ball = (x**2 + y**2 + z**2) < (0.35 * n) ** 2
    pairs = 12
    for name, shape, mask, parts in (
        ("shells", (n, n, n), None, 1),
        ("shells, soft mask", (n, n, n), soft_mask(ball), 1),
        ("shells, tensor", (n, n, n), None, 6),
        ("rings", (flat, flat), None, 1),
    ):
        count = pairs if parts == 1 else 2
        mean, single = correlation_error(shape, count, mask, parts)
        detail = f"{'x'.join(map(str, shape))}, mean of {count}; one alone {single:.4f}"
        yield Row(f"correlation, {name}", mean, 0.01, 0.005, "mean deviation", detail)


def edge_rows(size: str) -> Iterator[Row]:
    """Planted blurs: 10-90 % widths of a sphere's surface and of a perpendicular boundary."""
    n = {"tiny": 40, "demo": 64, "paper": 64}[size]
    z, y, x = np.indices((n, n, n)) - n // 2
    settings = EdgeSettings(max_profiles=500 if size == "tiny" else 20000)
    rng = np.random.default_rng(7)
    for sigma in (1.0, 1.5):
        depth = 0.35 * n - np.sqrt((x - 0.3) ** 2 + (y + 0.2) ** 2 + z**2)
        share = 0.5 * (1 + erf(depth / (np.sqrt(2) * sigma)))
        volume = (share + 0.03 * rng.standard_normal(share.shape)).astype(np.float32)
        (found,) = material_edges(volume, (depth > 0).astype(np.uint8), ["ball"], 1.0, settings)
        detail = f"{len(found.width_m)} profiles, spread {found.width_m.std():.3f} voxels"
        error = 100 * abs(np.median(found.width_m) / (2.5631 * sigma) - 1)
        yield Row(f"edge of a sphere, blur {sigma}", error, 5, 2, "% of width", detail)
        depth = 0.6 * x + 0.3 * y + 0.742 * z + 0.2
        share = 0.5 * (1 + erf(depth / (np.sqrt(2) * sigma)))
        tensor = 0.02 * rng.standard_normal((6, n, n, n))
        tensor[0] += share
        tensor[1] += 1 - share
        (found,) = grain_edges(tensor.astype(np.float32), 1 + (depth > 0), 1.0, settings)
        detail = f"{len(found.width_m)} profiles, spread {found.width_m.std():.3f} voxels"
        error = 100 * abs(np.median(found.width_m) / (2.5631 * sigma) - 1)
        yield Row(f"boundary of 90 degrees, blur {sigma}", error, 5, 2, "% of width", detail)


# Time ------------------------------------------------------------------------------------------


def time_rows(size: str) -> Iterator[Row]:
    """Time and memory on grains of a published volume's size, 330 x 330 x 540 in `paper`."""
    from pipeline.simulate.phantoms import laguerre

    shape = {"tiny": (32, 48, 32), "demo": (96, 128, 96), "paper": (330, 540, 330)}[size]
    rng = np.random.default_rng(5)
    count = int(np.prod(shape) / 23.6**3) + 8
    labels = laguerre(shape, rng.uniform(0, 1, (count, 3)) * shape, np.full(count, 10.0))
    means = rng.standard_normal((3, int(labels.max()) + 1)).astype(np.float32)
    means /= np.linalg.norm(means, axis=0)
    axis = np.empty((3, *shape), np.float32)
    length = np.zeros(shape, np.float32)
    for component in range(3):
        axis[component] = means[component][labels]
        axis[component] += np.float32(0.022) * rng.standard_normal(shape, np.float32)
        length += axis[component] ** 2
    axis /= np.sqrt(length)
    mask = labels > 0
    del labels, length
    small = np.s_[:, :8, :8, :8]
    searches = (find_planar_defects, find_disclinations, find_hedgehogs)
    for search in searches:
        # Compiled before the clock starts.
        search(np.ascontiguousarray(axis[small]), mask[small[1:]].copy(), 1.0)
        start, used = time.perf_counter(), time.process_time()
        search(axis, mask, 1.0)
        taken, used = time.perf_counter() - start, time.process_time() - used
        detail = f"{'x'.join(map(str, shape))}, {used:.2f} s of processor"
        yield Row(f"time of {search.__name__}", taken, 60, 60, "s", detail)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield Row("memory of the process", peak, 8, 8, "GiB", "at most")


GROUPS: dict[str, Callable[[str], list[Row]]] = {
    "slices": slice_rows,
    "lines": line_rows,
    "hedgehogs": hedgehog_rows,
    "quiet": quiet_rows,
    "resolution": lambda size: list(resolution_rows(size)),
    "edges": lambda size: list(edge_rows(size)),
    "time": lambda size: list(time_rows(size)),
}


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "demo", "paper"), default="tiny")
    parser.add_argument("--rows", choices=tuple(GROUPS), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    table = Table[Row](as_json=options.json, label="name")
    for name in options.rows or GROUPS:
        table.add(GROUPS[name](options.size))
    return table.complete()


if __name__ == "__main__":
    sys.exit(0 if all(row.met for row in main()) else 1)
