"""The benchmark of the reconstructions at its smallest size, so that it cannot rot."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_reconstructions_meet_their_floors_at_tiny_size(script, capsys):
    rows = script("reconstruction").main(["--size", "tiny", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [row["measure"] for row in printed] == [row.measure for row in rows]
    assert len(rows) == 14
    for row in rows:
        assert row.met, str(row)
    by_name = {row.measure: row.value for row in rows}
    ours, published = (
        by_name[f"orientation, {name}: median"]
        for name in ("tiny pillar, SNR 9", "the same, 2 random starts")
    )
    assert ours < 0.5 * published
