"""Predicted against measured memory at the smallest size, so that the benchmark cannot rot."""

from __future__ import annotations

import json


def test_predicted_memory_is_what_a_process_takes(script, capsys):
    memory = script("memory")
    rows = memory.main(["--size", "tiny", "--stages", "scalar", "--json"])
    assert [row["measure"] for row in json.loads(capsys.readouterr().out)] == [
        "scalar, 24³, 24 views"
    ]
    # The interpreter and its libraries are most of it at this size.
    assert all(memory.LOWEST <= row.value <= memory.HIGHEST for row in rows), str(rows[0])
