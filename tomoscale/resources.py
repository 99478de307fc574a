"""What a run may use: processes, blocks at once, memory, and a GPU if there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from tomoscale.arrays import cuda_available, free_device_bytes

MEBI = 2**20
PROCESS_BYTES = 255 * MEBI
"""A process with everything imported and compiled code loaded, 148 to 220 MiB measured before it holds a voxel, 235 in a
Dask worker, and the buffers of reading and writing, some 20 MiB."""
COMPILING_BYTES = 125 * MEBI
"""What Numba keeps in a process that compiles, once on a machine: 343 MiB in all were measured."""


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Attributes
    ----------
    processes : int
        Worker processes; 1 is this process.
    slots : int
        Blocks computed at once in a process (1 on a GPU and for kernels that use all cores themselves).
    io_slots : int
        Further blocks being read or written in a process meanwhile.
    memory_bytes : int
        Host memory of one process.
    device : "cpu" or "cuda"
    device_bytes : int
        Memory of its GPU.
    """

    processes: int = 1
    slots: int = 1
    io_slots: int = 1
    memory_bytes: int = 4 * 2**30
    device: str = "cpu"
    device_bytes: int = 0

    @property
    def parallel(self) -> int:
        """Blocks computed at once by all processes."""
        return self.processes * self.slots


def bytes_of_a_process() -> int:
    """What a process takes before it holds a voxel or what a step keeps."""
    return PROCESS_BYTES + (0 if _compiled_before() else COMPILING_BYTES)


@cache
def _compiled_before() -> bool:
    """Whether this machine has compiled what kernels and measures need, so that a process only loads it.

    Looked up once: a plan is drafted for every candidate block.
    """
    package = Path(__file__).parent
    cache = os.environ.get("NUMBA_CACHE_DIR")
    wanted = (package / "kernels" / "parabolas.py", package / "measures" / "runs.py")
    return all(_compiled_after(source, Path(cache) if cache else source.parent / "__pycache__") for source in wanted)


def _compiled_after(source: Path, cache: Path) -> bool:
    # An installation replaces the modules but not what was compiled from the old ones.
    compiled = cache.rglob(f"{source.stem}.*.nbi")
    return any(file.stat().st_mtime >= source.stat().st_mtime for file in compiled)


def this_machine(device: str | None = None) -> Resources:
    """Resources of this process on this machine: its GPU if there is one, else its cores, and half the free memory."""
    memory = psutil.virtual_memory().available // 2
    if device == "cuda" or (device is None and cuda_available()):
        return Resources(1, 1, 2, memory, "cuda", int(0.8 * free_device_bytes()))
    return Resources(1, len(os.sched_getaffinity(0)), 1, memory)
