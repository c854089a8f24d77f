"""A full disk, files that change, too little memory, harmful YAML: one line, and on from there."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from flows.cluster import limits
from flows.cluster.limits import free_memory, refuse_full_disk, refuse_too_large
from flows.steps.directions import solver_bytes
from flows.steps.stages import enter_differenced
from flows.steps.workspace import Unkeyed, Workspace
from pipeline.errors import InputError, ResourceError
from pipeline.io.beamtime import load_beamtime
from pipeline.io.stacks import save_differenced
from pipeline.io.yaml_file import load_model
from pipeline.plan import make_plan
from pipeline.plan_resources import stage_memory
from pipeline.progress import silent
from pipeline.stacks import DifferencedStack
from schemas.recipe import Recipe


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A disk of one megabyte: a real one as root, else a limit of the same size on every file."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = mount is not None and os.geteuid() == 0
    if mounted:
        mounted = (
            subprocess.run([str(mount), *options], capture_output=True, check=False).returncode == 0
        )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_numpy(out: Path, voxels: int) -> None:
    np.savez(out / "volume.npz", volume=np.ones(voxels, np.float32))


def write_hdf5(out: Path, voxels: int) -> None:
    with h5py.File(out / "volume.h5", "w") as file:
        file["volume"] = np.ones(voxels, np.float32)


@pytest.mark.parametrize("write", [write_numpy, write_hdf5])
def test_a_full_disk_is_one_line_and_what_is_finished_stays(write, tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk") as disk, Workspace(disk / "out").locked() as workspace:
        workspace.step("small", write, {"voxels": 1000})
        with pytest.raises(ResourceError, match="no space left on the disk; what is finished st"):
            workspace.step("large", write, {"voxels": 10**6})
        assert [path.name for path in workspace.work.iterdir() if path.is_dir()] == ["small"]
        # Space was made; here, less is written.
        assert workspace.step("small", write, {"voxels": 1000}).reused
        assert not workspace.step("large", write, {"voxels": 2000}).reused


def test_too_little_disk_is_refused_before(tmp_path: Path) -> None:
    refuse_full_disk(10, tmp_path / "new" / "out")
    with pytest.raises(ResourceError, match=r"a run needs about 931322\.6 GiB of disk, "):
        refuse_full_disk(10**15, tmp_path / "new" / "out")


def test_too_little_memory_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_too_large(1000, "nothing")
    line = r"orientation needs about 931\.3 GiB of memory, .* GiB are free; resample to larger"
    with pytest.raises(ResourceError, match=line):
        refuse_too_large(10**12, "orientation")
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 10**6


def test_a_run_that_cannot_fit_begins_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.beamtime_flow import refuse_what_cannot_fit
    from flows.layout import lay_out

    layout = lay_out(small)
    refuse_what_cannot_fit(layout, Recipe(), tmp_path / "out")
    monkeypatch.setattr(limits, "free_memory", lambda: 2**18)
    with pytest.raises(ResourceError, match="a tomogram of these frames needs about"):
        refuse_what_cannot_fit(layout, Recipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("components", "stage", "rows"),
    [(3, "magnetisation", 1), (6, "orientation", 1), (7, "orientation, joint polarisations", 2)],
)
def test_a_solver_needs_what_its_stage_needs(
    components: int, stage: str, rows: int, tmp_path: Path
) -> None:
    n = 8
    rotations = np.broadcast_to(np.eye(3), (n, 3, 3))
    frames, weights = np.zeros((n, 5, 6), np.float32), np.ones((n, components))
    contrast = "circular" if components == 3 else "linear"
    stacks = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for path in stacks:
        save_differenced(path, DifferencedStack(frames, rotations, weights, contrast, 1e-8, 0.0))
    support = tmp_path / "support.npy"
    np.save(support, np.ones((6, 5, 6), bool))
    needed = stage_memory(stage, 2 * n // rows, (5, 6), (6, 5, 6))
    assert solver_bytes(stacks, support) == needed
    small = np.zeros((6, 5, 6), bool)
    small[2:4, 2, 3] = True
    np.save(support, small)
    less = stage_memory(stage, 2 * n // rows, (5, 6), (6, 5, 6), inside=2)
    assert solver_bytes(stacks, support) == less < needed


def copy_slowly(out: Path, source: Path) -> None:
    content = source.read_bytes()
    with source.open("ab") as file:  # as a detector that still writes
        file.write(b"more")
    (out / "copy").write_bytes(content)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    source = tmp_path / "scan.h5"
    source.write_bytes(b"frames")
    with (
        Workspace(tmp_path / "out").locked() as workspace,
        pytest.raises(InputError, match=r"scan\.h5: changed while it was read"),
    ):
        workspace.step("copy", copy_slowly, {"source": source})
    assert not (tmp_path / "out/work/copy").exists()


def test_a_file_that_is_truncated_after_the_check_is_named(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "beamtime"
    shutil.copytree(small.parent, folder)
    loaded = load_beamtime(folder / "beamtime.yaml")
    plan = make_plan(loaded.beamtime, loaded.folder, Recipe(), scan=True, progress=silent)
    assert plan.problems == []
    file = folder / "leaning.tif"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    series = next(item for item in loaded.beamtime.series if item.name == "leaning")
    arguments = {"series": series, "folder": Unkeyed(folder), "files": [file]}
    with Workspace(tmp_path / "out").locked() as workspace:
        with pytest.raises(InputError, match=str(file)):
            workspace.step("enter", enter_differenced, arguments)
        assert not (workspace.work / "enter").exists()
        file.write_bytes(whole)
        assert not workspace.step("enter", enter_differenced, arguments).reused


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("!!python/object/apply:os.system ['id']", "could not determine a constructor"),
        ("a: &x [1]\nb: *x", "aliases"),
    ],
)
def test_yaml_that_means_harm_is_refused(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=line):
        load_model(path, Recipe)
