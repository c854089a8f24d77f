"""A beamtime while it is measured: which scans are there, which are whole, what follows from them.

A *scan* is one file of a series: one projection in most formats, a whole series in some. The
beamtime's own table of angles says how many there have to be.
"""

from __future__ import annotations

import fcntl
import fnmatch
import glob
import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.service.arrivals import SeriesTable, reduced
from flows.service.spool import Event, Order, Scan, Spool, State
from flows.steps.workspace import make_folder, sha256_of, write_text
from pipeline.errors import DichrotomoError
from pipeline.io.beamtime import read_beamtime, save_beamtime
from pipeline.io.raw import check_scan
from schemas.service import SetAside, SoFar

SCAN_FINISHED = "dichrotomo.scan.finished"
BEAMTIME_FINISHED = "dichrotomo.beamtime.finished"
TABLE = "scans.json"
SO_FAR = "beamtime-so-far.yaml"
PREVIEW_DEPLOYMENT = "preview/scans"
FULL_DEPLOYMENT = "process-beamtime/beamtime"

_DATA_SUFFIXES = (".h5", ".hdf5", ".nxs", ".cxi", ".mat", ".ptyr", ".tif", ".tiff")


@dataclass(frozen=True)
class Destination:
    """What is to be made of a beamtime.

    Attributes
    ----------
    out : folder of the results, absolute.
    recipe : recipe file, absolute; None for the default one.
    preview : whether scans start a preview.
    full : whether the last scan starts the full reconstruction.
    """

    out: Path
    recipe: Path | None = None
    preview: bool = True
    full: bool = True


