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
    probe = folder / f".{uuid.uuid4().hex[:12]}{PROBE}"
    try:
        _try_conditions(probe)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    _kept.add(folder.bucket)


def _try_conditions(probe: BucketPath) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        # Of different lengths, so that nobody takes another's for what it put itself.
        answers = list(pool.map(lambda n: probe.create(b"x" * n), range(1, WRITERS + 1)))
    made = [version for version in answers if version is not None]
    if len(made) != 1:
        raise _unfit(
            probe, "If-None-Match: *", f"{len(made)} of {WRITERS} writers made the same object, where one must"
        )
    if probe.update(b"", _OTHER_VERSION) is not None:
        raise _unfit(probe, "If-Match", "it replaced an object that had another ETag than the one named")
    if probe.update(b"renewed", made[0]) is None:
        raise _unfit(probe, "If-Match", "it refused to replace an object that had the very ETag named")


def _unfit(probe: BucketPath, condition: str, seen: str) -> PlanError:
    server = probe.bucket.endpoint or "the object store"
    return PlanError(
        f"{probe.parent} cannot be written safely: {server} does not keep the condition {condition} of a PUT ({seen}), so two runs "
        "could write one output and lose blocks; give an output on a file system, or a bucket of a server that knows conditional "
        "writes"
    )
