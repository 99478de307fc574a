"""Workers on this machine: processes, or one for each of its GPUs."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil

from tomoscale.arrays import cuda_available
from tomoscale.cluster.settings import (
    GPU_THREADS,
    IO_THREADS,
    LOOPBACK,
    LOOPBACK_ANY_PORT,
    SETTINGS,
    START_SECONDS,
    thread_environment,
)
from tomoscale.errors import PlanError

if TYPE_CHECKING:
    from distributed import Client


MARK = "TOMOSCALE_CLUSTER"
"""Variable by which the processes of a cluster are known."""


@contextmanager
def local(processes: int | None = None, memory_bytes: int | None = None) -> Iterator[Client]:
    """Start worker processes on this machine and end them afterwards.

    Parameters
    ----------
    processes : int or None
        None starts one per core.
    memory_bytes : int or None
        Of each process; None shares three quarters of what is free.

    Raises
    ------
    PlanError
        If `processes` is not positive.
    """
    cores = len(os.sched_getaffinity(0))
    processes = cores if processes is None else processes
    if processes < 1:
        raise PlanError(f"at least one worker process is needed, got {processes}")
    memory_bytes = memory_bytes or int(0.75 * psutil.virtual_memory().available) // processes
    # Imported here because it takes half a second that a run in this process need not pay.
    import dask
    from distributed import Client, LocalCluster, Security

    mark = secrets.token_hex(8)
    own = {
        "distributed.nanny.pre-spawn-environ": {**thread_environment(max(1, cores // processes)), MARK: mark},
        # By default a worker that is not back 15 s after it died is given up: a busy machine takes longer to start one.
        "distributed.deploy.lost-worker-timeout": f"{START_SECONDS}s",
    }
    with (
        dask.config.set({**SETTINGS, **own}),
        kept_environment(),
        ended(
            LocalCluster(
                n_workers=processes,
                threads_per_worker=1 + IO_THREADS,
                memory_limit=memory_bytes,
                host=LOOPBACK,
                dashboard_address=LOOPBACK_ANY_PORT,
                processes=True,
                protocol="tls",
                # Other users of this machine reach the loopback address too.
                security=Security.temporary(),
                # What matters is told by the run itself; Dask also logs each connection that ends with the cluster.
                silence_logs=logging.CRITICAL,
                death_timeout=START_SECONDS,
            ),
            mark,
        ) as cluster,
        # Not the default of everything in this process: a scheduler that is lost must not take other work with Dask along.
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def kept_environment() -> Iterator[None]:
    """Keep this process's variables: Dask sets those of its workers here too, and takes what it finds before what it is told.

    So the workers of a second cluster would get the mark and the numbers of threads of the first.
    """
    import dask

    names = {*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.pop(MARK, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def ended(cluster: Any, mark: str) -> Iterator[Any]:
    """Give a cluster of this machine and end it with every process that bears its mark, also those that stopped or are busy.

    Parameters
    ----------
    cluster : LocalCluster
    mark : str
        Value of `MARK` in the environment of its workers.
    """
    try:
        yield cluster
    finally:
        # A worker that was stopped while it started would be waited for, and then left behind.
        for process in marked(mark):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        # Dask kills a process that does not end in time, gives it no time for that, and raises; it also insists on the order
        # in which its processes come and go. No error of the run comes of that, as all of them end here.
        with suppress(TimeoutError, AssertionError):
            cluster.__exit__(None, None, None)
        for process in marked(mark):
            with suppress(psutil.Error):
                process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """Processes below this one that belong to a cluster and have not ended."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


@contextmanager
def gpus() -> Iterator[Client]:
    """Start one worker per GPU of this machine through dask-cuda, and end them afterwards.

    Tasks return host arrays, so dask-cuda has nothing on a device to spill. The memory pool of a process is torch's,
    which CuPy takes from as well once a network has run (`tomoscale.networks.runtime.share_memory_pool`), so no pool of
    RMM is asked for.

    Raises
    ------
    PlanError
        If CuPy finds no GPU or dask-cuda is not installed.
    """
    if not cuda_available():
        raise PlanError(
            'no GPU can be used: CuPy is not installed or finds none; install "tomoscale[cuda13]", or run on the CPU'
        )
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise PlanError('dask-cuda is not installed: pip install "tomoscale[cuda13]"') from error
    import dask
    from distributed import Client, Security

    mark = secrets.token_hex(8)
    with (
        dask.config.set({**SETTINGS, f"distributed.nanny.pre-spawn-environ.{MARK}": mark}),
        kept_environment(),
        ended(
            LocalCUDACluster(
                host=LOOPBACK,
                dashboard_address=LOOPBACK_ANY_PORT,
                threads_per_worker=GPU_THREADS,
                protocol="tls",
                security=Security.temporary(),
                silence_logs=logging.CRITICAL,
            ),
            mark,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
