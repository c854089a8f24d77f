"""Benchmark of the projectors against their peers, all in the same run.

    python tests/benchmarks/engine.py [--size tiny|demo|paper] [--clock wall|cpu] [--json]

Times are medians of alternating repetitions, quoted as ratios to a peer: `finufft` on packed slices
and in three dimensions (Barnett et al., doi 10.1137/18M120885X), `magtomo` (the XLDOT authors'
Python code), `scikit-image`. Errors are relative to closed-form projections of Gaussian blobs.
Speed needs a machine that does nothing else; where there is none, `--clock cpu` counts processor
time instead, best with one thread (`NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1`).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import finufft
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from table import Row, Table

from pipeline.memory import keep_freed_memory
from pipeline.tomography.contrast import linear_difference_weights, linear_weights, scalar_weights
from pipeline.tomography.geometry import euler_rotations, series_rotations
from pipeline.tomography.projector import Projector, Scheme, Slices, fastest_scheme
from pipeline.tomography.solvers import LocalLeastSquares

Run = Callable[[], object]

SIGMAS = (3.0, 6.0)
"""Width of the blobs [voxel]: between the resolution of a good measurement and a small grain."""

EPS = 2e-5
"""Tolerance that the peers are run at: their error stays below 1e-4."""

OVERSAMPLING = 1.25
"""Of the peers' inner grid: the faster of the two that `finufft` has, by two to four times."""


@dataclass(frozen=True)
class Size:
    """How large each row is.

    Attributes
    ----------
    n, angles : edge of the volume [voxel] and number of projections of one series.
    peer_n, peer_angles : the same where the peer bears no more.
    repeats : of each timing.
    paper_part : edge of the published measurement over that of the part which is measured.
    clock : what time is told by.
    """

    n: int
    angles: int
    peer_n: int
    peer_angles: int
    repeats: int
    paper_part: int
    clock: str = "wall"


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

SIZES = {
    "tiny": Size(24, 18, 8, 4, 3, 20),
    "demo": Size(128, 180, 64, 60, 7, 3),
    "paper": Size(256, 280, 64, 480, 5, 1),
}


def medians(runs: dict[str, Run], size: Size, repeats: int | None = None) -> dict[str, float]:
    """Median seconds of each, in turns, after one round that compiles and plans."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    now = CLOCKS[size.clock]
    for _ in range(repeats or size.repeats):
        for name, run in runs.items():
            started = now()
            run()
            seconds[name].append(now() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def blobs(n: int, rotations: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Field (z, y, x) float32 of blobs inside the frame, and its projections (k, y, x) float64."""
    rng = np.random.default_rng(7)
    axis = np.arange(n) - n // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    field, stack = np.zeros((n, n, n)), np.zeros((len(rotations), n, n))
    for _ in range(8):
        sigma = rng.uniform(*SIGMAS) * min(1.0, n / 64)
        centre, height = rng.uniform(-0.2 * n, 0.2 * n, 3), rng.uniform(0.5, 1.5)
        cx, cy, cz = centre
        field += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 2 / sigma**2)
        for image, rotation in zip(stack, rotations, strict=True):
            a, b, _ = rotation @ centre
            shadow = np.exp(-((u - a) ** 2 + (v - b) ** 2) / 2 / sigma**2)
            image[...] += height * np.sqrt(2 * np.pi) * sigma * shadow
    return field.astype(np.float32), stack


def error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Norm of the difference relative to the norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


