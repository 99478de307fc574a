"""A run on a thousand workers, on paper: the real planner, driver and ledger, with workers that only pass the time.

Workers are played in virtual time. A task takes what its blocks take (`--block-seconds` times what blocks of a real run
took, relative to their mean: `--times-of`; without one, drawn from a gamma distribution), starts when its worker is free
and the scheduler has handed it out (one at a time, so many a second), and is lost where its worker is preempted; a worker
that was preempted is replaced after a wait. Everything else is the program: the plan, grouping, retries, the ledger on disk.

    strong    as many blocks, more workers            weak     as many blocks per worker, more workers
    large     ten million blocks                      waves    all workers preempted at once, again and again
    volumes   1, 10 and 100 TB on 1 to 512 workers, from a given speed

The mean time of a block is that of `--block-seconds`, and the speed of a worker for `volumes` `--voxels-per-second`: what
you measured elsewhere (``segmentation.py`` prints one). No figure here is a measurement of a cluster.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import tempfile
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, Peak, publish, rounded

from tomoscale.block_runs import Outcome
from tomoscale.driver import Driver
from tomoscale.engine import open_ledger
from tomoscale.frames import RECORD
from tomoscale.geometry import Halo
from tomoscale.ledger import Ledger
from tomoscale.plan import Plan, ledger_folder, plan_map, plan_measure
from tomoscale.progress import Progress
from tomoscale.resources import Resources
from tomoscale.step import Counts, Kernel, Measure
from tomoscale.tries import DEATHS
from tomoscale.volume import Volume

SCHEDULER_TASKS_PER_SECOND = 500.0
"""What Dask's scheduler was measured to hand out on two cores, tasks that do nothing."""


@dataclass(frozen=True)
class Described:
    """A volume of any size that is never read."""

    shape: tuple[int, int, int]
    itemsize: int = 2
    chunk_shape: tuple[int, int, int] = (64, 64, 64)
    name: str = "described"
    kind: str = "grey"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"u{self.itemsize}")

    def identity(self) -> dict[str, Any]:
        return {"described": list(self.shape)}


@dataclass(frozen=True)
class Cluster:
    """Workers that are played.

    Attributes
    ----------
    workers : int
    block_seconds : float
        Of a block, on average.
    times : (n,) float array
        What blocks take, relative to their mean, to be drawn from.
    deaths_per_hour : float
        Of each worker, preemption above all.
    wave_seconds : float
        Between moments at which all workers are preempted.
    wait_seconds : float
        Until a worker that died is replaced.
    """

    workers: int
    block_seconds: float
    times: np.ndarray
    deaths_per_hour: float = 0.0
    wave_seconds: float = math.inf
    wait_seconds: float = 120.0


class Preempted(Exception):
    """What a client raises for a task whose worker is gone."""


@dataclass(eq=False)
class Played:
    """A task and what it will bring."""

    numbers: list[int]
    seconds: float
    lost: bool = False
    placed: bool = False

    def result(self, timeout: float | None = None) -> Outcome:
        if self.lost:
            raise Preempted("its worker was preempted")
        records = np.zeros(len(self.numbers), RECORD)
        records["number"], records["attempts"] = self.numbers, 1
        records["seconds"][:, 1] = self.seconds / len(self.numbers)
        return Outcome(records, {"counted/blocks": np.array([len(self.numbers)])})


@dataclass
class PlayedPool:
    """A client whose workers pass virtual time."""

    cluster: Cluster
    seed: int = 0
    now: float = 0.0
    tasks: int = 0
    deaths: int = 0
    scheduler_free: float = 0.0
    remote: bool = True
    gone: bool = False
    idle: int = 0
    queue: deque[Played] = field(default_factory=deque)
    events: list[Any] = field(default_factory=list)
    numbers: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.idle = self.cluster.workers
        self.next_wave = self.cluster.wave_seconds

    @property
    def window(self) -> int:
        return 2 * self.cluster.workers

    def submit(self, function: Any, message: Any, numbers: list[int]) -> Played:
        times = self.cluster.times[self.random.integers(len(self.cluster.times), size=len(numbers))]
        task = Played(numbers, float(times.sum()) * self.cluster.block_seconds)
        self.tasks += 1
        self.queue.append(task)
        self._start()
        return task

    def next_done(self, timeout: float) -> Played | None:
        while self.events:
            if self.events[0][0] > self.next_wave:
                self._preempt_all()
                continue
            self.now, _, task = heapq.heappop(self.events)
            if task is not None and not task.placed:
                return task
            if task is not None and task.lost:
                self.deaths += 1
                heapq.heappush(self.events, (self.now + self.cluster.wait_seconds, next(self.numbers), None))
            else:
                self.idle += 1
            self._start()
            if task is not None:
                return task
        return None

    def _preempt_all(self) -> None:
        """Lose all tasks that are on workers: as many again as run wait there."""
        running = [task for _, _, task in self.events if task is not None]
        waiting = [self.queue.popleft() for _ in range(min(len(self.queue), len(running)))]
        for task in running + waiting:
            task.lost = True
        back = [event for event in self.events if event[2] is None]
        self.events = back + [(self.next_wave, next(self.numbers), task) for task in running + waiting]
        heapq.heapify(self.events)
        self.next_wave += self.cluster.wave_seconds

    def _start(self) -> None:
        while self.idle and self.queue:
            task = self.queue.popleft()
            task.placed = True
            self.idle -= 1
            self.scheduler_free = max(self.scheduler_free, self.now) + 1 / SCHEDULER_TASKS_PER_SECOND
            end = self.scheduler_free + task.seconds
            rate = self.cluster.deaths_per_hour / 3600
            life = float(self.random.exponential(1 / rate)) if rate else math.inf
            if life < task.seconds:
                task.lost = True
                end = self.scheduler_free + life
            heapq.heappush(self.events, (end, next(self.numbers), task))

    def failed(self, future: Played) -> bool:
        return future.lost

    def what_ended(self, error: Exception) -> str:
        return "worker"

    def begun(self) -> set[Played]:
        return set()

    def end_worker_of(self, future: Played) -> set[Played]:
        return set()

    def put_back(self, future: Played) -> None:
        """No result is late."""

    def mend(self) -> None:
        """Workers come back by themselves."""

    def close(self) -> None:
        """Nothing to close."""


