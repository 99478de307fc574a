"""Let storage fail at any one of the operations of a small run: every open, write, sync, rename, look and voxel access."""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.faults.pipelines import PLANES, SMOOTH, differing_bytes, made, make_source
from tomoscale import lease, retries
from tomoscale.audit import verify
from tomoscale.errors import BlocksFailed, InputError, IntegrityError, Interrupted, PlanError
from tomoscale.resources import Resources
from tomoscale.volume import Volume
from tomoscale.work import Work
from tomoscale.zarr_array import ZarrArray

SHAPE = (16, 20, 12)
BLOCK = (8, 16, 16)
ONCE, ALWAYS = 1, 10**9
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
CLEAR = (PlanError, InputError, IntegrityError, BlocksFailed, Interrupted)
FUNCTIONS = ("open", "stat", "lstat", "rename", "replace", "unlink", "mkdir", "utime", "truncate", "scandir")


class Failing:
    """Counts operations on files below a folder, and lets some of them fail.

    Attributes
    ----------
    first, times : int
        Operations ``first`` to ``first + times`` fail.
    code : int
        Error number.
    """

    def __init__(self, folder: Path, first: int = -1, times: int = 0, code: int = errno.EIO) -> None:
        self.folder, self.first, self.times, self.code = str(folder), first, times, code
        self.operations: list[str] = []
        self.lock = threading.Lock()

    def pass_or_fail(self, name: str, path: Any) -> None:
        """Count one operation; raise if it is to fail."""
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.folder):
            return
        with self.lock:
            self.operations.append(f"{name} {path}")
            number = len(self.operations) - 1
        if self.first <= number < self.first + self.times:
            raise OSError(self.code, os.strerror(self.code), str(path))

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
            self.pass_or_fail(name, path)
            return function(path, *arguments, **keywords)

        return call

    def opened(self, path: Any, *arguments: Any, **keywords: Any) -> Any:
        self.pass_or_fail("open", path)
        file = _open(path, *arguments, **keywords)
        return FailingFile(file, path, self) if "b" in file.mode or file.writable() else file

    def synced(self, descriptor: int) -> None:
        self.pass_or_fail("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        _fsync(descriptor)

    def voxels(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(array: ZarrArray, *arguments: Any, **keywords: Any) -> Any:
            self.pass_or_fail(name, array.directory)
            return function(array, *arguments, **keywords)

        return call

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let operations pass through here."""
        with mock.patch.object(io, "open", self.opened), mock.patch.object(os, "fsync", self.synced):
            patches = [mock.patch.object(os, n, self.wrapped(n, getattr(os, n))) for n in FUNCTIONS]
            # A sign of life with every look, so that operations come in the same order each time.
            patches.append(mock.patch.object(lease, "SIGN_SECONDS", 0.0))
            patches += [
                mock.patch.object(ZarrArray, n, self.voxels(n, getattr(ZarrArray, n))) for n in ("read", "_write")
            ]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()


class FailingFile:
    """A file whose writes may fail half way."""

    def __init__(self, file: Any, path: Any, failing: Failing) -> None:
        self.file, self.path, self.failing = file, path, failing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FailingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: Any) -> int:
        try:
            self.failing.pass_or_fail("write", self.path)
        except OSError:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            raise
        return int(self.file.write(content))


_open, _fsync = io.open, os.fsync


def run_small(source: Volume, folder: Path) -> None:
    """A map and a measure in this process."""
    work = Work(resources=Resources(slots=1, io_slots=1), block_shape=BLOCK, progress=False)
    work.map(SMOOTH, source, folder / "smooth.zarr")
    counts = work.measure((PLANES,), {"labels": source}, folder / "planes")
    (folder / "planes.counts").write_bytes(counts["planes"].tobytes())


def fail_everywhere(folder: Path, points: int) -> dict[str, Any]:
    """Let storage fail at so many points of a run, once and for good, and run again each time without failures."""
    source = make_source(folder / "source.zarr", SHAPE)
    target = folder / "made"
    target.mkdir()
    counting = Failing(target)
    with counting.patched():
        run_small(source, target)
    expected, total = made(target), len(counting.operations)
    shutil.rmtree(target)
    figures: Counter[str] = Counter()
    unclear: list[str] = []
    ways = [(ONCE, code) for code in TRANSIENT] + [(ALWAYS, code) for code in LASTING]
    for point in range(points):
        target.mkdir()
        times, code = ways[point % len(ways)]
        failing = Failing(target, point * total // points, times, code)
        try:
            with failing.patched(), mock.patch.object(retries, "PAUSES_SECONDS", (0.0, 0.0)):
                run_small(source, target)
        except CLEAR:
            figures["clear_errors"] += 1
        except OSError as error:
            # As the command line tells it: the file, what failed, and what to do.
            figures["clear_errors" if error.filename and error.errno == code else "unclear_errors"] += 1
            unclear += [] if error.filename else [f"{failing.operations[failing.first]}: {error!r}"]
        except Exception as error:
            figures["unclear_errors"] += 1
            unclear.append(f"{failing.operations[failing.first]}: {error!r}")
        else:
            figures["went_on"] += 1
        run_small(source, target)
        figures["differing_bytes"] += differing_bytes(made(target), expected)
        verify(target / "smooth.zarr")
        verify(target / "planes")
        figures["leftovers"] += len(list(target.rglob("*.partial")))
        shutil.rmtree(target)
    return {"operations": total, "points": points, **figures, "unclear": unclear[:10]}
