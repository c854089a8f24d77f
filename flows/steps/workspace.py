"""Steps of a run: each is a folder with its outputs and a manifest, reused while nothing changed.

A step is a plain function that writes files into a folder. Its key is made of everything that it
is called with (the content of every file, every setting) and of the code that it runs; whatever
is not an argument cannot change the outcome, so it cannot be forgotten in the key either.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from pipeline.errors import InputError, ResourceError
from pipeline.progress import ProgressCallback, silent

MANIFEST = "manifest.json"
_PACKAGES = ("numpy", "scipy", "numba", "scikit-image", "h5py")
_RACY_SECONDS = 2.0
_BLOCK = 1 << 22
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

StepFunction = Callable[..., None]
"""`function(out, **arguments)`: writes its outputs into the folder `out`."""


@dataclass(frozen=True)
class Unkeyed:
    """An argument that cannot change the outcome (where to compute, where a file lies)."""

    value: Any


@dataclass(frozen=True)
class StepResult:
    """A finished step.

    Attributes
    ----------
    name : name of the step and of its folder.
    folder : where its outputs lie.
    key : SHA-256 of inputs, settings and code.
    seconds : how long it took when it was computed.
    reused : whether this run found it finished.
    """

    name: str
    folder: Path
    key: str
    seconds: float
    reused: bool

    def path(self, file: str) -> Path:
        """Path of one output."""
        return self.folder / file


class Runner(Protocol):
    """Where a step function is called: in this process or on a worker."""

    def __call__(
        self, function: StepFunction, arguments: Mapping[str, Any], progress: ProgressCallback
    ) -> None:
        """Call `function(**arguments)`, with `progress` if it takes it."""


def call_here(
    function: StepFunction, arguments: Mapping[str, Any], progress: ProgressCallback = silent
) -> None:
    """Call a step function in this process, handing it `progress` if it takes it."""
    extra = {"progress": progress} if "progress" in inspect.signature(function).parameters else {}
    function(**arguments, **extra)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@cache
def code_version(leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256 of the sources that a step may run, and of the versions of the numerical packages.

    Parameters
    ----------
    leave_out : sub-packages that cannot take part, such as `pipeline/report`.
    """
    root = Path(__file__).resolve().parents[2]
    files = [*root.glob("schemas/**/*.py"), *root.glob("pipeline/**/*.py")]
    files += [*root.glob("pipeline/**/*.js"), *root.glob("flows/steps/*.py")]
    digest = hashlib.sha256()
    for file in sorted(files):
        name = file.relative_to(root).as_posix()
        if not name.startswith(leave_out):
            digest.update(f"{name}\0".encode())
            digest.update(file.read_bytes())
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    digest.update("; ".join([platform.python_version(), platform.machine(), *versions]).encode())
    return digest.hexdigest()


class Fingerprints:
    """Content hashes of files, so remembered that an unchanged file is read once.

    A file counts as unchanged while its size, modification time and inode are the same. A file
    modified within the last two seconds is not remembered: it could change again within the
    resolution of the file system's clock.

    Parameters
    ----------
    memory : JSON file in which the hashes are kept between runs, or None.
    """

    def __init__(self, memory: Path | None = None):
        self._memory = memory
        self._lock = threading.Lock()
        self._known: dict[str, list[int | str]] = {}
        self._verified: dict[str, str] = {}
        if memory is not None and memory.exists():
            try:
                self._known = json.loads(memory.read_text())
            except ValueError:
                self._known = {}  # A damaged memory costs time only.

    def of(self, path: Path) -> str:
        """SHA-256 of the file at `path`."""
        name = str(path.resolve())
        if name in self._verified:
            return self._verified[name]
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise InputError("file does not exist", path=path) from None
        identity: list[int | str] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        with self._lock:
            known = self._known.get(name)
        if known is not None and known[:3] == identity:
            return str(known[3])
        digest = sha256_of(path)
        if time.time() - stat.st_mtime > _RACY_SECONDS:
            with self._lock:
                self._known[name] = [*identity, digest]
        return digest

    def trust(self, path: Path, digest: str) -> None:
        """Take `digest` for a file that this run has written or verified itself."""
        self._verified[str(path.resolve())] = digest

    def save(self) -> None:
        """Keep what is known for the next run."""
        if self._memory is not None:
            # What cannot be kept, on a full disk, costs time only.
            with self._lock, suppress(OSError):
                write_text(self._memory, json.dumps(self._known))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either old or new, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def check_folder(path: Path, field: str | None = None) -> None:
    """Refuse a path that is no folder and cannot become one; nothing is made.

    Raises
    ------
    InputError : says what is in the way.
    """
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise InputError(f"cannot be a folder: '{there}' is none", path=path, field=field)
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot be used: '{there}' may not be written", path=path, field=field)


def make_folder(path: Path, field: str | None = None) -> None:
    """Make a folder, with those above it, if it is not there.

    Raises
    ------
    InputError : it cannot be made, or not be written.
    """
    check_folder(path, field)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", path=path, field=field) from None


