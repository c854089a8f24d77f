"""Rotations of a group's stacks refined together, as a step of a run does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from flows.steps.refine import refine_rotations
from pipeline.align.turns import misorientation_rms_deg, turned_rotations
from pipeline.io.stacks import load_differenced, save_differenced
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import circular_weights, scalar_weights
from pipeline.tomography.geometry import euler_rotations
from pipeline.tomography.projector import Projector
from schemas.recipe import AngleSettings

N = 16


def test_scalar_and_difference_of_all_groups_share_their_turns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((N,) * 3, bool)
    inside[4:12, 3:13, 5:12] = inside[6:10, 6:10, 3:14] = True
    texture = np.stack([gaussian_filter(rng.normal(size=inside.shape), 1.0) for _ in range(4)])
    field = (inside * texture / texture.std()).astype(np.float32)
    tilts = np.linspace(-66.0, 66.0, 12)
    folders, truths, givens = {}, {}, {}
    for name, phi in (("first", 0.0), ("second", 90.0)):
        given = euler_rotations(np.stack([0 * tilts + phi, tilts, 0 * tilts], axis=1))
        true = turned_rotations(given, np.deg2rad(rng.normal(0.0, 1.0, (len(given), 3))))
        folder = tmp_path / f"assembled-{name}"
        folder.mkdir()
        for file, part, contrast in (
            ("scalar.h5", field[:1] + 3.0 * inside, "scalar"),
            ("differenced.h5", field[1:], "circular"),
        ):
            weights = (
                circular_weights if contrast == "circular" else lambda r: scalar_weights(len(r))
            )
            data = Projector((N,) * 3, (N, N), true, weights(true), "fourier").forward(part)
            data += rng.normal(0.0, 0.05, data.shape).astype(np.float32)
            stack = DifferencedStack(data, given, weights(given), contrast, 1e-9, 0.05)
            save_differenced(folder / file, stack)
        folders[name] = {file: folder / file for file in ("scalar.h5", "differenced.h5")}
        truths[name], givens[name] = true, given
    np.save(tmp_path / "support.npy", inside)
    out = tmp_path / "angles"
    out.mkdir()
    both = ["scalar.h5", "differenced.h5"]
    refine_rotations(out, folders, both, tmp_path / "support.npy", AngleSettings(rounds=2), 0)
    found = []
    for name in folders:
        with np.load(out / name / "angles.npz") as file:
            assert np.allclose(file["given"], givens[name])
            found.append(file["refined"])
        for stack in both:
            assert np.allclose(load_differenced(out / name / stack).rotations, found[-1])
    true = np.concatenate(list(truths.values()))
    before, _ = misorientation_rms_deg(np.concatenate(list(givens.values())), true)
    after, _ = misorientation_rms_deg(np.concatenate(found), true)
    assert after < 0.5 * before
