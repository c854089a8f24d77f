"""Steps are reused while nothing changed, and only then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.steps.workspace import (
    MANIFEST,
    Fingerprints,
    Unkeyed,
    Workspace,
    call_here,
    code_version,
)
from pipeline.errors import InputError, ResourceError
from schemas.recipe import AlignSettings, SupportSettings


def copy_text(out: Path, source: Path, times: int, note: object = None) -> None:
    (out / "copy.txt").write_text(source.read_text() * times)


def fail(out: Path) -> None:
    (out / "half.txt").write_text("half")
    raise InputError("no", path="x.h5")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "input.txt"
    path.write_text("abc")
    return path


def arguments(source: Path, times: int = 2) -> dict[str, object]:
    return {"source": source, "times": times, "note": Unkeyed(object())}


def run(folder: Path, source: Path, times: int = 2) -> bool:
    """Run the step in a fresh workspace; whether it was reused."""
    with Workspace(folder).locked() as workspace:
        result = workspace.step("copy", copy_text, arguments(source, times))
        assert result.path("copy.txt").read_text() == source.read_text() * times
        return result.reused


def test_a_finished_step_is_reused(tmp_path: Path, source: Path) -> None:
    assert [run(tmp_path / "out", source) for _ in range(3)] == [False, True, True]
    manifest = json.loads((tmp_path / "out/work/copy" / MANIFEST).read_text())
    assert list(manifest["outputs"]) == ["copy.txt"]
    assert manifest["outputs"]["copy.txt"]["size_bytes"] == 6


def test_changed_settings_or_inputs_are_computed_again(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    run(out, source)
    assert not run(out, source, times=3)
    source.write_text("abd")
    assert not run(out, source, times=3)
    assert run(out, source, times=3)


@pytest.mark.parametrize("damage", ["delete", "truncate", "corrupt", "manifest", "no manifest"])
def test_damaged_outputs_are_computed_again(tmp_path: Path, source: Path, damage: str) -> None:
    out = tmp_path / "out"
    run(out, source)
    copy, manifest = out / "work/copy/copy.txt", out / "work/copy" / MANIFEST
    if damage == "delete":
        copy.unlink()
    elif damage == "truncate":
        copy.write_text("abcab")
    elif damage == "corrupt":
        stat = copy.stat()
        copy.write_text("abcabd")
        os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.unlink()
    assert not run(out, source)
    assert run(out, source)


def test_a_step_does_not_depend_on_where_files_lie(tmp_path: Path, source: Path) -> None:
    run(tmp_path / "out", source)
    moved = source.rename(tmp_path / "moved.txt")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert run(tmp_path / "elsewhere", moved)


def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    with Workspace(tmp_path).locked() as workspace:
        with pytest.raises(InputError, match=r"x\.h5: no"):
            workspace.step("fail", fail, {})
        names = [path.name for path in workspace.work.iterdir()]
    assert "fail" not in names
    assert not [name for name in names if name.startswith(".tmp")]


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "work" / ".tmp-copy-1"
    leftover.mkdir(parents=True)
    with Workspace(tmp_path).locked():
        assert not leftover.exists()


def test_settings_models_enter_the_key_with_every_value(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    keys = {
        workspace.key("align", {"settings": settings})
        for settings in (AlignSettings(), AlignSettings(iterations=3), SupportSettings(), None)
    }
    assert len(keys) == 4
    assert workspace.key("a", {"x": [1]}) != workspace.key("b", {"x": [1]})
    with pytest.raises(TypeError, match="cannot be keyed by an argument of type object"):
        workspace.key("a", {"x": object()})


def test_the_code_is_part_of_the_key_and_reports_can_be_left_out() -> None:
    assert len(code_version()) == 64
    assert code_version() != code_version(("pipeline/report",))


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom flows.steps.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                ResourceError, match=rf"another run is using this folder \(pid {holder.pid} on "
            ),
            Workspace(tmp_path).locked(),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    # The lock of a process that was killed is no lock.
    with Workspace(tmp_path).locked():
        pass


def test_an_unchanged_file_is_read_once(tmp_path: Path, source: Path) -> None:
    old = time.time() - 60
    os.utime(source, (old, old))
    memory = tmp_path / "memory.json"
    first = Fingerprints(memory)
    digest = first.of(source)
    first.save()
    known = json.loads(memory.read_text())
    known[str(source)][3] = "remembered"
    memory.write_text(json.dumps(known))
    assert Fingerprints(memory).of(source) == "remembered"
    source.write_text("abc")
    assert Fingerprints(memory).of(source) == digest


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path, source: Path) -> None:
    memory = tmp_path / "memory.json"
    fingerprints = Fingerprints(memory)
    fingerprints.of(source)
    fingerprints.save()
    assert json.loads(memory.read_text()) == {}
    memory.write_text("damaged")
    assert Fingerprints(memory).of(source) == fingerprints.of(source)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.h5: file does not exist"):
        Fingerprints().of(tmp_path / "gone.h5")


def test_progress_reaches_only_functions_that_take_it() -> None:
    heard = []
    call_here(lambda progress: progress(1), {}, heard.append)
    call_here(lambda: None, {}, heard.append)
    assert heard == [1]
