"""Who is blamed for a worker's death, on a pool that plays workers: no threads, no processes, no luck."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale import driver as module
from tomoscale.blame import DEATHS_ALONE
from tomoscale.block_runs import Outcome, run_blocks
from tomoscale.driver import Driver
from tomoscale.errors import Interrupted
from tomoscale.frames import RECORD
from tomoscale.geometry import Block
from tomoscale.ledger import Ledger
from tomoscale.plan import Plan, plan_measure
from tomoscale.progress import Progress
from tomoscale.resources import Resources
from tomoscale.step import Counts, Measure
from tomoscale.tries import ATTEMPTS
from tomoscale.volume import Volume


class Died(Exception):
    """What a client raises for a task whose worker is gone."""


class Played:
    """A task: what it will bring."""

    def __init__(self, numbers: list[int], outcome: Outcome | Exception | None) -> None:
        self.numbers, self.outcome = numbers, outcome

    def result(self, timeout: float) -> Outcome | None:
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

    def what_ended(self, error: Exception) -> str:
        return "worker"

    def end_worker_of(self, future: Played) -> set[Played]:
        future.outcome = Died("ended")
        self.running.append(future)
        return {future}

    def begun(self) -> set[Played]:
        return set(self.running)

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


class Machines:
    """Workers of two threads whose time is played, too.

    Blocks fail, hang or kill as told. Besides, workers die by themselves: with `rate` in every second, with
    `start_rate` whenever a task begins, and a worker of `broken` does at every task. A worker is back at once.
    """

    remote = True
    gone = False

    def __init__(
        self,
        chance: random.Random,
        clock: list[float],
        guilty: dict[int, str],
        workers: int,
        rate: float = 0.0,
        start_rate: float = 0.0,
        broken: int = 0,
    ) -> None:
        self.chance, self.clock, self.guilty = chance, clock, guilty
        self.rate, self.start_rate, self.broken = rate, start_rate, broken
        self.window = 3 * workers
        self.workers: list[list[Played]] = [[] for _ in range(workers)]
        self.left: dict[Played, float] = {}
        self.ended: deque[Played] = deque()
        self.waiting: deque[Played] = deque()
        self.tried: Counter[int] = Counter()
        self.tasks = 0

    def submit(self, function: Any, message: Any, numbers: list[int]) -> Played:
        task = Played(numbers, None)
        if function is run_blocks:
            self.tried.update(numbers)
            task.outcome = done([n for n in numbers if self.guilty.get(n) != "fail"])
            task.outcome.errors = {n: "it fails" for n in numbers if self.guilty.get(n) == "fail"}
        self.tasks += 1
        self.waiting.append(task)
        return task

    def next_done(self, timeout: float) -> Played | None:
        for _ in range(2):
            self._place()
            if not self.ended:
                self._pass_a_second()
        return self.ended.popleft() if self.ended else None

    def _place(self) -> None:
        for worker in sorted(self.workers, key=lambda w: (len(w), self.chance.random())):
            while self.waiting and len(worker) < 3:
                worker.append(self.waiting.popleft())

    def _pass_a_second(self) -> None:
        self.clock[0] += 1.0
        for number, worker in enumerate(self.workers):
            deadly = self.chance.random() < self.rate
            for task in worker[:2]:
                kinds = {self.guilty.get(n) for n in task.numbers}
                if task not in self.left:
                    self.left[task] = self.chance.randint(1, 3)
                    deadly |= self.chance.random() < self.start_rate or number < self.broken
                self.left[task] -= 1
                deadly |= "kill" in kinds and self.chance.random() < 0.5
                if self.left[task] <= 0 and "hang" not in kinds and "kill" not in kinds and not deadly:
                    worker.remove(task)
                    self.ended.append(task)
            if deadly:
                self._end(worker, "killed")

    def _end(self, worker: list[Played], why: str) -> None:
        for task in worker:
            task.outcome = Died(why)
        self.ended.extend(worker)
        worker.clear()

    def failed(self, future: Played) -> bool:
        return isinstance(future.outcome, Exception)

    def what_ended(self, error: Exception) -> str:
        return "worker"

    def begun(self) -> set[Played]:
        return {task for worker in self.workers for task in worker}

    def end_worker_of(self, future: Played) -> set[Played]:
        for worker in self.workers:
            if future in worker:
                lost = set(worker)
                self._end(worker, "ended")
                return lost
        return set()

    def mend(self) -> None:
        """Nothing to mend."""


def on_machines(machines: Machines, clock: list[float], blocks: int) -> Driver:
    plan = a_plan(blocks)
    driver = Driver(plan, Ledger.in_memory(blocks), machines, Progress("played", blocks, 0, None, False), 30.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "monotonic", lambda: clock[0])
        driver.looked = clock[0]
        driver.run()
    return driver


kinds = st.dictionaries(st.integers(0, 99), st.sampled_from(["fail", "hang", "kill"]), max_size=6)


@settings(max_examples=60)
@given(seed=seeds, blocks=st.integers(1, 100), guilty=kinds, workers=st.integers(1, 40), rate=st.floats(0, 0.03))
def test_just_the_blocks_that_fail_hang_or_kill_are_set_aside_while_workers_die(seed, blocks, guilty, workers, rate):
    guilty = {n: kind for n, kind in guilty.items() if n < blocks}
    clock = [0.0]
    machines = Machines(random.Random(seed), clock, guilty, workers, rate)
    driver = on_machines(machines, clock, blocks)
    assert set(driver.failures) == set(guilty)
    assert driver.ledger.counts.get("measure/blocks", [0])[0] == driver.n_done == blocks - len(guilty)
    assert all(driver.failures[n] == "it fails" for n, kind in guilty.items() if kind == "fail")
    assert all("longer than" in driver.failures[n] for n, kind in guilty.items() if kind == "hang" and rate == 0)
    assert max(machines.tried.values()) <= 30
    assert machines.tasks <= 3 * blocks + 40 * (len(guilty) + 1)


@settings(max_examples=60)
@given(
    seed=seeds,
    guilty=kinds,
    workers=st.integers(1, 30),
    broken=st.integers(0, 2),
    rate=st.floats(0, 0.3),
    start_rate=st.floats(0, 1.0),
)
def test_where_workers_die_at_any_rate_no_innocent_block_is_set_aside(seed, guilty, workers, broken, rate, start_rate):
    blocks, clock = 30, [0.0]
    guilty = {n: kind for n, kind in guilty.items() if n < blocks}
    machines = Machines(random.Random(seed), clock, guilty, workers, rate, start_rate, broken)
    try:
        driver = on_machines(machines, clock, blocks)
        assert set(driver.failures) == set(guilty)
    except Interrupted:
        assert start_rate + rate + broken > 0.2
    # Bounded: 20 deaths in a row end the run.
    assert machines.tasks < 3000


class Preempted(Machines):
    """All workers are taken away at some moments, and there again at once."""

    moments: tuple[int, ...] = ()

    def _pass_a_second(self) -> None:
        super()._pass_a_second()
        if self.clock[0] in self.moments:
            for worker in self.workers:
                self._end(worker, "preempted")


@settings(max_examples=10)
@given(seed=seeds, guilty=st.dictionaries(st.integers(0, 199), st.sampled_from(["fail", "hang", "kill"]), max_size=2))
def test_blocks_of_many_workers_that_are_preempted_together_are_not_tried_one_by_one(seed, guilty):
    clock, blocks, workers = [0.0], 200, 60
    machines = Preempted(random.Random(seed), clock, guilty, workers)
    machines.moments = (1, 3)
    driver = on_machines(machines, clock, blocks)
    assert set(driver.failures) == set(guilty)
    suspected = sum(deaths >= 2 for deaths in driver.tries.deaths.values())
    assert suspected >= 30
    if not guilty:
        assert clock[0] < suspected / 2
    assert max(machines.tried.values()) <= 30


@pytest.mark.parametrize("done_before", [0, 7])
def test_where_no_worker_lives_the_run_ends_and_no_block_is_to_blame(done_before):
    clock = [0.0]
    machines = Machines(random.Random(1), clock, {}, 2, start_rate=1.0)
    plan = a_plan(500)
    ledger = Ledger.in_memory(500)
    ledger.done[:done_before] = True
    driver = Driver(plan, ledger, machines, Progress("played", 500, done_before, None, False))
    with pytest.raises(
        Interrupted, match=rf"(?s)die whatever they compute.*{done_before} of 500 blocks are done.*doctor"
    ):
        driver.run()
    assert not driver.failures
    assert machines.tasks < 150


def test_a_plan_of_which_every_block_kills_sets_them_aside_as_workers_live_through_empty_tasks():
    clock = [0.0]
    machines = Machines(random.Random(1), clock, dict.fromkeys(range(6), "kill"), 2)
    assert set(on_machines(machines, clock, 6).failures) == set(range(6))


def test_a_block_that_fails_for_want_of_memory_beside_others_is_done_alone():
    class Tight(Machines):
        def submit(self, function: Any, message: Any, numbers: list[int]) -> Played:
            beside = sum(map(len, self.workers)) + len(self.waiting)
            task = super().submit(function, message, numbers)
            if 4 in numbers and beside:
                task.outcome = done([n for n in numbers if n != 4])
                task.outcome.errors = {4: "MemoryError"}
            return task

    clock = [0.0]
    assert not on_machines(Tight(random.Random(0), clock, {}, 2), clock, 9).failures


def test_blocks_that_nearly_all_fail_do_not_each_wait_to_be_tried_alone():
    clock = [0.0]
    machines = Machines(random.Random(0), clock, dict.fromkeys(range(1, 200), "fail"), 4)
    driver = on_machines(machines, clock, 200)
    assert len(driver.failures) == 199
    assert max(machines.tried.values()) == ATTEMPTS
    assert clock[0] < 200


@pytest.mark.parametrize("good", [[], [3], [4999]])
def test_where_all_blocks_raise_the_rest_is_not_begun(good):
    """One block that is done, early or late, shows that the others are to blame."""
    clock, blocks = [0.0], 5000
    machines = Machines(random.Random(0), clock, {n: "fail" for n in range(blocks) if n not in good}, 4)
    driver = on_machines(machines, clock, blocks)
    tried = blocks if good == [3] else module.FAILED_AT_FIRST + 3 * machines.window
    assert module.FAILED_AT_FIRST <= len(driver.failures) <= tried
    assert len(machines.tried) == len(driver.failures) + driver.n_done
    assert driver.n_done == (good == [3])
    assert max(machines.tried.values()) == ATTEMPTS


def test_what_ends_a_task_without_a_death_is_no_death():
    class Lost(Machines):
        def what_ended(self, error: Exception) -> str:
            return "workers" if str(error) == "none left" else "task"

    class NoneLeft(Lost):
        def _end(self, worker: list[Played], why: str) -> None:
            super()._end(worker, "none left")

    clock = [0.0]
    driver = on_machines(Lost(random.Random(0), clock, {2: "kill"}, 2), clock, 12)
    assert list(driver.failures) == [2]
    assert driver.failures[2].startswith("Died: killed")
    assert not driver.tries.deaths
    with pytest.raises(Interrupted, match=r"no worker is left .*of 12 blocks are done and recorded"):
        on_machines(NoneLeft(random.Random(0), clock, {2: "kill"}, 2), clock, 12)


def test_blocks_beside_one_that_hangs_are_lost_with_its_worker_and_not_suspected():
    clock = [0.0]
    machines = Machines(random.Random(3), clock, {0: "hang"}, 1)
    driver = on_machines(machines, clock, 40)
    assert set(driver.failures) == {0}
    assert set(driver.tries.deaths) == {0}


def test_a_task_that_hangs_is_ended_and_tried_again(monkeypatch):
    class Hanging(PlayedPool):
        def next_done(self, timeout: float) -> Played | None:
            clock[0] += 600
            if self.running and self.running[0].numbers == [3] and not ended:
                return None
            return super().next_done(timeout)

        def end_worker_of(self, future: Played) -> set[Played]:
            ended.append(future.numbers)
            self.running.remove(future)
            return super().end_worker_of(future)

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
    assert not driver.tries.deaths
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
