"""A process that opens many hostile inputs one after another and writes down what each did; started by a path.

It is given a JSON file of ``[[name, arguments], ...]``, a file for the results (one JSON line for each), and a folder
inside which, of all files, alone may be written.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

# Whatever libraries start, open and write while they are loaded is done before anyone watches.
import h5py  # noqa: F401
import hdf5plugin  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import numba  # noqa: F401
import pydicom.pixels  # noqa: F401
import tifffile  # noqa: F401
import torch  # noqa: F401

from tomoscale.cli import main as tomoscale_command

ADDRESS_SPACE = 6 * 2**30
"""Bytes a case may reserve beyond what the process has before: the machine survives what no guard holds back."""
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn", "ctypes.dlopen")
_CONNECTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
_MOVES = (
    "os.rename",
    "os.remove",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
)


READS_CHECKPOINTS = [sys.executable, "-m", "tomoscale.networks.checkpoint"]
"""The one program that a command may start: a process with limits, which reads a checkpoint."""


class Watch:
    """An audit hook: what Python itself starts, connects to, unpickles, or opens outside; it can never be taken off."""

    def __init__(self, allowed: Path, outside: Path) -> None:
        self.allowed, self.outside = str(allowed), str(outside)
        self.seen: list[str] = []
        self.watching = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "ctypes.dlopen" and arguments[0] is None:
            return
        if event == "subprocess.Popen" and list(arguments[1])[:3] == READS_CHECKPOINTS:
            return
        if event in (*_STARTS, *_CONNECTS) or event == "pickle.find_class":
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event == "open":
            path, _, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False
            self._check(event, path, writes)
        elif event in _MOVES:
            self._check(event, arguments[0], True)

    def _check(self, event: str, path: object, writes: bool) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.realpath(os.fsdecode(path))
        # Compiled code of our own is kept beside it.
        inside = place.startswith(self.allowed) or "/__pycache__" in place
        if place.startswith(self.outside) or (writes and not inside and place != os.devnull):
            self.seen.append(f"{event} {place}")


def html(path: str) -> int:
    """What a notebook shows of a volume; no command, so it stands here as one."""
    from tomoscale import open_volume

    print(open_volume(path)._repr_html_())
    return 0


def peak_bytes() -> int:
    """Most memory since `forget_peak`, resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def forget_peak() -> int:
    """Let the count of the most memory begin again; return what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def run(name: str, arguments: list[str], watch: Watch) -> dict[str, Any]:
    """Open one input by its command and say what happened."""
    before, started, text = forget_peak(), time.process_time(), io.StringIO()
    earlier = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch.seen, watch.watching, raised = [], True, ""
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = html(*arguments[1:]) if arguments[0] == "html" else tomoscale_command(arguments)
        except BaseException as error:  # whatever gets through is what the test is about
            code, raised = -1, f"{type(error).__name__}: {error}"
    watch.watching = False
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    childs_s = children.ru_utime + children.ru_stime - earlier.ru_utime - earlier.ru_stime
    # The largest of all children so far: known where it grew.
    childs_bytes = 1024 * children.ru_maxrss if children.ru_maxrss > earlier.ru_maxrss else 0
    return {
        "name": name,
        "code": code,
        "text": text.getvalue() + raised,
        "cpu_s": time.process_time() - started + childs_s,
        "bytes": max(peak_bytes() - before, childs_bytes),
        "events": watch.seen,
    }


def main(cases: Path, results: Path, allowed: Path) -> None:
    """Open all inputs."""
    faulthandler.enable()
    # What was imported stays: looking for garbage in it before each case would take most of the time.
    gc.freeze()
    watch = Watch(allowed, allowed / "outside")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, resource.RLIM_INFINITY))
    with results.open("a") as file:
        for name, arguments in json.loads(cases.read_text()):
            print(json.dumps(run(name, arguments, watch)), file=file, flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
