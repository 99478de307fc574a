"""Who writes an output: one run at a time, on whatever machine.

A lease is a numbered file beside the ledger, ``lease.000007.json``. The highest number holds; it is fresh while its
owner touches it. Whoever takes over a stale one makes the file of the next number, which the file system lets only one
process do, and removes the lower ones. So an owner that slept meanwhile finds its file gone, or a higher one beside it,
at its next sign of life, before it writes on. A lease is given back by setting its time to 1970: that needs no space
on a full disk, and numbers never begin anew.

Ages are differences of two times that the file server set, so the clocks of the machines need not agree.

In a bucket the object of the next number is put only where there is none, and a sign of life replaces it only as long as
it is what its owner last put; it is given back by saying so.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import Interrupted, PlanError
from tomoscale.places import Place, server_time
from tomoscale.retries import retried

FOLDER = ".tomoscale"
"""Name of the ledger inside an array."""

LEASE_SECONDS = 60.0
"""A lease not renewed for this long belongs to a run that is gone."""

SIGN_SECONDS = 1.0
BUCKET_SIGN_SECONDS = 10.0
"""Between two signs of life, on disks and in a bucket."""

_held: set[Place] = set()
_MAX_BYTES = 4096
_NAME = re.compile(r"lease\.(\d{6,12})\.json")
_GIVEN_BACK = b'{"given_back": true}'


@dataclass
class Lease:
    """What makes this process the only one that writes an output.

    Attributes
    ----------
    folder : Path or BucketPath
        Of the ledger.
    number : int
    renewed : float
        When it was last shown to be alive, by this process's clock.
    text : bytes
        What it says of its owner.
    version : str
        Of the object in a bucket.
    """

    folder: Place
    number: int
    renewed: float
    text: bytes = b""
    version: str = ""

    @property
    def path(self) -> Place:
        """File of the lease."""
        return _file(self.folder, self.number)

    def renew(self) -> None:
        """Show that the run is alive, and make sure that it still holds the output.

        Raises
        ------
        Interrupted
            If another run took over, the output was removed, or no sign of life could be given for too long.
        """
        # Who slept long enough to lose the lease did not look in all that time, so looks now, before it writes on.
        now, seldom = time.monotonic(), BUCKET_SIGN_SECONDS if isinstance(self.folder, BucketPath) else SIGN_SECONDS
        if now - self.renewed < seldom:
            return
        try:
            taken = not retried(self._touch) or _file(self.folder, self.number + 1).is_file()
        except FileNotFoundError:
            taken = True
        except OSError as error:
            # A file server that does not answer now may do so in a moment; only then nobody else can have taken over.
            if now - self.renewed < LEASE_SECONDS:
                return
            raise Interrupted(
                f"{self.path} could not be renewed for {LEASE_SECONDS:.0f} s ({error}), so another run may write {output_of(self.folder)}: "
                "finished blocks are kept, the same command goes on from there"
            ) from error
        if taken:
            raise Interrupted(
                f"{output_of(self.folder)} is not this run's any more: it was silent for more than {LEASE_SECONDS:.0f} s and another run "
                "took over, or the output was removed; `tomoscale status` shows who writes it"
            )
        self.renewed = now

    def drop(self) -> None:
        """Give the output free."""
        _held.discard(self.path)
        # Where that fails, the lease runs out by itself; this process may take it again at once.
        with suppress(OSError):
            path = self.path
            if isinstance(path, BucketPath):
                path.update(_GIVEN_BACK, self.version)
            else:
                os.utime(path, (0, 0))

    def _touch(self) -> bool:
        """Give the lease a new time; False where it is not ours any more."""
        path = self.path
        if isinstance(path, BucketPath):
            # Other bytes each time, so that the version changes and an answer that was lost can be told from another's.
            text = self.text[:-1] + f', "sign": "{uuid.uuid4().hex[:12]}"}}'.encode()
            version = path.update(text, self.version)
            self.version = version or self.version
            return version is not None
        os.utime(path)
        return True


def take_lease(folder: Place) -> Lease:
    """Make this process the only one that runs on an output.

    Raises
    ------
    PlanError
        If another living run holds the lease; the message names its owner and age.
    """
    held = _highest(folder)
    owner = lease_owner(folder)
    if owner is not None:
        raise PlanError(f"{output_of(folder)} is being written by {owner}: wait for it to end, or stop it first")
    said = {**_this_process(), "started": time.time(), "run": uuid.uuid4().hex[:12]}
    lease = Lease(folder, held + 1, time.monotonic(), json.dumps(said).encode())
    _make(lease)
    try:
        # Who looked long ago may have made a number that was passed meanwhile.
        if _highest(folder) != lease.number:
            raise _taken(folder)
    except BaseException:
        _held.discard(lease.path)
        with suppress(OSError):
            lease.path.unlink()
        raise
    for number in sorted(_numbers(folder)):
        if number < lease.number:
            # One that stays is lower than ours, and counts for nothing.
            with suppress(OSError):
                _file(folder, number).unlink()
    return lease


def lease_owner(folder: Place) -> str | None:
    """Who runs on an output now, in words; None if nobody does."""
    path = _file(folder, _highest(folder))
    try:
        renewed, text = _look(path)
    except (OSError, ValueError):
        return None
    age = max(0.0, server_time(folder) - renewed)
    try:
        # One that is empty is being made.
        lease = dict(json.loads(text or "{}"))
    except (ValueError, TypeError, RecursionError):
        return None  # nobody writes such a lease
    # What this process could not give back because storage failed is not in its way.
    ours = lease.items() >= _this_process().items()
    given_back = ours and path not in _held
    if age > LEASE_SECONDS or given_back or lease.get("given_back") or _ended(lease):
        return None
    whose = ", which is this one" if ours else ""
    return f"process {lease.get('process')} on {lease.get('host')}{whose} (last sign of life {age:.0f} s ago)"


def output_of(folder: Place) -> Place:
    """Output that a ledger belongs to: the volume it lies in, or the record itself."""
    return folder.parents[1] if folder.name == FOLDER else folder


def _ended(lease: dict[str, Any]) -> bool:
    """Whether the owner of a lease ran on this machine and is gone."""
    here = _this_process()
    if any(lease.get(key) != here[key] for key in ("host", "machine")):
        return False
    try:
        return bool(psutil.Process(int(lease["process"])).create_time() != lease["born"])
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError, OverflowError):
        return True


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "process": pid, "born": _born(pid)}


@lru_cache(maxsize=2)
def _born(pid: int) -> float:
    """When a process began: its number alone may be used again."""
    return float(psutil.Process(pid).create_time())


@lru_cache(maxsize=1)
def _machine() -> str:
    """Name of this boot of this machine, or container: hosts may share a name, and containers have process numbers of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _make(lease: Lease) -> None:
    """Make the file of a lease, if nobody else does."""
    path = lease.path
    if isinstance(path, BucketPath):
        version = path.create(lease.text)
        if version is None:
            raise _taken(lease.folder)
        lease.version = version
        _held.add(path)
        return
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        raise _taken(lease.folder) from None
    # Before the file says whose it is: another thread of this process may come at the same moment.
    _held.add(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(lease.text)
    except BaseException:
        _held.discard(path)
        with suppress(OSError):
            path.unlink()
        raise


def _look(path: Place) -> tuple[float, str]:
    """When a lease was renewed, by the server's clock, and what it says."""
    if isinstance(path, BucketPath):
        stored = path.stored()
        if stored is None or stored.size > _MAX_BYTES:
            raise FileNotFoundError(path)
        return stored.modified, path.read_text()
    # Opened before it is looked at: file servers then ask for its time instead of remembering it.
    with path.open() as file:
        return os.fstat(file.fileno()).st_mtime, file.read(_MAX_BYTES)


def _numbers(folder: Place) -> list[int]:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
    return [int(match[1]) for match in map(_NAME.fullmatch, names) if match]


def _highest(folder: Place) -> int:
    return max(_numbers(folder), default=0)


def _file(folder: Place, number: int) -> Place:
    return folder / f"lease.{number:06d}.json"


def _taken(folder: Place) -> PlanError:
    return PlanError(f"{output_of(folder)} is being taken by another run at this moment: wait for it to end")
