"""The parts of the service that can be asked without a server: exposure, folders, units, tables."""

from __future__ import annotations

import asyncio
import base64
import configparser
import io
import re
import shlex
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from flows.approval import Approval, excluded
from flows.cluster.compute import Compute
from flows.display import pictures, quality
from flows.display.page import key_of
from flows.display.quality import Measure
from flows.prefect_server import environment
from flows.preview_flow import stepped
from flows.service import serve
from flows.service.confine import confined
from flows.steps.coarse import binning, block_mean
from pipeline.errors import InputError, ResourceError
from schemas.cluster import Cluster
from schemas.operation import Answer, Limit
from schemas.recipe import Recipe
from schemas.series import Series
from schemas.service import ScanFinished, Service


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.5.5.5"])
def test_on_loopback_no_password_is_asked_for(host: str) -> None:
    serve.check_exposure(Service(host=host), {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "beamline.example"])
@pytest.mark.parametrize("secret", [None, "admin:short"])
def test_off_loopback_it_is_refused_without_one(host: str, secret: str | None) -> None:
    environment = {} if secret is None else {serve.PASSWORD: secret}
    with pytest.raises(InputError, match="needs a password") as refused:
        serve.check_exposure(Service(host=host), environment)
    assert "short" not in str(refused.value)
    serve.check_exposure(Service(host=host), {serve.PASSWORD: "admin:twelve-and-more"})


def test_a_password_of_the_wrong_form_is_not_repeated() -> None:
    with pytest.raises(InputError, match="expected USER:PASSWORD") as refused:
        serve.check_exposure(Service(), {serve.PASSWORD: "letmein"})
    assert "letmein" not in str(refused.value)


def test_the_children_listen_where_told_and_call_nobody(tmp_path: Path) -> None:
    settings = Service(host="0.0.0.0", port=4999)
    base = {serve.PASSWORD: "admin:twelve-and-more", "PATH": "/bin"}
    found = serve.environment_of(settings, tmp_path, [tmp_path], base)
    assert found["PREFECT_API_URL"] == "http://127.0.0.1:4999/api"
    assert found["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4999"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert found["PREFECT_API_AUTH_STRING"] == base[serve.PASSWORD]
    assert found["PREFECT_HOME"] == str(tmp_path / "prefect")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fd00::5", "http://[fd00::5]:80"),
        ("beamline.example", "http://beamline.example:80"),
    ],
)
def test_addresses_are_such_that_programs_reach_them(
    host: str, address: str, tmp_path: Path
) -> None:
    settings = Service(host=host, port=80)
    found = serve.environment_of(settings, tmp_path, [tmp_path], {})
    assert found["PREFECT_API_URL"] == f"{address}/api"
    units = serve.unit_files(settings, tmp_path, [tmp_path], tmp_path / "dichrotomo")
    assert f"PREFECT_API_URL={address}/api\n" in units["dichrotomo-watch@.service"]


def test_paths_stay_in_their_folders(tmp_path: Path) -> None:
    root, other = tmp_path / "data", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    (root / "link").symlink_to(other)
    (root / "inside").symlink_to(root)
    assert confined(root / "inside" / "new", "out", [root]) == root / "new"
    for bad in (other, root / "link" / "x", tmp_path / "database", "/etc/passwd"):
        with pytest.raises(InputError, match=r"out: .* is not in a folder that runs may use"):
            confined(bad, "out", [root])
    with pytest.raises(InputError, match=r"expected a path without '\.\.'"):
        confined(root / ".." / "data", "out", [root])


def test_an_announced_scan_has_no_way_out() -> None:
    ScanFinished(beamtime="/data/night..3/b.yaml", file="raw/a.h5")
    for bad in ("../a.h5", "raw/../../a.h5", "a\0.h5", ""):
        with pytest.raises(ValidationError):
            ScanFinished(beamtime="/data/b.yaml", file=bad)


