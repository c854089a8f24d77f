"""Wrong words to the commands that start something: one line each, and nothing is left behind."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.service.serve import PASSWORD

runner = CliRunner()
SECRET = "hunter2-hunter2"


class Anybody(socketserver.BaseRequestHandler):
    """Answers HTTP, as some other program does."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program answers."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Anybody) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def place(tmp_path: Path, tiny: Path) -> Path:
    """A folder with what the commands below name."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "night").mkdir()
    lists = {
        "empty": "entries: []",
        "lacking": "entries: [{name: a}]",
        "twice": "entries: [{name: a, beamtime: x}, {name: A, beamtime: y}]",
        "outside": "entries: [{name: ../a, beamtime: x}]",
        "good": "entries: [{name: a, beamtime: x}]",
        "unlike": "entrys: []",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "tiny.yaml").symlink_to(tiny)
    return tmp_path


WORDS = [
    ("serve --home {new} --host 0.0.0.0", "--host: listening on 0.0.0.0 needs a password"),
    ("serve --home {new} --host :: --systemd {new}", "--host: listening on :: needs a password"),
    ("serve --home {new} --root {tmp}/nowhere", "nowhere: --root: expected a folder"),
    ("serve --home {tmp}/file", "file: --home: cannot be a folder: '{tmp}/file' is none"),
    ("serve --systemd {tmp}/file/units", "--systemd: cannot be a folder: '{tmp}/file' is none"),
    ("watch {tmp}/nowhere --beamtime {tmp}/tiny.yaml", "nowhere: expected a folder"),
    ("watch {tmp}/night --beamtime {tmp}/none.yaml", "none.yaml: file does not exist"),
    (
        "watch {tmp}/night --beamtime {tmp}/tiny.yaml --recipe {tmp}/none.yaml",
        "none.yaml: file does not exist",
    ),
    (
        "watch {tmp}/night --beamtime {tmp}/tiny.yaml --out {tmp}/file",
        "file: --out: cannot be a folder: '{tmp}/file' is none",
    ),
    ("batch {tmp}/none.yaml --out {new}", "none.yaml: file does not exist"),
    ("batch {tmp}/empty.yaml --out {new}", "empty.yaml: entries: list should have at least 1 item"),
    ("batch {tmp}/lacking.yaml --out {new}", "lacking.yaml: entries[0].beamtime: is required"),
    ("batch {tmp}/twice.yaml --out {new}", "entries: the name 'a' is used more than once"),
    ("batch {tmp}/outside.yaml --out {new}", "entries[0].name: string should match pattern"),
    ("batch {tmp}/unlike.yaml --out {new}", "unknown key 'entrys'; did you mean 'entries'?"),
    ("batch {tmp}/good.yaml --out {new} --cluster weird", "--cluster: cluster 'weird' is not"),
    ("batch {tmp}/good.yaml --out {tmp}/file", "cannot be a folder: '{tmp}/file' is none"),
    ("run {tmp}/tiny.yaml --out {new} --cluster {tmp}/none.yaml", "none.yaml: file does not exist"),
    (
        "run {tmp}/tiny.yaml --out {new} --cluster tls://127.0.0.1",
        "--cluster: cluster.address: expected tls://HOST:PORT, found tls://127.0.0.1",
    ),
    (
        "run {tmp}/tiny.yaml --out {new} --cluster tcp://127.0.0.1:99999",
        "--cluster: cluster.address: expected tls://HOST:PORT, found tcp://127.0.0.1:99999",
    ),
    (
        "run {tmp}/tiny.yaml --out {new} --cluster tls://127.0.0.1:9",
        "cluster.tls: tls://127.0.0.1:9 needs certificates: cluster.tls in the recipe",
    ),
    (
        "run {tmp}/tiny.yaml --out {new} --cluster tcp://127.0.0.1:9",
        "no Dask scheduler answers at tcp://127.0.0.1:9",
    ),
    ("run {tmp}/tiny.yaml --out {new} --cluster cuda", "cluster 'cuda': no GPU is visible"),
    ("run {tmp}/tiny.yaml --out {tmp}/file/out", "--out: cannot be a folder: '{tmp}/file' is none"),
]


@pytest.mark.parametrize(("words", "line"), WORDS, ids=[words for words, _ in WORDS])
def test_one_line_and_nothing_is_left(
    words: str, line: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv(PASSWORD, "")
    before = sorted(place.rglob("*"))
    named = {"tmp": str(place), "new": str(place / "new")}
    done = runner.invoke(app, [word.format(**named) for word in words.split()])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert line.format(**named) in done.stderr
    left = [path for path in place.rglob("*") if path not in before]
    assert [path for path in left if not path.is_relative_to(place / "state")] == []


@pytest.mark.parametrize(
    "words",
    [
        "serve --port 0",
        "serve --reconstructions -1",
        "watch .",
        "watch . --beamtime b.yaml --stable 0",
        "batch",
        "batch b.yaml --concurrent 0",
        "run b.yaml",
    ],
)
def test_wrong_usage_has_code_2(words: str) -> None:
    done = runner.invoke(app, words.split())
    assert done.exit_code == 2
    assert "Error" in done.stderr


def test_a_port_of_somebody_else_is_said_and_the_home_stays_as_it_was(
    taken: int, tmp_path: Path
) -> None:
    done = runner.invoke(app, ["serve", "--home", str(tmp_path / "home"), "--port", str(taken)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"error: port {taken} is taken by another program" in done.stderr
    assert not (tmp_path / "home" / "address").exists()


def test_a_secret_of_the_wrong_form_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    done = runner.invoke(app, ["serve", "--home", str(tmp_path / "home")])
    assert done.exit_code == 1
    assert "expected USER:PASSWORD" in done.stderr
    assert SECRET not in done.output
