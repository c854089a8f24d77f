"""Commands of a beamline computer: serve, watch."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.command.console import one_line_errors, print_json, print_table
from pipeline.errors import InputError

Home = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the service: database, spool, logs; in the user's state folder if absent.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    example = "Example:  dichrotomo "
    app.command(epilog=example + "serve --root /data")(serve)
    app.command(epilog=example + "watch night-3 --beamtime night-3/beamtime.yaml")(watch)


def _say(line: str) -> None:
    """One line on stdout, at once."""
    typer.echo(line)
    sys.stdout.flush()


def _stop_on_signals() -> Any:
    """Whether this process was asked to end."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))
    return lambda: bool(asked)


def _home(given: Path | None) -> Path:
    from flows.prefect_server.environment import state_folder

    return (given or state_folder() / "service").resolve()


@one_line_errors
def serve(
    home: Home = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder in which beamtimes, recipes and results may lie; may be repeated. The "
            "current folder if absent.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 4200,
    reconstructions: Annotated[
        int,
        typer.Option(min=0, max=64, help="Reconstructions at a time; 0: one for each GPU, or one."),
    ] = 0,
    systemd: Annotated[
        Path | None,
        typer.Option(
            help="Write systemd units into this folder, such as ~/.config/systemd/user, and end.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring up the service of a beamline computer: server and UI, runners, automation.

    Everything that it needs lies in one folder. Started a second time, it says where it is
    already; started again after an end of any kind, it goes on with what was waiting. It listens
    on this machine alone, unless PREFECT_SERVER_API_AUTH_STRING holds USER:PASSWORD.
    """
    from flows.service.serve import Serving, check_exposure, hold, unit_files
    from flows.steps.workspace import make_folder
    from schemas.service import Service

    roots = [path.resolve() for path in (root or [Path.cwd()])]
    for path in roots:
        if not path.is_dir():
            raise InputError("expected a folder", path=path, field="--root")
    settings = Service(
        host=host, port=port, roots=[str(path) for path in roots], reconstructions=reconstructions
    )
    check_exposure(settings, os.environ)
    folder = _home(home)
    if systemd is not None:
        program = Path(sys.executable).with_name("dichrotomo")
        make_folder(systemd, "--systemd")
        for name, text in unit_files(settings, folder, roots, program).items():
            (systemd / name).write_text(text)
            _say(str(systemd / name))
        return
    with hold(folder) as held:
        if not held:
            _say(f"already served from {folder}: {(folder / 'address').read_text().strip()}")
            return
        serving = Serving(settings, folder, roots, _say)
        serving.check_port()
        (folder / "address").write_text(serving.address)
        stop = _stop_on_signals()
        try:
            seconds = serving.start(stop)
            if seconds is not None:
                _say(f"ready after {seconds:.1f} s: {serving.address}/dashboard")
                serving.run(stop)
        finally:
            serving.stop()


@one_line_errors
def watch(
    folder: Annotated[Path, typer.Argument(help="Folder of the scans.", show_default=False)],
    beamtime: Annotated[Path, typer.Option(help="The beamtime file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; FOLDER/result if absent.", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe file; the default one if absent.")
    ] = None,
    home: Home = None,
    stable: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds without a change.")
    ] = 2.0,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Start no reconstruction when the set is complete.")
    ] = False,
    preview: Annotated[
        bool, typer.Option(help="Whether scans start a preview as they come in.")
    ] = True,
    table: Annotated[
        bool, typer.Option("--table", help="Print what has arrived and what was set aside; end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --table: as JSON.")] = False,
) -> None:
    """Notice finished scans, and start what follows: preview by preview, then the reconstruction.

    A scan is taken when its file has stopped changing, nobody writes it, and every projection in
    it can be read. Damaged files and duplicates are named in one line and set aside in a table;
    they are looked at again when they change. Stopped and started again, it starts nothing twice;
    while the server is away, what is to be started waits. The server is that of PREFECT_API_URL,
    else that of the service in the same folder (--home), else http://127.0.0.1:4200.
    """
    from flows.prefect_server.api import PrefectApi
    from flows.service.intake import Destination, Intake
    from flows.service.serve import spool_of
    from flows.service.watch import Watcher, alone
    from flows.steps.workspace import check_folder
    from pipeline.io.beamtime import load_recipe, read_beamtime
    from schemas.service import Watch

    if not folder.is_dir():
        raise InputError("expected a folder", path=folder)
    load_recipe(recipe)
    read_beamtime(beamtime)  # Refused before a folder is made.
    check_folder(out or folder / "result", "--out")
    settings = Watch(
        stable_s=stable, full="by-hand" if by_hand else "when-complete", preview=preview
    )
    destination = Destination(
        (out or folder / "result").resolve(),
        None if recipe is None else recipe.resolve(),
        settings.preview,
        settings.full == "when-complete",
    )
    spool = spool_of(_home(home))
    intake = Intake(beamtime, destination, spool)
    if table:
        _print_table(intake, as_json)
        return
    with alone(spool.file.parent, beamtime):
        Watcher(intake, folder.resolve(), settings, _say).run(
            PrefectApi(_server_of(_home(home))), _stop_on_signals()
        )


def _server_of(home: Path) -> str:
    """Address of the server of this user, or of the service in a folder."""
    from flows.prefect_server.api import api_url

    address = home / "address"
    if os.environ.get("PREFECT_API_URL") or not address.exists():
        return api_url()
    return f"{address.read_text().strip()}/api"


def _print_table(intake: Any, as_json: bool) -> None:
    found = intake.so_far(intake.spool.scans(str(intake.path)))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [
        [name, str(item.finished), str(item.expected), "complete" if item.complete else ""]
        for name, item in found.series.items()
    ]
    print_table(intake.sample, ["series", "there", "of", ""], rows)
    if found.set_aside:
        typer.echo()
        aside = [[item.file, item.state, item.reason] for item in found.set_aside]
        print_table("set aside", ["file", "", "reason"], aside)
