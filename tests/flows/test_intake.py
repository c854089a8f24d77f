"""Scans that arrive in every order and state: taken once, named if damaged, not believed early."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError
from flows.service.intake import SCAN_FINISHED, SO_FAR, TABLE, Destination, Intake
from flows.service.spool import Scan, Spool
from flows.service.watch import Watcher
from pipeline.errors import GeometryError, InputError, ResourceError
from pipeline.io.beamtime import load_beamtime
from pipeline.io.ptychoshelves import write_projection
from pipeline.plan import check_determined, inspect_all
from schemas.recipe import Recipe
from schemas.service import Watch

N = 6


def frame(number: int) -> Any:
    rng = np.random.default_rng(number)
    return np.exp(1j * rng.standard_normal((8, 8))).astype(np.complex64)


def write(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_projection(
        path, frame(number), pixel_size_m=31e-9, energy_ev=5468.0, angle_deg=30.0 * (number % 100)
    )
    return path


@pytest.fixture
def beamtime(tmp_path: Path) -> Path:
    """Two partners of six projections each, off resonance one file that names its scans."""
    series = [
        {
            "name": f"t_{name}",
            "files": [f"raw/{name}_*.h5"],
            "tilt": {"name": "t"},
            "polarisation": {"kind": "linear", "angle_deg": angle, "degree": 0.6},
            "energy": {"energy_ev": 5468.0},
            "angles_deg": [30.0 * k for k in range(N)],
        }
        for name, angle in (("lh", 0.0), ("lv", 90.0))
    ]
    path = tmp_path / "night" / "beamtime.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"sample": {"name": "pillar"}, "series": series}))
    return path


class Ear:
    """Lines that a person would have read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def watcher(beamtime: Path, tmp_path: Path) -> Callable[[], Watcher]:
    """Makes a watcher on the same memory, as after a restart."""

    def make() -> Watcher:
        intake = Intake(
            beamtime, Destination(tmp_path / "out"), Spool(tmp_path / "spool" / "s.sqlite")
        )
        made = Watcher(intake, beamtime.parent, Watch(stable_s=0.1), Ear())
        made.start()
        return made

    return make


def look_until_quiet(watcher: Watcher) -> list[Scan]:
    """Look, let time pass by a clock that is turned back on the files, and look again."""
    found = list(watcher.look())
    for seen in watcher._seen.values():
        seen.since -= 10.0
    watcher._strangers_at = -1e9
    found += watcher.look()
    return found


def arrive(beamtime: Path, name: str, numbers: range) -> list[Path]:
    offset = 0 if name == "lh" else 100
    return [write(beamtime.parent / "raw" / f"{name}_{k:02d}.h5", offset + k) for k in numbers]


def orders(watcher: Watcher) -> list[str]:
    return [order["name"] for order in watcher.intake.spool.orders()]


def test_a_scan_is_taken_when_it_has_stayed_and_starts_one_preview(
    beamtime: Path, watcher: Callable[[], Watcher]
) -> None:
    watch = watcher()
    arrive(beamtime, "lh", range(1))
    assert watch.look() == []  # It has been seen once, nobody knows whether it grows.
    assert [scan.state for scan in look_until_quiet(watch)] == ["finished"]
    assert orders(watch) == ["pillar · t_lh · lh_00 · preview"]
    assert watch.look() == []
    again = watcher()  # After a restart nothing is started twice.
    assert look_until_quiet(again) == []
    assert len(orders(again)) == 1


def test_a_growing_a_locked_and_a_half_written_file_are_not_believed(
    beamtime: Path, watcher: Callable[[], Watcher]
) -> None:
    watch = watcher()
    whole = write(beamtime.parent / "whole", 0).read_bytes()
    (beamtime.parent / "whole").unlink()
    path = beamtime.parent / "raw" / "lh_00.h5"
    path.parent.mkdir()
    for end in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert watch.look() == []
    (found,) = look_until_quiet(watch)  # It stays half: named, and nothing is started.
    assert (found.state, orders(watch)) == ("damaged", [])
    with path.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(whole)
        writer.flush()
        assert look_until_quiet(watch) == []
    assert [scan.state for scan in look_until_quiet(watch)] == ["finished"]
    assert len(orders(watch)) == 1


