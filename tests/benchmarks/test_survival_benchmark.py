"""The benchmark of disturbances at its smallest size: what it says of results, not of times."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_killed_workers_change_no_bit(script, capsys):
    rows = script("survival").main(["--size", "tiny", "--rows", "kill", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["measure"] == rows[0].measure
    assert rows[0].value == 0.0
