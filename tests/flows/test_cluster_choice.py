"""`--cluster`: what it takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cluster.choice import SITE, with_cluster
from pipeline.errors import InputError
from schemas.cluster import Cluster
from schemas.recipe import Recipe

SITES = sorted((Path(__file__).resolve().parents[2] / "deploy/clusters").glob("*.yaml"))


def test_the_option_replaces_the_recipes_choice() -> None:
    chosen = with_cluster(Recipe(), "tcp://127.0.0.1:8786").cluster
    assert (chosen.kind, chosen.address) == ("address", "tcp://127.0.0.1:8786")
    assert with_cluster(Recipe(), "none").cluster.kind == "none"
    assert with_cluster(Recipe(), "cuda").cluster.kind == "cuda"
    assert with_cluster(Recipe(), None) == Recipe()
    threads = Recipe(cluster=Cluster(threads_per_worker=3))
    assert with_cluster(threads, "local").cluster.threads_per_worker == 3


def test_slurm_takes_the_settings_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("kind: slurm\nslurm: {partition: gpu, gpus_per_job: 1}\n")
    assert with_cluster(Recipe(), str(site)).cluster.slurm.partition == "gpu"
    monkeypatch.setenv(SITE, str(site))
    assert with_cluster(Recipe(), "slurm").cluster.slurm.gpus_per_job == 1
    own = Recipe(cluster=Cluster(kind="slurm", slurm={"partition": "day"}))
    assert with_cluster(own, "slurm").cluster.slurm.partition == "day"
    site.write_text("kind: local\n")
    with pytest.raises(InputError, match=r"site\.yaml: kind: expected kind: slurm, found local"):
        with_cluster(Recipe(), "slurm")


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_every_site_that_is_shipped_is_valid(path: Path) -> None:
    assert with_cluster(Recipe(), str(path)).cluster.kind == "slurm"


def test_plain_tcp_to_another_machine_is_refused() -> None:
    line = (
        "--cluster: cluster.address: expected tls:// to another machine, found "
        "tcp://10.0.0.5:8786; cluster.trusted_network: true allows it where nobody else is on "
        "the network"
    )
    with pytest.raises(InputError) as refused:
        with_cluster(Recipe(), "tcp://10.0.0.5:8786")
    assert str(refused.value) == line
    assert with_cluster(Recipe(), "tls://10.0.0.5:8786").cluster.kind == "address"
    trusted = Recipe(cluster=Cluster(trusted_network=True))
    assert with_cluster(trusted, "tcp://10.0.0.5:8786").cluster.kind == "address"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "day; rm -rf ~"),
        ("account", "a\n#SBATCH --wrap=x"),
        ("modules", ["gcc && curl"]),
        ("directives", ["--export=ALL $(id)"]),
        ("directives", ["--comment=x\nid"]),
        ("python", "/usr/bin/python -c x"),
        ("scratch", "$HOME"),
        ("interface", "-x"),
    ],
)
def test_nothing_that_a_shell_would_run_reaches_a_job_script(key: str, value: object) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        Cluster(kind="slurm", slurm={key: value})


def test_settings_that_contradict_each_other_are_refused() -> None:
    for settings, line in (
        ({"jobs_min": 5, "jobs_max": 4}, "slurm.jobs_min 5 is above slurm.jobs_max 4"),
        (
            {"workers_per_job": 9},
            "slurm.workers_per_job 9 is above slurm.cores_per_job 8",
        ),
        (
            {"walltime_min": 3},
            "slurm.leave_before_s 120 leaves less than half of slurm.walltime_min 3 to work in",
        ),
    ):
        with pytest.raises(ValueError, match=line):
            Cluster(kind="slurm", slurm=settings)
