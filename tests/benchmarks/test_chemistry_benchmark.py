"""The benchmark of chemistry and density runs, and meets its floors, at its smallest size."""

from __future__ import annotations

import json


def test_every_row_meets_its_floor(script, capsys):
    rows = script("chemistry").main(["--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [r.measure for r in rows]
    assert len(rows) >= 9
    for row in rows:
        assert row.value <= row.floor, row
    planted = [row for row in rows if row.measure.startswith("planted")]
    assert len(planted) == 3
    assert all(row.value <= row.goal for row in planted)
