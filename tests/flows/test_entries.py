"""Beamtimes of other kinds than the demo: published aligned stacks, and raw circular dichroism."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.io.ptychoshelves import PtychoShelvesReader, write_projection
from pipeline.simulate.beamtime import simulate_beamtime
from pipeline.simulate.presets import PRESETS
from pipeline.tomography.contrast import circular_weights, scalar_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]

STILL = replace(
    PRESETS["tiny"],
    shift_px=0.0,
    displacement_px=0.0,
    axis_offset_px=0.0,
    tilt_error_deg=0.0,
    ramp_cycles=0.0,
)


def put(group: h5py.Group, name: str, matlab: NDArray[np.floating]) -> None:
    """Store an array as MATLAB v7.3 does: axes reversed."""
    group[name] = np.ascontiguousarray(matlab.transpose())


def write_xldot(source: Path, folder: Path) -> None:
    """The simulated beamtime in the layout of the public XL-DOT files: aligned phase, matrices."""
    folder.mkdir()
    layout = {f"aligned_proj_tilt{k}.mat": (f"tilt{k}_lh", f"tilt{k}_lv") for k in (1, 2, 3, 4)}
    layout["off_resonance_projections.mat"] = ("offres",)
    with h5py.File(source / "truth.h5") as truth:
        for file_name, members in layout.items():
            with h5py.File(folder / file_name, "w") as file:
                struct = file.create_group("aligned_q" if len(members) == 1 else "aligned_r")
                for member in members:
                    kind = "ch" if member == "offres" else member[-2:]
                    known = truth[f"series/{member}"]
                    paths = sorted((source / "raw" / member).glob("*.h5"))
                    frames = [next(PtychoShelvesReader().frames(path)) for path in paths]
                    air = np.exp(-1j * known["offsets"][()])[:, None, None]
                    phase = np.angle(np.stack(frames) * air).astype(np.float32)
                    put(struct, f"data_{kind}_shift", phase.transpose(2, 1, 0))
                    put(struct, f"R_{kind}", known["rotations"][()].transpose(1, 2, 0))
                    put(struct, f"theta_{kind}", known["angles_deg"][()][None, :])
                if len(members) == 1:
                    file["factor_edensity"] = np.array([[50.0]])


def test_public_xldot_files_to_an_orientation_map(
    tmp_path: Path, prefect_api: str, cli: Call
) -> None:
    simulate_beamtime(tmp_path / "source", STILL, 2)
    write_xldot(tmp_path / "source", tmp_path / "record")
    beamtime, out = tmp_path / "beamtime", tmp_path / "out"
    for command in (
        ("import", "xldot-public", tmp_path / "record", "--out", beamtime),
        ("run", beamtime / "beamtime.yaml", "--out", out, "--cluster", "none"),
    ):
        done = cli(*command)
        assert done.returncode == 0, done.stderr
    done = cli("score", out, "--truth", tmp_path / "source" / "truth.h5", "--json")
    score = json.loads(done.stdout)
    # Noise and 24 angles; the raw path on this size gives 3.4 degrees.
    assert score["orientation_error_median_deg"]["value"] < 5
    assert score["orientation_within_10deg_percent"]["value"] > 80
    # The files say neither pixel size nor energy: the published ones, which are the simulation's.
    assert abs(score["electron_density_v2o5_error_percent"]["value"]) < 2


def lopsided(n: int) -> NDArray[np.bool_]:
    """A body without any symmetry, in a cube of edge n."""
    z, y, x = np.indices((n, n, n)) - n // 2
    body = (x / 9) ** 2 + (y / 11) ** 2 + (z / 7) ** 2 < 1
    body |= (x - 6) ** 2 + (y + 5) ** 2 + (z - 3) ** 2 < 25
    return body & ~((x + 4) ** 2 + (y - 6) ** 2 + (z + 2) ** 2 < 9)


def vortex(body: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Magnetisation that runs around y, with a core along it.

    What is hardest to align: positive on one side of a projection and negative on the other, as if
    the sample had moved between the helicities.
    """
    n = body.shape[0]
    z, y, x = np.indices(body.shape) - n // 2
    radius = np.hypot(x, z) + 2.0
    core = 0.4 * np.exp(-((radius / 5) ** 2))
    return (np.stack([z / radius, core + 0.0 * y, -x / radius]) * body).astype(np.float32)


def test_raw_circular_dichroism_to_a_magnetisation_map(
    tmp_path: Path, prefect_api: str, cli: Call
) -> None:
    n, angles, rng = 48, np.arange(0.0, 180.0, 6.0), np.random.default_rng(0)
    body = lopsided(n)
    truth = 1e-3 * vortex(body)
    porous = body & (ndimage.gaussian_filter(rng.standard_normal(body.shape), 1.2) < 0.15)
    density = 0.02 * ndimage.gaussian_filter(porous.astype(np.float32), 0.6)[None]
    series = []
    for tilt, tilt_deg in (("upright", 0.0), ("lying", 90.0)):
        rotations = series_rotations(angles, tilt_deg, 0.0)
        geometry = ((n, n, n), (n, n), rotations)
        isotropic = Projector(*geometry, scalar_weights(len(angles))).forward(density)
        magnetic = Projector(*geometry, circular_weights(rotations)).forward(truth)
        for helicity in (1, -1):
            name = f"{tilt}_{'plus' if helicity == 1 else 'minus'}"
            for k, angle in enumerate(angles):
                phase = -isotropic[k] + helicity * magnetic[k]
                noise = 3e-4 * (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n)))
                wave = (np.exp(1j * phase) + noise).astype(np.complex64)
                path = tmp_path / "raw" / name / f"{k:03d}_recons.h5"
                write_projection(
                    path, wave, pixel_size_m=2e-8, energy_ev=778.0, angle_deg=float(angle)
                )
            series.append(
                {
                    "name": name,
                    "files": [f"raw/{name}/*.h5"],
                    "tilt": {"name": tilt, "tilt_deg": tilt_deg},
                    "polarisation": {"kind": "circular", "helicity": helicity},
                    "energy": {"energy_ev": 778.0, "edge": "Co L3"},
                    "angles_deg": angles.tolist(),
                }
            )
    beamtime = tmp_path / "beamtime.yaml"
    beamtime.write_text(yaml.safe_dump({"sample": {"name": "vortex"}, "series": series}))
    done = cli("run", beamtime, "--out", tmp_path / "out", "--cluster", "none")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out" / "result.nxs") as file:
        assert "orientation" not in file["entry"]
        found = file["entry/magnetisation/vector"][()]
    # The sample frame's origin is the centre of mass: move the truth there.
    shift = [n // 2 - c for c in ndimage.center_of_mass(density[0])]
    moved = np.stack([ndimage.shift(component, shift, order=1) for component in truth])
    cut = [slice(n // 2 - m // 2, n // 2 - m // 2 + m) for m in found.shape[1:]]
    moved = moved[(slice(None), *cut)]
    for component in range(3):
        a, b = found[component].ravel(), moved[component].ravel()
        # 0.98, 0.89, 0.98; without the joint round of the alignment 0.69, 0.85, 0.85.
        assert a @ b / np.sqrt((a @ a) * (b @ b)) > (0.85 if component == 1 else 0.93)
