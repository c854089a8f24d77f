"""What the commands share: one-line errors, JSON, tables."""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

from pipeline.errors import DichrotomoError

P = ParamSpec("P")
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def fail(message: str) -> typer.Exit:
    """Say what is wrong on stderr; to be raised."""
    Console(stderr=True).print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(1)


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into one line on stderr and exit code 1; tracebacks go to a file."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except DichrotomoError as error:
            raise fail(" ".join(str(error).split())) from None
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; the same command goes on from here")
            raise typer.Exit(130) from None
        except Exception as error:  # noqa: BLE001
            log = _write_log(traceback.format_exc())
            kind = type(error).__name__
            text = " ".join(str(error).split())[:200]
            raise fail(f"unexpected {kind}: {text} (full log: {log})") from None

    return wrapped


def _write_log(text: str) -> Path:
    from flows.prefect_server.environment import state_folder

    folder = state_folder() / "errors"
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.log"
    with suppress(OSError):  # A full disk must not hide what went wrong.
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{' '.join(sys.argv)}\n\n{text}")
    return path


def print_json(content: Any) -> None:
    """Print JSON for other programs."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(title: str, headers: list[str], rows: list[list[str]]) -> None:
    """Print a table; wide where no terminal sets its width."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="left" if header == headers[0] else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


def print_figures(title: str, figures: dict[str, dict[str, Any]]) -> None:
    """Print numbers to quote with their units."""
    rows = []
    for name, figure in figures.items():
        error = figure.get("uncertainty")
        value = figure["value"]
        rows.append(
            [
                name,
                "–" if value is None else f"{value:.5g}",
                "" if error is None else f"± {error:.2g}",
                str(figure.get("unit", "")),
            ]
        )
    print_table(title, ["name", "value", "", "unit"], rows)
