"""Two pools that take tasks and say which is done: threads of this process, or a Dask client's workers."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Literal, Protocol

from tomoscale.errors import PlanError
from tomoscale.resources import Resources

UNREACHED_SECONDS = 60.0
"""A scheduler that did not answer for this long is gone."""
ANSWER_SECONDS = 10.0
"""For one question to it: the driver must go on giving signs of life meanwhile."""
ASKED_SECONDS = 1.0
"""The number of workers is not asked for more often."""


TASK_SECONDS = 2.0
"""Blocks are grouped so that a task takes at least this long."""
TASKS_PER_SECOND = 150.0
"""And so that no more tasks end in a second: Dask's scheduler was measured to manage some 500, whatever they do."""
MAX_BLOCKS_PER_TASK = 512

Ended = Literal["task", "worker", "workers"]
"""What ended where a task brought an error instead of an outcome: itself, its worker, or all workers there were."""


class Pool(Protocol):
    """What the driver needs of workers."""

    @property
    def window(self) -> int:
        """Tasks to keep in flight: enough to keep every worker busy, few enough to bound memory."""

    remote: bool
    """Whether a task costs a message to a scheduler, so that small blocks are worth grouping."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start a task."""

    def next_done(self, timeout: float) -> Any | None:
        """Return a task that has ended, or None after `timeout` seconds."""

    def failed(self, future: Any) -> bool:
        """Tell whether a task that has ended raised or lost its worker."""

    @property
    def gone(self) -> bool:
        """Whether the workers cannot be reached any more."""

    def what_ended(self, error: Exception) -> Ended:
        """Tell what the error of a task says."""

    def begun(self) -> set[Any]:
        """Tasks that are on a worker; none where that is not known."""

    def end_worker_of(self, future: Any) -> set[Any]:
        """End the worker that runs a task, and return all tasks that fail with it; none where that is not possible."""

    def put_back(self, future: Any) -> None:
        """Let `next_done` return a task again whose result did not arrive in time."""

    def mend(self) -> None:
        """Start workers anew that were given up, where that is the pool's own business."""

    def close(self) -> None:
        """Drop what has not started and wait for what has."""


