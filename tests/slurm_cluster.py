"""A real Slurm of two nodes on this machine, as any user, for the tests and the benchmark.

Everything listens on loopback and lies in one folder; `stop` leaves no process behind.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")

_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,defer_batch
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SlurmdTimeout=10
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs={cpus} RealMemory={memory}
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 DefMemPerCPU=256 State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm that are not installed."""
    return [name for name in NEEDED if _which(name) is None]


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _free_ports(count: int) -> int:
    """First of some consecutive free ports."""
    for first in range(26000 + os.getpid() % 3000, 32000, count):
        probes = [socket.socket() for _ in range(count)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        else:
            return first
        finally:
            for probe in probes:
                probe.close()
    raise OSError("no free ports")


@contextmanager
def slurm(folder: Path, nodes: int = 2, cpus: int = 4) -> Iterator[Path]:
    """Run Slurm while the block lasts; yields its slurm.conf.

    Parameters
    ----------
    folder : with a short name, since the path of a socket has at most 107 characters.
    nodes : virtual nodes.
    cpus : that each node claims to have.
    """
    for name in ("state", "log", "run", "cgroup", *(f"spool/n{k + 1}" for k in range(nodes))):
        (folder / name).mkdir(parents=True)
    port = _free_ports(nodes + 1)
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20)
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            host=socket.gethostname().split(".")[0],
            port=port,
            first=port + 1,
            last=port + nodes,
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=folder,
            nodes=nodes,
            cpus=cpus,
            memory=int(0.8 * total / nodes),
        )
    )
    # Read where control groups are not mounted, too.
    lines = f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/cgroup\n"
    (folder / "cgroup.conf").write_text(lines)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    started: list[subprocess.Popen[bytes]] = []
    try:
        _start(folder, nodes, started)
        yield conf
    finally:
        _stop(started)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _start(folder: Path, nodes: int, started: list[subprocess.Popen[bytes]]) -> None:
    munge = ["--foreground", "--force", "-S", f"{folder}/run/munge.sock"]
    munge += [f"--key-file={folder}/munge.key", f"--pid-file={folder}/run/munged.pid"]
    munge += [f"--log-file={folder}/log/munged.log", f"--seed-file={folder}/run/munge.seed"]
    commands = [["munged", *munge], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", f"n{number + 1}"] for number in range(nodes)]
    for name, *options in commands:
        program = _which(name)
        assert program is not None
        silent = subprocess.DEVNULL
        started.append(subprocess.Popen([program, *options], stdout=silent, stderr=silent))
        if name == "munged":
            _wait((folder / "run/munge.sock").exists, folder)
    _wait(lambda: _answer("sinfo", "-h", "-o", "%T:%D") == f"idle:{nodes}", folder)


def _wait(condition: object, folder: Path, seconds: float = 30.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text()[-2000:] for path in (folder / "log").glob("*.log"))
            raise AssertionError(f"Slurm did not start:\n{logs}")
        time.sleep(0.1)


def _stop(started: list[subprocess.Popen[bytes]]) -> None:
    cancel("--user", str(os.getuid()))
    end = time.monotonic() + 15
    while jobs() and time.monotonic() < end:
        time.sleep(0.1)
    for process in reversed(started):
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answer(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def jobs(state: str = "all") -> list[str]:
    """Numbers of the jobs in the queue, oldest first."""
    options = [] if state == "all" else ["-t", state]
    return _answer("squeue", "-h", "-S", "i", "-o", "%A", *options).split()


def cancel(*words: str) -> None:
    """Cancel jobs, as their owner or an administrator does."""
    _answer("scancel", *words)


def end_walltime(job: str) -> None:
    """Let a job's time limit be reached now."""
    _answer("scontrol", "update", f"jobid={job}", "TimeLimit=0")


def state_of(job: str) -> str:
    """State of a job, also shortly after its end."""
    words = _answer("scontrol", "-o", "show", "job", job).split()
    return next((word[9:] for word in words if word.startswith("JobState=")), "")
