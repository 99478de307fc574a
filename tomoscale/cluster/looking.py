"""Learn what a diagnosis judges: of machines, folders, Slurm and the configuration."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

import tomoscale
from tomoscale.arrays import cuda_available
from tomoscale.bucket_path import BucketPath
from tomoscale.cluster.bucket_looking import ask, server_of
from tomoscale.cluster.facts import PACKAGES, Folder, Machine, Slurm
from tomoscale.cluster.profile import slurm_seconds
from tomoscale.cluster.quota import mount_of, quota_free_bytes
from tomoscale.cluster.slurm import COMMANDS, refusal_of
from tomoscale.errors import PlanError
from tomoscale.places import Place, place

TOKEN = ".tomoscale-doctor-{}"
DASK_OPTIONS = (
    "distributed.worker.memory.terminate",
    "distributed.worker.memory.pause",
    "distributed.scheduler.worker-ttl",
    "distributed.comm.timeouts.connect",
    "distributed.scheduler.idle-timeout",
    "temporary-directory",
)


def look_at_machine(name: str, folder: str | None = None, token: str | None = None) -> Machine:
    """Look at the machine this runs on: the client's, or a worker's.

    Parameters
    ----------
    name : str
        What to call it.
    folder : str or None
        Folder of results, or address in a bucket; a file is written into a folder and removed.
    token : str or None
        Name of a file there that the client wrote.
    """
    return Machine(
        name=name,
        host=socket.gethostname(),
        python=platform.python_version(),
        versions={package: version_of(package) for package in PACKAGES},
        memory_bytes=memory_bytes(),
        gpus=gpu_count(),
        driver=Path("/proc/driver/nvidia/version").exists(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        clock_offset_s=None if folder is None else clock_offset_s(place(folder)),
        sees_token=None if folder is None or token is None else sees(place(folder) / token),
    )


def version_of(package: str) -> str:
    """Version of an installed package; empty where it is not installed."""
    if package == "tomoscale":
        return tomoscale.__version__
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def memory_bytes() -> int:
    """Memory of the machine, or what the control group of this process may use of it."""
    total = int(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return total


def gpu_count() -> int:
    """GPUs that CuPy finds."""
    if not cuda_available():
        return 0
    return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount())


def sees(token: Place) -> bool:
    """Whether a file or an object is there, for this process."""
    try:
        return token.is_file()
    except (OSError, PlanError):
        return False


def clock_offset_s(folder: Place) -> float | None:
    """Clock of this machine minus that of the server of a folder; None where it cannot be told."""
    if isinstance(folder, BucketPath):
        return ask(server_of(folder.bucket)).clock_offset_s
    path = folder / TOKEN.format(f"clock-{socket.gethostname()}-{os.getpid()}")
    try:
        before = time.time()
        path.write_bytes(b"tick")
        written, after = path.stat().st_mtime, time.time()
        path.unlink()
    except OSError:
        return None
    # The server's time lies between the two if the clocks agree.
    return before - written if before > written else min(0.0, after - written)


def look_at_folder(path: Path) -> Folder:
    """Look at a folder of results: space, files, quota, and whether a file can be written, synced and renamed."""
    failure = write_failure(path)
    try:
        state = os.statvfs(path)
    except OSError:
        return Folder(path, failure=failure)
    return Folder(
        path,
        mount_of(path)[0],
        state.f_bavail * state.f_frsize,
        state.f_favail if state.f_files else -1,
        quota_free_bytes(path),
        failure,
    )


def write_failure(folder: Path) -> str:
    """What writing, syncing and renaming a file meets; empty if nothing."""
    first = folder / TOKEN.format(f"write-{os.getpid()}")
    second = first.with_suffix(".renamed")
    step = "writing"
    try:
        with first.open("xb") as file:
            file.write(b"0" * 4096)
            step = "syncing"
            file.flush()
            os.fsync(file.fileno())
        step = "renaming"
        os.replace(first, second)
        step = "reading"
        if second.read_bytes() != b"0" * 4096:
            return "reading gives other bytes than were written"
        step = "removing"
        second.unlink()
    except OSError as error:
        return f"{step} a file: {error.strerror or errno.errorcode.get(error.errno or 0, 'failed')}"
    finally:
        for left in (first, second):
            with suppress(OSError):
                left.unlink()
    return ""


def look_at_slurm(script: str | None = None) -> Slurm:
    """Ask Slurm for its partitions, and whether it would take a job script."""
    missing = tuple(name for name in (*COMMANDS, "sinfo") if shutil.which(name) is None)
    if missing:
        return Slurm(missing)
    command = ["sinfo", "--noheader", "--format=%R %l"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Slurm(refusal=f"sinfo: {done.stderr.strip()[:200]}")
    return Slurm((), partitions_of(done.stdout), (refusal_of(script) or "") if script else "")


def partitions_of(text: str) -> dict[str, float]:
    """Longest walltime in seconds by partition, from lines of "name limit"."""
    pairs = (line.split() for line in text.splitlines() if len(line.split()) == 2)
    return {name: float("inf") if limit in ("infinite", "UNLIMITED") else slurm_seconds(limit) for name, limit in pairs}


def port_failure(address: str) -> str:
    """What listening on any free port of an address meets; empty if nothing."""
    try:
        with socket.socket() as server:
            server.bind((address, 0))
            server.listen(1)
            with socket.create_connection(server.getsockname(), timeout=2):
                pass
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    return ""


def current_umask() -> int:
    """Permissions that new files lack."""
    value = os.umask(0)
    os.umask(value)
    return value


def mode_of(path: Path) -> int | None:
    """Permissions of a path; None if it is not there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
