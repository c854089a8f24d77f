"""Benchmark of the projectors on a GPU.

    python tests/benchmarks/gpu.py [--size tiny|demo|paper] [--keep]

Seconds of one forward and back projection, the median of several, after one that compiles. With
`--keep` they are kept in `tests/benchmarks/gpu_figures.json` under the name of the device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backend
from pipeline.tomography.contrast import linear_difference_weights, scalar_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector, Scheme

FIGURES = Path(__file__).with_name("gpu_figures.json")

SIZES = {"tiny": (24, 18, 3), "demo": (128, 180, 7), "paper": (256, 280, 5)}
"""Edge of the volume [voxel], angles, repetitions."""

SCHEMES: tuple[Scheme, ...] = ("series", "general", "four-subvoxel")


def measure(size: str) -> list[dict[str, Any]]:
    """Time every scheme, for a scalar field and for linear dichroism, tilted by 30 degrees."""
    xp = backend.gpu_module()
    n, angles, repeats = SIZES[size]
    rotations = series_rotations(np.linspace(0.0, 180.0, angles, endpoint=False), 30.0)
    contrasts = {
        "scalar": scalar_weights(angles),
        "linear dichroism": linear_difference_weights(rotations),
    }
    rows = []
    for contrast, weights in contrasts.items():
        for scheme in SCHEMES:
            projector = Projector((n, n, n), (n, n), rotations, weights, scheme)
            rng = xp.random.default_rng(1)
            field = rng.standard_normal(projector.field_shape, dtype=np.float32)
            seconds = []
            for _ in range(repeats + 1):
                started = time.perf_counter()
                projector.normal(field)
                xp.cuda.runtime.deviceSynchronize()
                seconds.append(time.perf_counter() - started)
            rows.append(
                {"size": size, "contrast": contrast, "scheme": scheme, "voxels": n**3,
                 "angles": angles, "seconds": float(np.median(seconds[1:]))}
            )  # fmt: skip
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print the figures, and keep them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args(arguments)
    if not backend.gpu_available():
        sys.exit("no GPU that cupy can use: nothing is measured")
    rows = measure(chosen.size)
    for row in rows:
        print(f"{row['contrast']:18} {row['scheme']:14} {row['seconds']:.4f} s", flush=True)
    if chosen.keep:
        kept = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
        kept[backend.device_name()] = rows
        FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    main()
