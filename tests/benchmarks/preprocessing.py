"""Benchmark of the preprocessing against known truth: one row for each thing that must be shown.

    python tests/benchmarks/preprocessing.py [--size tiny|paper] [--json]

`tiny` measures the left-over ramp and offset, the resampling, what quality and repair find, and
published files; `paper` adds the time of frames of 760 x 650 pixels. Each row prints what was
measured beside its floor and goal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from table import Row, Table

from pipeline.io import reader_for
from pipeline.preprocess.air import fit_air
from pipeline.preprocess.crop import common_crop
from pipeline.preprocess.phase import extract_phase
from pipeline.preprocess.prepare import prepare_series
from pipeline.preprocess.quality import QUALITY, measure_frame, score_measures
from pipeline.preprocess.resample import fourier_resample
from pipeline.simulate.beamtime import (
    SeriesTruth,
    clean_transmission,
    noise_for_snr,
    plan_beamtime,
    transmissions,
)
from pipeline.simulate.phantoms import pillar
from pipeline.simulate.presets import PRESETS
from schemas.recipe import PhaseSettings

DATA = Path(__file__).parents[2] / "../shared/data"

BORDER = 32
"""Pixels along the border that are not called interior."""


def ramp_rows() -> list[Row]:
    """Plane that is left in the air of simulated projections with ramps of three cycles."""
    preset = PRESETS["tiny"]
    phantom_seed, *seeds = np.random.SeedSequence(0).spawn(11)
    phantom = pillar(preset, np.random.default_rng(phantom_seed))
    truths = plan_beamtime(preset, seeds[0], seeds[1:])
    sigma = noise_for_snr(preset, phantom, truths[0], truths[1])
    ramps, offsets = [], []
    for truth in (truths[0], truths[3]):
        steeper = _steeper(truth, 3.0 / preset.ramp_cycles)
        frames = list(transmissions(preset, phantom, steeper, sigma))
        stack = prepare_series(frames, truth_angles(truth), truth.pixel_size_m, 5468.0)
        for index, phase in enumerate(stack.data):
            wanted = np.angle(clean_transmission(preset, phantom, truth, index))
            plane = _plane((phase - wanted)[wanted > -1e-3], np.argwhere(wanted > -1e-3))
            ramps.append(float(np.abs(plane[1:] * phase.shape).sum()))
            middle = plane[0] + plane[1:] @ (np.array(phase.shape) // 2)
            offsets.append(abs(float(middle)))
    unit = "rad across the frame"
    return [
        Row("residual ramp", max(ramps), 5e-3, 1e-3, unit, f"rms {rms(ramps):.2g}"),
        Row("residual offset", max(offsets), 5e-3, 1e-3, "rad", f"rms {rms(offsets):.2g}"),
    ]


def truth_angles(truth: SeriesTruth) -> NDArray[np.float64]:
    """Angles of a simulated series."""
    return np.asarray(truth.series.angles_deg, np.float64)


def _steeper(truth: SeriesTruth, factor: float) -> SeriesTruth:
    return replace(truth, ramps=truth.ramps * factor)


def _plane(values: NDArray[Any], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """Offset at pixel zero and slopes of the least-squares plane."""
    design = np.column_stack([np.ones(len(places)), places])
    found: NDArray[np.float64] = np.linalg.lstsq(design, values.astype(np.float64), rcond=None)[0]
    return found


def rms(values: list[float]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def waves(scale: float, highest: float, shape: tuple[int, int]) -> NDArray[np.complex128]:
    """Twenty plane waves up to a frequency [cycles/pixel], sampled at `scale`."""
    rng = np.random.default_rng(1)
    y, x = ((np.arange(n) - n // 2) * scale for n in shape)
    image = np.zeros(shape, np.complex128)
    for a, b, phase in zip(
        *rng.uniform(-highest, highest, (2, 20)), rng.uniform(0, 2 * np.pi, 20), strict=True
    ):
        along_y, along_x = np.exp(2j * np.pi * a * y + 1j * phase), np.exp(2j * np.pi * b * x)
        image += along_y[:, None] * along_x[None]
    return image


def resampling_rows() -> Iterator[Row]:
    """Interior of band-limited images, either way and up to near the Nyquist frequency."""
    for pixel_in, pixel_out in ((31.29, 30.91), (30.91, 31.29)):
        worst = 0.0
        for highest in (0.25, 0.4, 0.43):
            shape = (160, 151)
            wanted = waves(pixel_out / pixel_in, highest, shape)
            found = fourier_resample(waves(1.0, highest, shape), pixel_in, pixel_out)
            inner = np.s_[BORDER:-BORDER, BORDER:-BORDER]
            worst = max(worst, float(np.abs(found - wanted)[inner].max() / np.abs(wanted).max()))
        name = f"resampling {pixel_in} to {pixel_out} nm"
        yield Row(name, worst, 1e-3, 1e-5, "relative", "interior, up to 0.43 cycles/pixel")


def quality_rows() -> list[Row]:
    """False alarms of a clean series, and planted projections that were missed."""
    preset = PRESETS["tiny"]
    phantom_seed, *seeds = np.random.SeedSequence(1).spawn(11)
    phantom = pillar(preset, np.random.default_rng(phantom_seed))
    truths = plan_beamtime(preset, seeds[0], seeds[1:])
    sigma = noise_for_snr(preset, phantom, truths[0], truths[1])
    frames = list(transmissions(preset, phantom, truths[0], sigma))
    angles = truth_angles(truths[0])
    clean = _outliers(frames, angles)
    spoilt = list(frames)
    spoilt[3] = gaussian_filter(spoilt[3].real, 2) + 1j * gaussian_filter(spoilt[3].imag, 2)
    spoilt[9] = spoilt[9].copy()
    spoilt[9][:, : spoilt[9].shape[1] // 2] = 1.0
    x = np.linspace(-1.0, 1.0, spoilt[15].shape[1])
    spoilt[15] = spoilt[15] * np.exp(0.2j * x**2)
    missed = sum(not out for out in _outliers(spoilt, angles)[[3, 9, 15]])
    return [
        Row("false alarms", 100.0 * float(clean.mean()), 1.0, 0.0, "% of projections"),
        Row("planted projections missed", float(missed), 0.0, 0.0, "of 3"),
    ]


def _outliers(frames: list[NDArray[Any]], angles: NDArray[np.float64]) -> NDArray[np.bool_]:
    stack = prepare_series(frames, angles, 30.91e-9, 5468.0)
    measures = np.stack([stack.diagnostics[name] for name in QUALITY], axis=1)
    return score_measures(measures, angles).outliers


def published_rows() -> Iterator[Row]:
    """Real files: 0 where all of shape, border, finite phase and air at zero are right."""
    for name, kind, shape in (
        ("als-cosmic-856ev/ptycho-scan-856eV.cxi", "cxi", (285, 285)),
        ("ptypy-ptyr/scan_scan1.ptyr", "ptypy", (402, 416)),
    ):
        path = DATA / name
        if not path.is_file():
            continue
        reader = reader_for(kind)  # type: ignore[arg-type]
        (image,) = reader.frames(path)
        info = reader.inspect(path)
        part = common_crop([image])
        stack = prepare_series([image], np.zeros(1), 1e-8, 900.0, crop=part)
        wrong = [
            text
            for text, right in (
                ("shape", image.shape == shape and info.shape == shape),
                ("metadata", bool(info.pixel_size_m and info.energy_ev)),
                ("missing border", stack.diagnostics["quality_missing"][0] == 0.0),
                ("not finite", bool(np.isfinite(stack.data).all())),
                ("air", abs(float(np.median(stack.data[0]))) < 0.1),
            )
            if not right
        ]
        ny, nx = stack.data.shape[1:]
        detail = f"{ny} x {nx} left; wrong: {', '.join(wrong) or 'nothing'}"
        yield Row(path.name, float(len(wrong)), 0.0, 0.0, "wrong of 5", detail)


def vortex_rows() -> Iterator[Row]:
    """Phase of projections with vortices, by its derivative and by unwrapping along a path."""
    n, rng = 96, np.random.default_rng(3)
    grid = np.arange(n) - n // 2
    truth = -14.0 * np.exp(-(grid**2) / 2 / 13.0**2 - (grid[:, None] ** 2) / 2 / 17.0**2)
    errors: dict[str, list[float]] = {"auto": [], "phase": []}
    for _ in range(12):
        phase = truth.copy()
        for y, x, dy, dx in rng.uniform(-1, 1, (3, 4)) * (12, 12, 4, 4):
            for sign in (1, -1):
                up, right = grid[:, None] - y - sign * dy, grid - x - sign * dx
                phase += sign * np.arctan2(up, right)
        noise = rng.normal(0.0, 0.02, (2, n, n))
        wave = (np.exp(1j * phase) + noise[0] + 1j * noise[1]).astype(np.complex64)
        for entry in ("auto", "phase"):
            found = extract_phase(wave, PhaseSettings(entry=entry)).phase  # type: ignore[arg-type]
            errors[entry].append(rms((found - truth)[truth < -0.5].tolist()))
    detail = f"unwrapped {np.median(errors['phase']):.2g}; 3 vortex pairs in each of 12"
    yield Row("phase about vortices", float(np.median(errors["auto"])), 0.2, 0.1, "rad rms", detail)


def time_rows() -> list[Row]:
    """Seconds of frames of the published size (floor and goal are half of what a series may take
    from raw to aligned), and what their quality costs of it."""
    shape = (760, 650)
    rng = np.random.default_rng(0)
    y, x = (np.arange(n)[:, None] - n // 2 for n in shape)
    depth = np.sqrt(np.clip(1 - (x.T / 200.0) ** 2 - (y / 450.0) ** 2, 0, None))
    noise = rng.normal(0.0, 0.01, (2, *shape))
    frame = np.exp(-(0.05 + 2.5j) * depth + 0.03j * x.T) + noise[0] + 1j * noise[1]
    frames = [frame.astype(np.complex64)] * 3
    begun = time.perf_counter()
    prepare_series(frames, np.arange(3.0), 30.91e-9, 5468.0)
    whole = (time.perf_counter() - begun) / 3
    fit = fit_air(frames[0])
    flat = fit.flatten(frames[0])
    begun = time.perf_counter()
    for item in frames:
        measure_frame(item, None, fit, flat)
    share = (time.perf_counter() - begun) / 3 / whole
    begun = time.perf_counter()
    prepare_series(frames, np.arange(3.0), 31.29e-9, 5468.0, 30.91e-9)
    resampled = (time.perf_counter() - begun) / 3 / whole
    return [
        Row("280 frames of 760 x 650", 280 * whole, 900.0, 240.0, "s"),
        Row("quality's part of it", 100.0 * share, 20.0, 10.0, "%"),
        Row("resampled over not resampled", resampled, 1.5, 1.1, "times as long"),
    ]


def measure(size: str) -> list[Row]:
    """All rows of one size."""
    rows = [*ramp_rows(), *resampling_rows(), *quality_rows(), *vortex_rows(), *published_rows()]
    return rows + (time_rows() if size == "paper" else [])


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=("tiny", "paper"), default="tiny")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    table = Table[Row](as_json=options.json, label="name")
    table.add(measure(options.size))
    return table.complete()


if __name__ == "__main__":
    main()
