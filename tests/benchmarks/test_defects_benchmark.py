"""The benchmark of defects, resolution and edges runs, and meets its floors, at its least size."""

from __future__ import annotations

import json


def test_every_row_meets_its_floor(script, capsys):
    rows = script("defects").main(["--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [r.measure for r in rows]
    assert len(rows) >= 20
    for row in rows:
        assert row.met, str(row)
