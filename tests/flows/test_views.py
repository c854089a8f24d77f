"""A mounting whose frames are not all pairs: aligned by view, assembled, and fitted jointly."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from flows.steps import views
from flows.steps.directions import solve_orientation, solve_twin, solver_bytes
from flows.steps.refine import align_jointly
from pipeline.io.stacks import load_differenced, save_phase
from pipeline.preprocess.resample import fourier_shift
from pipeline.stacks import PhaseStack
from pipeline.tomography.contrast import TENSOR_COMPONENTS, polarised_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector
from schemas.recipe import AlignSettings, OrientationSettings

N = 32
ANGLES = np.arange(0.0, 180.0, 10.0)
POLARISATIONS = [[0.0, 0.64], [90.0, 0.64]]
MISSING = [3, 4, 11]
SETTINGS = AlignSettings(levels=[2, 1], iterations=3)


def field() -> np.ndarray:
    """A lopsided body of two grains, seven components."""
    z, y, x = np.indices((N, N, N)) - N // 2
    body = (x / 7) ** 2 + (y / 9) ** 2 + (z / 6) ** 2 < 1
    body |= (x - 5) ** 2 + (y + 4) ** 2 + (z - 2) ** 2 < 16
    axes = np.array([[0.2, 0.9, 0.38], [0.8, -0.3, 0.52]])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    axis = np.moveaxis(axes[(x > 1).astype(int)], -1, 0)
    tensor = [2e-3 * axis[i] * axis[j] * body for i, j in TENSOR_COMPONENTS]
    made = np.stack([*tensor, (0.016 + 2e-3 / 3.0) * body])
    return np.stack([ndimage.gaussian_filter(part, 0.7) for part in made]).astype(np.float32)


@pytest.fixture(scope="module")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Folder with the phase of LH and of LV, which lacks three frames; planted shifts of LV."""
    folder = tmp_path_factory.mktemp("mounting")
    rng = np.random.default_rng(0)
    body = field()
    planted = rng.uniform(-1.0, 1.0, (len(ANGLES), 2))
    for index, (angle, degree) in enumerate(POLARISATIONS):
        rotations = series_rotations(ANGLES)
        weights = polarised_weights(rotations, angle, degree)
        data = -Projector((N, N, N), (N, N), rotations, weights).forward(body)
        data += rng.normal(scale=1e-4, size=data.shape).astype(np.float32)
        kept = np.arange(len(ANGLES))
        if index:
            data = np.stack([fourier_shift(f, *-s) for f, s in zip(data, planted, strict=True)])
            kept = np.delete(kept, MISSING)
        stack = PhaseStack(data[kept].astype(np.float32), ANGLES[kept], 3e-8, 5468.0, 1e-4, {})
        save_phase(folder / f"phase_{index}.h5", stack)
    phases = [folder / f"phase_{index}.h5" for index in (0, 1)]
    views.align(folder, phases, POLARISATIONS, SETTINGS)
    return folder, planted


def assemble(folder: Path, out: Path, *, joint: bool) -> Path:
    out.mkdir()
    phases = [folder / f"phase_{index}.h5" for index in (0, 1)]
    alignment = folder / "alignment.npz"
    base = np.eye(3).tolist()
    views.assemble(out, phases, alignment, None, base, (N, N), POLARISATIONS, joint, 0.4)
    return out


def test_frames_find_their_partners_and_their_shifts(mounting: tuple[Path, np.ndarray]) -> None:
    folder, planted = mounting
    with np.load(folder / "alignment.npz") as found:
        kept = np.delete(np.arange(len(ANGLES)), MISSING)
        np.testing.assert_array_equal(found["view_0"], np.arange(len(ANGLES)))
        np.testing.assert_array_equal(found["view_1"], kept)
        np.testing.assert_array_equal(found["partners"][:, 0], [0, 1])
        np.testing.assert_array_equal(found["partners"][0, 1:], kept)
        np.testing.assert_array_equal(found["partners"][1, 1:], np.arange(len(kept)))
        between = found["shifts_1"] - found["shifts_0"][kept]
    # Registration of a pair on a small body; the joint round is what refines it.
    assert np.sqrt(np.mean((between - planted[kept]) ** 2)) < 0.15


