"""The strict base of every model, and the words in which a refused input is explained."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class StrictModel(BaseModel):
    """Frozen model that refuses unknown keys, non-finite numbers and silent defaults gone wrong."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        str_strip_whitespace=True,
    )


def _field_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names valid at `location` of `model`: follows nested models and lists of models."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        inner = _inner_model(field.annotation) if field is not None else None
        if inner is None:
            break
        current = inner
    return [field.alias or name for name, field in current.model_fields.items()]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """First pydantic model found inside an annotation (`X`, `list[X]`, `X | None`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text or "(top level)"


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn a validation error into one plain line per problem.

    Each line names the field, what was expected and what was found; an unknown key is answered
    with the nearest valid name.

    Parameters
    ----------
    error : the error that pydantic raised for `model`.
    model : the model that was being validated; its field names are the candidates for a typo.
    """
    lines = []
    # Unknown keys first: a misspelt key is also missed under its right name.
    problems = sorted(
        error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden"
    )
    for item in problems:
        location = item["loc"]
        if item["type"] == "extra_forbidden":
            key = str(location[-1])
            names = _field_names(model, location[:-1])
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(names)}"
            lines.append(f"{_path(location)}: unknown key '{key}'; {hint}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            lines.append(f"{_path(location)}: is required but missing")
        elif item["type"] == "value_error":
            lines.append(f"{_path(location)}: {message}" if location else message)
        else:
            found = repr(item["input"])
            found = found if len(found) <= 60 else found[:57] + "..."
            lines.append(f"{_path(location)}: {message[0].lower()}{message[1:]}, found {found}")
    return lines