class ThreadPool:
    """Threads of this process: some compute while others read and write."""

    remote = False

    def __init__(self, threads: int) -> None:
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="tomoscale")
        self.threads = threads
        self.ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

    @property
    def window(self) -> int:
        """One task a thread."""
        return self.threads

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a task."""
        future = self.executor.submit(function, *arguments)
        future.add_done_callback(self.ended.put)
        return future

    def next_done(self, timeout: float) -> Future[Any] | None:
        """Return a task that has ended, or None after `timeout` seconds."""
        with suppress(queue.Empty):
            return self.ended.get(timeout=timeout)
        return None

    def failed(self, future: Future[Any]) -> bool:
        """Tell whether a task raised."""
        return future.exception() is not None

    gone = False

    def what_ended(self, error: Exception) -> Ended:
        """Blame the task: threads do not die."""
        return "task"

    def begun(self) -> set[Future[Any]]:
        """Tell of none: what hangs here cannot be ended."""
        return set()

    def end_worker_of(self, future: Future[Any]) -> set[Future[Any]]:
        """Do nothing: a thread cannot be ended."""
        return set()

    def put_back(self, future: Future[Any]) -> None:
        """Let `next_done` return a task again."""
        self.ended.put(future)

    def mend(self) -> None:
        """Do nothing: threads do not die."""

    def close(self) -> None:
        """Wait for running blocks, drop the others."""
        self.executor.shutdown(wait=True, cancel_futures=True)


class DaskPool:
    """Workers of a Dask client, on this machine or on a cluster."""

    remote = True
    _runs = count()

    def __init__(self, client: Any) -> None:
        self.client = client
        self.name = f"tomoscale-{id(self):x}-{next(self._runs)}"
        self.numbers = count()
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.live: set[Any] = set()
        self.reached = time.monotonic()
        self.asked = -ASKED_SECONDS
        self.threads: dict[str, int] = {}

    @property
    def window(self) -> int:
        """One task a thread, and one more a worker that waits on the scheduler: a worker never asks in vain."""
        self._ask()
        return max(1, sum(self.threads.values()) + len(self.threads))

    def _ask(self) -> None:
        """Ask the scheduler for its workers; it may be gone, or be stopped and never answer."""
        if time.monotonic() - self.asked < ASKED_SECONDS:
            return
        with suppress(OSError, RuntimeError, ValueError):
            self.threads = self.client.sync(self.client.scheduler.ncores, callback_timeout=ANSWER_SECONDS)
            self.reached = time.monotonic()
        self.asked = time.monotonic()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start a task; never taken for one that was run before."""
        key = f"{self.name}-{next(self.numbers)}"
        future = self.client.submit(function, *arguments, key=key, pure=False, retries=0)
        self.live.add(future)
        future.add_done_callback(self.ended.put)
        return future

    def next_done(self, timeout: float) -> Any | None:
        """Return a task that has ended, or None after `timeout` seconds."""
        with suppress(queue.Empty):
            future = self.ended.get(timeout=timeout)
            self.live.discard(future)
            return future
        return None

    def failed(self, future: Any) -> bool:
        """Tell whether a task raised or lost its worker."""
        return bool(future.status != "finished")

    @property
    def gone(self) -> bool:
        """Whether the client has given up its scheduler, or that does not answer."""
        self._ask()
        return bool(self.client.status in ("closing", "closed") or time.monotonic() - self.reached > UNREACHED_SECONDS)

    def what_ended(self, error: Exception) -> Ended:
        """Tell a worker that died from one that never came; whatever else is wrong comes of the task."""
        from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError  # loaded with the client

        if isinstance(error, KilledWorker):
            return "worker"
        return "workers" if isinstance(error, NoValidWorkerError | NoWorkerError) else "task"

    def begun(self) -> set[Any]:
        """Tasks that the scheduler has given to a worker."""
        keys = {key for keys in self._processing().values() for key in keys}
        return {future for future in self.live if future.key in keys}

    def end_worker_of(self, future: Any) -> set[Any]:
        """Let the nanny of the worker that runs a task start it anew."""
        lost = {address: set(keys) for address, keys in self._processing().items() if future.key in keys}
        # Not waited for: the driver must go on giving signs of life.
        how = {"wait_for_workers": False, "on_error": "return", "stimulus_id": f"{future.key}-hangs"}
        restart = partial(self.client.scheduler.restart_workers, workers=list(lost), timeout=ANSWER_SECONDS, **how)
        with suppress(OSError, RuntimeError, ValueError):  # it may have ended meanwhile
            self.client.sync(restart, callback_timeout=2 * ANSWER_SECONDS)
        return {other for other in self.live if any(other.key in keys for keys in lost.values())}

    def _processing(self) -> dict[str, Any]:
        """Tasks by worker."""
        with suppress(OSError, RuntimeError, ValueError):
            return dict(
                self.client.sync(self.client.scheduler.processing, workers=None, callback_timeout=ANSWER_SECONDS)
            )
        return {}

    def put_back(self, future: Any) -> None:
        """Let `next_done` return a task again: it is computed anew where its result died with a worker."""
        self.live.add(future)
        future.add_done_callback(self.ended.put)

    def mend(self) -> None:
        """Start workers of this machine anew that Dask gave up: it does not replace those that take long to come back."""
        from distributed import LocalCluster  # loaded already, with the client

        cluster = self.client.cluster
        if isinstance(cluster, LocalCluster):
            for name, worker in list(cluster.workers.items()):
                if worker.status.name in ("closed", "failed"):
                    cluster.workers.pop(name, None)
            if len(cluster.workers) < len(cluster.worker_spec):
                cluster.scale(len(cluster.worker_spec))

    def close(self) -> None:
        """Cancel what is still in flight."""
        if self.live:
            with suppress(Exception):  # the scheduler may be gone, which is why we are here
                self.client.cancel(list(self.live))
            self.live.clear()


def make_pool(client: Any | None, resources: Resources) -> Pool:
    """Return the pool of a client, or threads of this process without one."""
    if client is not None and not hasattr(client, "submit"):
        raise TypeError(
            f"client is a {type(client).__name__}, but must be a distributed.Client: Client(address or cluster)"
        )
    if client is not None and client.asynchronous:
        raise PlanError(
            f"{client} is asynchronous, and a run waits for its blocks: give a Client made without asynchronous=True"
        )
    if client is not None and client.status != "running":
        raise PlanError(f"{client} is {client.status}: give a client that is connected, inside the `with` that made it")
    return ThreadPool(resources.slots + resources.io_slots) if client is None else DaskPool(client)


def blocks_per_task(waiting: int, pool: Pool, block_seconds: float | None) -> int:
    """Blocks of the next task: enough to spare the scheduler, and so few that no worker runs dry at the end."""
    if not pool.remote or block_seconds is None:
        return 1
    window = pool.window
    seconds = max(TASK_SECONDS, window / TASKS_PER_SECOND)
    fair = max(1, waiting // (2 * window))
    return min(fair, MAX_BLOCKS_PER_TASK, max(1, int(seconds / max(block_seconds, 1e-4))))
