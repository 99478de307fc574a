"""Give the client that the command line asks for, and say what its workers may use."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tomoscale.arrays import cuda_available, device_and_free_bytes
from tomoscale.cluster.credentials import security_of
from tomoscale.cluster.machine import gpus, local
from tomoscale.cluster.settings import IO_THREADS
from tomoscale.cluster.slurm import jobs
from tomoscale.errors import PlanError
from tomoscale.places import local_path
from tomoscale.resources import Resources

if TYPE_CHECKING:
    from distributed import Client

ENVIRONMENT = "DASK_SCHEDULER_ADDRESS"
"""Variable by which a batch script tells its command where the scheduler is."""

CONNECT_SECONDS = 5.0

ANSWER_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between the times that workers are asked, where those that were there have died."""


@contextmanager
def connect(
    workers: str = "auto",
    processes: int | None = None,
    *,
    n_jobs: int = 1,
    credentials: str | Path | None = None,
    insecure: bool = False,
) -> Iterator[Client | None]:
    """Give the client the command line asks for.

    Parameters
    ----------
    workers : str
        "threads" (this process, no client), "processes", "gpus", "slurm" or "slurm:PROFILE" (jobs), the address of a
        scheduler, or "auto": the scheduler named by the environment (in a batch script), else GPUs if there are any,
        else threads.
    processes : int or None
        For "processes".
    n_jobs : int
        For "slurm".
    credentials : path or None
        For an address ``tls://HOST:PORT``: folder with ``ca.pem``, ``cert.pem`` and ``key.pem``. None takes what the
        Dask configuration says (``distributed.comm.tls``).
    insecure : bool
        Connect without encryption to a scheduler on another machine.

    Raises
    ------
    PlanError
        If these workers cannot be had.
    """
    if workers == "auto":
        workers = os.environ.get(ENVIRONMENT) or ("gpus" if cuda_available() else "threads")
    if workers == "threads":
        yield None
    elif workers == "processes":
        with local(processes) as client:
            yield client
    elif workers == "gpus":
        with gpus() as client:
            yield client
    elif re.fullmatch(r"slurm(:.+)?", workers):
        with jobs(workers.partition(":")[2] or None, n_jobs) as client:
            yield client
    else:
        with scheduler(workers, credentials=credentials, insecure=insecure) as client:
            yield client


@contextmanager
def scheduler(address: str, *, credentials: str | Path | None = None, insecure: bool = False) -> Iterator[Client]:
    """Connect to a scheduler that is there.

    Raises
    ------
    PlanError
        If none answers, the connection would leave this machine without encryption, or the keys do not fit.
    """
    encrypted = address.startswith(("tls://", "wss://"))
    if not encrypted and not insecure and not address.startswith("inproc://") and not on_loopback(address):
        raise PlanError(
            f"{address} is on another machine and not encrypted: whoever is between reads your data and runs code as you. Start the "
            "scheduler with TLS and give tls://HOST:PORT with credentials=FOLDER, or accept the risk with insecure=True"
        )
    from distributed import Client

    security = security_of(local_path(credentials)) if credentials is not None else None
    try:
        client = Client(
            address,
            timeout=CONNECT_SECONDS,
            set_as_default=False,
            **({} if security is None else {"security": security}),
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        keys = " with these keys" if encrypted else ""
        raise PlanError(
            f"no scheduler answers at {address!r}{keys} ({_cause(error)}): give threads, processes, gpus, slurm, or the address of a running "
            "scheduler, such as tcp://127.0.0.1:8786"
            + (", and its keys by credentials=FOLDER" if encrypted and not credentials else "")
        ) from error
    with client:
        yield client


def on_loopback(address: str) -> bool:
    """Whether an address leads to this machine by the loopback device alone.

    Examples
    --------
    >>> on_loopback("tcp://127.0.0.1:8786"), on_loopback("192.0.2.7:8786")
    (True, False)
    """
    host = re.sub(r":\d+/?$", "", address.rpartition("://")[2]).strip("[]")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def resources_of(client: Any) -> Resources:
    """What the workers of a client may use, as they report it; workers still to come count like those that are there.

    Raises
    ------
    PlanError
        If there are no workers, or none answers.
    """
    workers, devices = _answers(client)
    threads = min(w["nthreads"] for w in workers)
    limits = [w["memory_limit"] for w in workers if w["memory_limit"]]
    memory = int(0.8 * min(limits)) if limits else psutil.virtual_memory().available // (2 * len(workers))
    count = max(len(workers), len(getattr(client.cluster, "plan", ())))
    if min(free for _, free in devices) > 0:
        # Workers that share a GPU share its memory.
        shares = Counter(device for device, _ in devices)
        device_bytes = min(free // shares[device] for device, free in devices)
        return Resources(count, 1, max(1, threads - 1), memory, "cuda", int(0.8 * device_bytes))
    return Resources(count, max(1, threads - IO_THREADS), IO_THREADS, memory)


def _answers(client: Any) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
    """What the scheduler says of each worker, and the device of each with its free bytes.

    A worker that dies while it is asked is left out; where none is left, those that replace them are waited for.
    """
    workers: list[dict[str, Any]] = []
    for pause_s in (*ANSWER_PAUSES_S, None):
        workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
        devices = list(client.run(device_and_free_bytes, on_error="ignore").values()) if workers else []
        if devices:
            return workers, devices
        if pause_s is not None:
            time.sleep(pause_s)
    if not workers:
        raise PlanError(f"{client} has no workers yet: wait for them (client.wait_for_workers), then plan")
    raise PlanError(f"no worker of {client} answers: see `tomoscale cluster doctor`, then give the same command again")


def _cause(error: BaseException) -> str:
    """Innermost reason of an error of Dask, which wraps it in many."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{error}".splitlines()[0][:200] if str(error) else type(error).__name__
