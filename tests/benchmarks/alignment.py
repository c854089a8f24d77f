"""Benchmark of the alignment against known truth: one row for each thing that must be shown.

    python tests/benchmarks/alignment.py --size tiny|demo|paper [--rows NAME ...] [--json]

`tiny` and `demo` measure shifts, registration, published frames, the end effect and a stress set of
unlike samples and scans (a quick part of it in `tiny`), all made in memory; `paper` measures time
and memory of one series of 280 projections of 760 x 650 pixels. Each row prints what was measured
beside its floor and goal.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from alignment_cases import cases
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.spatial.transform import Rotation
from table import Row, Table

from flows.steps.files import bounding_shape, crop
from pipeline.align.assemble import concatenate, difference, mean, nominal_base, place
from pipeline.align.assemble import scalar_channel as matter
from pipeline.align.consistency import Alignment, align_series, alignment_residual
from pipeline.align.joint import align_pairs
from pipeline.align.motion import common_turn
from pipeline.align.pairs import average_pair, register_pair
from pipeline.align.register import register_volumes
from pipeline.preprocess.prepare import prepare_series
from pipeline.reconstruct.orientation import reconstruct_orientation
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.reconstruct.support import find_support
from pipeline.simulate.beamtime import (
    DEGREE,
    SeriesTruth,
    noise_for_snr,
    plan_beamtime,
    transmissions,
)
from pipeline.simulate.phantoms import Phantom, pillar
from pipeline.simulate.presets import PIXEL_SIZE_M, PRESETS, Preset
from pipeline.stacks import DifferencedStack, PhaseStack
from pipeline.tomography.geometry import rotation_y
from schemas.recipe import AlignSettings, OrientationSettings, ScalarSettings, SupportSettings

FEPT = Path(__file__).parents[2] / "../shared/data/fept-misaligned"

RAYS = 5
"""Rays per half pixel: a flat end that lies along the rows is seen in steps of 1/(4 RAYS) pixel of
shift, so that fewer rays would limit what can be measured along y."""

QUICK = ["stem-bottom", "bad", "axis"]
"""Cases of the stress set that take a second each."""

OUTSIDE = 0.2
"""Part of the sample's width that is cut off."""


@dataclass(frozen=True)
class Pair:
    """LH and LV of one mounting, with the shifts that centre the sample."""

    tilt: str
    nominal: NDArray[np.float64]
    mounting: NDArray[np.float64]
    stacks: tuple[PhaseStack, PhaseStack]
    wanted: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def angles(self) -> NDArray[np.float64]:
        """(n,) rotation about y [rad]."""
        return np.deg2rad(self.stacks[0].angles_deg)


