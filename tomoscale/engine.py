"""Run a plan: the only verb that touches data.

One function computes a block, whether in the caller's process, on a Dask worker or on a GPU worker. A block reads its
own margin from storage; nothing is exchanged between blocks. Dask is a pool of workers with a bounded window of
futures, not a graph of arrays: 10^6 blocks need no more memory than 10^3.
"""

from __future__ import annotations

import errno
import pickle
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.allocator import return_freed_blocks
from tomoscale.arrays import to_device, to_host
from tomoscale.errors import BlocksFailed, InputError, IntegrityError, Interrupted, PlanError, describe
from tomoscale.geometry import Block, Region, shift
from tomoscale.ledger import RECORD, Ledger, checksum, drop_lease, renew_lease
from tomoscale.pace import Pace
from tomoscale.plan import Plan
from tomoscale.progress import Progress
from tomoscale.step import Counts, Kernel, Measure, add_counts
from tomoscale.workers import Pool, make_pool

if TYPE_CHECKING:
    from distributed import Client

ATTEMPTS = 3
"""Times a block is tried before it is set aside."""
TASK_SECONDS = 2.0
"""Blocks are grouped so that a task takes about this long: Dask schedules some 500 tasks a second, whatever they do."""
MAX_BLOCKS_PER_TASK = 512
LARGE_COUNTS_BYTES = 100_000
"""Counts larger than this are added on the workers before they travel."""
COMBINED_TASKS = 8
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the target that every other block would meet too."""


@dataclass
class Outcome:
    """What a task brings back: records of its finished blocks, the sum of their counts, errors of the others."""

    records: np.ndarray
    counts: Counts
    errors: dict[int, str] = field(default_factory=dict)
    stop: Exception | None = None


@dataclass(frozen=True)
class Task:
    """Blocks in flight; `combined` if the task adds what former tasks left on the workers."""

    numbers: tuple[int, ...]
    combined: bool = False


def run(plan: Plan, client: Client | None = None, *, progress: bool | None = None) -> Any:
    """Compute every block of a plan that is not done yet.

    Parameters
    ----------
    plan : Plan
    client : distributed.Client or None
        None computes in this process, with as many threads as ``plan.resources`` says.
    progress : bool or None
        Show progress on stderr; None shows it for runs that last. ``progress.jsonl`` is always written.

    Returns
    -------
    Volume
        The finished target of a kernel, or
    dict of integer arrays
        the counts of a measure, summed over all blocks; for several measures a dict of such by measure name.

    Raises
    ------
    PlanError
        If the output was begun with another plan, another run is writing it, or the disk is full.
    InputError, IntegrityError
        If the data of a block cannot be used, or is not what was written.
    BlocksFailed
        If blocks failed after every retry; all others are done and recorded.
    Interrupted
        On Ctrl-C; the same call goes on from there.
    """
    ledger = open_ledger(plan)
    try:
        if not (ledger.done.all() and (plan.target is None or plan.target.finished)):
            _finish_blocks(plan, ledger, client, progress)
        return by_measure(plan, ledger.counts) if plan.target is None else plan.target
    finally:
        if plan.record is not None:
            drop_lease(plan.record)


def open_ledger(plan: Plan) -> Ledger:
    """Open the ledger of a plan for writing, creating its target where there is none."""
    if plan.target is not None and not plan.target.exists:
        plan.target.create()
    elif (
        plan.target is not None
        and plan.record is not None
        and not (plan.record / "plan.json").exists()
        and plan.target.finished
    ):
        raise PlanError(
            f"{plan.target.name} exists and was not made by this command: give another output, or remove it (--overwrite)"
        )
    if plan.record is None:
        return Ledger.in_memory(len(plan.grid))
    return Ledger.start(plan.record, plan.describe(), len(plan.grid))


def by_measure(plan: Plan, counts: Counts) -> Any:
    """Counts of the only measure, or of each measure by its name."""
    assert not isinstance(plan.step, Kernel)
    names = [m.name for m in plan.step]
    split = {
        name: {k.removeprefix(f"{name}/"): v for k, v in counts.items() if k.startswith(f"{name}/")} for name in names
    }
    return split if len(names) > 1 else split[names[0]]


def _finish_blocks(plan: Plan, ledger: Ledger, client: Client | None, progress: bool | None) -> None:
    pool = make_pool(client, plan.resources)
    # The voxels read are the work: blocks at the edge of the volume are smaller.
    pace = Pace(plan.read_voxels, plan.voxels_of(np.flatnonzero(ledger.done)), pool.window)
    watch = Progress(plan.name, len(plan.grid), int(ledger.done.sum()), plan.record, progress, pace)
    driver = Driver(plan, ledger, pool, watch)
    try:
        with watch:
            driver.run()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {int(ledger.done.sum())} of {len(plan.grid)} blocks are done and recorded; the same command goes on from there"
        ) from None
    finally:
        pool.close()
        ledger.close(driver.failures)
    if driver.failures:
        raise BlocksFailed(driver.failures, {n: f"block {n} ({bounds(plan.block(n).write)})" for n in driver.failures})
    if plan.target is not None:
        plan.target.finish({"run": plan.describe(), "content": ledger.content()})


class Driver:
    """Keeps a few blocks per worker in flight, records what is done, retries what failed."""

    def __init__(self, plan: Plan, ledger: Ledger, pool: Pool, watch: Progress) -> None:
        self.plan, self.ledger, self.pool, self.watch = plan, ledger, pool, watch
        self.message = pickle.dumps(plan) if pool.remote else plan
        self.waiting: deque[int] = deque(np.flatnonzero(~ledger.done).tolist())
        self.in_flight: dict[Any, Task] = {}
        self.kept: dict[Any, Task] = {}
        self.suspects: deque[int] = deque()
        self.attempts: dict[int, int] = {}
        self.errors: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.n_done = int(ledger.done.sum())
        self.voxels_done = watch.pace.done
        self.block_seconds: float | None = None
        counts_bytes = 0 if isinstance(plan.step, Kernel) else sum(m.counts_bytes for m in plan.step)
        self.combines = pool.remote and counts_bytes > LARGE_COUNTS_BYTES

    def run(self) -> None:
        """Compute all blocks; those that fail for good end in `failures`."""
        while self.waiting or self.in_flight or self.kept or self.suspects:
            while self.waiting and len(self.in_flight) < self.pool.window:
                self._submit([self.waiting.popleft() for _ in range(self._group())])
            if not self.in_flight and self.kept:
                self._combine()
            elif not self.in_flight:
                # Whatever killed its worker is tried alone, so that no neighbour suffers and the guilty block is known.
                self._submit([self.suspects.popleft()])
            self._collect()

    def _group(self) -> int:
        """Blocks of the next task: about `TASK_SECONDS` of work, and so few that no worker runs dry at the end."""
        if not self.pool.remote or self.block_seconds is None:
            return 1
        fair = max(1, len(self.waiting) // (2 * self.pool.window))
        return min(fair, MAX_BLOCKS_PER_TASK, max(1, int(TASK_SECONDS / max(self.block_seconds, 1e-4))))

    def _submit(self, numbers: list[int]) -> None:
        for number in numbers:
            self.attempts[number] = self.attempts.get(number, 0) + 1
        self.in_flight[self.pool.submit(run_blocks, self.message, numbers)] = Task(tuple(numbers))

    def _combine(self) -> None:
        numbers = tuple(n for task in self.kept.values() for n in task.numbers)
        self.in_flight[self.pool.submit(combine, list(self.kept))] = Task(numbers, combined=True)
        self.kept = {}

    def _collect(self) -> None:
        future = self.pool.next_done(timeout=1.0)
        if future is not None:
            task = self.in_flight.pop(future)
            if self.combines and not task.combined and not self.pool.failed(future):
                self.kept[future] = task
                if len(self.kept) == COMBINED_TASKS:
                    self._combine()
            else:
                self._take(future, task)
        if self.plan.record is not None:
            renew_lease(self.plan.record)
        self.watch.update(self.n_done, self.ledger.seconds, len(self.in_flight), self.voxels_done)

    def _take(self, future: Any, task: Task) -> None:
        try:
            outcome: Outcome = future.result()
        except Exception as error:
            self._lost(task.numbers, error)
            return
        self._record(outcome)
        if outcome.stop is not None:
            raise outcome.stop
        for number, text in outcome.errors.items():
            self.errors.setdefault(number, text)
            if self.attempts[number] < ATTEMPTS:
                self.waiting.append(number)
            else:
                self.failures[number] = self.errors[number]

    def _record(self, outcome: Outcome) -> None:
        if not len(outcome.records):
            return
        outcome.records["attempts"] = [self.attempts.pop(int(n), 1) for n in outcome.records["number"]]
        seconds = float(outcome.records["seconds"].sum() / len(outcome.records))
        self.block_seconds = seconds if self.block_seconds is None else 0.7 * self.block_seconds + 0.3 * seconds
        self.n_done += len(outcome.records)
        self.voxels_done += self.plan.voxels_of(outcome.records["number"].astype(np.intp))
        self.ledger.append(outcome.records, outcome.counts)

    def _lost(self, numbers: tuple[int, ...], error: Exception) -> None:
        """Take back the blocks of a worker that died: each is tried alone, twice, once everything else is done."""
        text = f"its worker died: {describe(error)}"
        for number in numbers:
            if self.attempts[number] > ATTEMPTS:
                self.failures[number] = self.errors.get(number, text)
            else:
                self.errors.setdefault(number, text)
                self.attempts[number] = max(self.attempts[number], ATTEMPTS - 1)
                self.suspects.append(number)


def run_blocks(message: bytes | Plan, numbers: list[int]) -> Outcome:
    """Compute blocks after each other, on a worker or in a thread."""
    plan = load_plan(message) if isinstance(message, bytes) else message
    outcome = Outcome(np.zeros(0, RECORD), {})
    records = []
    for number in numbers:
        try:
            record, counts = run_block(plan, plan.block(number))
        except InputError as error:
            outcome.stop = InputError(_naming_sources(plan, str(error)))
            break
        except IntegrityError as error:
            outcome.stop = error
            break
        except OSError as error:
            if error.errno in FATAL:
                outcome.stop = PlanError(
                    f"{_written(plan)} cannot be written: {error.strerror or error}; finished blocks are kept, mend this and go on"
                )
                break
            outcome.errors[number] = describe(error)
        except Exception as error:
            outcome.errors[number] = describe(error)
        else:
            records.append(record)
            outcome.counts = add_counts(outcome.counts, counts)
    outcome.records = np.array(records, RECORD)
    return outcome


def run_block(plan: Plan, block: Block) -> tuple[tuple[Any, ...], Counts]:
    """Read, compute, write one block; return its record and its counts."""
    return_freed_blocks()
    started = time.perf_counter()
    values = {name: volume.read(block.read) for name, volume in plan.sources.items()}
    read = time.perf_counter()
    with compute_slot(plan.resources.slots):
        waited = time.perf_counter()
        device_values = {name: to_device(v, plan.resources.device) for name, v in values.items()}
        del values
        if isinstance(plan.step, Kernel):
            first, *more = (device_values[name] for name in plan.step.inputs)
            result = np.ascontiguousarray(to_host(plan.step.apply(first, block, *more)))
            del first, more
            counts: Counts = {}
        else:
            counts = count(plan.step, device_values, plan, block)
        del device_values
    computed = time.perf_counter()
    digest = 0
    if isinstance(plan.step, Kernel):
        assert plan.target is not None
        plan.target.write(block.write, result)
        digest = checksum(result)
    written = time.perf_counter()
    return (block.number, digest, 1, (read - started, computed - waited, written - computed)), counts


def count(measures: tuple[Measure, ...], values: dict[str, Any], plan: Plan, block: Block) -> Counts:
    """Counts of all measures on one block, by ``measure/name``; each sees just the margin it asked for."""
    total: Counts = {}
    for measure in measures:
        own = measure.block(plan.grid, block.number)
        view = shift(own.read, tuple(-r.start for r in block.read))
        counts = measure.function(*(values[name][view] for name in measure.inputs), block=own)
        total.update({f"{measure.name}/{name}": np.asarray(to_host(v)) for name, v in counts.items()})
    return total


def combine(outcomes: list[Outcome]) -> Outcome:
    """Add what several tasks brought back, on a worker, so that large counts travel once."""
    total = Outcome(np.concatenate([o.records for o in outcomes]), {})
    for outcome in outcomes:
        total.counts = add_counts(total.counts, outcome.counts)
        total.errors.update(outcome.errors)
        total.stop = total.stop or outcome.stop
    return total


@lru_cache(maxsize=4)
def load_plan(message: bytes) -> Plan:
    """Unpickle a plan the driver of this run sent; once per process, not once per task."""
    plan = pickle.loads(message)
    assert isinstance(plan, Plan)
    return plan


@lru_cache(maxsize=8)
def compute_slot(slots: int) -> threading.Semaphore:
    """Let `slots` blocks compute at once in this process while others are read or written."""
    return threading.Semaphore(slots)


def bounds(region: Region) -> str:
    """Region in words, for messages."""
    return ", ".join(f"{a} {r.start}:{r.stop}" for a, r in zip("zyx", region, strict=True))


def _naming_sources(plan: Plan, text: str) -> str:
    """Put the sources before a message that names none of them: a kernel sees voxels and no file."""
    names = [volume.name for volume in plan.sources.values()]
    return text if any(name in text for name in names) else f"{', '.join(names)}: {text}"


def _written(plan: Plan) -> str:
    return plan.target.name if plan.target is not None else str(plan.record)
