"""Load dask-jobqueue, which takes Ctrl-C for itself when it is imported."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from types import ModuleType

from tomoscale.errors import PlanError


def load_jobqueue() -> ModuleType:
    """Import dask-jobqueue and leave Ctrl-C as it was: its runner module would end the process without a word.

    Raises
    ------
    PlanError
        If it is not installed, or this is not the main thread, where it cannot be imported.
    """
    if "dask_jobqueue" not in sys.modules and threading.current_thread() is not threading.main_thread():
        raise PlanError("Slurm jobs are first asked for in a thread: import dask_jobqueue in the main thread before")
    before = signal.getsignal(signal.SIGINT)
    try:
        module = importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise PlanError('dask-jobqueue is not installed: pip install "tomoscale[slurm]"') from error
    finally:
        if before is not None and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
    return module