class PackedSlices:
    """`finufft` in two dimensions: slices along the axis, two real ones in a complex one."""

    def __init__(self, n: int, angles_rad: NDArray[np.float64], **options: float) -> None:
        k = 2 * np.pi * np.fft.fftfreq(n)
        self.shape = (n // 2, len(angles_rad), n)
        kx = (np.cos(angles_rad)[:, None] * k).astype(np.float32).ravel()
        kz = (np.sin(angles_rad)[:, None] * k).astype(np.float32).ravel()
        common = {"n_trans": n // 2, "eps": EPS, "dtype": "complex64", **options}
        self._forward = finufft.Plan(2, (n, n), isign=-1, **common)
        self._back = finufft.Plan(1, (n, n), isign=1, **common)
        self._forward.setpts(kz, kx)
        self._back.setpts(kz, kx)

    def forward(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projections (k, n, n) of `field` (z, y, x)."""
        half = field.shape[1] // 2
        packed = np.empty((half, field.shape[0], field.shape[2]), np.complex64)
        packed.real = field[:, :half].transpose(1, 0, 2)
        packed.imag = field[:, half:].transpose(1, 0, 2)
        values = scipy.fft.ifft(self._forward.execute(packed).reshape(self.shape), workers=-1)
        lines = np.fft.fftshift(values, axes=2)
        return np.concatenate([lines.real, lines.imag]).transpose(1, 0, 2)

    def back(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """Back projection (z, y, x) of `stack` (k, n, n)."""
        half = stack.shape[1] // 2
        packed = np.empty(self.shape, np.complex64)
        packed.real = stack[:, :half].transpose(1, 0, 2)
        packed.imag = stack[:, half:].transpose(1, 0, 2)
        values = scipy.fft.fft(np.fft.ifftshift(packed, axes=2), workers=-1)
        slices = self._back.execute(values.reshape(self.shape[0], -1))
        return np.concatenate([slices.real, slices.imag]).transpose(1, 0, 2)


class Slices3D:
    """`finufft` in three dimensions, half of every image's frequencies: the images are real."""

    def __init__(self, n: int, rotations: NDArray[np.float64]) -> None:
        ky, kx = 2 * np.pi * np.fft.fftfreq(n)[:, None], 2 * np.pi * np.fft.rfftfreq(n)
        points = rotations[:, 0, :, None, None] * kx + rotations[:, 1, :, None, None] * ky
        self.n, self.shape = n, (len(rotations), n, n // 2 + 1)
        self.seen = (np.abs(points).max(axis=1) <= np.pi).astype(np.float32)
        # Of the other half comes the same again, as the complex conjugate.
        self.count = np.full(n // 2 + 1, 2.0, np.float32)
        self.count[[0, -1]] = 1.0
        x, y, z = points.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float32)
        options = {"eps": EPS, "dtype": "complex64", "upsampfac": OVERSAMPLING}
        self._forward = finufft.Plan(2, (n, n, n), isign=-1, **options)
        self._back = finufft.Plan(1, (n, n, n), isign=1, **options)
        self._forward.setpts(z, y, x)
        self._back.setpts(z, y, x)

    def forward(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projections (k, n, n) of `field` (z, y, x)."""
        spectra = self._forward.execute(field.astype(np.complex64)).reshape(self.shape)
        images = scipy.fft.irfft2(spectra * self.seen, s=(self.n, self.n), workers=-1)
        return np.fft.fftshift(images, axes=(1, 2))

    def back(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """Back projection (z, y, x) of `stack` (k, n, n)."""
        spectra = scipy.fft.rfft2(np.fft.ifftshift(stack, axes=(1, 2)), workers=-1) * self.seen
        spectra = spectra * (self.count / self.n**2)
        return self._back.execute(spectra.astype(np.complex64).ravel()).real


def single_axis(size: Size) -> list[Row]:
    """One component about one axis, against packed slices and scikit-image."""
    angles = np.linspace(0.0, 180.0, size.angles, endpoint=False)
    rotations = series_rotations(angles)
    field, exact = blobs(size.n, rotations)
    ours = Projector(field.shape, exact.shape[1:], rotations, scalar_weights(len(rotations)))
    theirs = PackedSlices(size.n, np.deg2rad(angles), upsampfac=OVERSAMPLING)
    as_it_comes = PackedSlices(size.n, np.deg2rad(angles))
    stack = exact.astype(np.float32)
    spent = medians(
        {
            "ours": lambda: (ours.forward(field[None]), ours.adjoint(stack)),
            "finufft": lambda: (theirs.forward(field), theirs.back(stack)),
            "default": lambda: (as_it_comes.forward(field), as_it_comes.back(stack)),
        },
        size,
    )
    other = medians({"skimage": lambda: _skimage_slice(field, angles)}, size, 1)["skimage"] * size.n
    found, peer = ours.forward(field[None]), theirs.forward(field)
    seconds = (
        f"{spent['ours']:.3f} s by {ours.slices}; finufft 2D {spent['finufft']:.3f} s, by its own "
        f"choice of grid {spent['default']:.3f} s, scikit-image {other:.1f} s"
    )
    return [
        Row("single axis, forward + back: ratio to finufft 2D", spent["ours"] / spent["finufft"],
            1.2, 0.5, "", seconds),
        Row("single axis: error on smooth blobs", error(found, exact), 4e-3, 4e-3, "",
            f"finufft 2D {error(peer, exact):.1e}"),
    ]  # fmt: skip


def _skimage_slice(field: NDArray[np.float32], angles: NDArray[np.float64]) -> None:
    from skimage.transform import iradon, radon

    middle = field[:, field.shape[1] // 2]
    sinogram = radon(middle, angles, circle=False, preserve_range=True)
    iradon(sinogram, angles, circle=False, filter_name=None)


def tilted_axis(size: Size) -> list[Row]:
    """One component about an axis that is tilted by 30 degrees, both paths, against finufft 3D."""
    rotations = series_rotations(np.linspace(0.0, 180.0, size.angles, endpoint=False), 30.0)
    field, exact = blobs(size.n, rotations)
    stack, weights = exact.astype(np.float32), scalar_weights(len(rotations))
    shape = exact.shape[1:]
    inside = np.abs(field) > 1e-6 * field.max()
    series = Projector(field.shape, shape, rotations, weights)
    fourier = Projector(field.shape, shape, rotations, weights, "fourier", support=inside)
    theirs = Slices3D(size.n, rotations)
    spent = medians(
        {
            "series": lambda: (series.forward(field[None]), series.adjoint(stack)),
            "fourier": lambda: (fourier.forward(field[None]), fourier.adjoint(stack)),
            "finufft": lambda: (theirs.forward(field), theirs.back(stack)),
        },
        size,
    )
    peer = error(theirs.forward(field), exact)
    limits = {"series": (1.0, 0.3, 6e-3), "fourier": (1.2, 0.6, 1e-4)}
    rows = []
    for name, projector in (("series", series), ("fourier", fourier)):
        floor, goal, worst = limits[name]
        found = error(projector.forward(field[None]), exact)
        way = f" by {projector.slices}" if name == "series" else ""
        seconds = f"{spent[name]:.3f} s{way}; finufft 3D {spent['finufft']:.3f} s"
        rows += [
            Row(f"tilted axis, {name}: ratio to finufft 3D", spent[name] / spent["finufft"],
                floor, goal, "", seconds),
            Row(f"tilted axis, {name}: error on smooth blobs", found, worst, worst, "",
                f"finufft 3D {peer:.1e}"),
        ]  # fmt: skip
    return rows


def dichroism(size: Size) -> list[Row]:
    """What one gradient needs of the tensor, against one scalar forward and back projection."""
    rotations = series_rotations(np.linspace(0.0, 180.0, size.angles, endpoint=False), 30.0)
    rng = np.random.default_rng(3)
    shape = (size.n, size.n, size.n)
    weights = linear_difference_weights(rotations)
    tensor = Projector(shape, shape[1:], rotations, weights)
    scalar = Projector(shape, shape[1:], rotations, scalar_weights(len(rotations)))
    stack = rng.standard_normal(tensor.stack_shape).astype(np.float32)
    field = rng.standard_normal(tensor.field_shape).astype(np.float32)
    problem = LocalLeastSquares(tensor, stack)
    spent = medians(
        {
            "tensor": lambda: problem.residual_gradient(field),
            "scalar": lambda: (scalar.forward(field[:1]), scalar.adjoint(stack)),
        },
        size,
    )
    detail = f"{spent['tensor']:.3f} s by {tensor.slices}; scalar {spent['scalar']:.3f} s"
    return [
        Row("gradient of linear dichroism: ratio to scalar forward + back",
            spent["tensor"] / spent["scalar"], 5.0, 3.0, "", detail),
    ]  # fmt: skip


def choice(size: Size) -> list[Row]:
    """Error times time of every path, with few axes and with one for every projection."""
    n, count = max(size.n // 2, 24), 48
    rng = np.random.default_rng(11)
    angles = [rng.uniform(-180, 180, count), rng.uniform(-70, 70, count), rng.normal(0, 2, count)]
    own = euler_rotations(np.stack(angles, axis=1))
    rows = []
    for axes in (1, 12, count):
        spread = np.linspace(0.0, 180.0, count // axes, endpoint=False)
        mountings = [series_rotations(spread + i, 30.0, 37.0 * i) for i in range(axes)]
        rotations = own if axes == count else np.concatenate(mountings)
        field, exact = blobs(n, rotations)
        for name, weights in (
            ("scalar", scalar_weights(count)),
            ("linear", linear_difference_weights(rotations)),
        ):
            rows.append(_costs(f"{axes} axes, {name}", field, exact, rotations, weights, size))
    return rows


def slices(size: Size) -> list[Row]:
    """Both ways to project the slices of a turned field, on small and on large ones."""
    ways: tuple[Slices, ...] = ("footprints", "spectra")
    rows = []
    for n, count in itertools.product(
        (size.n // 4, size.n // 2, size.n), (size.angles // 6, size.angles)
    ):
        rotations = series_rotations(np.linspace(0.0, 180.0, count, endpoint=False))
        rng = np.random.default_rng(13)
        for name, weights in (
            ("scalar", scalar_weights(count)),
            ("linear", linear_difference_weights(rotations)),
        ):
            shape = (n, n, n)
            projectors = {w: Projector(shape, (n, n), rotations, weights, slices=w) for w in ways}
            x = rng.standard_normal((weights.shape[1], *shape)).astype(np.float32)
            runs: dict[str, Run] = {
                way: functools.partial(p.normal, x) for way, p in projectors.items()
            }
            spent = medians(runs, size, 3)
            chosen = Projector(shape, (n, n), rotations, weights).slices
            detail = ", ".join(f"{way} {spent[way] * 1e3:.1f} ms" for way in ways)
            rows.append(
                Row(f"slices, {n}^3, {count} angles, {name}: ratio to the cheaper",
                    spent[chosen] / min(spent.values()), 1.5, 1.0, "", detail)
            )  # fmt: skip
    return rows


def _costs(
    name: str,
    field: NDArray[Any],
    exact: NDArray[Any],
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    size: Size,
) -> Row:
    """Of the default path, as a ratio to the cheapest; the error is that of a scalar field."""
    schemes: tuple[Scheme, ...] = ("series", "fourier", "general", "four-subvoxel")
    shape = exact.shape[1:]
    costs: dict[str, float] = {}
    details = []
    for scheme in schemes:
        projector = Projector(field.shape, shape, rotations, weights, scheme)
        scalar = Projector(field.shape, shape, rotations, scalar_weights(len(rotations)), scheme)
        x = np.ascontiguousarray(np.broadcast_to(field, projector.field_shape))
        spent = medians({scheme: functools.partial(projector.normal, x)}, size, 3)[scheme]
        off = error(scalar.forward(field[None]), exact)
        costs[scheme] = spent * off
        details.append(f"{scheme} {spent:.3f} s {off:.0e}")
    value = costs[fastest_scheme(rotations)] / min(costs.values())
    return Row(f"default path, {name}: ratio to the cheapest", value, 3.0, 1.0, "",
               ", ".join(details))  # fmt: skip


def against_magtomo(size: Size) -> list[Row]:
    """One gradient of linear dichroism, tensor and its projections, against magtomo's."""
    from magtomo.Experiment import Experiment
    from magtomo.Reconstruction import tensor_gradient

    n = size.peer_n
    rotations = series_rotations(np.linspace(0.0, 180.0, size.peer_angles, endpoint=False), 30.0)
    rng = np.random.default_rng(5)
    theirs = rng.standard_normal((3, 3, n, n, n))
    theirs = theirs + theirs.swapaxes(0, 1)
    data = rng.standard_normal((len(rotations), n, n))
    projector = Projector((n, n, n), (n, n), rotations, linear_weights(rotations, 0.0))
    problem = LocalLeastSquares(projector, data.astype(np.float32))
    field = np.stack([theirs[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
    field = field.astype(np.float32)

    def magtomo_gradient() -> object:
        experiment = Experiment(theirs, rotations, np.zeros(len(rotations)))
        experiment.calculate_sinogram()
        residual = data - experiment._sinogram
        return sum(
            tensor_gradient(theirs, r, d, 0.0, 1) for r, d in zip(rotations, residual, strict=True)
        )

    # Its worker processes are counted by no other clock than the wall's.
    size = replace(size, clock="wall")
    ours = medians({"ours": lambda: problem.residual_gradient(field)}, size)["ours"]
    started = time.perf_counter()
    magtomo_gradient()
    peer = time.perf_counter() - started
    detail = (
        f"{ours:.4f} s by {projector.slices}; magtomo {peer:.1f} s, {n}^3 voxels, "
        f"{len(rotations)} projections"
    )
    return [
        Row("gradient of linear dichroism: ratio to magtomo", ours / peer, 1 / 1000, 1 / 3000, "",
            detail),
    ]  # fmt: skip


def paper_gradient(size: Size) -> list[Row]:
    """One gradient of linear dichroism at the size of a published measurement, or a part of it.

    Four mountings tilted by 30 degrees, as Apseros et al., doi 10.1038/s41586-024-08233-y, all in
    one process; a whole run, in shards, is what `reconstruction.py --rows scale` estimates.
    """
    from reconstruction_scale import PAPER

    part = size.paper_part
    z, y, x = (-(-n // part) for n in PAPER[0])
    ny, nx = (-(-n // part) for n in PAPER[1])
    angles = np.linspace(0.0, 180.0, PAPER[2] // part, endpoint=False)
    mountings = [series_rotations(angles, 30.0, pre) for pre in (0.0, 90.0, 180.0, 270.0)]
    rotations = np.concatenate(mountings)
    disc = np.linspace(-1.0, 1.0, z)[:, None, None] ** 2 + np.linspace(-1.0, 1.0, x) ** 2 <= 1.0
    support = np.ascontiguousarray(np.broadcast_to(disc, (z, y, x)))
    weights = linear_difference_weights(rotations)
    projector = Projector((z, y, x), (ny, nx), rotations, weights, support=support)
    rng = np.random.default_rng(17)
    problem = LocalLeastSquares(projector, rng.standard_normal(projector.stack_shape, np.float32))
    field = rng.standard_normal(projector.field_shape, np.float32)
    if part > 1:
        problem.residual_gradient(field)  # Compiled; at full size that is a small part.
    now = CLOCKS[size.clock]
    started = now()
    problem.residual_gradient(field)
    seconds = now() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    name = f"{len(rotations)} differences of {nx}x{ny}, {z}x{y}x{x} voxels"
    full = part == 1
    return [
        Row(f"{name}: one gradient", seconds, unit="s", detail=f"by {projector.slices}"),
        Row("the same, peak memory", peak, 20.0 if full else None, 20.0 if full else None, "GiB"),
    ]  # fmt: skip


def adjointness(_: Size) -> list[Row]:
    """`⟨A x, y⟩ = ⟨x, Aᵀ y⟩` on white noise that the frames cut, every path."""
    angles = np.arange(0.0, 180.0, 17.0)
    rotations = np.concatenate([series_rotations(angles, 30.0, pre) for pre in (0.0, 90.0, 33.0)])
    rng = np.random.default_rng(9)
    support = rng.random((30, 34, 28)) < 0.7
    worst: dict[str, float] = {}
    paths: list[tuple[str, Scheme, Slices]] = [
        ("series", "series", "footprints"), ("spectra", "series", "spectra"),
        *((name, name, "cheapest") for name in get_args(Scheme) if name != "series"),
    ]  # fmt: skip
    for name, scheme, way in paths:
        projector = Projector(
            support.shape, (27, 30), rotations, linear_difference_weights(rotations), scheme,
            support=support, point_spread_px=0.4, slices=way,
        )  # fmt: skip
        x = rng.standard_normal(projector.field_shape).astype(np.float32)
        y = rng.standard_normal(projector.stack_shape).astype(np.float32)
        y *= rng.random(y.shape) < 0.9
        forward, back = projector.forward(x), projector.adjoint(y)
        left = np.vdot(forward.astype(np.float64), y)
        right = np.vdot(x.astype(np.float64), back)
        norms = np.linalg.norm(forward) * np.linalg.norm(y)
        worst[name] = float(abs(left - right) / norms)
    detail = ", ".join(f"{name} {value:.0e}" for name, value in worst.items())
    return [Row("adjointness, worst path", max(worst.values()), 2e-6, 5e-7, "", detail)]


ROWS: dict[str, Callable[[Size], list[Row]]] = {
    "adjointness": adjointness,
    "single": single_axis,
    "tilted": tilted_axis,
    "dichroism": dichroism,
    "choice": choice,
    "magtomo": against_magtomo,
    "slices": slices,
    "paper": paper_gradient,
}


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print the table or JSON, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    keep_freed_memory()  # As every run does.
    table = Table[Row](as_json=chosen.json)
    for name in chosen.rows:
        table.add(ROWS[name](replace(SIZES[chosen.size], clock=chosen.clock)))
    return table.complete()


if __name__ == "__main__":
    main(sys.argv[1:])
