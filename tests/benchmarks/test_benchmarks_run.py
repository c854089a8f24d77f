"""Benchmarks run once at their smallest size, so that they cannot rot."""

from __future__ import annotations

import json
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def alignment(script) -> ModuleType:
    return script("alignment")


@pytest.mark.slow
def test_alignment_meets_its_floors_at_tiny_size(alignment, capsys):
    # The published frames are aligned in tests/physics.
    names = ["shifts", "partial", "tilts", "end", "stress", "scale"]
    rows = alignment.main(["--size", "tiny", "--json", "--rows", *names])
    printed = json.loads(capsys.readouterr().out)
    assert [row["measure"] for row in printed] == [row.measure for row in rows]
    assert len(rows) >= 16
    for row in rows:
        assert row.value <= row.floor, str(row)


def test_alignment_prints_a_table(alignment, capsys):
    alignment.main(["--size", "tiny", "--rows", "scale"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("floor" in line and "goal" in line for line in lines)


def test_engine_meets_what_does_not_depend_on_the_machine(script, capsys):
    rows = script("engine").main(["--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [row["measure"] for row in printed] == [row.measure for row in rows]
    fixed = [row for row in rows if "error" in row.measure or "adjointness" in row.measure]
    assert len(fixed) == 4
    for row in fixed:
        assert row.value <= row.floor, str(row)
    # Times are not tested, but for three orders of magnitude.
    assert all(0.0 < row.value < 1e3 for row in rows)


def test_whole_analysis_of_maps_that_were_drawn(script, capsys):
    rows = script("whole_analysis").main(["--size", "tiny", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["measure"] == "whole analysis of 24x32x24"
    assert all(0.0 < row.value <= row.floor for row in rows)