def test_damaged_duplicate_and_unknown_files_are_named_and_set_aside(
    beamtime: Path, watcher: Callable[[], Watcher], tmp_path: Path
) -> None:
    watch = watcher()
    paths = arrive(beamtime, "lh", range(3))
    with paths[2].open("r+b") as file:
        file.truncate(paths[2].stat().st_size // 2)
    shutil.copy(paths[0], paths[0].with_name("lh_00 copy.h5"))
    wrong = write(beamtime.parent / "raw" / "lh_03.h5", 3)
    small = np.ones((4, 4), np.complex64)
    write_projection(wrong, small, pixel_size_m=31e-9, energy_ev=5468.0, angle_deg=90.0)
    (beamtime.parent / "raw" / "notes.h5").write_bytes(b"?")
    look_until_quiet(watch)
    assert isinstance(watch.say, Ear)
    said = {Path(line.split(": ", 1)[0]).name: line for line in watch.say.lines}
    assert sorted(said) == ["lh_00 copy.h5", "lh_02.h5", "lh_03.h5", "notes.h5"]
    assert "damaged" in said["lh_02.h5"]
    assert "expected shape (8, 8) as in lh_00.h5, found (4, 4)" in said["lh_03.h5"]
    assert said["lh_00 copy.h5"].endswith("duplicate: same content as lh_00.h5")
    assert said["notes.h5"].endswith("matches no series of the beamtime")
    table = json.loads((tmp_path / "out" / TABLE).read_text())
    assert len(table["set_aside"]) == 4
    assert table["series"]["t_lh"]["finished"] == 2
    # A scan that is measured again takes its place.
    arrive(beamtime, "lh", range(2, 4))
    look_until_quiet(watch)
    table = json.loads((tmp_path / "out" / TABLE).read_text())
    assert table["series"]["t_lh"]["finished"] == 4
    assert table["series"]["t_lh"]["series"]["angles_deg"] == [0.0, 30.0, 60.0, 90.0]


def test_the_whole_set_starts_the_reconstruction_once_with_every_file_named(
    beamtime: Path, watcher: Callable[[], Watcher], tmp_path: Path
) -> None:
    watch = watcher()
    arrive(beamtime, "lh", range(N))
    look_until_quiet(watch)
    # LH alone: the file is there, and a run of it is refused with the reason.
    early = load_beamtime(tmp_path / "out" / SO_FAR)
    assert [series.name for series in early.beamtime.series] == ["t_lh"]
    infos = inspect_all(early.beamtime, early.folder)
    with pytest.raises(GeometryError, match="cannot"):
        check_determined(early.beamtime, early.folder, Recipe(), infos)
    arrive(beamtime, "lv", range(N))
    look_until_quiet(watch)
    assert orders(watch)[-1] == "pillar · all series · reconstruction"
    assert len(orders(watch)) == 3
    so_far = tmp_path / "out" / SO_FAR
    loaded = load_beamtime(so_far).beamtime
    assert [len(series.files) for series in loaded.series] == [N, N]
    os.utime(beamtime.parent / "raw" / "lh_00.h5")  # Touched, not changed.
    look_until_quiet(watch)
    assert len(orders(watch)) == 3


def test_by_hand_with_what_there_is_the_angles_belong_to_their_files(
    beamtime: Path, watcher: Callable[[], Watcher], tmp_path: Path
) -> None:
    watch = watcher()
    for name in ("lh", "lv"):
        paths = arrive(beamtime, name, range(N))
        with paths[1].open("r+b") as file:
            file.truncate(50)
    look_until_quiet(watch)
    assert len(orders(watch)) == 2  # Damaged scans are for a person to decide about.
    loaded = load_beamtime(tmp_path / "out" / SO_FAR).beamtime
    assert [series.angles_deg for series in loaded.series] == [[0.0, 60.0, 90.0, 120.0, 150.0]] * 2
    assert "# set aside, damaged:" in (tmp_path / "out" / SO_FAR).read_text()


def test_excluded_scans_need_not_be_there(
    beamtime: Path, watcher: Callable[[], Watcher], tmp_path: Path
) -> None:
    content = yaml.safe_load(beamtime.read_text())
    for series in content["series"]:
        series["exclude"] = [1]
    beamtime.write_text(yaml.safe_dump(content))
    watch = watcher()
    for name in ("lh", "lv"):
        paths = arrive(beamtime, name, range(N))
        with paths[1].open("r+b") as file:
            file.truncate(50)
    look_until_quiet(watch)
    assert orders(watch)[-1].endswith("reconstruction")


def test_a_table_that_names_its_files_knows_which_are_missing(
    beamtime: Path, watcher: Callable[[], Watcher], tmp_path: Path
) -> None:
    content = yaml.safe_load(beamtime.read_text())
    content["series"] = content["series"][:1]
    series = content["series"][0]
    del series["angles_deg"]
    series |= {"angles_file": "angles.txt", "polarisation": {}, "energy": {"energy_ev": 5468.0}}
    series["energy"]["resonant"] = False
    lines = [f"lh_{k:02d}.h5 {30 * k}" for k in range(N)]
    (beamtime.parent / "angles.txt").write_text("\n".join(lines))
    beamtime.write_text(yaml.safe_dump(content))
    watch = watcher()
    arrive(beamtime, "lh", range(2, N))
    look_until_quiet(watch)
    table = json.loads((tmp_path / "out" / TABLE).read_text())["series"]["t_lh"]
    assert table["missing"] == ["lh_00.h5", "lh_01.h5"]
    assert table["series"]["angles_deg"] == [60.0, 90.0, 120.0, 150.0]
    assert load_beamtime(tmp_path / "out" / SO_FAR).beamtime.series[0].angles_file is None


def test_a_series_without_a_table_is_refused_before_anything_is_watched(
    beamtime: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(beamtime.read_text())
    del content["series"][0]["angles_deg"]
    beamtime.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="series 't_lh': the table does not say how many scans"):
        Intake(beamtime, Destination(tmp_path), Spool(tmp_path / "s.sqlite"))


def test_two_processes_that_see_a_scan_at_once_start_one_run(
    beamtime: Path, watcher: Callable[[], Watcher]
) -> None:
    one, two = watcher(), watcher()
    arrive(beamtime, "lh", range(2))
    assert len(look_until_quiet(one)) == 2
    assert look_until_quiet(two) == []
    assert len(orders(one)) == 1


class Server:
    """A server that is away, or answers what it is told to; only its answers are invented."""

    url = "http://nowhere"

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.events: list[Any] = []
        self.answer: Exception | None = None
        self.lose_answer = False

    def get(self, path: str) -> Any:
        return {"id": "d"}

    def post(self, path: str, content: Any) -> Any:
        if self.answer is not None:
            raise self.answer
        if path == "/events":
            self.events += content
            return None
        run = self.runs.setdefault(content["idempotency_key"], f"run-{len(self.runs)}")
        if self.lose_answer:
            raise ServerAwayError("gone before it has answered")
        return {"id": run}


def test_what_nobody_takes_waits_and_is_sent_once(
    beamtime: Path, watcher: Callable[[], Watcher]
) -> None:
    watch, server = watcher(), Server()
    api: PrefectApi = server  # type: ignore[assignment]
    arrive(beamtime, "lh", range(3))
    look_until_quiet(watch)
    spool = watch.intake.spool
    server.answer = ServerAwayError("nobody answers")
    with pytest.raises(ServerAwayError):
        spool.deliver(api)
    assert spool.waiting() == 1 + 3
    server.answer, server.lose_answer = None, True
    with pytest.raises(ServerAwayError):
        spool.deliver(api)
    server.lose_answer = False
    assert spool.deliver(api) == []
    assert (len(server.runs), spool.waiting()) == (1, 0)
    assert [event["event"] for event in server.events] == [SCAN_FINISHED] * 3
    assert spool.deliver(api) == []
    assert len(server.events) == 3


def test_a_run_that_is_refused_is_named_and_holds_up_no_other(
    beamtime: Path, watcher: Callable[[], Watcher]
) -> None:
    watch, server = watcher(), Server()
    arrive(beamtime, "lh", range(1))
    look_until_quiet(watch)
    server.answer = RefusedError(409, "'beamtime_path' is required")
    lines = watch.intake.spool.deliver(server)  # type: ignore[arg-type]
    assert [line.split(": ")[0] for line in lines] == [
        "pillar · t_lh · lh_00 · preview",
        "1 events",
    ]
    (order,) = watch.intake.spool.orders()
    assert (order["state"], order["reason"]) == ("refused", "'beamtime_path' is required")


def test_one_watcher_for_each_beamtime(beamtime: Path, tmp_path: Path) -> None:
    from flows.service.watch import alone

    with (
        alone(tmp_path, beamtime),
        pytest.raises(ResourceError, match="another process watches"),
        alone(tmp_path, beamtime),
    ):
        pass
