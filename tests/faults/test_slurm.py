"""A real Slurm: one job is cancelled, another reaches its time limit; the field has the same bits.

Without Slurm's programs these tests are skipped; where `CI_NEEDS` names `slurm` they fail instead.
The whole batch on Slurm is `tests/benchmarks/survival.py --rows slurm`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from flows.cluster.compute import open_compute
from flows.cluster.slurm import start_slurm
from pipeline.errors import ResourceError
from schemas.cluster import Cluster, SlurmSettings

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SETTINGS = SlurmSettings(
    interface="lo", cores_per_job=1, memory_gib_per_job=1.0, jobs_max=2, walltime_min=10
)
ITERATIONS = 60


@pytest.fixture(scope="module")
def slurm(load: Callable[[str], ModuleType], needs: Callable[..., None]) -> Iterator[ModuleType]:
    cluster = load("slurm_cluster.py")
    needs("slurm", *cluster.NEEDED)
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, cluster.slurm(Path(folder)):
        yield cluster


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_cancelled_jobs_and_time_limits_change_no_bit(
    slurm: ModuleType, driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cluster.slurm._CHECK_SECONDS", 1.0)
    monkeypatch.setenv("PREFECT_API_KEY", "the-secret-of-the-driver")
    gone: list[str] = []
    with (
        open_compute(Cluster(kind="slurm", slurm=SETTINGS), tmp_path) as compute,
        compute.problem() as make,
    ):
        problem = make(driver.example(), driver.SHAPE)
        client = compute.client()
        assert client is not None
        assert client.scheduler.address.startswith("tls://127.0.0.1")
        here = problem.residual_gradient
        calls = 0

        def disturb(field):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == 1:
                wait_for(lambda: client.scheduler_info()["workers"])
                environment = client.run(lambda: dict(os.environ))
                assert all("PREFECT_API_KEY" not in found for found in environment.values())
                gone.append(slurm.jobs()[0])
                slurm.cancel(gone[0])
            return here(field)

        problem.residual_gradient = disturb
        found = driver.solve(problem, ITERATIONS)
        gone.append(slurm.jobs()[-1])
        slurm.end_walltime(gone[1])
        wait_for(lambda: slurm.state_of(gone[1]) == "TIMEOUT")
        assert driver.solve(problem, ITERATIONS) == found
    assert found == driver.undisturbed(ITERATIONS)
    assert slurm.state_of(gone[0]) == "CANCELLED"
    assert "the-secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.err"))
    wait_for(lambda: not slurm.jobs())
    # The run's key and its shards are gone with it.
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_workers_leave_before_their_time_limit_and_their_work_moves_on(
    slurm: ModuleType, driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cluster.slurm._CHECK_SECONDS", 1.0)
    # Shorter than a schema allows: a minute, of which a worker uses ten seconds.
    short = {"walltime_min": 1, "leave_before_s": 50, "jobs_max": 1}
    hurried = SETTINGS.model_copy(update=short)
    settings = Cluster(kind="slurm").model_copy(update={"slurm": hurried})
    with open_compute(settings, tmp_path) as compute, compute.problem() as make:
        problem = make(driver.example(), driver.SHAPE)
        expected = driver.undisturbed(ITERATIONS)
        assert driver.solve(problem, ITERATIONS) == expected
        (first,) = slurm.jobs()
        end = time.monotonic() + 120
        while first in slurm.jobs("RUNNING"):
            assert time.monotonic() < end
            assert driver.solve(problem, ITERATIONS) == expected
        # It went by itself; what is left of its job is ended by whoever adapts.
        assert slurm.state_of(first) in ("COMPLETED", "CANCELLED")
        (log,) = (tmp_path / "jobs").glob(f"*-{first}.err")
        assert "worker-lifetime-reached" in log.read_text()
        assert driver.solve(problem, ITERATIONS) == expected


def test_what_slurm_refuses_is_said_at_once(slurm: ModuleType, tmp_path: Path) -> None:
    wait_for(lambda: not slurm.jobs())  # Those of the test before are still being ended.
    nowhere = SETTINGS.model_copy(update={"partition": "nowhere"})
    with pytest.raises(ResourceError, match=r"Slurm refuses the job: .*invalid partition"):
        start_slurm(nowhere, tmp_path)
    assert slurm.jobs() == []


def test_a_job_that_would_wait_for_ever_is_given_up(
    slurm: ModuleType, driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cluster.slurm._CHECK_SECONDS", 0.5)
    too_long = SETTINGS.model_copy(update={"walltime_min": 600})  # the partition allows one hour
    with (
        open_compute(Cluster(kind="slurm", slurm=too_long), tmp_path) as compute,
        compute.problem() as make,
        pytest.raises(ResourceError, match=r"Slurm will never start the job \(PartitionTimeLimit"),
    ):
        driver.solve(make(driver.example(), driver.SHAPE), 1)
