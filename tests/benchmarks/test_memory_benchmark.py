"""Predicted against measured memory at the smallest size, so that the benchmark cannot rot."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("support", [[], ["--pillar"]])
def test_predicted_memory_is_what_a_process_takes(support, script, capsys):
    memory = script("memory")
    rows = memory.main(["--size", "tiny", "--stages", "scalar", "--json", *support])
    assert [row["measure"] for row in json.loads(capsys.readouterr().out)] == [
        "scalar, 24³, 24 views"
    ]
    # The interpreter and its libraries are most of it at this size.
    assert all(memory.LOWEST <= row.value <= memory.HIGHEST for row in rows), str(rows[0])
