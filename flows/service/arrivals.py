"""What has arrived of a series by the beamtime's own table, and the beamtime of what is there."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flows.service.spool import Scan
from pipeline.errors import InputError
from pipeline.io.beamtime import planned_angles
from schemas.beamtime import Beamtime
from schemas.series import Series
from schemas.service import SeriesSoFar, SoFar

LEAST = 3
"""Projections with which a series that is not complete enters a reconstruction by hand."""

_MISSING_NAMED = 10


class SeriesTable:
    """What the beamtime's table says about one series."""

    def __init__(self, series: Series, folder: Path, path: Path):
        air = series.air
        if air is not None and air.file is not None:
            air = air.model_copy(update={"file": str(folder / air.file)})
        self.series = series.model_copy(update={"air": air})
        self.angles, self.named = planned_angles(series, folder)
        plain = [name for name in series.files if not glob.has_magic(name)]
        self.by_file = self.angles is None and not self.named
        if self.by_file and len(plain) < len(series.files):
            raise InputError(
                "the table does not say how many scans there will be; give angles_deg or "
                "angles_file, or name the files one by one",
                path=path,
                field=f"series '{series.name}'",
            )
        self.expected = len(self.named) or (len(plain) if self.by_file else len(self.angles))  # type: ignore[arg-type]

    def so_far(self, scans: Sequence[Scan]) -> SeriesSoFar:
        """State of the series."""
        finished = [scan for scan in scans if scan.state == "finished"]
        places = self._places(scans)
        count = len(finished) if self.by_file or self.named else sum(s.frames for s in finished)
        present = set() if places is None else {k for place in places.values() for k in place}
        unused = set(self.series.exclude)
        complete = (
            count == self.expected
            if places is None
            else present | unused >= set(range(self.expected))
        )
        return SeriesSoFar(
            expected=self.expected,
            finished=count,
            complete=complete and count <= self.expected,
            missing=self._missing(finished),
            series=self._series(finished, places, complete),
        )

    def _missing(self, finished: Sequence[Scan]) -> list[str]:
        names = {Path(scan.path).name for scan in finished}
        wanted = self.named or ([Path(n).name for n in self.series.files] if self.by_file else [])
        stems = {Path(name).stem for name in names}
        return [name for name in wanted if name not in names | stems][:_MISSING_NAMED]

    def _places(self, scans: Sequence[Scan]) -> dict[str, list[int]] | None:
        """Rows of the table by finished file; None where that cannot be told."""
        if self.named:
            rows = {name: index for index, name in enumerate(self.named)}
            found = {}
            for scan in scans:
                file = Path(scan.path)
                row = rows.get(file.name, rows.get(file.stem))
                if row is None:
                    return None
                if scan.state == "finished":
                    found[scan.path] = [row]
            return found
        if self.by_file:
            names = [Path(name).name for name in self.series.files]
            return {
                scan.path: [names.index(Path(scan.path).name)]
                for scan in scans
                if scan.state == "finished" and Path(scan.path).name in names
            }
        return _by_order([s for s in scans if s.state in ("finished", "damaged")], self.expected)

    def _series(
        self, finished: Sequence[Scan], places: dict[str, list[int]] | None, complete: bool
    ) -> Series | None:
        """The series of what is there, its files one by one."""
        if not finished or places is None:
            return None
        files = [scan.path for scan in finished]
        if self.named:
            files.sort()
        elif self.by_file:
            files.sort(key=lambda file: places[file])
        rows = [row for file in files for row in places.get(file, [])]
        changes: dict[str, object] = {"files": files}
        if not self.by_file:
            table = list(self.named.values()) if self.named else np.asarray(self.angles).tolist()
            if self.series.format == "resire-v":
                return self.series.model_copy(update=changes) if complete else None
            changes |= {"angles_deg": [table[row] for row in rows], "angles_file": None}
        if not self.named:
            unused = set(self.series.exclude)
            changes["exclude"] = [place for place, row in enumerate(rows) if row in unused]
        return self.series.model_copy(update=changes)