class Intake:
    """Takes in the scans of one beamtime.

    Parameters
    ----------
    path : the beamtime file; its data need not be there yet.
    destination : what is to be made of it.
    spool : memory of what has arrived.

    Raises
    ------
    InputError : as for `read_beamtime`; or a series whose table does not say how many scans it has.
    """

    def __init__(self, path: Path, destination: Destination, spool: Spool):
        self.path = path.resolve()
        self.beamtime, self.folder = read_beamtime(self.path)
        self.destination, self.spool = destination, spool
        self.tables = {s.name: SeriesTable(s, self.folder, self.path) for s in self.beamtime.series}

    def candidates(self) -> dict[Path, tuple[str, int]]:
        """Files that match a pattern of the beamtime: name of the series, index of the pattern."""
        found: dict[Path, tuple[str, int]] = {}
        for series in self.beamtime.series:
            for place, pattern in enumerate(series.files):
                for file in _matches(self.folder, pattern):
                    found.setdefault(file, (series.name, place))
        return found

    def strangers(self, folder: Path, known: Sequence[Path]) -> list[Path]:
        """Data files in a folder that belong to no series."""
        ours = set(known)
        return sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in _DATA_SUFFIXES
            and path not in ours
            and path != self.path
            and not path.is_relative_to(self.destination.out)
            and path.is_file()
        )

    def find(self, file: Path) -> tuple[str, int] | None:
        """Series and pattern of a file, by its name alone."""
        for series in self.beamtime.series:
            for place, pattern in enumerate(series.files):
                if fnmatch.fnmatch(str(file), str(self.folder / pattern)):
                    return series.name, place
        return None

    def look(self, file: Path, series: str, place: int, first: Path | None) -> Scan | None:
        """Read a file whole and say what it is; None while somebody writes it.

        Parameters
        ----------
        file : its path.
        series, place : of the beamtime, and the index of the pattern.
        first : a finished file of the series, which it has to be like.
        """
        identity = identity_of(file)
        try:
            with file.open("rb") as stream:
                # HDF5 and others lock a file while they write it.
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            info = check_scan(file, self.tables[series].series, first)
            digest = sha256_of(file)
        except OSError:
            return None  # Locked, moved, or its disk is away: neither whole nor damaged.
        except DichrotomoError as error:
            reason = " ".join(str(getattr(error, "message", error)).split())
            if identity_of(file) != identity:
                return None
            return self._scan(file, series, place, identity, "damaged", reason)
        if identity_of(file) != identity:
            return None
        return Scan(
            str(file), str(self.path), series, place, identity, digest, info.n_frames, "finished"
        )

    def stranger(self, file: Path) -> Scan:
        """A file of no series."""
        return self._scan(
            file, "", 0, identity_of(file), "unknown", "matches no series of the beamtime"
        )

    def _scan(
        self,
        file: Path,
        series: str,
        place: int,
        identity: tuple[int, int, int],
        state: State,
        reason: str,
    ) -> Scan:
        return Scan(str(file), str(self.path), series, place, identity, "", 0, state, reason)

    def take(self, scans: Sequence[Scan]) -> list[Scan]:
        """Write scans down and ask for the runs that follow; returns what was not known so."""
        new = self.spool.take(scans, self._outcome)
        if new:
            self.publish()
        return new

    def publish(self) -> SoFar:
        """Write what has arrived where runs and people find it."""
        known = self.spool.scans(str(self.path))
        table = self.so_far(known)
        make_folder(self.destination.out)
        write_text(self.destination.out / TABLE, table.model_dump_json(indent=1))
        self._write_so_far(table)
        return table

    def so_far(self, scans: Sequence[Scan]) -> SoFar:
        """What has arrived of the beamtime."""
        by_series = {
            name: table.so_far([scan for scan in scans if scan.series == name])
            for name, table in self.tables.items()
        }
        aside = [
            SetAside(file=scan.path, state=scan.state, reason=scan.reason)
            for scan in scans
            if scan.state != "finished"
        ]
        return SoFar(beamtime=str(self.path), series=by_series, set_aside=aside)

    def _write_so_far(self, table: SoFar) -> None:
        """The beamtime of what is there, for a reconstruction by hand or of the whole."""
        content, notes = reduced(self.beamtime, self.folder, table)
        path = self.destination.out / SO_FAR
        if content is None:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_name(f".{path.name}.tmp")
        save_beamtime(temporary, content, notes)
        temporary.replace(path)

    def _outcome(
        self, new: list[Scan], every: list[Scan]
    ) -> tuple[Sequence[Order], Sequence[Event]]:
        """Runs and events that follow from scans."""
        finished = [scan for scan in new if scan.state == "finished"]
        orders, events = [], [self._told(scan) for scan in finished]
        if self.destination.preview:
            for name in dict.fromkeys(scan.series for scan in finished):
                orders.append(self._preview([scan for scan in finished if scan.series == name]))
        table = self.so_far(every)
        if finished and table.complete:
            whole = [scan for scan in every if scan.state == "finished"]
            if self.destination.full:
                orders.append(self._full(whole))
            key = _key(BEAMTIME_FINISHED, whole)
            events.append(_event(key, BEAMTIME_FINISHED, self.sample, {"beamtime": str(self.path)}))
        return orders, events

    @property
    def sample(self) -> str:
        """Name of the sample."""
        return self.beamtime.sample.name

    @property
    def tags(self) -> list[str]:
        """By which the runs of this beamtime are found."""
        return [f"beamtime:{self.folder.name}", f"sample:{self.sample}"]

    def _parameters(self, beamtime: Path) -> dict[str, str | None]:
        recipe = self.destination.recipe
        return {
            "beamtime_path": str(beamtime),
            "out": str(self.destination.out),
            "recipe_path": None if recipe is None else str(recipe),
        }

    def _preview(self, scans: Sequence[Scan]) -> Order:
        names = [Path(scan.path).name for scan in scans]
        parameters = {
            **self._parameters(self.path),
            "series": scans[0].series,
            "scans": names,
        }
        name = preview_name(self.sample, scans[0].series, names)
        tags = [*self.tags, "preview"]
        return Order(_key("preview", scans), PREVIEW_DEPLOYMENT, name, tags, parameters)

    def _full(self, scans: Sequence[Scan]) -> Order:
        return Order(
            _key(f"full {self.destination.out}", scans),
            FULL_DEPLOYMENT,
            f"{self.sample} · all series · reconstruction",
            [*self.tags, "reconstruction"],
            self._parameters(self.destination.out / SO_FAR),
        )

    def _told(self, scan: Scan) -> Event:
        key = _key(SCAN_FINISHED, [scan])
        content = {"beamtime": str(self.path), "file": scan.path, "series": scan.series}
        return _event(key, SCAN_FINISHED, self.sample, {"scan": content, "by": "watch"})


def preview_name(sample: str, series: str | None, scans: Sequence[str]) -> str:
    """Name of a preview in the UI: sample, series, scan, stage."""
    what = Path(scans[0]).stem if len(scans) == 1 else f"{len(scans)} scans"
    parts = [sample, series or "all series", *([what] if scans else []), "preview"]
    return " · ".join(parts)


def identity_of(file: Path) -> tuple[int, int, int]:
    """Size, time of modification and inode; all -1 where there is no such file."""
    try:
        stat = file.stat()
    except OSError:
        return -1, -1, -1
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _matches(folder: Path, pattern: str) -> list[Path]:
    if glob.has_magic(pattern):
        whole = str(Path(glob.escape(str(folder))) / pattern)
        return [Path(name) for name in glob.glob(whole, recursive=True)]  # noqa: PTH207
    path = folder / pattern
    return [path] if path.is_file() else []


def _key(kind: str, scans: Sequence[Scan]) -> str:
    """Name of a piece of work: the same content under the same names gives the same key."""
    text = "\n".join([kind, scans[0].beamtime, *(f"{s.path} {s.sha256}" for s in scans)])
    return hashlib.sha256(text.encode()).hexdigest()


def _event(key: str, name: str, sample: str, payload: dict[str, object]) -> Event:
    resource = re.sub(r"[^A-Za-z0-9_.-]+", "-", sample)
    content = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, key)),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": {
            "prefect.resource.id": f"dichrotomo.sample.{resource}",
            "prefect.resource.name": sample,
        },
        "payload": payload,
    }
    return Event(key, content)
