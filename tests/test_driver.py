"""Who is blamed for a worker's death, on a pool that plays workers: no threads, no processes, no luck."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale import driver as module
from tomoscale.block_runs import Outcome
from tomoscale.driver import DEATHS_ALONE, Driver
from tomoscale.errors import Interrupted
from tomoscale.frames import RECORD
from tomoscale.geometry import Block
from tomoscale.ledger import Ledger
from tomoscale.plan import Plan, plan_measure
from tomoscale.progress import Progress
from tomoscale.resources import Resources
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume


class Died(Exception):
    """What a client raises for a task whose worker is gone."""


class Played:
    """A task: what it will bring."""

    def __init__(self, numbers: list[int], outcome: Outcome | Exception) -> None:
        self.numbers, self.outcome = numbers, outcome

    def result(self, timeout: float) -> Outcome:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class PlayedPool:
    """Workers of two tasks each: when one dies, both are lost. `poison` blocks kill, others die at `rate`."""

    remote = True
    gone = False
    window = 6

    def __init__(self, seed: int, poison: set[int], rate: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.poison, self.rate = poison, rate
        self.running: deque[Played] = deque()
        self.tried: list[tuple[list[int], int]] = []

    def submit(self, function: Any, message: Any, numbers: list[int]) -> Played:
        self.tried.append((numbers, len(self.running)))
        task = Played(numbers, done(numbers))
        self.running.append(task)
        if self.poison & set(numbers) or self.random.random() < self.rate:
            task.outcome = Died("killed")
            if len(self.running) > 1:
                self.random.choice(self.running).outcome = Died("beside")
        return task

    def next_done(self, timeout: float) -> Played | None:
        return self.running.popleft() if self.running else None

    def failed(self, future: Played) -> bool:
        return isinstance(future.outcome, Exception)

    def end_worker_of(self, future: Played) -> None:
        future.outcome = Died("ended")
        self.running.append(future)

    def put_back(self, future: Played) -> None:
        self.running.append(future)

    def mend(self) -> None:
        """Nothing to mend."""

    def close(self) -> None:
        """Nothing to close."""


def done(numbers: list[int]) -> Outcome:
    records = np.zeros(len(numbers), RECORD)
    records["number"], records["attempts"], records["seconds"] = numbers, 1, 0.3
    return Outcome(records, {"measure/blocks": np.array([len(numbers)])})


def count(values: np.ndarray, block: Block) -> Counts:
    raise AssertionError("played, never computed")


@dataclass(frozen=True)
class Nothing:
    """A volume that is never read."""

    shape: tuple[int, int, int]
    dtype: Any = field(default_factory=lambda: np.dtype(np.uint8))
    chunk_shape: tuple[int, int, int] = (1, 1, 1)
    name: str = "nothing"
    kind: str = "labels"


def a_plan(blocks: int) -> Plan:
    volume = Volume(Nothing((1, 1, blocks)), (1.0, 1.0, 1.0))
    return plan_measure(Measure("measure", count, ("labels",)), volume, block_shape=(1, 1, 1), resources=Resources())


def driven(plan: Plan, pool: Any) -> Driver:
    driver = Driver(plan, Ledger.in_memory(len(plan.grid)), pool, Progress("played", len(plan.grid), 0, None, False))
    driver.run()
    return driver


@settings(max_examples=40)
@given(seed=seeds, blocks=st.integers(1, 120), poison=st.sets(st.integers(0, 119), max_size=3), rate=st.floats(0, 0.2))
def test_only_blocks_that_kill_are_set_aside_however_many_workers_die(seed, blocks, poison, rate):
    poison = {n for n in poison if n < blocks}
    pool = PlayedPool(seed, poison)
    driver = driven(a_plan(blocks), pool)
    assert set(driver.failures) == poison
    assert driver.ledger.counts["measure/blocks"][0] == blocks - len(poison)
    alone = [numbers for numbers, beside in pool.tried if beside == 0]
    assert all(alone.count([n]) >= DEATHS_ALONE for n in poison)
    # Without a guilty block, every death is of no consequence but the work done again.
    assert driven(a_plan(blocks), PlayedPool(seed, set(), min(rate, 0.1))).n_done >= blocks - 1


def test_where_workers_die_all_the_time_no_innocent_block_is_set_aside(monkeypatch):
    clock = [0.0]

    def later() -> float:
        clock[0] += 2.0
        return clock[0]

    monkeypatch.setattr(module.time, "monotonic", later)
    for seed in range(10):
        driver = driven(a_plan(80), PlayedPool(seed, {5}, 0.35))
        assert set(driver.failures) == {5}
        assert driver.died > 20


def test_a_task_that_hangs_is_ended_and_tried_again(monkeypatch):
    class Hanging(PlayedPool):
        def next_done(self, timeout: float) -> Played | None:
            clock[0] += 600
            if self.running and self.running[0].numbers == [3] and not ended:
                return None
            return super().next_done(timeout)

        def end_worker_of(self, future: Played) -> None:
            ended.append(future.numbers)
            self.running.remove(future)
            super().end_worker_of(future)

    clock, ended = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    driver = driven(a_plan(5), Hanging(0, set()))
    assert ended[0] == [3]
    assert not driver.failures
    assert driver.n_done == 5


def test_a_lost_scheduler_ends_the_run_with_what_is_done():
    class Lost(PlayedPool):
        def next_done(self, timeout: float) -> Played | None:
            found = super().next_done(timeout)
            if self.random.random() < 0.3 and found is not None:
                self.gone = True
                found.outcome = Died("scheduler")
            return found

    with pytest.raises(Interrupted, match=r"scheduler of the workers is gone: .* of 50 blocks are done and recorded"):
        driven(a_plan(50), Lost(1, set()))


def test_a_result_that_does_not_arrive_is_waited_for_and_nobody_is_blamed():
    class Late(PlayedPool):
        def submit(self, function: Any, message: Any, numbers: list[int]) -> Played:
            task = super().submit(function, message, numbers)
            if self.random.random() < 0.5:
                task.outcome = TimeoutError()
            return task

        def put_back(self, future: Played) -> None:
            future.outcome = done(future.numbers)
            super().put_back(future)

    driver = driven(a_plan(40), Late(3, set()))
    assert driver.n_done == 40
    assert not driver.deaths
    assert not driver.failures


def test_tasks_are_as_large_as_the_scheduler_needs_for_many_workers():
    pool = PlayedPool(0, set())
    pool.window = 3000
    plan = a_plan(60_000)
    driver = Driver(plan, Ledger.in_memory(60_000), pool, Progress("played", 60_000, 0, None, False))
    driver.block_seconds = 0.5
    # 3000 tasks of 20 s end at 150 a second.
    assert len(driver._next_blocks()) == min(40, 60_000 // 6000)
    pool.window = 2
    assert len(driver._next_blocks()) == 4
