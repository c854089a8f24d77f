"""`make demo` gives the numbers of the README, better than their floors."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def quoted() -> dict[str, float]:
    """Name and value of each row of the README's table of the demo."""
    rows = re.findall(r"^\| `(\w+)` \| ([-0-9.]+) ", README, re.MULTILINE)
    return {name: float(value) for name, value in rows}


FLOORS = {
    "orientation_error_median_deg": (0.0, 3.0),
    "orientation_within_10deg_percent": (90.0, 100.0),
    "electron_density_v2o5_error_percent": (-1.0, 1.0),
    "alignment_residual_px": (0.0, 0.3),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_gives_the_numbers(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "bin" / "dichrotomo").exists():
        pytest.skip("make demo would install: there is no .venv in the repository")
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env["XDG_STATE_HOME"] = str(tmp_path / "state")
    done = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path / 'demo'}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    logs = [log.read_text() for log in tmp_path.glob("state/dichrotomo/errors/*.log")]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs])
    assert f"report: {tmp_path}/demo/result/report.html" in done.stdout
    assert (tmp_path / "demo" / "result" / "result.nxs").exists()
    rows = re.findall(r"^(\w+) +([-0-9.e+]+) ", done.stdout, re.MULTILINE)
    measured = {name: float(value) for name, value in rows}
    assert set(quoted()) >= set(FLOORS)
    for name, value in quoted().items():
        # The quoted figure up to its own last digit or a tenth, whichever is more.
        assert measured[name] == pytest.approx(value, rel=0.1, abs=0.1), name
    for name, (low, high) in FLOORS.items():
        assert low <= measured[name] <= high, name
