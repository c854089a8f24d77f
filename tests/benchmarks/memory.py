"""Memory that `check` predicts against the peaks that reconstructions reach.

    python tests/benchmarks/memory.py --size tiny|demo|paper|views [--pillar] [--json]

Each stage runs in a process of its own on noise that fills the frames, the worst case that is
predicted, or a pillar in them, with as few iterations as touch every array; `views` has so many
projections that they outweigh the volumes. The peak is the operating system's
(`VmHWM`). The bar: predicted over measured between 0.8 and 1.2, as HTTomo asks of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table import Table

LOWEST, HIGHEST = 0.8, 1.2
SIZES = {
    "tiny": [(24, 8)],
    "demo": [(64, 40), (96, 24)],
    "paper": [(64, 40), (96, 48), (160, 60)],
    "views": [(48, 700)],
}
"""Edge of the volume and projections of each of three mountings."""

MOUNTINGS = ((0.0, 0.0), (30.0, 0.0), (30.0, 90.0))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    measure: str
    predicted_bytes: int
    measured_bytes: int

    @property
    def value(self) -> float:
        """Predicted over measured."""
        return self.predicted_bytes / self.measured_bytes

    def as_json(self) -> dict[str, Any]:
        """What was predicted and measured, and their ratio."""
        return {**asdict(self), "value": self.value}

    def __str__(self) -> str:
        predicted, measured = (b / 2**30 for b in (self.predicted_bytes, self.measured_bytes))
        verdict = "ok" if LOWEST <= self.value <= HIGHEST else "OUT"
        return (
            f"{self.measure:48s} predicted {predicted:6.2f} GiB  measured {measured:6.2f} GiB  "
            f"ratio {self.value:5.2f}  (bar {LOWEST:g} to {HIGHEST:g})  {verdict}"
        )


def support_of(n: int, pillar: bool) -> NDArray[np.bool_]:
    """Support that fills the frames, or a pillar in them, (n, n, n)."""
    # Not above: the processes that are measured must not load it.
    from reconstruction_scale import pillar_support

    return pillar_support((n, n, n)) if pillar else np.ones((n, n, n), np.bool_)


def write_inputs(folder: Path, n: int, angles: int, pillar: bool) -> None:
    """Stacks of every contrast, a volume that fills the frames, and a support."""
    from pipeline.io.stacks import save_differenced
    from pipeline.stacks import DifferencedStack
    from pipeline.tomography.contrast import (
        circular_weights,
        linear_difference_weights,
        polarised_weights,
        scalar_weights,
    )
    from pipeline.tomography.geometry import series_rotations

    rng = np.random.default_rng(0)
    theta = np.arange(angles) * 180.0 / angles
    rotations = np.concatenate([series_rotations(theta, *mounting) for mounting in MOUNTINGS])
    pair = [polarised_weights(rotations, angle, 0.64) for angle in (0.0, 90.0)]
    root = np.sqrt(2.0)
    kinds = {
        "scalar": (scalar_weights(len(rotations)), rotations),
        "linear": (linear_difference_weights(rotations), rotations),
        "circular": (circular_weights(rotations), rotations),
        "joint": (
            np.concatenate([(pair[0] - pair[1]) / root, (pair[0] + pair[1]) / root]),
            np.concatenate([rotations, rotations]),
        ),
    }
    for name, (weights, turned) in kinds.items():
        data = rng.normal(size=(len(turned), n, n)).astype(np.float32) + np.float32(5.0)
        contrast = "linear" if name == "joint" else name
        stack = DifferencedStack(data, turned, weights, contrast, 3e-8, 1.0, None, 0.4)
        save_differenced(folder / f"{name}.h5", stack)
    np.save(folder / "volume.npy", np.ones((n, n, n), np.float32))
    np.save(folder / "support.npy", support_of(n, pillar))
    zeros = np.zeros((len(rotations) // 3, 2))
    for number in range(3):
        np.savez(folder / f"alignment_{number}.npz", shifts_0=zeros, shifts_1=zeros)


def run_stage(stage: str, folder: Path) -> None:
    """One stage of a run, as the flow calls it, in as few iterations as touch every array."""
    from flows.steps.directions import solve_orientation, solve_vector
    from flows.steps.refine import align_jointly
    from flows.steps.scalar import solve_scalar
    from pipeline.memory import keep_freed_memory
    from schemas.recipe import OrientationSettings, ScalarSettings, VectorSettings

    keep_freed_memory()  # As every run does.
    support, out = folder / "support.npy", folder / "out"
    out.mkdir()
    if stage == "scalar":
        solve_scalar(out, [folder / "scalar.h5"], ScalarSettings(iterations=3))
    elif stage == "joint alignment":
        names = {f"m{k}": folder / f"alignment_{k}.npz" for k in range(3)}
        linear, means = [folder / "linear.h5"], [folder / "scalar.h5"]
        align_jointly(out, linear, means, names, folder / "volume.npy", support, 0)
    elif stage == "magnetisation":
        settings = VectorSettings(iterations=3, refine_iterations=6)
        solve_vector(out, [folder / "circular.h5"], support, settings, 0)
    else:
        name = "joint" if "joint" in stage else "linear"
        settings_ = OrientationSettings(iterations=3, refine_iterations=7)
        solve_orientation(out, [folder / f"{name}.h5"], support, settings_, 0)


def peak_of(stage: str, n: int, angles: int, pillar: bool) -> int:
    """Peak memory of a stage in a process of its own [byte]."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, n, angles, pillar)
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=3000, check=False, env=env
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return int(done.stdout.split()[-1])


def own_peak() -> int:
    """Peak memory of this process [byte]."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def measure(size: str, stages: list[str] | None = None, pillar: bool = False) -> Iterator[Row]:
    """Every stage, or some, at the sizes of `size`."""
    from pipeline.plan_resources import STAGES, stage_memory

    for n, angles in SIZES[size]:
        for stage in stages or STAGES:
            count = 3 * angles
            inside = int(np.count_nonzero(support_of(n, pillar)))
            predicted = stage_memory(stage, count, (n, n), (n, n, n), inside)
            name = f"{stage}, {n}³, {count} views"
            yield Row(name, predicted, peak_of(stage, n, angles, pillar))


def main(arguments: list[str] | None = None) -> list[Row]:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--pillar", action="store_true", help="with a support of two thirds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stages", nargs="*", help="only these")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.stage is not None:
        run_stage(chosen.stage, chosen.folder)
        print(own_peak())
        return []
    table = Table[Row](as_json=chosen.json)
    table.add(measure(chosen.size, chosen.stages, chosen.pillar))
    return table.complete()


if __name__ == "__main__":
    main()
