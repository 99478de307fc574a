"""Loaded into every worker: blocks take a while, are noted when they begin, and signals make the process fail as asked.

``FAULTS_LOG`` names a file that gets a line per block begun, ``FAULTS_SLOW`` is the seconds added to each.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np

from tomoscale import block_runs
from tomoscale.plan import Plan

HOG_BYTES = 2**31


def install() -> None:
    """Slow this process's blocks down and note them; once."""
    original = block_runs.run_block
    if hasattr(original, "slowed"):
        return
    log, seconds = os.environ["FAULTS_LOG"], float(os.environ["FAULTS_SLOW"])

    def run_block(plan: Plan, block: Any) -> Any:
        name = plan.target.name if plan.target is not None else str(plan.record)
        with open(log, "ab", buffering=0) as file:
            file.write(f"{name} {block.number} {os.getpid()}\n".encode())
        time.sleep(seconds)
        return original(plan, block)

    run_block.slowed = True  # type: ignore[attr-defined]
    block_runs.run_block = run_block


def take_too_much_memory(*_: Any) -> None:
    """Fill memory until the nanny ends this process."""
    hoard = []
    for _ in range(HOG_BYTES // 2**26):
        hoard.append(np.ones(2**26, np.uint8))
        time.sleep(0.01)
    time.sleep(5)


def dask_setup(worker: Any) -> None:
    """Call of Dask when a worker starts."""
    install()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, take_too_much_memory)
        signal.signal(signal.SIGUSR2, lambda *_: os._exit(3))
