"""Many beamtimes after another or at the same time: what has to be done, and what came of it.

Each run is a process of its own and a flow run of its own, so that none takes another down. What
became of each is written to `outcomes.json` at once, under a key of everything that the run depends
on; a batch that is started again does what is not there as it would be.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from flows.cluster.choice import with_cluster
from flows.prefect_server.environment import prefect_server
from flows.prefect_server.registry import settle_dead
from flows.steps.inputs import beamtime_inputs
from flows.steps.workspace import Fingerprints, code_version, make_folder, sha256_of, write_text
from pipeline.errors import DichrotomoError, ResourceError
from pipeline.io.beamtime import load_beamtime, load_recipe
from schemas.batch import Batch, BatchEntry
from schemas.recipe import Recipe

OUTCOMES = "outcomes.json"
PRODUCTS = ("result.nxs", "summary.json", "report.html")

State = Literal["done", "refused", "failed", "interrupted"]
_STATES: tuple[str, ...] = get_args(State)
_CONCURRENT_REMOTE = 4
_CLOSING_SECONDS = 60
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of one entry.

    Attributes
    ----------
    name : of the entry.
    state : `done`; `refused`: its input is at fault, and it is set aside until that changes;
        `failed`: after all attempts; `interrupted`: the batch ended first.
    key : of all that the run depends on; empty where the input cannot be read.
    reason : one line; empty when done.
    attempts : how often it was tried.
    seconds : of all attempts.
    steps, reused : of the run.
    products : name -> SHA-256 of each file of the result.
    current : whether nothing had to be done.
    """

    name: str
    state: State
    key: str = ""
    reason: str = ""
    attempts: int = 0
    seconds: float = 0.0
    steps: int = 0
    reused: int = 0
    products: Mapping[str, str] | None = None
    current: bool = False


@dataclass(frozen=True)
class Order:
    """One entry, ready to run."""

    name: str
    beamtime: Path
    out: Path
    recipe: Recipe
    key: str


Tell = Callable[[str], None]


