"""Models in YAML files: parsed safely, within limits, and explained in one line when refused."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from pipeline.errors import InputError
from schemas.base import StrictModel, explain

MAX_YAML_BYTES = 16 * 2**20
"""Larger than the angles of any beamtime; keeps a mistaken path to data from being parsed."""

MAX_YAML_DEPTH = 32
"""Levels of nesting; a recipe has four."""

MAX_YAML_NODES = 2_000_000
"""Keys and values; all the angles of a thousand series."""

_Model = TypeVar("_Model", bound=StrictModel)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (they can unfold without end) and without repeated keys."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        self._nodes += 1
        if self._nodes > MAX_YAML_NODES:
            problem = f"more than {MAX_YAML_NODES} keys and values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._depth += 1
        if self._depth > MAX_YAML_DEPTH:
            problem = f"nested deeper than {MAX_YAML_DEPTH} levels"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        found = super().compose_node(parent, index)
        self._depth -= 1
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' occurs twice", problem_mark=key.start_mark
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_model(path: Path, model: type[_Model]) -> _Model:
    """Read a YAML file into a model.

    Raises
    ------
    InputError : unreadable, no YAML, beyond the limits above, or wrong keys or values: the first
        problem, and how many more there are.
    """
    content = _load_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        message = f"expected keys and values, found a {type(content).__name__}"
        raise InputError(message, path=path)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = explain(error, model)
        more = f" (+{len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more, path=path) from error


def _load_yaml(path: Path) -> Any:
    if path.is_dir():
        raise InputError("expected a YAML file, found a folder", path=path)
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    size = path.stat().st_size
    if size > MAX_YAML_BYTES:
        message = f"expected a YAML file of at most {MAX_YAML_BYTES} bytes, found {size}"
        raise InputError(message, path=path)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except UnicodeDecodeError as error:
        raise InputError("expected UTF-8 text, found other bytes", path=path) from error
    except RecursionError as error:
        raise InputError("nested too deeply", path=path) from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark is not None else None
        raise InputError(f"is not valid YAML: {problem}", path=path, field=line) from error
    except ValueError as error:
        raise InputError(f"is not valid YAML: {error}", path=path) from error
