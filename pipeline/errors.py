"""The errors that a user can meet, each one clear line."""

from __future__ import annotations

from pathlib import Path


class DichrotomoError(Exception):
    """Base of every error that this software raises on purpose."""


class InputError(DichrotomoError):
    """Bad input: says the file, the field, what was expected and what was found.

    Parameters
    ----------
    message : what is wrong, e.g. "expected 60 angles, found 59".
    path : file in which it was found, if any.
    field : field or dataset in that file, if any.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, field: str | None = None):
        where = ": ".join(str(part) for part in (path, field) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.path, self.field = message, path, field

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, which Dask uses.
        return (_rebuild_input_error, (self.message, self.path, self.field))


def _rebuild_input_error(message: str, path: str | Path | None, field: str | None) -> InputError:
    return InputError(message, path=path, field=field)


class GeometryError(DichrotomoError):
    """The geometry contradicts the data, or cannot determine what is asked for."""


class ResourceError(DichrotomoError):
    """Memory, disk or workers are too few, or were lost for good."""


class ConvergenceError(DichrotomoError):
    """An iteration diverged or produced non-finite values."""
