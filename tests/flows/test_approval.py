"""An operator answers a run that waits, by the calls behind the form; wrong answers come back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.approval import ANSWERS, StoppedByOperator, approved
from flows.display.dashboard import Dashboard
from flows.layout import lay_out
from flows.prefect_server.api import PrefectApi, RefusedError
from flows.run import Run, open_run
from schemas.cluster import Cluster
from schemas.recipe import Recipe

pytestmark = pytest.mark.slow


class Operator:
    """Answers one question after another; keeps what was asked and what the server said."""

    def __init__(self, url: str, answers: list[dict[str, Any]]):
        self.api = PrefectApi(url)
        self.answers = answers
        self.asked: list[str] = []
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(5)

    def _work(self) -> None:
        for answer in self.answers:
            run = self._waiting()
            keys = run["state"]["state_details"]["run_input_keyset"]
            text = self._read(f"/flow_runs/{run['id']}/input/{keys['description']}")
            self.asked.append(text if isinstance(text, str) else json.dumps(text))
            given = self.api.post(f"/flow_runs/{run['id']}/resume", {"run_input": answer})
            self.said.append(given["status"])
            if given["status"] == "ACCEPT":
                self._past(run)

    def _read(self, path: str) -> Any:
        """What belongs to the form comes a moment after the run has paused."""
        end = time.monotonic() + 30
        while True:
            try:
                return self.api.get(path)
            except RefusedError:
                assert time.monotonic() < end
                time.sleep(0.1)

    def _waiting(self) -> dict[str, Any]:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}, "name": {"any_": [NAME]}}}
        return next(self._look(lambda: self.api.post("/flow_runs/filter", wanted)))

    def _past(self, run: dict[str, Any]) -> None:
        """Wait until the run has taken the answer."""
        state = run["state"]["id"]
        next(self._look(lambda: [1] if self._state(run)["id"] != state else []))

    def _state(self, run: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run['id']}")["state"]
        return found

    def _look(self, question: Any) -> Iterator[Any]:
        end = time.monotonic() + 60
        while not (found := question()):
            assert time.monotonic() < end
            time.sleep(0.1)
        yield from found


NAME = "asks-its-operator"


def test_every_answer_of_the_form_does_what_it_says(
    tiny: Path, tmp_path: Path, prefect_api: str
) -> None:
    from prefect import flow

    layout = lay_out(tiny)
    recipe = Recipe.model_validate({"approval": {"ask": "always", "timeout_s": 120}})
    recipe = recipe.model_copy(update={"cluster": Cluster(kind="none")})
    seen: list[tuple[list[int], int]] = []

    def make(run: Run) -> Any:
        series = next(item for item in run.layout.beamtime.series if item.name == "offres")
        seen.append((list(series.exclude), run.recipe.align.iterations))
        return SimpleNamespace(aligned={"offres": SimpleNamespace(key=str(len(seen)))})

    @flow(name="ask", flow_run_name=NAME, persist_result=False)
    def ask() -> None:
        board = Dashboard("asking", recipe.limits, 1e-8, 64, quiet=True)
        with open_run(layout, recipe, tmp_path / "out", board) as run:
            approved(run, board, make)

    answers: list[dict[str, Any]] = [
        {"action": "realign", "iterations": 0},
        {"action": "perhaps"},
        {"action": "exclude frames", "exclude": "nobody: 3"},
        {"action": "exclude frames", "exclude": "offres: 3, 4000"},
        {"action": "exclude frames", "exclude": "offres: 3, 5", "comment": "bubbles"},
        {"action": "realign", "iterations": 7},
        {"action": "stop", "comment": "enough"},
    ]
    with (
        Operator(prefect_api, answers) as operator,
        pytest.raises(StoppedByOperator, match="stopped after the alignment, by operator"),
    ):
        ask()
    assert operator.said == ["REJECT"] * 2 + ["ACCEPT"] * 5
    assert seen == [([], 12), ([3, 5], 12), ([3, 5], 7)]
    assert "Your answer could not be used: exclude: no series 'nobody'" in operator.asked[3]
    assert "Your answer could not be used: " in operator.asked[4]
    assert "4000" in operator.asked[4]
    assert "Without an answer within 120 s: *go on*." in operator.asked[5]
    kept = json.loads((tmp_path / "out" / ANSWERS).read_text()).values()
    assert [(item["action"], item["by"], item["comment"]) for item in kept] == [
        ("exclude frames", "operator", "bubbles"),
        ("realign", "operator", ""),
        ("stop", "operator", "enough"),
    ]
    assert [item["exclude"] for item in kept] == [{"offres": [3, 5]}, {}, {}]
