"""A beamtime that is processed in seconds, for runs that are disturbed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
import yaml
from scipy import ndimage

from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

SIZE = 20
ANGLES = np.linspace(0.0, 180.0, 12, endpoint=False)
MOUNTINGS = {"upright": (0.0, 0.0), "leaning": (30.0, 0.0), "turned": (30.0, 90.0)}
RECIPE = "orientation: {iterations: 12, refine_iterations: 0, smoothness: 0.1}\n"


def write_beamtime(folder: Path, seed: int) -> Path:
    """Differenced stacks of a random field of orientation in three mountings."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=(SIZE,) * 3), 2.0) for _ in range(6)])
    z, y, x = np.indices((SIZE,) * 3) - SIZE // 2
    field *= (x**2 + y**2 + z**2) < (0.4 * SIZE) ** 2
    series = []
    for name, mounting in MOUNTINGS.items():
        rotations = series_rotations(ANGLES, *mounting)
        projector = Projector(
            (SIZE,) * 3, (SIZE, SIZE), rotations, linear_difference_weights(rotations)
        )
        tifffile.imwrite(folder / f"{name}.tif", projector.forward(field.astype(np.float32)))
        series.append(
            {
                "name": name,
                "files": [f"{name}.tif"],
                "format": "tiff",
                "state": "differenced",
                "contrast": "linear",
                "tilt": {"name": name, "tilt_deg": mounting[0], "pre_rotation_deg": mounting[1]},
                "energy": {"energy_ev": 5468.0, "edge": "V K"},
                "pixel_size_m": 3e-8,
                "angles_deg": ANGLES.tolist(),
            }
        )
    content = {"sample": {"name": f"small {seed}"}, "series": series, "products": ["orientation"]}
    path = folder / "beamtime.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def driver(load: Callable[[str], ModuleType]) -> ModuleType:
    """`driver.py` as a module."""
    return load("faults/driver.py")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`beamtime.yaml` of the small beamtime; read only."""
    return write_beamtime(tmp_path_factory.mktemp("small") / "beamtime", 1)


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe of few iterations for it."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    prefect_api: str,
    small: Path,
    small_recipe: Path,
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    """Output folder of a run of the small beamtime that nobody disturbed; read only."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = cli("run", small, "--out", out, "--recipe", small_recipe, "--cluster", "none")
    assert done.returncode == 0, done.stderr
    return out
