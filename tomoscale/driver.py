"""The driver of a run: keeps a few blocks per worker in flight, records what is done, and tells who is to blame.

A block whose function raises is tried three times. A worker that dies says nothing of its blocks: it may have been
preempted, or a neighbour took its memory. So a death never counts as a try:

.. code-block:: text

    first death     the blocks of the task go back, each as a task of its own, and are tried beside all others
    second death    the block waits until everything else is done, then is tried alone: no neighbour suffers from it
    three more      it died alone, three times: it is set aside, with its place and its first error

Where workers die that the block had no part in, deaths say less of it: it may then die alone more often.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.block_runs import Outcome, combine, run_blocks
from tomoscale.block_states import Spans, spans_of
from tomoscale.errors import Interrupted, describe
from tomoscale.ledger import Ledger
from tomoscale.plan import Plan
from tomoscale.progress import Progress
from tomoscale.step import Kernel
from tomoscale.workers import Pool

ATTEMPTS = 3
"""Times a block is tried before it is set aside."""
DEATHS = 2
"""Workers that may die of a block among others before it is tried alone,"""
DEATHS_ALONE = 3
"""and of it alone before it is set aside."""
TASK_SECONDS = 2.0
"""Blocks are grouped so that a task takes at least this long."""
TASKS_PER_SECOND = 150.0
"""And so that no more tasks end in a second: Dask's scheduler was measured to manage some 500, whatever they do."""
MAX_BLOCKS_PER_TASK = 512
DEATHS_OF_OTHERS = 2
"""Deaths of other workers that allow a block one more of its own,"""
MORE_DEATHS = 8
"""and the most that are allowed so."""
ONE_DEATH_SECONDS = 1.0
"""Tasks lost within this time were lost to one death."""
LARGE_COUNTS_BYTES = 100_000
"""Counts larger than this are added on the workers before they travel."""
COMBINED_TASKS = 8
RESULT_SECONDS = 30.0
"""What a finished task brings is waited for so long at a time: the worker that holds it may be stopped, and the run must
go on giving signs of life meanwhile."""
HANGING_SECONDS = 1800.0
HANGING_TIMES = 50
"""A task that takes longer than both, the second as a multiple of what its blocks usually take, hangs: its worker is
ended, which counts as its death."""


@dataclass(frozen=True)
class Task:
    """Blocks in flight: since when, and whether nothing else is; `combined` adds what former tasks left on the workers."""

    numbers: tuple[int, ...]
    combined: bool = False
    alone: bool = False
    since: float = 0.0


