"""The driver of a run: keeps a few blocks per worker in flight, records what is done, and tries again what was not.

Which block is to blame for what was lost, and how it is tried next, is decided in `tomoscale.tries`. Where no worker
lives, no block is to blame: the run ends, and goes on from there another time.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from typing import Any

import numpy as np

from tomoscale.blame import HOPELESS_DEATHS
from tomoscale.block_runs import Outcome, combine, rehearse, run_blocks
from tomoscale.block_states import Spans, spans_of
from tomoscale.errors import Interrupted, describe, traceback_text
from tomoscale.hanging import HANGING_SECONDS, Hanging
from tomoscale.ledger import Ledger
from tomoscale.plan import Plan
from tomoscale.progress import Progress
from tomoscale.step import Kernel
from tomoscale.tries import Task, Tries
from tomoscale.workers import Pool, blocks_per_task

LOST_WINDOWS = 3
"""Windows of tasks lost without one that ended otherwise, after which it is seen first whether a worker lives at all."""
FAILED_AT_FIRST = 32
"""Blocks, and a window of tasks more, that raised while none was done yet, after which no further one is begun: the function
is wrong, not the block."""
LARGE_COUNTS_BYTES = 100_000
"""Counts larger than this are added on the workers before they travel."""
COMBINED_TASKS = 8
COMBINED_IN_VAIN = 3
"""Workers that may die while they add, before counts travel one by one."""
RESULT_SECONDS = 30.0
"""What a finished task brings is waited for so long at a time: the worker that holds it may be stopped, and the run must
go on giving signs of life meanwhile."""


class Driver:
    """Keeps a few blocks per worker in flight, records what is done, retries what failed."""

    def __init__(
        self, plan: Plan, ledger: Ledger, pool: Pool, watch: Progress, hanging_seconds: float = HANGING_SECONDS
    ) -> None:
        self.plan, self.ledger, self.pool, self.watch = plan, ledger, pool, watch
        self.hanging = Hanging(hanging_seconds)
        self.message = pickle.dumps(plan) if pool.remote else plan
        # An array, and only what came back as Python's integers: ten million blocks are 80 MB so, and 400 MB otherwise.
        self.fresh = np.flatnonzero(~ledger.done)
        self.taken = 0
        self.tries = Tries()
        self.in_flight: dict[Any, Task] = {}
        self.kept: dict[Any, Task] = {}
        self.attempts: Counter[int] = Counter()
        self.lost_in_a_row = self.combined_in_vain = 0
        self.excused: set[Any] = set()
        self.n_done = int(ledger.done.sum())
        self.voxels_done = watch.pace.done
        self.block_seconds: float | None = None
        self.looked = time.monotonic()
        counts_bytes = 0 if isinstance(plan.step, Kernel) else sum(m.counts_bytes for m in plan.step)
        self.combines = pool.remote and counts_bytes > LARGE_COUNTS_BYTES

    @property
    def failures(self) -> dict[int, str]:
        """Blocks that are set aside, and the first error of each."""
        return self.tries.failures

    @property
    def waiting(self) -> int:
        """Blocks that are to be tried beside others."""
        return len(self.tries.again) + (0 if self._all_raise else len(self.fresh) - self.taken)

    @property
    def _all_raise(self) -> bool:
        """Whether many blocks raised and none was ever done."""
        return not self.n_done and len(self.tries.raised) >= FAILED_AT_FIRST + self.pool.window

    def run(self) -> None:
        """Compute all blocks; those that fail for good end in `failures`. Where all raise, the rest is not begun.

        Raises
        ------
        Interrupted
            If the scheduler or all workers are gone, or workers die whatever they compute.
        """
        while self.waiting or self.in_flight or self.kept or self.tries.suspects:
            while self.waiting and not self._nothing_ends and len(self.in_flight) < self.pool.window:
                self._submit(self._next_blocks())
            if not self.in_flight and self.kept:
                self._combine()
            elif not self.in_flight:
                self._try_suspects()
            if self.in_flight:
                self._collect()

    @property
    def _nothing_ends(self) -> bool:
        """Whether so many tasks were lost in a row that it is to be seen first whether a worker lives at all."""
        return self.lost_in_a_row >= HOPELESS_DEATHS + LOST_WINDOWS * self.pool.window

    def _try_suspects(self) -> None:
        """Submit suspects while nothing else is in flight: a few beside each other, or one alone, or a control."""
        company = [] if self._nothing_ends else self.tries.company(self.pool.window)
        for number in company:
            self._submit([number])
        if company:
            return
        blame = self.tries.blame
        if blame.hopeless:
            raise self._interrupted(
                f"workers die whatever they compute, the last {blame.in_a_row} did, {blame.controls_in_a_row} of them of "
                "blocks that were computed before, or of nothing",
                "look with `tomoscale cluster doctor`",
            )
        suspect = None if self._nothing_ends else self.tries.next_alone()
        if suspect is not None:
            self._submit([suspect], alone=True)
        elif self.tries.suspects or self._nothing_ends:
            self._submit_control()

    def _submit_control(self) -> None:
        """Compute a block again that is done, or nothing where none is, and write nothing."""
        done = np.flatnonzero(self.ledger.done)
        numbers = [int(self.tries.chance.choice(done))] if len(done) else []
        future = self.pool.submit(rehearse, self.message, numbers)
        self.in_flight[future] = Task(tuple(numbers), alone=True, control=True)

    def _next_blocks(self) -> list[int]:
        """Blocks of the next task; those that came back go one by one, so that each answers for itself."""
        if self.taken == len(self.fresh) or self._all_raise:
            return [self.tries.again.popleft()]
        group = blocks_per_task(self.waiting, self.pool, self.block_seconds)
        first, self.taken = self.taken, min(self.taken + group, len(self.fresh))
        numbers: list[int] = self.fresh[first : self.taken].tolist()
        return numbers

    def _submit(self, numbers: list[int], alone: bool = False) -> None:
        self.attempts.update(numbers)
        future = self.pool.submit(run_blocks, self.message, numbers)
        self.in_flight[future] = Task(tuple(numbers), alone=alone)

    def _combine(self) -> None:
        numbers = tuple(n for task in self.kept.values() for n in task.numbers)
        future = self.pool.submit(combine, list(self.kept))
        self.in_flight[future] = Task(numbers, combined=True)
        self.kept = {}

    def _collect(self) -> None:
        future = self.pool.next_done(timeout=1.0)
        task = None if future is None else self.in_flight.pop(future)
        if task is not None and self.combines and not (task.combined or task.alone) and not self.pool.failed(future):
            self.kept[future] = task
            if len(self.kept) == COMBINED_TASKS:
                self._combine()
        elif task is not None:
            self._take(future, task)
        self.ledger.renew()
        self.watch.update(self.n_done, self.ledger.seconds, len(self.in_flight), self.voxels_done, self._doing)
        if time.monotonic() - self.looked > 1.0:
            self._look_after_workers()

    def _doing(self) -> dict[str, Spans]:
        """Blocks that run, that wait to be tried again, and that were set aside, for those who watch."""
        return {
            "running": spans_of(
                task.numbers for task in self.in_flight.values() if not (task.combined or task.control)
            ),
            "again": spans_of((number,) for number in (*self.tries.again, *self.tries.suspects)),
            "set_aside": spans_of((number,) for number in self.failures),
        }

    def _look_after_workers(self) -> None:
        """End workers whose task hangs; stop if there is nobody left to ask for any."""
        self.looked = time.monotonic()
        self._stop_without_scheduler()
        self.pool.mend()
        running = {future: task.numbers for future, task in self.in_flight.items() if not task.combined}
        for future, limit in self.hanging.found(self.looked, self.pool, running, self.block_seconds):
            task = self.in_flight[future]
            self.tries.after_hanging(task, limit)
            # Those that are lost with it died of us.
            self.excused |= self.pool.end_worker_of(future) - {future}

    def _stop_without_scheduler(self) -> None:
        if self.pool.gone:
            raise self._interrupted("the scheduler of the workers is gone", "start the workers again")

    def _interrupted(self, why: str, mend: str) -> Interrupted:
        done = f"{self.n_done} of {len(self.plan.grid)} blocks are done and recorded"
        return Interrupted(f"{why}: {done}; {mend} and give the same command, it goes on from there")

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
            self._lost(future, task, error)
            return
        self._lived(task)
        if task.control:
            return
        self._record(outcome)
        if outcome.stop is not None:
            raise outcome.stop
        for number, text in outcome.errors.items():
            self.tries.after_error(number, text, outcome.tracebacks.get(number, ""))
        if task.alone:
            self.tries.after_alone(bool(outcome.errors))

    def _record(self, outcome: Outcome) -> None:
        if not len(outcome.records):
            return
        outcome.records["attempts"] = [self.attempts.pop(int(n), 1) for n in outcome.records["number"]]
        seconds = float(outcome.records["seconds"].sum() / len(outcome.records))
        self.block_seconds = seconds if self.block_seconds is None else 0.7 * self.block_seconds + 0.3 * seconds
        self.n_done += len(outcome.records)
        self.voxels_done += self.plan.voxels_of(outcome.records["number"].astype(np.intp))
        self.ledger.append(outcome.records, outcome.counts)

    def _lost(self, future: Any, task: Task, error: Exception) -> None:
        """Take back the blocks of a task that did not end: its worker died, or it never reached one."""
        ended = self.pool.what_ended(error)
        if ended == "workers":
            raise self._interrupted(f"no worker is left ({describe(error)})", "start workers again")
        if task.combined:
            # What they had counted died with the worker that kept it; they are not to blame.
            self.tries.innocent(task.numbers)
            self.combined_in_vain += 1
            self.combines = self.combined_in_vain < COMBINED_IN_VAIN
        elif future in self.excused:
            self.excused.discard(future)
            self.tries.innocent(task.numbers)
        elif ended == "task":
            self._lived(task)
            for number in () if task.control else task.numbers:
                self.tries.after_error(number, describe(error), traceback_text(error))
        else:
            self.lost_in_a_row += 1
            self.tries.after_death(task, f"its worker died: {describe(error)}")

    def _lived(self, task: Task) -> None:
        self.lost_in_a_row = 0
        self.tries.after_life(task)