def test_gpus_are_counted_as_far_as_they_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert serve.count_gpus(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert serve.count_gpus(tmp_path) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert serve.count_gpus(tmp_path) == 0


def test_units_hold_the_command_and_no_secret(tmp_path: Path) -> None:
    root = tmp_path / 'data of "night" 5%'
    program = tmp_path / "bin" / "dichrotomo"
    units = serve.unit_files(Service(port=4444), tmp_path / "home", [root], program)
    assert sorted(units) == ["dichrotomo-serve.service", "dichrotomo-watch@.service"]
    for text in units.values():
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read_string(text)
        assert parser["Service"]["EnvironmentFile"].startswith("-%h/")
        assert "PASSWORD=" not in text
        assert "AUTH_STRING" not in text
    start = next(
        line.removeprefix("ExecStart=")
        for line in units["dichrotomo-serve.service"].splitlines()
        if line.startswith("ExecStart=")
    )
    words = [word.replace("%%", "%") for word in shlex.split(start)]
    assert words[:2] == [str(program), "serve"]
    assert words[words.index("--root") + 1] == str(root)
    assert words[words.index("--port") + 1] == "4444"


def test_the_automation_waits_for_runs_that_wait() -> None:
    trigger = serve.zombie_automation(90)["trigger"]
    assert isinstance(trigger, dict)
    for state in ("Paused", "Suspended", "AwaitingRetry", "Completed", "Cancelled"):
        assert f"prefect.flow-run.{state}" in trigger["expect"]
    assert trigger["within"] == 90


def test_limits_know_in_which_direction_is_worse() -> None:
    rising, falling = Limit(amber=5.0, red=20.0), Limit(amber=0.9, red=0.7)
    assert [rising.judge(v) for v in (4.9, 5.0, 19.0, 20.0)] == ["green", "amber", "amber", "red"]
    assert [falling.judge(v) for v in (0.95, 0.9, 0.75, 0.7)] == ["green", "amber", "amber", "red"]


def test_the_quality_table_puts_the_worst_first_and_alike_together() -> None:
    limit = Limit(amber=5.0, red=20.0)
    measures = [Measure(f"s{k}", "gap", 6.0 + k, "°", limit) for k in range(6)]
    measures += [Measure("t", "shift", 30.0, "%", limit), Measure("u", "shift", 1.0, "%", limit)]
    assert quality.worst(measures) == "red"
    lines = quality.table(measures).splitlines()[2:]
    assert "| bad | shift | 30 % | 5 | 20 | t |" in lines[0]
    assert "| look at it | gap | 11 ° | 5 | 20 | s0, s1 and 4 more |" in lines[1]
    assert "| good | 1 of 8 measures" in lines[2]
    assert quality.doubts(measures) == [
        "shift: 30 % (t), bad: amber from 5, red from 20",
        "gap: 11 ° (s0, s1 and 4 more), look at it: amber from 5, red from 20",
    ]
    assert quality.doubts(measures[-1:]) == []
    assert quality.worst([]) == "green"


def test_the_form_of_the_operator_is_read_or_refused() -> None:
    assert excluded("tilt1_lh: 3, 17; tilt2_lv: 0\ntilt1_lh: 4") == {
        "tilt1_lh": [3, 17, 4],
        "tilt2_lv": [0],
    }
    for bad in ("", "tilt1_lh", "tilt1_lh: x", ": 3", "a: -1"):
        with pytest.raises(InputError, match="expected 'series: 3, 17'"):
            excluded(bad)
    form = Approval.model_json_schema()["properties"]
    assert form["action"]["enum"] == ["go on", "exclude frames", "realign", "stop"]
    assert (form["iterations"]["minimum"], form["iterations"]["maximum"]) == (1, 200)


def test_an_answer_that_excludes_names_projections() -> None:
    now = datetime.now(UTC)
    with pytest.raises(ValidationError, match="expected at least one projection"):
        Answer(action="exclude frames", by="operator", asked=now, answered=now, verdict="green")


def test_pictures_stay_small_whatever_is_in_them() -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="png")
    text = pictures.embedded(buffer.getvalue(), "noise")
    data = base64.b64decode(text.split("base64,")[1].rstrip(")"))
    image = Image.open(io.BytesIO(data))
    assert image.width >= 0.4 * 900 - 1
    assert len(data) < 0.2 * len(buffer.getvalue())
    assert len(pictures.dot("red")) < 2000


def test_coarse_pixels_are_means_and_keep_the_sum() -> None:
    images = np.random.default_rng(1).standard_normal((3, 13, 9)).astype(np.float32)
    small = block_mean(images, 4)
    assert small.shape == (3, 3, 2)
    assert small[1, 2, 1] == pytest.approx(images[1, 8:12, 4:8].mean(), rel=1e-5)
    assert [binning(shape, 64) for shape in ((64, 64), (65, 20), (650, 760))] == [1, 2, 12]


