"""Reconstructs a small field on a cluster and prints the checksum: a driver to be disturbed.

    python tests/faults/driver.py CLUSTER.json SCRATCH ITERATIONS

A line on stdout tells that an iteration has begun, the last one is the checksum of the field.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from flows.cluster.compute import open_compute
from pipeline.distribute import InProcessLeastSquares
from pipeline.progress import Progress
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LeastSquares, conjugate_gradient
from schemas.cluster import Cluster

SHAPE = (14, 12, 14)


def example(shape: tuple[int, int, int] = SHAPE, per_tilt: int = 10) -> DifferencedStack:
    """Projections of a random field in four mountings: four shards."""
    rng = np.random.default_rng(3)
    angles = np.linspace(0.0, 180.0, per_tilt, endpoint=False)
    mountings = [(0.0, 0.0), (30.0, 0.0), (30.0, 90.0), (30.0, -90.0)]
    rotations = np.concatenate([series_rotations(angles, *mounting) for mounting in mountings])
    weights = linear_difference_weights(rotations)
    field = rng.normal(size=(6, *shape)).astype(np.float32)
    data = Projector(shape, shape[1:], rotations, weights).forward(field)
    return DifferencedStack(data, rotations, weights, "linear", 1e-8, 0.0)


def solve(problem: LeastSquares, iterations: int) -> str:
    """SHA-256 of the reconstructed field and of its residuals."""

    def tell(event: Progress) -> None:
        print(f"iteration {event.done}", flush=True)

    found = conjugate_gradient(problem, iterations=iterations, progress=tell)
    digest = hashlib.sha256(found.field.tobytes())
    digest.update(np.asarray(found.residuals, dtype=np.float64).tobytes())
    return digest.hexdigest()


def undisturbed(iterations: int) -> str:
    """The checksum without any cluster."""
    return solve(InProcessLeastSquares(example(), SHAPE), iterations)


def main() -> None:
    """Reconstruct as the command line says."""
    settings = Cluster.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    with (
        open_compute(settings, Path(sys.argv[2])) as compute,
        compute.problem() as make,
    ):
        print(solve(make(example(), SHAPE), int(sys.argv[3])), flush=True)


if __name__ == "__main__":
    main()
