"""What all clusters have in common: threads of a worker, and how Dask is set while tomoscale starts one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOOPBACK = "127.0.0.1"
LOOPBACK_ANY_PORT = f"{LOOPBACK}:0"
"""Where dashboards listen: they show what runs, and have no certificate."""
IO_THREADS = 1
"""Blocks that a worker reads or writes while it computes another."""
GPU_THREADS = 1 + 2 * IO_THREADS
"""Threads of a GPU worker: one block is computed while the next is read and the last is written."""

START_SECONDS = 60
"""A worker process of this machine that takes longer to start is given up and replaced."""

SETTINGS: Mapping[str, Any] = {
    # One death is enough to suspect a block: it is then tried alone, which names the guilty one.
    "distributed.scheduler.allowed-failures": 0,
    # Tasks return counts, not arrays: a worker that would spill has another trouble than its results.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
}
"""Dask configuration of every cluster that tomoscale starts."""


def thread_environment(threads: int) -> dict[str, str]:
    """Environment that keeps the libraries of one process to its share of the cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def environment_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Dask settings as variables of the environment, for processes that read no other configuration of ours.

    Examples
    --------
    >>> environment_of({"distributed.scheduler.allowed-failures": 0})
    {'DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES': '0'}
    """
    return {f"DASK_{key.upper().replace('-', '_').replace('.', '__')}": str(value) for key, value in settings.items()}