def _by_order(scans: Sequence[Scan], expected: int) -> dict[str, list[int]] | None:
    """Rows by the order of names, if it can be told: all are there, or their numbers run evenly.

    A damaged file has its row, taken to be one projection.
    """
    counts = [scan.frames if scan.state == "finished" else 1 for scan in scans]
    starts = np.concatenate([[0], np.cumsum(counts)])
    if starts[-1] > expected or (starts[-1] < expected and not _even([s.path for s in scans])):
        return None
    return {
        scan.path: list(range(int(start), int(start) + count))
        for scan, start, count in zip(scans, starts[:-1], counts, strict=True)
        if scan.state == "finished"
    }


def _even(paths: Sequence[str]) -> bool:
    """Whether the numbers in the names of files, which differ in one number only, run evenly."""
    if len(paths) < 2:
        return True
    parts = [re.split(r"(\d+)", Path(path).name) for path in paths]
    if len({len(part) for part in parts}) > 1:
        return False
    varying = [k for k in range(len(parts[0])) if len({part[k] for part in parts}) > 1]
    if len(varying) != 1 or not parts[0][varying[0]].isdigit():
        return False
    numbers = sorted(int(part[varying[0]]) for part in parts)
    return len({b - a for a, b in itertools.pairwise(numbers)}) == 1


def reduced(beamtime: Beamtime, folder: Path, table: SoFar) -> tuple[Beamtime | None, list[str]]:
    """The beamtime of what is there, and notes on what is not; None while nothing can be made."""
    notes = [f"Written by dichrotomo from {table.beamtime}: what has arrived of it."]
    present: dict[str, Series] = {}
    for name, found in table.series.items():
        if found.series is not None and (found.complete or found.finished >= LEAST):
            present[name] = found.series
        if not found.complete:
            notes.append(f"series {name}: {found.finished} of {found.expected} projections")
    notes += [f"set aside, {item.state}: {item.file}: {item.reason}" for item in table.set_aside]
    content = beamtime.model_dump(exclude_defaults=True)
    content = {**content, **_absolute(beamtime, folder)}
    tilts = {series.tilt.name for series in present.values()}
    if beamtime.reference_tilt not in tilts:
        content.pop("reference_tilt", None)
    while present:
        chosen = [present[s.name].model_dump() for s in beamtime.series if s.name in present]
        try:
            return Beamtime.model_validate({**content, "series": chosen}), notes
        except ValueError as error:
            alone = re.findall(r"series '([^']+)'", str(error))
            if alone and alone[0] in present:
                present.pop(alone[0])
                notes.append(f"series {alone[0]}: left out, its partner is not there yet")
            elif "chemistry" in content:
                content.pop("chemistry")
                content["products"] = [p for p in beamtime.products if p != "chemistry"]
                notes.append("chemistry: left out, fewer than two energies are there yet")
            else:
                return None, notes
    return None, notes


def _absolute(beamtime: Beamtime, folder: Path) -> dict[str, object]:
    """Files beside the series by their absolute path, for a beamtime file that lies elsewhere."""
    found: dict[str, object] = {}
    if beamtime.sample.scattering_factors is not None:
        file = str(folder / beamtime.sample.scattering_factors)
        sample = beamtime.sample.model_copy(update={"scattering_factors": file})
        found["sample"] = sample.model_dump(exclude_defaults=True)
    if beamtime.support is not None:
        support = beamtime.support.model_copy(update={"file": str(folder / beamtime.support.file)})
        found["support"] = support.model_dump(exclude_defaults=True)
    if beamtime.chemistry is not None:
        changes: dict[str, object] = {"references": str(folder / beamtime.chemistry.references)}
        validation = beamtime.chemistry.validation
        if validation is not None:
            file = str(folder / validation.file)
            changes["validation"] = validation.model_copy(update={"file": file})
        chemistry = beamtime.chemistry.model_copy(update=changes)
        found["chemistry"] = chemistry.model_dump(exclude_defaults=True)
    return found
