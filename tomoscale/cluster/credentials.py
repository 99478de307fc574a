"""Keys of one cluster, in a folder that only its owner can read: who holds them may talk to the scheduler.

The folder holds ``ca.pem``, ``cert.pem`` and ``key.pem``. They are made for one cluster and removed with it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tomoscale.errors import PlanError

if TYPE_CHECKING:
    from distributed import Security

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
HOME = Path("~/.tomoscale")
"""Where folders of keys are made unless a profile says otherwise: homes are shared by the machines of most clusters."""


def write_credentials(folder: Path) -> None:
    """Make keys that are good for one cluster, in a folder that is there; each file is its owner's alone."""
    from distributed import Security

    made = Security.temporary().get_tls_config_for_role("worker")
    for name, content in ((AUTHORITY, made["ca_file"]), (CERTIFICATE, made["cert"]), (KEY, made["key"])):
        # Never through a link or into a file that somebody else has put there.
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)


def security_of(folder: Path) -> Security:
    """Security of Dask with the keys of a folder, for every role.

    Raises
    ------
    PlanError
        If a file is missing, or others may read the key.
    """
    from distributed import Security

    missing = [name for name in (AUTHORITY, CERTIFICATE, KEY) if not (folder / name).is_file()]
    if missing:
        raise PlanError(
            f"{folder} has no {', '.join(missing)}: give the folder with the keys of the scheduler "
            f"({AUTHORITY}, {CERTIFICATE}, {KEY})"
        )
    if stat.S_IMODE((folder / KEY).stat().st_mode) & 0o077:
        raise PlanError(
            f"others may read {folder / KEY}, and whoever has it runs code as you: chmod 600 {folder / KEY}"
        )
    files = {"cert": str(folder / CERTIFICATE), "key": str(folder / KEY)}
    roles = {f"tls_{role}_{kind}": path for role in ("client", "worker", "scheduler") for kind, path in files.items()}
    return Security(tls_ca_file=str(folder / AUTHORITY), require_encryption=True, **roles)


@contextmanager
def temporary_credentials(parent: Path = HOME) -> Iterator[Path]:
    """Give a new folder of keys below `parent`, which all machines of the cluster see, and remove it afterwards.

    Raises
    ------
    PlanError
        If the folder cannot be made, or its name would need quoting in a job script.
    """
    parent = private_parent(parent)
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"keys-{socket.gethostname()}-{os.getpid()}-", dir=parent))
    try:
        write_credentials(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def private_parent(parent: Path) -> Path:
    """Make the folder that holds folders of keys, and refuse one where others may put things in our place."""
    parent = parent.expanduser().absolute()
    if shlex.quote(str(parent)) != str(parent):
        raise PlanError(
            f"{str(parent)!r} stands in job scripts, so its name may have no spaces or signs: give another folder"
        )
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = parent.stat()
    except OSError as error:
        raise PlanError(
            f"{parent} cannot hold the keys of a cluster ({error.strerror}): give another folder"
        ) from error
    if status.st_uid != os.getuid():
        raise PlanError(
            f"{parent} belongs to another user, who could read the keys of a cluster in it: give another folder"
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise PlanError(f"others may write into {parent}, which holds the keys of clusters: chmod go-w {parent}")
    return parent


def remove_abandoned(parent: Path) -> None:
    """Remove keys whose process on this machine is gone: one that is killed cannot remove its own."""
    for folder in parent.glob(f"keys-{socket.gethostname()}-*"):
        process = re.fullmatch(rf"keys-{re.escape(socket.gethostname())}-(\d+)-\w+", folder.name)
        if process and not psutil.pid_exists(int(process[1])):
            shutil.rmtree(folder, ignore_errors=True)
