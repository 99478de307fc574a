"""Names under which files are written until they are whole, and what killed writers left under such names.

A draft of ``table.csv`` is ``.table.csv.HOST.PID.RANDOM.partial`` beside it. Who writes the same file again removes drafts
of processes that are gone: those of this machine are looked up, those of others are gone when they have not grown for
`SILENT_SECONDS`.
"""

from __future__ import annotations

import glob
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from os import getpid
from pathlib import Path

SILENT_SECONDS = 600.0
_NAME = re.compile(r"\.(?P<host>[^/]+)\.(?P<process>\d+)\.[0-9a-f]{12}\.partial")


def draft_of(path: Path) -> Path:
    """Name for a draft of a file or a folder, once those that killed writers left of it are removed."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if is_abandoned(old, path):
            remove(old)
    return new_draft_of(path)


def new_draft_of(path: Path) -> Path:
    """Name for a draft; looks for none, which takes long in a folder of very many files."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{getpid()}.{uuid.uuid4().hex[:12]}.partial")


def is_abandoned(draft: Path, path: Path) -> bool:
    """Whether the writer of a draft of a file is gone."""
    match = _NAME.fullmatch(draft.name.removeprefix(f".{path.name}"))
    if match is None:
        return False
    if match["host"] == socket.gethostname():
        # Loaded when a draft is found: `--help` asks for none.
        import psutil

        return not psutil.pid_exists(int(match["process"]))
    with suppress(OSError):
        # A folder is as old as what was written into it last.
        newest = max(part.lstat().st_mtime for part in (draft, *draft.rglob("*")))
        return time.time() - newest > SILENT_SECONDS
    return False


def remove(path: Path) -> None:
    """Remove a draft, file or folder; one that cannot be removed is in nobody's way."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
