"""A beamline computer as `deploy/README.md` says: scans arrive, runs start, an operator answers.

With Chromium the operator uses the UI; without it, the calls behind its buttons.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest
import yaml

from flows.prefect_server.api import RefusedError
from flows.service.intake import SCAN_FINISHED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = (ROOT / "deploy" / "README.md").read_text()
SAMPLE = "simulated-pillar-tiny"
SHOTS = os.environ.get("DICHROTOMO_SCREENSHOTS")


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the screenshots."""
    return Path(SHOTS) if SHOTS else tmp_path_factory.mktemp("shots")


@pytest.fixture(scope="module")
def browser(
    load: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A headless Chromium; None where there is none."""
    helper = load("browser/conftest.py")
    if helper.BINARY is None:
        assert "browser" not in os.environ.get("CI_NEEDS", "").split()
        yield None
        return
    with helper.running(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """Folder of a beamtime whose data have still to come."""
    folder = tmp_path_factory.mktemp("night")
    shutil.copy(tiny, folder / "beamtime.yaml")
    return folder


def arrive(tiny: Path, night: Path, series: str, names: slice = slice(None)) -> list[Path]:
    target = night / "raw" / series
    target.mkdir(parents=True, exist_ok=True)
    files = sorted((tiny.parent / "raw" / series).iterdir())[names]
    return [Path(shutil.copy(file, target)) for file in files]


def runs_of(service: Any, series: str) -> list[dict[str, Any]]:
    return [run for run in service.runs() if run["parameters"].get("series") == series]


def pages(service: Any, key: str) -> list[dict[str, Any]]:
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    return service.api.post("/artifacts/filter", wanted)


def look(
    browser: Any,
    service: Any,
    path: str,
    words: str,
    shot: Path,
    height: int = 1000,
    *,
    leave: bool = True,
) -> None:
    """Visit a page of the UI, wait for its words, and take its picture."""
    browser.visit(f"http://127.0.0.1:{service.port}{path}", height=height)
    browser.wait_for_text(words)
    time.sleep(1.0)  # Fonts and pictures.
    shot.parent.mkdir(parents=True, exist_ok=True)
    browser.screenshot(shot)
    assert shot.stat().st_size > 20_000
    assert browser.asked() <= {f"127.0.0.1:{service.port}"}
    if leave:
        browser.leave()


def test_scans_that_arrive_are_previewed_and_bad_ones_are_named(
    service: Any, operations: ModuleType, tiny: Path, night: Path, tmp_path: Path
) -> None:
    watcher = service.watch(tmp_path / "watch.log", night, night / "result")
    try:
        watcher.wait_for("0 of 232", 60)
        arrive(tiny, night, "tilt1_lh")
        (bad,) = arrive(tiny, night, "tilt1_lv", slice(0, 1))
        os.truncate(bad, 3000)
        watcher.wait_for(f"{bad}: set aside, damaged:", 60)
        watcher.wait_for("24 of 232", 60)
    finally:
        watcher.stop()
    (run,) = operations.until(lambda: runs_of(service, "tilt1_lh"), 30)
    ended = service.ended(run["id"], 180)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert ended["name"] == f"{SAMPLE} · tilt1_lh · 24 scans · preview"
    assert {"preview", f"beamtime:{night.name}", f"sample:{SAMPLE}"} <= set(ended["tags"])
    (page,) = pages(service, f"preview-{SAMPLE}")
    assert "**tomogram" in page["data"]
    assert "data:image/png;base64," in page["data"]
    assert f"damaged: `{bad.name}`" in page["data"]
    assert len(page["data"]) < 200_000
    assert (night / "result" / "work" / "prepare-tilt1_lh" / "phase.h5").exists()
    # The same again starts nothing.
    watcher = service.watch(tmp_path / "again.log", night, night / "result")
    watcher.wait_for("24 of 232", 60)
    watcher.stop()
    assert len(runs_of(service, "tilt1_lh")) == 1
    heard = service.api.post("/events/filter", {"filter": {"event": {"name": [SCAN_FINISHED]}}})
    assert heard["total"] == 24


def test_the_example_for_a_control_system_starts_one_run_however_often_it_is_sent(
    service: Any, operations: ModuleType, tiny: Path, night: Path
) -> None:
    (file,) = arrive(tiny, night, "tilt1_lv", slice(0, 1))
    (example,) = re.findall(r"```python\n(.*?)```", DEPLOY, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 10
    example = example.replace("http://127.0.0.1:4200/api", service.api.url)
    example = example.replace("/data/night-3/beamtime.yaml", str(night / "beamtime.yaml"))
    for announced in (str(file), str(file), "/etc/passwd", str(night / "nothing.h5")):
        code = example.replace("/data/night-3/scan_0012.h5", announced)
        subprocess.run([sys.executable, "-c", code], env=service.env, check=True, timeout=60)
    operations.until(lambda: runs_of(service, "tilt1_lv"), 30)
    service.wait_for("event refused: scan.file: '/etc/passwd' is not in a folder that runs", 30)
    service.wait_for("nothing.h5: scan.file: matches no series of the beamtime", 30)
    time.sleep(2.5)  # Two more looks for events.
    (run,) = runs_of(service, "tilt1_lv")
    assert run["parameters"]["scans"] == [file.name]


def test_what_the_schema_refuses_the_server_refuses(service: Any, night: Path) -> None:
    for parameters, words in (
        ({"beamtime_path": str(night)}, "out"),
        ({"beamtime_path": "b", "out": "o", "recipe": {"align": {"iterations": 0}}}, "minimum"),
    ):
        with pytest.raises(RefusedError) as refused:
            service.start("process-beamtime/beamtime", words, parameters)
        assert refused.value.status == 409
        assert words in refused.value.reason


def test_the_documented_call_starts_a_run_which_may_not_leave_the_roots(service: Any) -> None:
    (order,) = re.findall(r"create_flow_run .*? -d '(.*?)'", DEPLOY, re.DOTALL)
    assert "/deployments/name/process-beamtime/beamtime" in DEPLOY
    order = json.loads(order)
    run = service.start("process-beamtime/beamtime", order["idempotency_key"], order["parameters"])
    ended = service.ended(run, 120)
    assert ended["state"]["type"] == "FAILED"
    assert "is not in a folder that runs may use" in ended["state"]["message"]


def test_a_second_service_says_where_the_first_is(service: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, service.arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("already served from")
    assert f"http://127.0.0.1:{service.port}" in done.stdout


def test_other_origins_and_other_files_are_kept_out(service: Any, night: Path) -> None:
    base = f"http://127.0.0.1:{service.port}"
    headers = {"accept": "text/html"}
    # A page of another origin may send plain text by POST without asking; Prefect would take it.
    evil = {"origin": "http://evil.example", "content-type": "text/plain"}
    forged = urllib.request.Request(f"{base}/api/deployments/filter", b"{}", evil)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(forged)
    with refused.value as answer:
        assert answer.code == 403
    with urllib.request.urlopen(urllib.request.Request(f"{base}/", None, headers)) as got:
        assert "connect-src 'self'" in got.headers["content-security-policy"]
    for path, status in (("/etc/passwd", 403), (f"{night}/beamtime.yaml", 404)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/results{path}")
        with refused.value as answer:
            assert answer.code == status


def test_scans_that_come_at_once_are_taken_once_each(
    service: Any, operations: ModuleType, tmp_path: Path
) -> None:
    rows = operations.measure_many(service, tmp_path / "many", 18, 2, 3, series=1)
    assert [row.value for row in rows[:3]] == [0, 0, 0], [str(row) for row in rows]


@pytest.mark.timeout(1200)
def test_an_operator_cancels_starts_again_and_answers(
    service: Any, operations: ModuleType, tiny: Path, browser: Any, shots: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "align: {levels: [2, 1], iterations: 3, joint_rounds: 0}\n"
        "register_tilts: {iterations: 5}\nscalar: {iterations: 8}\n"
        "orientation: {iterations: 5, refine_iterations: 3, smoothness: 0.1}\n"
        "approval: {ask: always, timeout_s: 600}\n"
    )
    content = yaml.safe_load(tiny.read_text())
    content["products"] = ["orientation"]
    # Three mountings are enough, and in less time.
    content["series"] = [item for item in content["series"] if item["tilt"]["name"] != "tilt4"]
    for series in content["series"]:
        series["files"] = [str(tiny.parent / name) for name in series["files"]]
    beamtime = tmp_path / "night-3" / "beamtime.yaml"
    beamtime.parent.mkdir()
    beamtime.write_text(yaml.safe_dump(content))
    out = tmp_path / "night" / "result"
    order = {
        "beamtime_path": str(beamtime),
        "out": str(out),
        "recipe_path": str(recipe),
    }
    run = service.start("process-beamtime/beamtime", "night", order)
    assert service.start("process-beamtime/beamtime", "night", order) == run

    # Cancelled while its workers compute: they are gone, finished steps are not.
    operations.until(lambda: list((out / "work").glob("prepare-*/manifest.json")), 120)
    if browser is None:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        service.api.post(f"/flow_runs/{run}/set_state", {"state": state})
    else:
        operations.until(lambda: _cancel_in(browser, service, run), 120)
    operations.until(lambda: not service.workers(), 30)
    assert service.ended(run, 60)["state"]["type"] == "CANCELLED"
    kept = {path.parent.name for path in (out / "work").glob("*/manifest.json")}
    assert kept

    run = service.start("process-beamtime/beamtime", "night, again", order)

    def paused() -> bool:
        return bool(service.api.get(f"/flow_runs/{run}")["state"]["name"] == "Paused")

    operations.until(paused, 480)
    (page,) = [page for page in pages(service, f"run-{SAMPLE}") if page["flow_run_id"] == run]
    operations.until(lambda: "waiting for the operator" in _page(service, page), 30)
    if browser is None:
        answer = {"action": "go on", "comment": "looks good"}
        service.api.post(f"/flow_runs/{run}/resume", {"run_input": answer})
    else:
        operations.until(lambda: _answer_in(browser, service, run, shots), 120)
    if browser is not None:
        operations.until(lambda: "**crystal axis**" in _page(service, page), 480)
        place = f"/artifacts/artifact/{page['id']}"
        look(browser, service, place, "Quality", shots / "running.png", height=1900)
    ended = service.ended(run, 480)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert ended["name"] == f"{SAMPLE} · all series · reconstruction"
    text = _page(service, page)
    assert f"{len(kept)} of them before" in text
    for part in ("**finished**", "**tomogram**", "**residuals**", "**shifts found", "Quality"):
        assert part in text
    assert len(text) < 300_000
    with h5py.File(out / "result.nxs", "r") as file:
        (given,) = json.loads(file["entry/provenance/json"][()])["answers"]
    assert (given["action"], given["by"], given["comment"]) == ("go on", "operator", "looks good")
    (summary,) = pages(service, f"summary-{SAMPLE}")
    assert "orientation_uncertainty" in summary["data"]
    report = f"/results{out}/report.html"
    assert f"[report.html]({report})" in summary["data"]
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{report}") as got:
        assert len(got.read()) > 10_000
    if browser is not None:
        place = f"/artifacts/artifact/{summary['id']}"
        look(browser, service, place, "orientation_uncertainty", shots / "end.png", height=1300)


def _page(service: Any, page: dict[str, Any]) -> str:
    return str(service.api.get(f"/artifacts/{page['id']}")["data"])


def _cancel_in(browser: Any, service: Any, run: str) -> bool:
    """Press Cancel and Confirm; whether the server has taken it.

    A busy database refuses now and then, which the UI says in a corner: an operator tries again.
    """
    browser.visit(f"http://127.0.0.1:{service.port}/runs/flow-run/{run}")
    browser.press_button("Cancel")
    browser.press_button("Confirm")
    taken = _leaves_the_state(service, run, "RUNNING")
    browser.leave()
    return taken


def _answer_in(browser: Any, service: Any, run: str, shots: Path) -> bool:
    """Press Resume, write a comment, submit; whether the server has taken it, as for Cancel."""
    place = f"/runs/flow-run/{run}"
    browser.visit(f"http://127.0.0.1:{service.port}{place}")
    browser.press_button("Resume")
    browser.wait_for_text("is aligned. Go on with the reconstruction?")
    time.sleep(1.0)
    shots.mkdir(parents=True, exist_ok=True)
    browser.screenshot(shots / "approval.png")
    for choice in ("go on", "exclude frames", "realign", "stop"):
        browser.wait_for_text(choice)
    browser.evaluate(
        "[...document.querySelectorAll('[role=dialog] textarea, textarea')].at(-1).focus()"
    )
    browser.call("Input.insertText", text="looks good")
    browser.press_button("Submit")
    taken = _leaves_the_state(service, run, "PAUSED")
    if taken:
        browser.wait("!document.body.innerText.includes('Resume Flow Run')")
    browser.leave()
    return taken


def _leaves_the_state(service: Any, run: str, state: str) -> bool:
    """Whether a run gets from a state to another one within ten seconds."""
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        if service.api.get(f"/flow_runs/{run}")["state"]["type"] != state:
            return True
        time.sleep(0.2)
    return False


def test_the_form_of_a_run_shows_every_field_and_refuses_what_is_out_of_bounds(
    service: Any, browser: Any, shots: Path, lacking: Callable[[str, str], None]
) -> None:
    deployment = service.api.get("/deployments/name/process-beamtime/beamtime")
    fields = deployment["parameter_openapi_schema"]["definitions"]
    iterations = fields["AlignSettings"]["properties"]["iterations"]
    assert (iterations["minimum"], iterations["maximum"], iterations["default"]) == (1, 200, 12)
    assert "rounds at each level" in iterations["description"]
    if browser is None:
        lacking("browser", "needs Chromium in the PATH to look at the form")
    place = f"/deployments/deployment/{deployment['id']}/run"
    look(browser, service, place, "folder of the results", shots / "form.png", 1400, leave=False)
    browser.press_button("Recipe")
    browser.wait_for_text("Fixes every random choice.")
    browser.screenshot(shots / "recipe.png")
    browser.leave()
