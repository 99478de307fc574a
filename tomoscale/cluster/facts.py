"""What a diagnosis knows of the client's machine, the workers, a folder, Slurm and the configuration: plain values.

They are learnt in `tomoscale.cluster.looking` and judged in `tomoscale.cluster.checks`, so that every fault can be told
from values alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomoscale.bucket_path import BucketPath
from tomoscale.cluster.profile import Profile

PACKAGES = ("tomoscale", "numpy", "torch", "zarr", "dask", "distributed", "numba")
"""Packages whose versions change results or messages between processes."""


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
        Clock of the machine minus that of the file server, when a file was written into the folder, or of the object store.
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
class BucketFolder:
    """An address in a bucket where results are to be, as the client sees it.

    Attributes
    ----------
    path : BucketPath
    server : str
        Its address.
    credentials : str
        Where they were found: a variable or a file; empty if nowhere.
    region : str
        That was asked for; empty for the usual one.
    unreachable : str
        Why the server does not answer; empty if it does.
    refusals : mapping of "list", "write", "read" or "delete" to str
        What was refused, and the code of S3 or the words for that.
    condition : str
        Which condition of a PUT the server does not keep; empty if it keeps them.
    """

    path: BucketPath
    server: str
    credentials: str = ""
    region: str = ""
    unreachable: str = ""
    refusals: Mapping[str, str] = field(default_factory=dict)
    condition: str = ""

    @property
    def of_amazon(self) -> bool:
        """Whether its machines may have credentials that no process is told."""
        return self.path.bucket.endpoint is None


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
    bucket : BucketFolder or None
        In place of a folder.
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
    bucket: BucketFolder | None = None
    slurm: Slurm | None = None
    profile: Profile | None = None
    job_header: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    port_error: str = ""
    umask: int = 0o022
    keys_folder: Path = Path("~/.tomoscale")
    keys_mode: int | None = None
    keys_file_system: str = ""
    dask: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes
    ----------
    check : str
        One word or two, the same for every finding of its kind.
    level : "fault" or "warning"
        With a fault a run fails or its results are at risk.
    what, where, mend : str
    """

    check: str
    level: str
    what: str
    where: str
    mend: str
