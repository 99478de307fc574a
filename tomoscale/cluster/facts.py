"""What a diagnosis knows of the client's machine, the workers, a folder, Slurm and the configuration: plain values.

Looking is here, judging is in `tomoscale.cluster.checks`, so that every fault can be told from values alone.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tomoscale.arrays import cuda_available

PACKAGES = ("tomoscale", "numpy", "torch", "zarr", "dask", "distributed", "numba")
"""Packages whose versions change results or messages between processes."""
TOKEN = ".tomoscale-doctor-{}"


@dataclass(frozen=True)
class Machine:
    """A process that computes, and the machine under it.

    Attributes
    ----------
    name : str
        "this machine", or the address of a worker.
    host : str
    python : str
    versions : mapping of package to version
        Empty text for a package that is not installed.
    memory_bytes : int
        That processes of this machine, or of its job, may use.
    memory_limit_bytes : int
        That Dask gives the worker; 0 is no limit.
    gpus : int
        That CuPy finds.
    driver : bool
        Whether the kernel has an NVIDIA driver.
    open_files : int
        Files a process may hold open.
    clock_offset_s : float or None
        Clock of the machine minus that of the file server, when a file was written into the folder.
    sees_token : bool or None
        Whether a file that the client wrote into the folder is there.
    error : str
        Why nothing could be learnt.
    """

    name: str
    host: str = ""
    python: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    gpus: int = 0
    driver: bool = False
    open_files: int = 1024
    clock_offset_s: float | None = None
    sees_token: bool | None = None
    error: str = ""


@dataclass(frozen=True)
class Folder:
    """A folder of results, as the client sees it.

    Attributes
    ----------
    path : Path
    file_system : str
        Such as "ext4", "nfs4", "beegfs".
    free_bytes, free_files : int
        What a user may still write; -1 where the file system does not say.
    quota_free_bytes : int or None
        Left of the user's quota.
    failure : str
        What writing, syncing and renaming a file there met; empty if nothing.
    """

    path: Path
    file_system: str = ""
    free_bytes: int = -1
    free_files: int = -1
    quota_free_bytes: int | None = None
    failure: str = ""


@dataclass(frozen=True)
class Slurm:
    """What Slurm's commands say.

    Attributes
    ----------
    missing : tuple of str
        Commands that are not there.
    partitions : mapping of name to seconds
        Longest walltime of each; infinite where there is no limit.
    refusal : str
        Why a job of the profile would not be taken; empty if it would.
    """

    missing: tuple[str, ...] = ()
    partitions: Mapping[str, float] = field(default_factory=dict)
    refusal: str = ""


@dataclass(frozen=True)
class Facts:
    """All that is known.

    Attributes
    ----------
    here : Machine
    workers : tuple of Machine
    asked : str
        Workers that were asked for, as in ``--workers``; empty if none.
    connection_error : str
        Why there are no workers, if they were asked for.
    folder : Folder or None
    slurm : Slurm or None
    profile : Profile or None
    job_header : tuple of str
        Lines of #SBATCH before any is skipped.
    interfaces : tuple of str
        Networks of this machine.
    port_error : str
        What listening on a free port met.
    umask : int
    keys_folder : Path
    keys_mode : int or None
        Mode of the folder that holds folders of keys; None if it is not there yet.
    keys_file_system : str
    dask : mapping
        Options of the Dask configuration that matter, by their dotted name.
    """

    here: Machine
    workers: tuple[Machine, ...] = ()
    asked: str = ""
    connection_error: str = ""
    folder: Folder | None = None
    slurm: Slurm | None = None
    profile: Any = None
    job_header: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    port_error: str = ""
    umask: int = 0o022
    keys_folder: Path = Path("~/.tomoscale")
    keys_mode: int | None = None
    keys_file_system: str = ""
    dask: Mapping[str, Any] = field(default_factory=dict)


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
        Folder of results; a file is written there and removed.
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
        clock_offset_s=None if folder is None else clock_offset_s(Path(folder)),
        sees_token=None if folder is None or token is None else (Path(folder) / token).exists(),
    )


def version_of(package: str) -> str:
    """Version of an installed package; empty where it is not installed."""
    if package == "tomoscale":
        import tomoscale

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
    import importlib

    return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount())


def clock_offset_s(folder: Path) -> float | None:
    """Clock of this machine minus that of the file server; None where no file can be written."""
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
        file_system_of(path),
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


def file_system_of(path: Path) -> str:
    """Type of the file system under a path."""
    real = str(path.resolve())
    found = [p for p in psutil.disk_partitions(all=True) if real == p.mountpoint or real.startswith(p.mountpoint.rstrip("/") + "/")]
    return max(found, key=lambda p: len(p.mountpoint)).fstype if found else ""


def quota_free_bytes(path: Path) -> int | None:
    """What is left of the user's quota where `quota` says so; None elsewhere."""
    if shutil.which("quota") is None:
        return None
    command = ["quota", "--no-wrap", "--raw-grace", "--hide-device", f"--filesystem={path}"]
    with suppress(OSError, subprocess.TimeoutExpired):
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
        return quota_of(text)
    return None


def quota_of(text: str) -> int | None:
    """Bytes left of the table that `quota` prints, in blocks of 1 KiB: used, soft limit, hard limit."""
    for line in text.splitlines():
        words = [word.rstrip("*") for word in line.split()]
        if len(words) >= 3 and all(word.isdecimal() for word in words[:3]):
            used, soft, hard = (int(word) for word in words[:3])
            limit = hard or soft
            return None if limit == 0 else max(0, limit - used) * 1024
    return None


def look_at_slurm(script: str | None = None) -> Slurm:
    """Ask Slurm for its partitions, and whether it would take a job script."""
    from tomoscale.cluster.slurm import COMMANDS, refusal_of

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
    from tomoscale.cluster.profile import slurm_seconds

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
