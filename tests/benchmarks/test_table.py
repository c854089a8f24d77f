"""The table of the benchmarks: bars, verdicts, and the keys of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def table(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("table")


def test_the_goal_says_which_side_of_the_floor_is_good(table):
    assert table.Row("share", 95.0, 94.0, 98.0).met
    assert not table.Row("share", 0.9, 0.95, 0.985).met
    assert not table.Row("error", 2.1, 2.0, 0.7).met
    assert table.Row("error", 1.9, 2.0, 0.7).met
    assert table.Row("lost", 0.0, 0.0, 0.0).met
    assert not table.Row("lost", 1.0, 0.0, 0.0).met
    assert table.Row("only reported", 1e9).met


def test_a_row_says_its_bars_and_what_misses_them(table):
    line = str(table.Row("measure", 0.5, 0.4, 0.1, "degree", "of many", 12.3))
    assert " ".join(line.split()) == (
        "measure 0.5 degree floor 0.4 goal 0.1 ABOVE THE FLOOR 12.3 s of many"
    )
    assert "BELOW THE FLOOR" in str(table.Row("share", 0.9, 0.95, 0.985))
    assert "FLOOR" not in str(table.Row("share", 0.96, 0.95, 0.985))
    assert "reported reported" in str(table.Row("time", 3.0))


def test_json_has_the_keys_that_programs_read(table, capsys):
    made = table.Table(as_json=True, label="name")
    made.add([table.Row("share", 0.96, 0.95, 0.985, "%", "of all")])
    assert [row.measure for row in made.complete()] == ["share"]
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "name": "share",
        "value": 0.96,
        "floor": 0.95,
        "goal": 0.985,
        "unit": "%",
        "detail": "of all",
        "seconds": None,
        "more": True,
    }


def test_rows_are_shown_at_once_unless_json_is_wanted(table, capsys):
    def measured():
        yield table.Row("first", 1.0)
        assert "first" in capsys.readouterr().out
        yield table.Row("second", 2.0)

    made = table.Table(as_json=False)
    made.add(measured())
    made.complete()
    assert capsys.readouterr().out.split()[0] == "second"
