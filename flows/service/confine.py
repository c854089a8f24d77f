"""Which folders a run may read and write when somebody else than a person at a shell starts it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError

VARIABLE = "DICHROTOMO_ROOTS"
"""Folders, separated as in PATH; `dichrotomo serve` sets it for the runs that it starts."""


def configured_roots() -> tuple[Path, ...]:
    """Folders that the environment allows; none where nothing is confined."""
    return tuple(Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part)


def confined(path: str | Path, field: str, roots: Sequence[Path] | None = None) -> Path:
    """The path itself, links followed, if it lies in one of the roots.

    Parameters
    ----------
    path : absolute, or relative to the working folder.
    field : name of the setting or parameter, for the error.
    roots : allowed folders; those of the environment when absent. Without any, all are allowed.

    Raises
    ------
    InputError : it has `..` in it, or lies elsewhere, by itself or through a link.
    """
    allowed = configured_roots() if roots is None else tuple(roots)
    if not allowed:
        return Path(path)
    if ".." in Path(path).parts:
        raise InputError(f"expected a path without '..', found '{path}'", field=field)
    resolved = Path(path).resolve()
    if not any(resolved.is_relative_to(root.resolve()) for root in allowed):
        listed = ", ".join(str(root) for root in allowed)
        raise InputError(f"'{path}' is not in a folder that runs may use: {listed}", field=field)
    return resolved