def test_a_series_that_grows_is_looked_at_in_steps_of_a_quarter() -> None:
    sizes = []
    for n in range(5, 200):
        series = Series.model_validate(
            {
                "name": "s",
                "files": [f"{k}.h5" for k in range(n)],
                "tilt": {"name": "t"},
                "energy": {"energy_ev": 5468.0},
                "angles_deg": [float(k) for k in range(n)],
            }
        )
        cut = stepped(series)
        assert len(cut.files) == len(cut.angles_deg or [])
        sizes.append(len(cut.files))
        assert 0.7 * n <= sizes[-1] <= n
    assert len(set(sizes)) < 20


def test_keys_of_pages_are_what_the_server_takes() -> None:
    assert key_of("run", "My Pillar #3 (Å)") == "run-my-pillar-3"
    assert key_of("run", "柱") == "run-sample"


def test_the_recipe_on_the_operators_page_is_valid() -> None:
    page = (Path(__file__).resolve().parents[2] / "deploy" / "README.md").read_text()
    (part,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    recipe = Recipe.model_validate(yaml.safe_load(part))
    assert (recipe.approval.ask, recipe.approval.default) == ("amber", "go on")
    assert recipe.limits.last_update_px == Limit(amber=0.1, red=0.5)


def test_parameters_are_described_as_their_docstring_says() -> None:
    from flows.beamtime_flow import process_beamtime
    from flows.service.serving import described

    words = described(process_beamtime.fn.__doc__ or "")
    assert words["beamtime_path"] == "the beamtime file."
    assert set(words) == {"beamtime_path", "out", "recipe_path", "recipe", "cluster"}


def test_a_report_needs_the_password_of_the_server_and_cannot_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx
    from starlette.applications import Starlette
    from starlette.routing import Route

    from flows.service import webserver

    (tmp_path / "report.html").write_text("<p>maps")
    (tmp_path / "secret.yaml").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.html").symlink_to("/etc/hostname")
    monkeypatch.setenv("DICHROTOMO_ROOTS", str(tmp_path))
    app = Starlette(routes=[Route("/results/{path:path}", webserver.report)])
    app.add_middleware(webserver.Policy)

    def get(path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                return await client.get(path, **more)

        return asyncio.run(ask())

    found = get(f"/results{tmp_path}/report.html")
    assert (found.status_code, found.text) == (200, "<p>maps")
    assert found.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert get(f"/results{tmp_path}/secret.yaml").status_code == 404
    assert get(f"/results{tmp_path}/other/report.html").status_code == 403
    assert "connect-src 'self'" in get("/nothing").headers["content-security-policy"]
    for name, value, status in (
        ("origin", "http://127.0.0.1", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "http://127.0.0.1:8000", 403),
        ("origin", "null", 403),
        ("host", "localhost:4200", 200),
        ("host", "evil.example", 403),
    ):
        answer = get(f"/results{tmp_path}/report.html", headers={name: value})
        assert answer.status_code == status, (name, value)
    monkeypatch.setenv(serve.PASSWORD, "admin:twelve-and-more")
    for given in ({}, {"authorization": "Basic !!"}, {"authorization": "Bearer x"}):
        refused = get(f"/results{tmp_path}/report.html", headers=given)
        assert (refused.status_code, "Basic" in refused.headers["www-authenticate"]) == (401, True)
        assert "twelve" not in refused.text
    known = get(f"/results{tmp_path}/report.html", auth=("admin", "twelve-and-more"))
    assert known.status_code == 200


def test_steps_that_wait_do_not_start_what_was_cancelled_anew(tmp_path: Path) -> None:
    def step(out: Path) -> None:
        (out / "done").touch()

    for kind in ("none", "local"):
        compute = Compute(Cluster.model_validate({"kind": kind}), tmp_path)
        compute.kill()
        with pytest.raises(ResourceError, match="has been cancelled"):
            compute.call(step, {"out": tmp_path}, lambda _: None)
    assert not (tmp_path / "done").exists()


class Doorkeeper(BaseHTTPRequestHandler):
    """Lets nobody in."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""


@pytest.fixture
def closed_server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Doorkeeper) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_does_not_answer_is_named_without_its_password(monkeypatch) -> None:
    monkeypatch.setattr(environment, "_SILENCE_SECONDS", 0.0)
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:9/api")
    expected = r"^no Prefect server answers at http://127\.0\.0\.1:9; see PREFECT_API_URL$"
    with pytest.raises(ResourceError, match=expected), environment.prefect_server():
        pass


def test_a_server_that_lets_nobody_in_is_named(monkeypatch, closed_server) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{closed_server.server_port}/api")
    expected = r"lets nobody in .* \(401\); see PREFECT_API_AUTH_STRING$"
    with pytest.raises(ResourceError, match=expected), environment.prefect_server():
        pass
