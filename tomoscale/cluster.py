"""Clients for the machines a run may use: processes of this machine, and its GPUs.

Everything listens on the loopback address alone: whoever reaches a Dask scheduler runs code as its owner.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from tomoscale.arrays import cuda_available, device_and_free_bytes
from tomoscale.errors import PlanError
from tomoscale.resources import Resources

if TYPE_CHECKING:
    from distributed import Client

LOOPBACK = "127.0.0.1"
IO_THREADS = 1
"""Blocks that a worker reads or writes while it computes another."""


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
    from distributed import Client, LocalCluster

    threads = str(max(1, cores // processes))
    environment = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads
    )
    with (
        # One death is enough to suspect a block: it is then tried alone, which names the guilty one.
        dask.config.set(
            {"distributed.nanny.pre-spawn-environ": environment, "distributed.scheduler.allowed-failures": 0}
        ),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=1 + IO_THREADS,
            memory_limit=memory_bytes,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            processes=True,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def gpus() -> Iterator[Client]:
    """Start one worker per GPU of this machine through dask-cuda, and end them afterwards.

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
    from distributed import Client

    with (
        LocalCUDACluster(
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            threads_per_worker=1 + 2 * IO_THREADS,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def connect(workers: str = "auto", processes: int | None = None) -> Iterator[Client | None]:
    """Give the client the command line asks for.

    Parameters
    ----------
    workers : str
        "threads" (this process, no client), "processes", "gpus", "auto" (GPUs if there are any, else threads), or the
        address of a scheduler.
    processes : int or None
        For "processes".
    """
    if workers == "auto":
        workers = "gpus" if cuda_available() else "threads"
    if workers == "threads":
        yield None
    elif workers == "processes":
        with local(processes) as client:
            yield client
    elif workers == "gpus":
        with gpus() as client:
            yield client
    else:
        from distributed import Client

        try:
            client = Client(workers, timeout="5s")
        except (OSError, ValueError) as error:
            raise PlanError(
                f"no scheduler answers at {workers!r}: give threads, processes, gpus, or the address of a running scheduler, such "
                "as tcp://127.0.0.1:8786"
            ) from error
        with client:
            yield client


def resources_of(client: Any) -> Resources:
    """What the workers of a client may use, as they report it.

    Raises
    ------
    PlanError
        If there are no workers.
    """
    workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
    if not workers:
        raise PlanError(f"{client} has no workers yet: wait for them (client.wait_for_workers), then plan")
    threads = min(w["nthreads"] for w in workers)
    limits = [w["memory_limit"] for w in workers if w["memory_limit"]]
    memory = int(0.8 * min(limits)) if limits else psutil.virtual_memory().available // (2 * len(workers))
    devices = list(client.run(device_and_free_bytes).values())
    if devices and min(free for _, free in devices) > 0:
        # Workers that share a GPU share its memory.
        shares = Counter(device for device, _ in devices)
        device_bytes = min(free // shares[device] for device, free in devices)
        return Resources(len(workers), 1, max(1, threads - 1), memory, "cuda", int(0.8 * device_bytes))
    return Resources(len(workers), max(1, threads - IO_THREADS), IO_THREADS, memory)
