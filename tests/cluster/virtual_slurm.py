"""A Slurm of two virtual nodes on this machine: its own keys, sockets, ports and configuration, none of the system's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")

CONFIGURATION = """
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/ctl
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=02:00:00 State=UP
"""


def why_not() -> str | None:
    """Why there can be no Slurm here, in a few words; None if there can."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"a real Slurm needs {', '.join(missing)} (Debian: slurm-wlm slurmctld slurmd munge)"
    return None if os.geteuid() == 0 else "the daemons of Slurm are started by root alone"


@contextmanager
def virtual_slurm(folder: Path) -> Iterator[Path]:
    """Start the daemons below an empty folder, give the path of slurm.conf, and end all that was started."""
    folder.chmod(0o755)
    for name in ("ctl", "n1", "n2", "munge"):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(3)))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munge = {"key-file": key, "socket": key.with_name("socket"), "pid-file": key.with_name("pid")}
    munge |= {"seed-file": key.with_name("seed"), "log-file": key.with_name("log")}
    try:
        _start("munged", "--force", *(f"--{name}={path}" for name, path in munge.items()), environment=environment)
        _start("slurmctld", "-c", environment=environment)
        for node in ("n1", "n2"):
            _start("slurmd", "-c", "-N", node, environment=environment)
        _wait_until_idle(environment, folder)
        yield configuration
    finally:
        subprocess.run(["scancel", "--user=root", "--full"], env=environment, check=False, capture_output=True)
        _end([folder / name for name in ("n1.pid", "n2.pid", "slurmctld.pid", "munge/pid")])


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _start(name: str, *arguments: str, environment: dict[str, str]) -> None:
    program = _program(name)
    assert program is not None
    # Its output must not be a pipe of ours: the daemon would hold it open for ever.
    subprocess.run(
        [program, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    command = ["sinfo", "--noheader", "--format=%t"]
    states = []
    for _ in range(200):
        states = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.split()
        if states == ["idle"]:
            return
        time.sleep(0.1)
    raise RuntimeError(f"Slurm has not come up ({states}): {(folder / 'slurmctld.log').read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def _end(pid_files: list[Path]) -> None:
    processes: list[psutil.Process] = []
    for pid_file in pid_files:
        with suppress(OSError, ValueError, psutil.Error):
            daemon = psutil.Process(int(pid_file.read_text()))
            processes += [daemon, *daemon.children(recursive=True)]
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    for process in psutil.wait_procs(processes, timeout=10)[1]:
        with suppress(psutil.Error):
            process.kill()