class Driver:
    """Keeps a few blocks per worker in flight, records what is done, retries what failed."""

    def __init__(
        self, plan: Plan, ledger: Ledger, pool: Pool, watch: Progress, hanging_seconds: float = HANGING_SECONDS
    ) -> None:
        self.plan, self.ledger, self.pool, self.watch = plan, ledger, pool, watch
        self.hanging_seconds = hanging_seconds
        self.message = pickle.dumps(plan) if pool.remote else plan
        # An array, and only what came back as Python's integers: ten million blocks are 80 MB so, and 400 MB otherwise.
        self.fresh = np.flatnonzero(~ledger.done)
        self.taken = 0
        self.again: deque[int] = deque()
        self.suspects: deque[int] = deque()
        self.in_flight: dict[Any, Task] = {}
        self.kept: dict[Any, Task] = {}
        self.attempts: Counter[int] = Counter()
        self.raised: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self.died, self.last_death = 0, -np.inf
        self.errors: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.n_done = int(ledger.done.sum())
        self.voxels_done = watch.pace.done
        self.block_seconds: float | None = None
        self.looked = time.monotonic()
        counts_bytes = 0 if isinstance(plan.step, Kernel) else sum(m.counts_bytes for m in plan.step)
        self.combines = pool.remote and counts_bytes > LARGE_COUNTS_BYTES

    @property
    def waiting(self) -> int:
        """Blocks that are to be tried beside others."""
        return len(self.fresh) - self.taken + len(self.again)

    def run(self) -> None:
        """Compute all blocks; those that fail for good end in `failures`.

        Raises
        ------
        Interrupted
            If the scheduler of the workers is gone.
        """
        while self.waiting or self.in_flight or self.kept or self.suspects:
            while self.waiting and len(self.in_flight) < self.pool.window:
                self._submit(self._next_blocks())
            if not self.in_flight and self.kept:
                self._combine()
            elif not self.in_flight:
                self._submit([self.suspects.popleft()], alone=True)
            self._collect()

    def _next_blocks(self) -> list[int]:
        """Blocks of the next task; those that came back go one by one, so that each answers for itself."""
        if self.taken == len(self.fresh):
            return [self.again.popleft()]
        first, self.taken = self.taken, min(self.taken + self._group(), len(self.fresh))
        numbers: list[int] = self.fresh[first : self.taken].tolist()
        return numbers

    def _group(self) -> int:
        """Blocks of the next task: enough to spare the scheduler, and so few that no worker runs dry at the end."""
        if not self.pool.remote or self.block_seconds is None:
            return 1
        window = self.pool.window
        seconds = max(TASK_SECONDS, window / TASKS_PER_SECOND)
        fair = max(1, self.waiting // (2 * window))
        return min(fair, MAX_BLOCKS_PER_TASK, max(1, int(seconds / max(self.block_seconds, 1e-4))))

    def _submit(self, numbers: list[int], alone: bool = False) -> None:
        self.attempts.update(numbers)
        future = self.pool.submit(run_blocks, self.message, numbers)
        self.in_flight[future] = Task(tuple(numbers), alone=alone, since=time.monotonic())

    def _combine(self) -> None:
        numbers = tuple(n for task in self.kept.values() for n in task.numbers)
        future = self.pool.submit(combine, list(self.kept))
        self.in_flight[future] = Task(numbers, combined=True, since=time.monotonic())
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
        self.ledger.renew()
        self.watch.update(self.n_done, self.ledger.seconds, len(self.in_flight), self.voxels_done, self._doing)
        if time.monotonic() - self.looked > 1.0:
            self._look_after_workers()

    def _doing(self) -> dict[str, Spans]:
        """Blocks that run, that wait to be tried again, and that were set aside, for those who watch."""
        return {
            "running": spans_of(task.numbers for task in self.in_flight.values() if not task.combined),
            "again": spans_of((number,) for number in (*self.again, *self.suspects)),
            "set_aside": spans_of((number,) for number in self.failures),
        }

    def _look_after_workers(self) -> None:
        """End workers whose task hangs; stop if there is nobody left to ask for any."""
        self.looked = time.monotonic()
        self._stop_without_scheduler()
        self.pool.mend()
        for future, task in self.in_flight.items():
            usual = HANGING_TIMES * len(task.numbers) * (self.block_seconds or 0.0)
            if not task.combined and self.looked - task.since > max(self.hanging_seconds, usual):
                for number in task.numbers:
                    self.errors.setdefault(number, f"it took longer than {max(self.hanging_seconds, usual):.0f} s")
                self.pool.end_worker_of(future)

    def _stop_without_scheduler(self) -> None:
        if self.pool.gone:
            raise Interrupted(
                f"the scheduler of the workers is gone: {self.n_done} of {len(self.plan.grid)} blocks are done and recorded; start "
                "the workers again and give the same command, it goes on from there"
            )

    def _take(self, future: Any, task: Task) -> None:
        try:
            outcome: Outcome = future.result(timeout=RESULT_SECONDS)
        except TimeoutError:
            self._stop_without_scheduler()
            self.in_flight[future] = task
            self.pool.put_back(future)
            return
        except Exception as error:
            self._stop_without_scheduler()
            self._lost(task, error)
            return
        self._record(outcome)
        if outcome.stop is not None:
            raise outcome.stop
        for number, text in outcome.errors.items():
            self.errors.setdefault(number, text)
            self.raised[number] += 1
            if self.raised[number] < ATTEMPTS:
                self.again.append(number)
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

    def _lost(self, task: Task, error: Exception) -> None:
        """Take back the blocks of a worker that died."""
        if task.combined:
            # What they had counted died with the worker that kept it; they are not to blame.
            self.again.extend(task.numbers)
            return
        text = f"its worker died: {describe(error)}"
        self.deaths.update(task.numbers)
        if time.monotonic() - self.last_death > ONE_DEATH_SECONDS:
            self.died, self.last_death = self.died + 1, time.monotonic()
        for number in task.numbers:
            others = max(0, self.died - self.deaths[number])
            if task.alone and self.deaths[number] >= DEATHS + DEATHS_ALONE + min(
                others // DEATHS_OF_OTHERS, MORE_DEATHS
            ):
                self.failures[number] = self.errors.get(number, text)
                continue
            self.errors.setdefault(number, text)
            (self.again if self.deaths[number] < DEATHS else self.suspects).append(number)