@dataclass
class Aligned:
    """What the alignment of one pair found."""

    pair: Pair
    found: Alignment
    between: NDArray[np.float64]

    @property
    def shifts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shifts of both partners."""
        return self.found.shifts, self.found.shifts + self.between


class Sample:
    """A simulated beamtime in memory: frames are made when they are asked for."""

    def __init__(self, preset: Preset, seed: int = 0) -> None:
        first, *seeds = np.random.SeedSequence(seed).spawn(11)
        self.preset = preset
        self.phantom: Phantom = pillar(preset, np.random.default_rng(first))
        self.truths = {t.series.name: t for t in plan_beamtime(preset, seeds[0], seeds[1:])}
        ends = self.truths["tilt1_lh"], self.truths["tilt1_lv"]
        self.sigma = noise_for_snr(preset, self.phantom, *ends)
        self._frames: dict[str, NDArray[np.complex64]] = {}

    def frames(self, name: str) -> NDArray[np.complex64]:
        """Raw frames of a series, (n, ny, nx)."""
        if name not in self._frames:
            made = transmissions(self.preset, self.phantom, self.truths[name], self.sigma)
            self._frames[name] = np.stack(list(made))
        return self._frames[name]

    def pair(self, tilt: str, columns: slice = slice(None)) -> Pair:
        """Phase of both partners of a mounting, cut to some columns."""
        truths = [self.truths[f"{tilt}_{label}"] for label in ("lh", "lv")]
        made = [self._prepared(truth, columns) for truth in truths]
        nominal = truths[0].series.tilt
        return Pair(
            tilt,
            nominal_base(nominal.tilt_deg, nominal.pre_rotation_deg),
            truths[0].mounting,
            (made[0][0], made[1][0]),
            (made[0][1], made[1][1]),
        )

    def _prepared(
        self, truth: SeriesTruth, columns: slice
    ) -> tuple[PhaseStack, NDArray[np.float64]]:
        frames = self.frames(truth.series.name)[:, :, columns]
        energy = truth.series.energy.known_ev
        stack = prepare_series(iter(frames), truth.angles_deg, truth.pixel_size_m, energy)
        origin = truth.origin_px - (0, columns.indices(self.preset.frame_shape[1])[0])
        return stack, np.array(frames.shape[1:]) // 2 - origin


def larger(preset: Preset) -> Preset:
    """Preset with shifts of 15 pixels and ramps of 3 cycles, on frames that hold the sample."""
    frame = 32 * int(np.ceil((1.3 * preset.height_px + 2 * 20) / 32))
    return replace(
        preset,
        frame_shape=(frame, frame),
        shift_px=15.0,
        ramp_cycles=3.0,
        rays_per_half_pixel=RAYS,
    )


def aligned(pair: Pair) -> Aligned:
    """Pair registration, then consistency of the mean."""
    between = register_pair(*pair.stacks)
    return Aligned(pair, align_series(average_pair(*pair.stacks, between), pair.angles), between)


def worst_residual(results: list[Aligned]) -> float:
    """Largest rms residual of any series, after its best common motion [pixel]."""
    return max(
        alignment_residual(shifts, wanted, result.pair.angles)[0]
        for result in results
        for shifts, wanted in zip(result.shifts, result.pair.wanted, strict=True)
    )


def shifts_row(results: list[Aligned], seconds: float) -> Row:
    """Residual shift where the frames hold the sample."""
    worst = worst_residual(results)
    return Row("shifts +-15 px, ramps 3 cycles", worst, 0.1, 0.03, "px", seconds=seconds)


def pairs_row(results: list[Aligned], seconds: float) -> Row:
    """Error of the registration of LV onto LH."""
    errors = [r.between - (r.pair.wanted[1] - r.pair.wanted[0]) for r in results]
    rms = float(np.sqrt(np.mean(np.square(errors))))
    return Row("LH-LV pair registration", rms, 0.1, 0.02, "px", seconds=seconds)


def partial_rows(sample: Sample, tilts: list[str]) -> Iterator[Row]:
    """Residual shift with part of the sample outside the field on one side."""
    width = sample.preset.frame_shape[1]
    edge = round(0.5 * sample.preset.diameter_px * (1.0 - 2.0 * OUTSIDE))
    cuts = {"low x": slice(width // 2 - edge, None), "high x": slice(0, width // 2 + edge)}
    for side, columns in cuts.items():
        begun = time.perf_counter()
        results = [aligned(sample.pair(tilt, columns)) for tilt in tilts]
        seconds = time.perf_counter() - begun
        worst = worst_residual(results)
        yield Row(f"the same, 20 % outside at {side}", worst, 0.25, 0.08, "px", seconds=seconds)


def tilt_rows(results: list[Aligned]) -> Iterator[Row]:
    """Rotation and shift between mountings, from a nominal wrong by 3 degrees and 20 pixels."""
    begun = time.perf_counter()
    reference, others = results[0], results[1:]
    axes = np.random.default_rng(0).normal(size=(len(others), 3))
    turned, shifted = [0.0], [0.0]
    for axis, other in zip(axes, others, strict=True):
        wrong = Rotation.from_rotvec(np.deg2rad(3.0) * axis / np.linalg.norm(axis)).as_matrix()
        straight = register_volumes(reference.found.volume, other.found.volume, other.pair.nominal)
        moved = np.pad(other.found.volume, 20)[20 + 12 :, 20 + 12 :, 20 - 12 : -20 - 12]
        motion = register_volumes(reference.found.volume, moved, wrong @ other.pair.nominal)
        error = Rotation.from_matrix(motion.rotation @ other.pair.mounting.T).magnitude()
        turned.append(float(np.rad2deg(error)))
        centre = np.array(other.found.volume.shape[::-1]) // 2
        now = np.array(moved.shape[::-1]) // 2
        planted = np.array([12.0, -12.0, -12.0]) + centre - now
        shifted.append(float(np.abs(motion.shift - straight.shift - planted).max()))
    seconds = time.perf_counter() - begun
    name = "tilt registration, 3 deg and 20 px off"
    yield Row(f"{name}: angle", max(turned), 0.2, 0.05, "deg", seconds=seconds)
    yield Row(f"{name}: shift", max(shifted), 0.3, 0.05, "px")


def published_rows() -> Iterator[Row]:
    """Largest error of the whole-pixel shifts of published frames; below 0.5 all are exact."""
    if not FEPT.exists():
        return
    applied = np.loadtxt(FEPT / "fept_shifts.txt")[:, [1, 0]]
    angles = np.deg2rad(np.arange(-90.0, 91.0, 5.0))
    misaligned = loadmat(FEPT / "projections_FePt_misaligned.mat")["misaligned_pj"]
    noisy = _first(loadmat(FEPT / "projections_FePt_noisy.mat"))
    wedge = _first(loadmat(FEPT / "projections_FePt_mw.mat"))
    kept = np.abs(np.rad2deg(angles)) <= 5.0 * (wedge.shape[2] // 2) + 0.1
    for name, stored, angle, shifts, apply in (
        ("published frames", misaligned, angles, applied, False),
        ("the same, noisy", noisy, angles, applied, True),
        ("the same, missing wedge", wedge, angles[kept], applied[kept], True),
    ):
        begun = time.perf_counter()
        frames = (-stored / stored.max()).transpose(2, 1, 0).astype(np.float32)
        if apply:
            frames = np.stack(
                [
                    np.roll(f, s.astype(int), axis=(0, 1))
                    for f, s in zip(frames, shifts, strict=True)
                ]
            )
        found = align_series(frames, angle)
        worst = float(np.abs(alignment_residual(found.shifts, -shifts, angle)[1]).max())
        seconds = time.perf_counter() - begun
        yield Row(f"{name}: largest error", worst, 0.5, 0.5, "px", seconds=seconds)


def stress_rows(names: list[str]) -> Iterator[Row]:
    """Residual shift of the cases of the stress set, and what else some of them plant."""
    for name, make in cases().items():
        if name not in names:
            continue
        case = make()
        model: Literal["shift", "similarity"] = "shift" if case.turns is None else "similarity"
        begun = time.perf_counter()
        found = align_series(case.frames, case.angles, AlignSettings(model=model))
        seconds = time.perf_counter() - begun
        rms = float(np.sqrt(np.mean(case.residual(found.shifts) ** 2)))
        yield Row(f"stress: {case.name}", rms, case.floor, case.goal, "px", seconds=seconds)
        if name == "axis":
            yield Row("  tilt of the axis", abs(found.axis_tilt_deg + 1.0), 0.1, 0.02, "deg")
        if name == "lean":
            yield Row("  lean of the axis", abs(found.axis_pitch_deg - 1.0), 0.2, 0.1, "deg")
        if name == "bad":
            missed = float(np.sum(found.left_out != ~case.counted))
            yield Row("  frames wrongly judged", missed, 1.0, 0.0)
        if case.turns is not None and case.growth is not None:
            turned = common_turn(found.turns_rad + case.turns, case.angles)[2]
            grown = np.log(found.scales) + case.growth
            yield Row("  turns", float(np.rad2deg(turned.std())), 0.1, 0.03, "deg")
            yield Row("  scales", 100 * float(grown.std()), 0.1, 0.05, "%")


def _first(content: dict[str, Any]) -> NDArray[np.float64]:
    return next(np.asarray(v) for k, v in content.items() if not k.startswith("__"))


def end_rows(sample: Sample, results: list[Aligned], quick: bool) -> Iterator[Row]:
    """Orientation error after alignment from raw, over that after perfect alignment; and, on the
    way, the pairs after the joint round.

    As in a run: frames no larger than the sample, volumes cut to its support, and the support that
    was found before the joint round.
    """
    begun = time.perf_counter()
    preset = sample.preset
    n = 2 * int(np.ceil(0.6 * np.hypot(preset.height_px, preset.diameter_px)))
    placed, _ = _placed(results, False, (n, n))
    density = _density(placed, quick)
    found = align_pairs(_differences(placed), _means(placed), density).shifts
    moves = found.reshape(len(results), -1, 2)
    joined = [
        replace(r, between=r.between + m, found=replace(r.found, shifts=r.found.shifts - 0.5 * m))
        for r, m in zip(results, moves, strict=True)
    ]
    row = pairs_row(joined, time.perf_counter() - begun)
    yield replace(row, measure="LH-LV pairs after the joint round")
    begun, errors = time.perf_counter(), []
    for perfect in (False, True):
        placed, offset = _placed(joined, perfect, (n, n))
        if perfect:
            density = _density(placed, quick)
        errors.append(_orientation_error(sample, placed, density > 0, offset, quick))
    yield Row(
        f"end effect ({errors[0]:.2f} against {errors[1]:.2f} deg)",
        errors[0] / errors[1],
        1.3,
        1.05,
        seconds=time.perf_counter() - begun,
    )


def _placed(
    results: list[Aligned], perfect: bool, shape: tuple[int, int]
) -> tuple[list[tuple[Any, Any]], NDArray[np.float64]]:
    """Partners in the sample's frame, and where the sample's origin lies in it."""
    placed, rows, rest = [], [], []
    for result in results:
        pair = result.pair
        base, translation = pair.mounting, None
        shifts = pair.wanted if perfect else result.shifts
        if not perfect:
            motion = register_volumes(results[0].found.volume, result.found.volume, pair.nominal)
            base, translation = motion.rotation, motion.shift
        turning = {}
        if not perfect:
            turning = {"turns_rad": result.found.turns_rad, "scales": result.found.scales}
        partners = [
            place(stack, shift, base, translation, shape, **turning)
            for stack, shift in zip(pair.stacks, shifts, strict=True)
        ]
        placed.append((partners[0], partners[1]))
        turns = np.stack([rotation_y(angle) for angle in pair.angles])
        moved = np.zeros((len(turns), 3)) if translation is None else turns @ translation
        rows.append((turns @ pair.mounting)[:, [1, 0]].reshape(-1, 3))
        rest.append((shifts[0] - moved[:, [1, 0]] - pair.wanted[0]).ravel())
    offset = np.linalg.lstsq(np.concatenate(rows), np.concatenate(rest), rcond=None)[0]
    return placed, offset


def _differences(placed: list[tuple[Any, Any]]) -> DifferencedStack:
    return concatenate([difference(*partners, DEGREE) for partners in placed])


def _means(placed: list[tuple[Any, Any]]) -> DifferencedStack:
    return concatenate([matter(mean(*partners)) for partners in placed])


def _density(placed: list[tuple[Any, Any]], quick: bool) -> NDArray[np.float32]:
    """Scalar volume, cut to the sample and zero outside it."""
    settings = ScalarSettings(iterations=5) if quick else ScalarSettings()
    volume = reconstruct_scalar(_means(placed), None, settings).volume
    support = find_support(volume, SupportSettings())
    shape = bounding_shape(support)
    return np.where(crop(support, shape), np.maximum(crop(volume, shape), 1e-9), np.float32(0.0))


def _orientation_error(
    sample: Sample,
    placed: list[tuple[Any, Any]],
    support: NDArray[np.bool_],
    offset: NDArray[np.float64],
    quick: bool,
) -> float:
    """Median angle between reconstructed and true axes inside the grains [degree]."""
    settings = OrientationSettings()
    if quick:
        # Priors of known strength: finding them takes most of the time of so small a problem.
        settings = OrientationSettings(
            iterations=5, refine_iterations=3, smoothness=0.1, edge_preserving=0.1
        )
    axis = reconstruct_orientation(_differences(placed), support, settings, seed=0).axis
    z, y, x = np.nonzero(support)
    at = np.stack([x, y, z]) - np.array(support.shape[::-1])[:, None] // 2 - offset[:, None]
    labels, table = sample.phantom.labels, sample.phantom.axis
    scale = PIXEL_SIZE_M / sample.phantom.voxel_size_m
    index = np.round(at * scale).astype(int) + np.array(labels.shape[::-1])[:, None] // 2
    inside = ((index >= 0) & (index < np.array(labels.shape[::-1])[:, None])).all(axis=0)
    label = labels[tuple(index[::-1, inside])]
    true, found = table[label], axis[:, z[inside], y[inside], x[inside]].T
    known = np.linalg.norm(true, axis=1) > 0.5
    cosine = np.abs(np.sum(true[known] * found[known], axis=1))
    return float(np.rad2deg(np.median(np.arccos(np.clip(cosine, 0.0, 1.0)))))


def blob_frames(
    n: int, shape: tuple[int, int], shifts: NDArray[np.float64], rng: np.random.Generator
) -> Iterator[NDArray[np.complex64]]:
    """Transmissions of a pillar of Gaussian blobs, whose projections are known in closed form."""
    ny, nx = shape
    places = rng.uniform(-1.0, 1.0, (160, 3)) * (0.16 * nx, 0.33 * ny, 0.16 * nx)
    widths = rng.uniform(0.008, 0.03, 160) * nx
    rows, columns = np.arange(ny) - ny // 2, np.arange(nx) - nx // 2
    for index in range(n):
        angle = np.pi * index / n
        x = np.cos(angle) * places[:, 0] + np.sin(angle) * places[:, 2] + shifts[index, 1]
        across = np.exp(-((columns[None, :] - x[:, None]) ** 2) / (2 * widths[:, None] ** 2))
        y = places[:, 1] + shifts[index, 0]
        along = np.exp(-((rows[None, :] - y[:, None]) ** 2) / (2 * widths[:, None] ** 2))
        phase = -0.3 * (along.T @ across)
        ramp = 2 * np.pi * rng.uniform(-3, 3, 2) / shape
        noise = rng.normal(0.0, 1e-3, (2, *shape))
        wave = np.exp(1j * (phase + ramp[0] * rows[:, None] + ramp[1] * columns[None, :]))
        yield (wave + noise[0] + 1j * noise[1]).astype(np.complex64)


def scale_rows(n: int, shape: tuple[int, int]) -> Iterator[Row]:
    """Time and memory of one series from raw to aligned."""
    rng = np.random.default_rng(0)
    shifts = rng.uniform(-15.0, 15.0, (n, 2))
    spent = [0.0, 0.0]

    def timed() -> Iterator[NDArray[np.complex64]]:
        frames = blob_frames(n, shape, shifts, rng)
        while True:
            begun = time.perf_counter()
            frame = next(frames, None)
            spent[0] += time.perf_counter() - begun
            if frame is None:
                return
            yield frame

    begun = time.perf_counter()
    angles = np.arange(n) * 180.0 / n
    stack = prepare_series(timed(), angles, PIXEL_SIZE_M, 5468.0)
    prepared = time.perf_counter() - begun - spent[0]
    begun = time.perf_counter()
    found = align_series(stack.data, np.deg2rad(angles))
    spent[1] = time.perf_counter() - begun
    residual = alignment_residual(found.shifts, -shifts, np.deg2rad(angles))[0]
    size = f"{n} x {shape[1]} x {shape[0]}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield Row(f"{size}: raw to phase", prepared / 60.0, 30.0, 8.0, "min", seconds=prepared)
    yield Row(f"{size}: phase to aligned", spent[1] / 60.0, 30.0, 8.0, "min", seconds=spent[1])
    yield Row(f"{size}: residual", residual, 0.1, 0.03, "px")
    yield Row(f"{size}: peak memory", peak, 8.0, 4.0, "GiB")


def measure(size: str, wanted: list[str]) -> Iterator[Row]:
    """Measure the rows of a size.

    Parameters
    ----------
    size : `tiny`, `demo` or `paper`.
    wanted : of shifts, partial, tilts, published, end, stress; all when empty.
    """
    if size == "paper":
        yield from scale_rows(280, (650, 760))
        return
    tiny = size == "tiny"
    sample = Sample(larger(PRESETS[size]))
    tilts = ["tilt1", "tilt2"] if tiny else ["tilt1", "tilt2", "tilt3", "tilt4"]

    def asked(name: str) -> bool:
        return not wanted or name in wanted

    if any(asked(name) for name in ("shifts", "tilts", "end")):
        begun = time.perf_counter()
        results = [aligned(sample.pair(tilt)) for tilt in tilts]
        seconds = time.perf_counter() - begun
        yield shifts_row(results, seconds)
        yield pairs_row(results, seconds)
        if asked("tilts"):
            yield from tilt_rows(results)
        if asked("end"):
            yield from end_rows(sample, results, tiny)
    if asked("partial"):
        yield from partial_rows(sample, tilts[: 1 if tiny else 2])
    if asked("published"):
        yield from published_rows()
    if asked("stress"):
        yield from stress_rows(QUICK if tiny else list(cases()))
    if tiny and asked("scale"):
        yield from scale_rows(24, (80, 96))


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=("tiny", "demo", "paper"), default="tiny")
    names = ("shifts", "partial", "tilts", "published", "end", "stress", "scale")
    parser.add_argument("--rows", nargs="*", choices=names, default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)

    table = Table[Row](as_json=given.json)
    table.add(measure(given.size, given.rows))
    return table.complete()


if __name__ == "__main__":
    main()