def nothing(values: np.ndarray, block: Any) -> Counts:
    raise AssertionError("played, never computed")


def plan_of(blocks: int, folder: str) -> Plan:
    """Plan with about so many blocks."""
    edge = max(1, round(blocks ** (1 / 3)))
    volume = Volume(Described((edge * 8, edge * 8, -(-blocks // edge**2) * 8), chunk_shape=(8, 8, 8)), (1.0, 1.0, 1.0))
    measure = Measure("counted", nothing, ("labels",))
    return plan_measure(measure, volume, record=f"{folder}/record", block_shape=(8, 8, 8), resources=Resources())


def played(blocks: int, cluster: Cluster) -> dict[str, Any]:
    """Run so many blocks on a played cluster."""
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        started = time.perf_counter()
        plan = plan_of(blocks, folder)
        ledger = open_ledger(plan)
        pool = PlayedPool(cluster)
        driver = Driver(plan, ledger, pool, Progress("played", len(plan.grid), 0, None, False))
        driver.run()
        ledger.close(driver.failures)
        ledger.release()
        real = time.perf_counter() - started
    n = len(plan.grid)
    assert ledger.done.all()
    assert not driver.failures
    assert ledger.counts["counted/blocks"][0] == n
    ideal = n * cluster.block_seconds / cluster.workers
    assert math.isclose(cluster.times.mean(), 1.0, rel_tol=1e-6)
    return {
        "blocks": n,
        "workers": cluster.workers,
        "hours": rounded(pool.now / 3600),
        "efficiency": rounded(ideal / pool.now),
        "tasks": pool.tasks,
        "tasks_per_s": rounded(pool.tasks / pool.now),
        "scheduler_load": rounded(pool.tasks / pool.now / SCHEDULER_TASKS_PER_SECOND),
        "deaths": pool.deaths,
        "tries_again": int(ledger.retries),
        "suspects": sum(deaths >= DEATHS for deaths in driver.tries.deaths.values()),
        "driver_s": rounded(real),
        "driver_blocks_per_s": rounded(n / real),
        "driver_peak_mib": round(peak.own / 2**20),
    }


def times_of(output: Path | None, spread: float) -> np.ndarray:
    """Times of the blocks of a finished run, or drawn ones, relative to their mean."""
    if output is None:
        times = np.random.default_rng(0).gamma(1 / spread**2, size=100_000)
    else:
        times = Ledger.load(ledger_folder(str(output))).records()["seconds"].sum(axis=1, dtype=np.float64)
    return times / times.mean()


def in_processes(calls: list[Any], processes: int) -> list[Any]:
    """What the calls return; those that take longest first."""
    with ProcessPoolExecutor(processes) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def volumes(sizes: list[float], voxels_per_second: float, times: np.ndarray, deaths: float) -> list[Any]:
    """Terabytes of 16-bit voxels on 1 to 512 workers: planned by the planner, timed on played workers."""
    calls = []
    for terabytes in sorted(sizes, reverse=True):
        edge = max(1, round((terabytes * 1e12 / 2) ** (1 / 3) / 512)) * 512
        volume = Volume(Described((edge,) * 3), (1.0, 1.0, 1.0))
        kernel = Kernel("a network", np.copy, Halo((0, 48, 48), (0, 48, 48)), np.dtype(np.uint8), 1.0)
        resources = Resources(1, 1, 1, 64 * 2**30)
        target = Volume(Described((edge,) * 3, itemsize=1), (1.0, 1.0, 1.0))
        plan = plan_map(kernel, volume, target, block_shape=(512, 512, 512), resources=resources)
        seconds = plan.read_voxels / len(plan.grid) / voxels_per_second
        moved = {
            "terabytes": terabytes,
            "files": len(plan.grid),
            "read_tb": rounded(plan.read_bytes / 1e12),
            "decoded_tb": rounded(plan.decoded_bytes / 1e12),
            "written_tb": rounded(plan.write_bytes / 1e12),
        }
        for workers in (1, 8, 64, 512):
            calls.append(partial(played_volume, moved, len(plan.grid), Cluster(workers, seconds, times, deaths)))
    return calls


def played_volume(moved: dict[str, Any], blocks: int, cluster: Cluster) -> dict[str, Any]:
    """What is known of a volume beforehand, and its run."""
    run = played(blocks, cluster)
    return moved | {k: run[k] for k in ("blocks", "workers", "hours", "efficiency", "scheduler_load", "deaths")}


def draw(path: Path, strong: list[dict[str, Any]], weak: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Efficiency and scheduler load over workers, and hours per volume."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, runs in (("as many blocks", strong), ("as many per worker", weak)):
        left.semilogx([r["workers"] for r in runs], [r["efficiency"] for r in runs], "o-", label=name)
        middle.semilogx([r["workers"] for r in runs], [r["scheduler_load"] for r in runs], "o-", label=name)
    left.set(xlabel="workers", ylabel="time of ideal workers / time", ylim=(0, 1.05))
    middle.axhline(1 / 3, color="grey", linestyle=":")
    middle.set(xlabel="workers", ylabel="share of the scheduler's limit", ylim=(0, 1))
    for terabytes in sorted({r["terabytes"] for r in rows}):
        own = [r for r in rows if r["terabytes"] == terabytes]
        right.loglog([r["workers"] for r in own], [r["hours"] for r in own], "o-", label=f"{terabytes:g} TB")
    right.set(xlabel="workers", ylabel="hours")
    for axes in (left, middle, right):
        axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block-seconds", type=float, default=5.0, help="mean time of a block (all but volumes)")
    parser.add_argument("--times-of", type=Path, help="volume of a finished run, whose block times are drawn from")
    parser.add_argument("--spread", type=float, default=0.3, help="standard deviation over mean of drawn block times")
    parser.add_argument("--deaths-per-hour", type=float, default=0.2, help="of each worker")
    parser.add_argument("--voxels-per-second", type=float, default=1e7, help="of one worker, for the volumes")
    parser.add_argument("--blocks", type=int, default=100_000, help="for strong scaling and waves")
    parser.add_argument("--per-worker", type=int, default=200, help="blocks per worker, for weak scaling")
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--wave-seconds", type=float, default=310.0, help="between moments at which all are preempted")
    parser.add_argument("--terabytes", type=float, nargs="+", default=[1, 10, 100], help="sizes of the volumes")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 300, 1000])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="that play at a time")
    parser.add_argument("--plot", type=Path, help="where to draw (default with --keep: beside the results)")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    times = times_of(options.times_of, options.spread)
    common = (options.block_seconds, times, options.deaths_per_hour)
    most = max(options.workers)
    calls = {
        "large": [partial(played, options.large, Cluster(most, *common))],
        "volumes": volumes(options.terabytes, options.voxels_per_second, times, options.deaths_per_hour),
        "strong": [partial(played, options.blocks, Cluster(w, *common)) for w in options.workers],
        "weak": [partial(played, options.per_worker * w, Cluster(w, *common)) for w in options.workers],
        "waves": [partial(played, options.blocks, Cluster(most, *common, options.wave_seconds))],
    }
    done = iter(in_processes([call for group in calls.values() for call in group], options.processes))
    rows = {name: [next(done) for _ in group] for name, group in calls.items()}
    plot = options.plot or (RESULTS / "scale.svg" if options.keep else None)
    if plot is not None:
        draw(plot, rows["strong"], rows["weak"], rows["volumes"])
    publish(
        "scale",
        {
            "simulated": "workers and their time; planner, driver and ledger are real",
            "block_seconds": options.block_seconds,
            "block_times": {
                "of": "a run" if options.times_of else "gamma",
                "n": len(times),
                "spread": rounded(times.std()),
            },
            "deaths_per_hour": options.deaths_per_hour,
            "wave_seconds": options.wave_seconds,
            "voxels_per_second_of_a_worker": options.voxels_per_second,
            "scheduler_tasks_per_s": SCHEDULER_TASKS_PER_SECOND,
            "strong": rows["strong"],
            "weak": rows["weak"],
            "large": rows["large"][0],
            "waves": rows["waves"][0],
            "volumes": sorted(rows["volumes"], key=lambda row: (row["terabytes"], row["workers"])),
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