class BatchRun:
    """Carries out a batch.

    Parameters
    ----------
    batch : what to do.
    folder : that its paths are relative to.
    out : folder of the results; the batch's own when None.
    cluster : replaces the recipes' choice, as `dichrotomo run --cluster`.
    again : try what was refused once more, though nothing changed.
    tell : gets a line when a run starts or ends.
    """

    def __init__(
        self,
        batch: Batch,
        folder: Path,
        out: Path | None = None,
        *,
        cluster: str | None = None,
        again: bool = False,
        tell: Tell = lambda _: None,
    ):
        self.batch = batch
        self.folder = folder
        self.out = (out or folder / batch.out).resolve()
        self.cluster = cluster
        self.again = again
        self.tell = tell
        self.outcomes: dict[str, Outcome] = {}
        self._known: dict[str, Outcome] = {}
        self._saving = threading.Lock()
        self._stop = threading.Event()

    def run(self) -> list[Outcome]:
        """Do what is missing or has changed; the outcomes of all entries, in their order.

        Raises
        ------
        ResourceError : another batch is using the folder.
        """
        with self._locked():
            self._known = read_outcomes(self.out)
            todo = [order for entry in self.batch.entries if (order := self._order(entry))]
            if todo:
                with prefect_server():
                    self._do_all(todo)
        return [self.outcomes[entry.name] for entry in self.batch.entries]

    def _do_all(self, todo: list[Order]) -> None:
        with ThreadPoolExecutor(self._concurrent(todo)) as pool:
            running = [pool.submit(self._do, order) for order in todo]
            try:
                for future in running:
                    future.result()
            except BaseException:
                self._stop.set()  # The runs are interrupted, and what is finished in them stays.
                raise

    def _concurrent(self, todo: list[Order]) -> int:
        if self.batch.concurrent is not None:
            return self.batch.concurrent
        remote = {"slurm", "address"}
        kinds = {order.recipe.cluster.kind for order in todo}
        return _CONCURRENT_REMOTE if kinds and kinds <= remote else 1

    def _order(self, entry: BatchEntry) -> Order | None:
        """What to do for an entry; None where nothing is to be done, with its outcome noted."""
        out = self.out / entry.name
        known = self._known.get(entry.name)
        try:
            recipe_file = entry.recipe or self.batch.recipe
            recipe = load_recipe(None if recipe_file is None else self.folder / recipe_file)
            recipe = with_cluster(recipe, self.cluster)
            beamtime = (self.folder / entry.beamtime).resolve()
            key = run_key(beamtime, recipe, Fingerprints(out / "work" / ".fingerprints.json"))
        except DichrotomoError as error:
            self._note(Outcome(entry.name, "refused", reason=" ".join(str(error).split())))
            return None
        if known is not None and known.key == key:
            if known.state == "done" and _products_are_there(out, known):
                self._note(replace(known, current=True))
                return None
            if known.state == "refused" and not self.again:
                self._note(replace(known, current=True))
                return None
        return Order(entry.name, beamtime, out, recipe, key)

    def _do(self, order: Order) -> None:
        """Run an order until it ends by itself or its attempts are used up."""
        self.tell(f"{order.name}: started")
        outcome = Outcome(order.name, "interrupted", order.key)
        started = time.monotonic()
        for attempt in range(1, self.batch.attempts + 1):
            if self._stop.is_set():
                break
            answer = self._attempt(order)
            outcome = replace(
                outcome,
                state=answer["state"],
                reason=answer["reason"],
                attempts=attempt,
                seconds=round(time.monotonic() - started, 1),
                steps=int(answer.get("steps", 0)),
                reused=int(answer.get("reused", 0)),
            )
            if outcome.state != "failed":
                break
            self.tell(f"{order.name}: attempt {attempt} failed: {outcome.reason}")
        if outcome.state == "done":
            products = {name: sha256_of(order.out / name) for name in PRODUCTS}
            outcome = replace(outcome, products=products)
        self._note(outcome)

    def _attempt(self, order: Order) -> dict[str, Any]:
        """One process for one run; what it answers, or how it ended without an answer."""
        logs = self.out / ".batch"
        logs.mkdir(parents=True, exist_ok=True)
        content = {
            "beamtime": str(order.beamtime),
            "out": str(order.out),
            "recipe": order.recipe.model_dump(mode="json"),
            "tags": [f"batch-{self.out.name}"],
        }
        with (logs / f"{order.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.batches.entry"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # The terminal's Ctrl-C is answered here, once.
                start_new_session=True,
            )
        try:
            answer = self._converse(process, json.dumps(content).encode() + b"\n")
        finally:
            _end(process)
        settle_dead()
        if answer is None:
            return {"state": "failed", "reason": _death(process.returncode)}
        return answer

    def _converse(self, process: subprocess.Popen[bytes], order: bytes) -> dict[str, Any] | None:
        """Hand the order over and wait for the answer; None if the process dies without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        answers = process.stdout
        lines: list[bytes] = []

        def read() -> None:
            with answers:
                lines.extend(answers)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            process.stdin.write(order)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        while process.poll() is None and not self._stop.is_set():
            time.sleep(_POLL_SECONDS)
        if self._stop.is_set():
            return {"state": "interrupted", "reason": "interrupted"}
        reader.join(_CLOSING_SECONDS)
        try:
            answer: dict[str, Any] = json.loads(lines[-1])
        except (IndexError, ValueError):
            return None
        return answer if answer.get("state") in _STATES else None

    def _note(self, outcome: Outcome) -> None:
        """Keep an outcome, on disk too, and say it."""
        with self._saving:
            self.outcomes[outcome.name] = outcome
            if not outcome.current:
                self._known[outcome.name] = outcome
                self.out.mkdir(parents=True, exist_ok=True)
                content = {name: asdict(item) for name, item in sorted(self._known.items())}
                write_text(self.out / OUTCOMES, json.dumps(content, indent=1))
        self.tell(f"{outcome.name}: {describe(outcome)}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self.out / ".batch"
        make_folder(folder)
        with (folder / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ResourceError(
                    f"{self.out}: another batch is using this folder; wait for it, or choose "
                    "another --out"
                ) from None
            yield


def describe(outcome: Outcome) -> str:
    """An outcome in a few words."""
    if outcome.current:
        return "nothing to do" if outcome.state == "done" else f"set aside: {outcome.reason}"
    if outcome.state == "done":
        return f"done in {outcome.seconds:.0f} s"
    return f"{outcome.state}: {outcome.reason}"


def read_outcomes(out: Path) -> dict[str, Outcome]:
    """Outcomes that earlier batches left in a folder, by name; none if they cannot be read."""
    try:
        content = json.loads((out / OUTCOMES).read_text())
        return {name: Outcome(**item) for name, item in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # What is there is then found step by step.


def run_key(beamtime: Path, recipe: Recipe, fingerprints: Fingerprints) -> str:
    """SHA-256 of all that a run depends on: the files by content, the settings, the code.

    Where it runs does not matter: the results are the same.
    """
    loaded = load_beamtime(beamtime)
    paths = beamtime_inputs(loaded.beamtime, loaded.folder)
    content = {
        "code": code_version(),
        "beamtime": loaded.beamtime.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json", exclude={"cluster"}),
        "files": [fingerprints.of(path) for path in paths],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _products_are_there(out: Path, outcome: Outcome) -> bool:
    known = outcome.products or {}
    try:
        return all(sha256_of(out / name) == known.get(name) for name in PRODUCTS)
    except OSError:
        return False


def _death(code: int) -> str:
    """How a process ended that gave no answer."""
    if code >= 0:
        return f"its process ended with code {code}; see its log"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed ({name}{hint})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: kindly, then not."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()  # It interrupts itself, and cancels its jobs.
    try:
        process.wait(_CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