def test_rows_partners_and_means_are_written(
    mounting: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    out = assemble(mounting[0], tmp_path / "joint", joint=True)
    pairs = len(ANGLES) - len(MISSING)
    rows = load_differenced(out / "joint.h5")
    assert rows.data.shape == (pairs + len(ANGLES), N, N)
    assert rows.weights.shape[1] == 7
    assert rows.point_spread_px == 0.4
    assert load_differenced(out / "differenced.h5").data.shape == (pairs, N, N)
    assert load_differenced(out / "means.h5").data.shape == (pairs, N, N)
    assert load_differenced(out / "scalar.h5").data.shape == (len(ANGLES), N, N)
    assert (out / "preview.npz").exists()
    apart = assemble(mounting[0], tmp_path / "difference", joint=False)
    assert not (apart / "joint.h5").exists()


def test_the_joint_round_moves_partners_only(
    mounting: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder = mounting[0]
    made = assemble(folder, tmp_path / "made", joint=True)
    support = field()[6] > 4e-3
    np.save(tmp_path / "support.npy", support)
    np.save(tmp_path / "volume.npy", field()[6])
    out = tmp_path / "out"
    out.mkdir()
    align_jointly(
        out,
        [made / "differenced.h5"],
        [made / "means.h5"],
        {"m": folder / "alignment.npz"},
        tmp_path / "volume.npy",
        tmp_path / "support.npy",
        0,
    )
    with np.load(folder / "alignment.npz") as old, np.load(out / "m" / "alignment.npz") as new:
        moved = [new[f"shifts_{k}"] - old[f"shifts_{k}"] for k in (0, 1)]
        assert [new[f"joint_{k}"].shape[1] for k in (0, 1)] == [len(ANGLES), len(moved[1])]
    assert not moved[0][MISSING].any()
    np.testing.assert_allclose(np.delete(moved[0], MISSING, axis=0), -moved[1], atol=1e-12)
    assert moved[1].any()


def test_solve_half_and_twin_use_the_noise_of_the_whole(
    mounting: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    made = assemble(mounting[0], tmp_path / "made", joint=True)
    np.save(tmp_path / "support.npy", field()[6] > 4e-3)
    support = tmp_path / "support.npy"
    settings = OrientationSettings(smoothness=0.5, iterations=6, refine_iterations=3)
    folders = {name: tmp_path / name for name in ("whole", "half", "twin")}
    for folder in folders.values():
        folder.mkdir()
    stacks = [made / "joint.h5"]
    solve_orientation(folders["whole"], stacks, support, settings, 0)
    like = folders["whole"] / "found.json"
    solve_orientation(folders["half"], stacks, support, settings, 0, 1, like)
    fields = folders["whole"] / "fields.npz"
    solve_twin(folders["twin"], stacks, fields, like, support, settings, 0)
    words = [json.loads((folder / "found.json").read_text()) for folder in folders.values()]
    assert set(words[0]["row_noise"]) == {"0", "1", "2"}
    assert words[1]["row_noise"] == words[2]["row_noise"] == words[0]["row_noise"]
    with np.load(fields) as whole, np.load(folders["twin"] / "fields.npz") as twin:
        inside = np.load(support)
        assert whole["isotropic"].shape == (N, N, N)
        assert np.median(whole["isotropic"][inside]) == pytest.approx(0.0167, rel=0.1)
        same = np.abs(np.sum(whole["axis"] * twin["axis"], axis=0))[inside]
        assert np.median(same) > 0.9
    with h5py.File(stacks[0]) as file:
        views_of_it = len(file["data"]) // 2
    assert solver_bytes(stacks, support) > 4 * 7 * N**3 + views_of_it
