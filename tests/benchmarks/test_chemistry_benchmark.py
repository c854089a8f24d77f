"""The benchmark of chemistry and density runs, and meets its floors, at its smallest size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("chemistry.py")


def test_every_row_meets_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("chemistry_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    rows = module.main(["--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [r.name for r in rows]
    assert len(rows) >= 9
    for row in rows:
        assert row.value <= row.floor, row
    planted = [row for row in rows if row.name.startswith("planted")]
    assert len(planted) == 3
    assert all(row.value <= row.goal for row in planted)
