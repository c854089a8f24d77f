"""Particles at three energies: raw projections to a map of composition, by the same flow."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from pipeline.errors import InputError
from pipeline.io.beamtime import load_beamtime
from pipeline.io.results import read_result
from pipeline.simulate.beamtime import simulate_beamtime

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`beamtime.yaml` of the smallest chemical preset; read only."""
    return simulate_beamtime(tmp_path_factory.mktemp("particles") / "in", "tiny-chemistry", 1)


def changed(source: Path, folder: Path, **changes: object) -> Path:
    """A copy of a beamtime with some keys of `chemistry` changed; the raw data are links."""
    folder.mkdir()
    content = yaml.safe_load(source.read_text())
    content["chemistry"] |= changes
    (folder / "beamtime.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(source.parent / "references.txt", folder)
    (folder / "raw").symlink_to(source.parent / "raw")
    return folder / "beamtime.yaml"


def test_raw_projections_to_composition(
    particles: Path, tmp_path: Path, prefect_api: str, cli: Call
) -> None:
    path = changed(
        particles, tmp_path / "in", validation={"file": "independent.h5", "angle_deg": 0.0}
    )
    with h5py.File(particles.parent / "truth.h5") as truth:
        # What a microscope that measured the composition along the beam would have seen.
        labels, share = truth["labels"][()], truth["table/composition"][()]
    amounts = np.stack([np.where(labels > 0, s[labels], 0.0) for s in (share, 1.0 - share)])
    first, both = amounts.sum(axis=1)
    fine = np.where(first + both > 4, first / np.maximum(first + both, 1), np.nan)
    with h5py.File(tmp_path / "in" / "independent.h5", "w") as file:
        file["composition"] = fine[::2, ::2]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("align: {levels: [2, 1], iterations: 6}\nscalar: {iterations: 20}\n")
    out = tmp_path / "out"
    done = cli("run", path, "--out", out, "--recipe", recipe, "--cluster", "none")
    assert done.returncode == 0, done.stderr
    done = cli("score", out, "--truth", particles.parent / "truth.h5", "--json")
    score = {name: item["value"] for name, item in json.loads(done.stdout).items()}
    # 0.024 and 0.013: 32 angles, photon noise, particles a few voxels thick; 0.064 where energies
    # are registered as if their contrast were the same.
    assert score["composition_error_rms"] < 0.05
    assert score["composition_error_median"] < 0.03
    assert abs(score["composition_bias"]) < 0.02
    assert score["particles_matched"] >= 0.8 * score["particles_true"]
    assert score["alignment_residual_px"] < 0.1
    made = read_result(out / "result.nxs").products
    assert made["chemistry"].figures["validation_close"].value > 0.8
    assert made["chemistry"].maps["phase"].values.max() == 3
    # 3e4 photons in each pixel of 10 nm, and nothing but them makes the noise.
    fluence = made["dose"].tables["series"].columns["fluence"]
    np.testing.assert_allclose(fluence, 32 * 3e4 / (10e-9) ** 2, rtol=0.2)


def test_energies_that_say_nothing_are_refused_before_computing(
    particles: Path, tmp_path: Path, cli: Call
) -> None:
    path = changed(particles, tmp_path / "in", references="flat.txt")
    (tmp_path / "in" / "flat.txt").write_text(
        "# energy oxidised reduced\n700 0 0\n708 1 1.001\n720 1 1\n"
    )
    done = cli("check", path, "--no-scan")
    assert done.returncode == 1
    assert "708, 710 eV do not tell oxidised and reduced apart" in done.stderr
    assert "condition number of at most 100, found" in done.stderr


def test_what_a_chemical_beamtime_lacks_is_said(particles: Path, tmp_path: Path) -> None:
    path = changed(particles, tmp_path / "a", references="none.txt")
    with pytest.raises(InputError, match=r"chemistry\.references: file 'none\.txt' does not exist"):
        load_beamtime(path)
    path = changed(particles, tmp_path / "b", pre_edge_ev=650.0)
    with pytest.raises(InputError, match=r"650 is not the energy of a series; .* 703, 708, 710"):
        load_beamtime(path)
    content = yaml.safe_load(particles.read_text())
    del content["chemistry"]
    content["products"] = ["chemistry"]
    (tmp_path / "b" / "beamtime.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="products: 'chemistry' needs the key 'chemistry'"):
        load_beamtime(tmp_path / "b" / "beamtime.yaml")
