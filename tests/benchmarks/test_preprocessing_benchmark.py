"""The benchmark of the preprocessing runs, and meets its goals, at its smallest size."""

from __future__ import annotations

import json


def test_every_row_meets_its_floor(script, capsys):
    rows = script("preprocessing").main(["--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [r.measure for r in rows]
    assert len(rows) >= 6
    for row in rows:
        assert row.value <= row.floor, row
    resampling = [row for row in rows if row.measure.startswith("resampling")]
    assert all(row.value <= row.goal for row in resampling)