class Workspace:
    """The work folder of one run: knows its steps, reuses them, computes what is missing.

    Parameters
    ----------
    folder : the output folder of the run; steps lie in `folder/work/<step>`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.work = folder / "work"
        self.results: list[StepResult] = []
        self.fingerprints = Fingerprints(self.work / ".fingerprints.json")
        self._lock = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[Workspace]:
        """Hold the folder for this process; the lock of a process that died does not count.

        Raises
        ------
        ResourceError : another live process holds it; names that process.
        """
        make_folder(self.work)
        with _one_line_when_full(self.folder), (self.work / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise ResourceError(
                    f"{self.folder}: another run is using this folder ({holder}); "
                    "wait for it, stop it, or choose another --out"
                ) from None
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}")
            file.flush()
            self._sweep()
            try:
                yield self
            finally:
                self.fingerprints.save()
                self._sweep()
                file.truncate(0)

    def _sweep(self) -> None:
        """Remove what an interrupted run left unfinished."""
        for leftover in self.work.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        """A folder for files that live no longer than this run."""
        folder = self.work / f".tmp-scratch-{os.getpid()}"
        folder.mkdir(exist_ok=True)
        return folder

    def step(
        self,
        name: str,
        function: StepFunction,
        arguments: Mapping[str, Any],
        *,
        run: Runner = call_here,
        progress: ProgressCallback = silent,
        leave_out: tuple[str, ...] = ("pipeline/report", "pipeline/simulate", "pipeline/plan"),
    ) -> StepResult:
        """Return the finished step `name`, computing it only if it is not there as it would be.

        Parameters
        ----------
        name : name of the step and of its folder.
        function : called as `function(out=folder, **arguments)`.
        arguments : files (`Path`), settings (pydantic models, JSON values), `Unkeyed` objects,
            and lists and dicts of those.
        run : where the function is called.
        progress : listener, handed to the function if it takes one.
        leave_out : sources that take no part in the step; see `code_version`.
        """
        key = self.key(name, arguments, leave_out)
        found = self._finished(name, key)
        result = found or self._compute(name, key, function, arguments, run, progress)
        with self._lock:
            self.results.append(result)
        return result

    def key(self, name: str, arguments: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> str:
        """SHA-256 of a step's name, code, files and settings."""
        content = {
            "step": name,
            "code": code_version(leave_out),
            "arguments": self._canonical(dict(arguments)),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _canonical(self, value: Any) -> Any:
        """JSON that stands for an argument; a file is represented by its content."""
        match value:
            case Unkeyed():
                return None
            case Path():
                return {"sha256": self.fingerprints.of(value)}
            case BaseModel():
                return value.model_dump(mode="json")
            case Mapping():
                # Whether an argument that cannot change the outcome is there cannot either.
                keyed = {k: item for k, item in value.items() if not isinstance(item, Unkeyed)}
                return {str(key): self._canonical(item) for key, item in keyed.items()}
            case str() | int() | float() | None:
                return value
            case Sequence():
                return [self._canonical(item) for item in value]
        raise TypeError(f"a step cannot be keyed by an argument of type {type(value).__name__}")

    def _finished(self, name: str, key: str) -> StepResult | None:
        """The step as an earlier run left it, if its key and every byte of it still match."""
        folder = self.work / name
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["key"] != key:
                return None
            for file, known in manifest["outputs"].items():
                path = folder / file
                if path.stat().st_size != known["size_bytes"] or sha256_of(path) != known["sha256"]:
                    return None
                self.fingerprints.trust(path, known["sha256"])
            return StepResult(name, folder, key, float(manifest["seconds"]), reused=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # No manifest, or a damaged one: compute again.

    def _compute(
        self,
        name: str,
        key: str,
        function: StepFunction,
        arguments: Mapping[str, Any],
        run: Runner,
        progress: ProgressCallback,
    ) -> StepResult:
        temporary = self.work / f".tmp-{name}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        started = time.monotonic()
        files = _files(arguments)
        before = [_identity(path) for path in files]
        try:
            with _one_line_when_full(self.folder):
                run(function, {"out": temporary, **_opened(dict(arguments))}, progress)
            for path, identity in zip(files, before, strict=True):
                if _identity(path) != identity:
                    raise InputError("changed while it was read", path=path)
            seconds = time.monotonic() - started
            outputs = {
                file.relative_to(temporary).as_posix(): {
                    "size_bytes": file.stat().st_size,
                    "sha256": sha256_of(file),
                }
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            manifest = {"step": name, "key": key, "seconds": seconds, "outputs": outputs}
            write_text(temporary / MANIFEST, json.dumps(manifest, indent=1))
            folder = self.work / name
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for output, known in outputs.items():
            self.fingerprints.trust(folder / output, str(known["sha256"]))
        return StepResult(name, folder, key, seconds, reused=False)


@contextmanager
def _one_line_when_full(folder: Path) -> Iterator[None]:
    """Turn a full disk into one line; what is finished stays, and the run goes on from there."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 tells the number in its message only.
        told = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else 0)
        if number not in _FULL:
            raise
        raise ResourceError(
            f"{folder}: no space left on the disk; what is finished stays, and the same command "
            "goes on from here"
        ) from error


def _files(value: Any) -> list[Path]:
    """Files among the arguments that a step is keyed by."""
    match value:
        case Path():
            return [value]
        case Mapping():
            return [path for item in value.values() for path in _files(item)]
        case list() | tuple():
            return [path for item in value for path in _files(item)]
    return []


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _opened(value: Any) -> Any:
    """Arguments as the step function sees them: without the `Unkeyed` wrappers."""
    match value:
        case Unkeyed():
            return value.value
        case dict():
            return {key: _opened(item) for key, item in value.items()}
        case list() | tuple():
            return [_opened(item) for item in value]
    return value
