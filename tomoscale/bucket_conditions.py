"""Whether an object store keeps the conditions under which objects are put.

Leases and the log of blocks are safe because of two of them: an object is made only where there is none
(``If-None-Match: *``), and replaced only as long as it is what its owner put (``If-Match``). Some servers do not know
them and put whatever they are given. On such a one two runs would write one output, so it is asked before the first
object of an output is put, once in each process.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tomoscale.bucket_client import Bucket
from tomoscale.bucket_path import PROBE, BucketPath
from tomoscale.errors import PlanError

WRITERS = 4
"""Who try to make one object at the same moment: a server that looks first and puts then lets more than one."""
CONDITIONAL = "give an output on a file system, or a bucket of a server that knows conditional writes"
"""To who has such a server."""
_OTHER_VERSION = '"00000000000000000000000000000000"'
_kept: set[Bucket] = set()


def refuse_unconditional(folder: BucketPath) -> None:
    """Refuse a bucket whose server does not keep the conditions; an object is put into `folder` and removed.

    Raises
    ------
    PlanError
        If it does not.
    """
    if folder.bucket in _kept:
        return
    failure = condition_failure(folder)
    if failure:
        server = folder.bucket.endpoint or "the object store"
        raise PlanError(
            f"{folder} cannot be written safely: {server} does not keep {failure}, so two runs could write one output and lose "
            f"blocks; {CONDITIONAL}"
        )
    _kept.add(folder.bucket)


def condition_failure(folder: BucketPath) -> str:
    """Which condition the server of a bucket does not keep, and what it did instead; empty if it keeps both."""
    probe = folder / f".{uuid.uuid4().hex[:12]}{PROBE}"
    try:
        return _tried(probe)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _tried(probe: BucketPath) -> str:
    with ThreadPoolExecutor(WRITERS) as pool:
        # Of different lengths, so that nobody takes another's for what it put itself.
        answers = list(pool.map(lambda n: probe.create(b"x" * n), range(1, WRITERS + 1)))
    made = [version for version in answers if version is not None]
    if len(made) != 1:
        return f"the condition If-None-Match: * of a PUT ({len(made)} of {WRITERS} writers made the same object, where one must)"
    if probe.update(b"", _OTHER_VERSION) is not None:
        return "the condition If-Match of a PUT (it replaced an object that had another ETag than the one named)"
    if probe.update(b"renewed", made[0]) is None:
        return "the condition If-Match of a PUT (it refused to replace an object that had the very ETag named)"
    return ""
