"""The directions in which modules may depend on each other, and where packages resolve."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("schemas", "pipeline", "flows", "deploy")
ALLOWED = {
    "schemas": {"schemas"},
    "pipeline": {"schemas", "pipeline"},
    "flows": {"schemas", "pipeline", "flows"},
    "deploy": set(OURS),
}
MODULES = sorted(path for room in OURS for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names.add(str(node.module))
    return names


def importers(package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if any(name.split(".")[0] == package for name in imported(path))
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imported(path)} & set(OURS)
    assert ours <= ALLOWED[room]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_has_a_caption(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_only_one_module_imports_cupy() -> None:
    assert importers("cupy") <= {"pipeline/backend.py"}


def test_prefect_stays_in_flows() -> None:
    assert all(name.startswith(("flows/", "deploy/")) for name in importers("prefect"))


def test_dask_stays_in_its_rooms() -> None:
    rooms = importers("dask") | importers("distributed")
    assert all(n.startswith("pipeline/distribute") or n.startswith("flows/") for n in rooms)


def test_steps_run_no_code_that_their_keys_do_not_cover() -> None:
    names = {name for path in (ROOT / "flows/steps").glob("*.py") for name in imported(path)}
    ours = {name for name in names if name.split(".")[0] == "flows"}
    assert "flows.steps.files" in ours
    assert {name for name in ours if name.split(".")[:2] != ["flows", "steps"]} == set()


def test_every_package_is_installed() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = content["tool"]["setuptools"]["packages"]
    rooms = ("schemas", "pipeline", "flows")
    found = [init.parent for room in rooms for init in (ROOT / room).rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(p.relative_to(ROOT).parts) for p in found)
    assert {path.parent for path in MODULES} <= {*found, ROOT / "deploy"}


def test_pickle_is_never_read_from_disk() -> None:
    unpicklers = ("pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "pandas")
    assert set().union(*map(importers, unpicklers)) == set()
    # NumPy unpickles objects only where it is told to; by position it would be the third argument.
    for path in MODULES:
        for call in calls(path, "load", "fromfile", "read_array"):
            named = {word.arg: word.value for word in call.keywords}
            allowed = named.get("allow_pickle", ast.Constant(False))
            assert isinstance(allowed, ast.Constant), f"{path}: line {call.lineno}"
            assert allowed.value is False, f"{path}: line {call.lineno}"
            assert None not in named, f"{path}: line {call.lineno}"
            assert len(call.args) <= 2, f"{path}: line {call.lineno}"


def test_words_from_outside_are_never_run() -> None:
    for path in MODULES:
        for call in calls(path, "eval", "exec", "compile", "system", "popen"):
            assert isinstance(call.func, ast.Attribute), f"{path}: line {call.lineno}"
            owner = ast.unparse(call.func.value)
            assert owner not in {"os", "builtins"}, f"{path}: line {call.lineno}"
        for call in calls(path, "run", "Popen", "check_call", "check_output"):
            shells = {word.arg for word in call.keywords} & {"shell", "executable"}
            assert shells == set(), f"{path}: line {call.lineno}"


def calls(path: Path, *names: str) -> list[ast.Call]:
    """Calls of functions or methods of these names in a file."""

    def name(call: ast.Call) -> str | None:
        function = call.func
        return (
            function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
        )

    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call for call in found if name(call) in names]


@pytest.mark.parametrize("package", ["schemas", "pipeline", "flows"])
def test_packages_resolve_inside_this_repository(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).resolve().parent == ROOT / package
