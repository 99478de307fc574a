"""What is left of a user's quota, as the tool of each file system tells it.

=========  ==========================================  ==================================================
NFS, XFS   ``quota``                                   blocks of 1 KiB: used, soft limit, hard limit
Lustre     ``lfs quota -q -u USER PATH``               path, KiB: used, soft, hard; grace; the same of files
BeeGFS 7   ``beegfs-ctl --getquota --csv --uid UID``   name,id,size,hard,files,hard in bytes
BeeGFS 8   ``beegfs quota list-usage --raw``           name, id, type, pool, used/limit in bytes, files
GPFS       ``mmlsquota -Y -u USER``                    fields between colons, named in a line HEADER; in KiB
=========  ==========================================  ==================================================

Formats as public tests and parsers of these tools show them, and the sources of BeeGFS. Each tool is asked for at most
`TOOL_SECONDS`, without a shell; one that is not on the path, fails or tells nothing gives no answer.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

TOOL_SECONDS = 10.0
MOST_CHARACTERS = 1_000_000
KIB = 1024


def quota_free_bytes(path: Path) -> int | None:
    """What is left of the user's quota on the file system of a path; None where no tool says so."""
    kind, device, mount = mount_of(path)
    free: int | None
    for command, parse in _commands(kind.removesuffix("_nodev"), device, mount, path):
        if shutil.which(command[0]) is not None and (free := parse(_told(command))) is not None:
            return free
    return None


def mount_of(path: Path) -> tuple[str, str, str]:
    """Type, device and mount point of the file system under a path; empty where that is not known."""
    real = str(path.resolve())
    found = [
        p
        for p in psutil.disk_partitions(all=True)
        if real == p.mountpoint or real.startswith(p.mountpoint.rstrip("/") + "/")
    ]
    best = max(found, key=lambda p: len(p.mountpoint), default=None)
    return ("", "", "") if best is None else (best.fstype, best.device, best.mountpoint)


Asked = tuple[list[str], Callable[[str], int | None]]


def _commands(kind: str, device: str, mount: str, path: Path) -> Iterator[Asked]:
    """Commands that may know, and what makes bytes of what they print."""
    if kind == "lustre":
        yield ["lfs", "quota", "-q", "-u", getpass.getuser(), str(path)], of_lustre
    elif kind == "beegfs":
        yield ["beegfs-ctl", "--getquota", "--csv", f"--mount={mount}", "--uid", str(os.getuid())], of_beegfs_ctl
        yield ["beegfs", "quota", "list-usage", "--uids", "current", "--raw"], of_beegfs
    elif kind == "gpfs":
        yield ["mmlsquota", "-Y", "-u", getpass.getuser()], lambda text: of_gpfs(text, device, path)
    else:
        yield ["quota", "--no-wrap", "--raw-grace", "--hide-device", f"--filesystem={path}"], of_quota


def _told(command: list[str]) -> str:
    with suppress(OSError, ValueError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOOL_SECONDS,
            check=False,
        )
        return done.stdout[:MOST_CHARACTERS]
    return ""


def of_quota(text: str) -> int | None:
    """Bytes left of the table that `quota` prints.

    Examples
    --------
    >>> of_quota("  1000 2000 4000 5 0 0") == 3000 * 1024
    True
    """
    for line in text.splitlines():
        numbers = _numbers(line.split()[:3])
        if len(numbers) == 3:
            return _left(*numbers)
    return None


def of_lustre(text: str) -> int | None:
    """Bytes left of the line of `lfs quota -q`; the path stands on a line of its own where it is long.

    Examples
    --------
    >>> of_lustre("/lustre/ada  5242880* 4194304 6291456 6d23h 12 0 100 -") == 1048576 * 1024
    True
    """
    words = text.split()
    for first in range(len(words) - 2):
        numbers = _numbers(words[first : first + 3])
        if len(numbers) == 3:
            return _left(*numbers)
    return None


def of_beegfs_ctl(text: str) -> int | None:
    """Bytes left of the table of `beegfs-ctl --getquota --csv`: the tightest of its pools."""
    rows = [line.split(",") for line in text.splitlines() if line.count(",") >= 5]
    pairs = (_numbers(row[2:4]) for row in rows)
    return _least(hard - used for used, hard in (pair for pair in pairs if len(pair) == 2) if hard)


def of_beegfs(text: str) -> int | None:
    """Bytes left of the table of `beegfs quota list-usage --raw`: the tightest of its pools."""
    rows = [line.split() for line in text.splitlines()]
    pairs = (_numbers(row[4].split("/")) for row in rows if len(row) >= 6 and row[2] == "user")
    return _least(limit - used for used, limit in (pair for pair in pairs if len(pair) == 2) if limit)


def of_gpfs(text: str, device: str, path: Path) -> int | None:
    """Bytes left of what `mmlsquota -Y` prints for a device: of the fileset that the path names, else the tightest."""
    names: list[str] = []
    rows: list[dict[str, str]] = []
    for line in text.splitlines():
        words = line.split(":")
        if words[:1] == ["mmlsquota"] and words[2:3] == ["HEADER"]:
            names = words
        elif words[:1] == ["mmlsquota"] and names:
            rows.append(dict(zip(names, words, strict=False)))
    ours = [
        row for row in rows if row.get("quotaType") == "USR" and row.get("filesystemName") == device.rpartition("/")[2]
    ]
    named = [row for row in ours if row.get("filesetname") in path.parts]
    fields = ("blockUsage", "blockQuota", "blockLimit")
    numbers = (_numbers([row.get(name, "") for name in fields]) for row in named or ours)
    return _least(left for left in (_left(*n) for n in numbers if len(n) == 3) if left is not None)


def _numbers(words: list[str]) -> list[int]:
    """Whole numbers; a star marks what is over its limit, brackets what a server that is away did not confirm."""
    return [int(word) for word in (word.strip("*[]") for word in words) if word.isdecimal()]


def _left(used: int, soft: int, hard: int) -> int | None:
    """Bytes left below the hard limit, else the soft one, of numbers in KiB; None where there is no limit."""
    limit = hard or soft
    return None if limit == 0 else max(0, limit - used) * KIB


def _least(left: Iterator[int]) -> int | None:
    found = [max(0, one) for one in left]
    return min(found) if found else None
