"""Where things are kept: paths of a file system, and addresses in an object store that speaks S3, ``s3://bucket/path``.

A `BucketPath` answers what this program asks of a `Path`, so that who reads a volume or a ledger need not know which of
the two it is.

The endpoint is ``AWS_ENDPOINT_URL`` (that of Amazon where it is not set), the region ``AWS_REGION``; credentials are
found where S3 clients find them (``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, ``~/.aws/credentials``), by each
process for itself: they are neither kept in a volume nor sent to workers.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tomoscale.bucket_client import Bucket
from tomoscale.bucket_path import BucketPath
from tomoscale.drafts import draft_of

_ADDRESS = re.compile(r"s3:/{1,2}([^/]+)/+(.*?)/*")


Place = Path | BucketPath


def place(path: str | os.PathLike[str] | BucketPath) -> Place:
    """Path of a file system, or address in a bucket.

    Examples
    --------
    >>> str(place("s3://scans/bone/scan.zarr/") / "0")
    's3://scans/bone/scan.zarr/0'
    >>> place("scan.zarr").name
    'scan.zarr'
    """
    if isinstance(path, BucketPath):
        return path
    match = _ADDRESS.fullmatch(os.fspath(path))
    if match is None:
        return local_path(path)
    bucket = Bucket(match[1], os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_REGION"))
    return BucketPath(bucket, "") / match[2]


def local_path(path: str | os.PathLike[str]) -> Path:
    """Path of a file system as a user writes it: ``~`` is the home directory.

    Examples
    --------
    >>> local_path("~/scan.zarr") == Path.home() / "scan.zarr"
    True
    >>> str(local_path("scans/~/scan.zarr"))
    'scans/~/scan.zarr'
    """
    return Path(os.path.expanduser(path))


def absolute(path: str | os.PathLike[str] | BucketPath) -> Place:
    """Place that does not depend on the working directory."""
    found = place(path)
    return found if isinstance(found, BucketPath) else Path(os.path.abspath(found))


def is_bucket(path: str | os.PathLike[str] | BucketPath) -> bool:
    """Tell whether a path is an address in an object store."""
    return isinstance(path, BucketPath) or _ADDRESS.fullmatch(os.fspath(path)) is not None


def replace_text(path: Place, text: str) -> None:
    """Write a file whole or not at all."""
    if isinstance(path, BucketPath):
        path.write(f"{text}\n".encode())
        return
    draft = draft_of(path)
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()


def path_inside(path: Place, above: Place) -> str:
    """Path below a folder, its parts joined by slashes."""
    if isinstance(path, BucketPath) and isinstance(above, BucketPath):
        return PurePosixPath(path.key).relative_to(above.key).as_posix()
    return Path(str(path)).relative_to(str(above)).as_posix()


def append_line(path: Place, text: str) -> None:
    """Add a line to a file of lines; in a bucket, where nothing can be added to an object, the line replaces what is there."""
    if isinstance(path, BucketPath):
        replace_text(path, text)
    else:
        with path.open("a") as file:
            file.write(text + "\n")


def write_first(path: Place, text: str) -> bool:
    """Write a file whole; in a bucket only if there is none, which is told: on disks a lease keeps others away."""
    if isinstance(path, BucketPath):
        return path.create(f"{text}\n".encode()) is not None
    replace_text(path, text)
    return True


def remove_tree(path: Place) -> None:
    """Remove a folder and all that is in it."""
    if isinstance(path, BucketPath):
        path.remove_below()
    else:
        shutil.rmtree(path)


def server_time(folder: Place) -> float:
    """Time of the server that keeps a folder; this machine's where nothing can be written."""
    probe = folder / f".{uuid.uuid4().hex[:12]}.time"
    try:
        if isinstance(probe, BucketPath):
            probe.write(b"")
            stored = probe.stored()
            return time.time() if stored is None else stored.modified
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
