"""What the library that reads and writes voxels says of files and servers, as errors that a user can act on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tomoscale.bucket_client import no_answer
from tomoscale.bucket_path import ADVICE
from tomoscale.errors import InputError, IntegrityError, NotStored


@contextmanager
def translated(name: str, where: str, *, writing: bool, begun: bool = False) -> Iterator[None]:
    """Turn what the library raises into the errors a user can act on.

    Parameters
    ----------
    name : str
        Of the array.
    where : str
        Region in words; "" where the array is being opened.
    writing : bool
    begun : bool
        Of a volume that is not finished.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        found = _as_ours(name, where, str(error), writing=writing)
        raise _not_computed(found) if begun and isinstance(found, NotStored) else found from None


def _as_ours(name: str, where: str, text: str, *, writing: bool) -> Exception:
    code = re.search(r"os_error_code='(\d+)'", text)
    text = re.sub(r" \[tensorstore_spec=.*\]$", "", text, flags=re.DOTALL)
    file = re.search(r'local file "([^"]+)"', text)
    path = file[1] if file else name
    if name.startswith("s3://") and (error := _of_server(path, where, text, writing=writing)):
        return error
    if code and not writing and int(code[1]) in (1, 13):
        return InputError(f"{path}: no permission to read it{where}")
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])), path)
    if writing or not where:
        return InputError(f"{path} cannot be {'written' if writing else 'opened'}{where}: {text}")
    if text.startswith("NOT_FOUND"):
        return NotStored(
            f"{path} or a chunk in it is missing{where}: these voxels were lost or never written; compute the volume again or "
            "restore the file"
        )
    return IntegrityError(
        f"{path} is damaged{where}: {text.split(': ', 1)[-1]}; compute the volume again or restore the file"
    )


def _not_computed(found: NotStored) -> NotStored:
    where = str(found).partition(": these voxels")[0]
    return NotStored(
        f"{where}: it is not computed yet, or was lost; `tomoscale status` says how far the run is, which goes on by the same "
        "command, and `tomoscale verify` whether what it has done is there"
    )


def _of_server(path: str, where: str, text: str, *, writing: bool) -> Exception | None:
    """What a server says of itself, not of the voxels."""
    kind, line = text.partition(":")[0], text.splitlines()[0][:200]
    if kind in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        if writing:
            return PermissionError(errno.EACCES, f"no permission: {ADVICE}", path)
        return InputError(f"{path}: no permission to read it{where}: {ADVICE}")
    if kind in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN"):
        # Not one to be repeated at once: that was done for long.
        return no_answer(f"{path}{where}", line)
    return None
