"""The benchmark of grains and boundaries at its smallest size meets its floors."""

from __future__ import annotations

import json
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def analysis(script) -> ModuleType:
    return script("analysis")


@pytest.mark.slow
def test_grains_and_boundaries_meet_their_floors_at_tiny_size(analysis, capsys):
    rows = analysis.main(["--size", "tiny", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in printed] == [row.measure for row in rows]
    assert len(rows) >= 18
    for row in rows:
        assert row.met, str(row)


def test_the_noise_is_that_of_the_demo(analysis):
    import numpy as np

    rng = np.random.default_rng(0)
    fine = analysis.polycrystal(36, 14.0, rng, (1, 1, 1))
    truth = analysis.planted(fine, analysis.units(rng, int(fine.max()) + 1), rng)
    error = truth.error_deg[truth.pure & truth.mask]
    # Of the reconstructed demo: 1.53, 2.56, 91 % and 99.6 %.
    assert np.median(error) == pytest.approx(1.53, abs=0.15)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(2.56, abs=0.4)
    assert np.mean(error < 4) == pytest.approx(0.91, abs=0.05)
    assert np.mean(error < 10) == pytest.approx(0.996, abs=0.006)
