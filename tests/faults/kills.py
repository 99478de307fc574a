"""Kill workers, everything, the scheduler or the client at random moments of real runs, and count what it cost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import Client

from tests.faults.pipelines import BLOCK, begun_blocks, busy_processes, differing_bytes, made, make_source, run_all
from tomoscale.cluster import local, resources_of
from tomoscale.ledger import Ledger
from tomoscale.volume import Volume
from tomoscale.work import Work

ROOT = Path(__file__).resolve().parents[2]
RUN_ALL = (sys.executable, "-c", "from tests.faults.pipelines import main; main()")
"""Imported, not run as a script: workers of another process must find its functions by their module."""
KINDS = {
    "killed": signal.SIGKILL,
    "exited": signal.SIGUSR2,
    "stopped": signal.SIGSTOP,
    "out of memory": signal.SIGUSR1,
}
"""Ways a worker fails, each with the signal that brings it about (`slow_worker`)."""
MEMORY_BYTES = 1200 * 2**20
UNHEARD = "10s"
"""A worker that gives no sign of life for so long is started anew; five minutes by default."""


@contextmanager
def slow_blocks(log: Path, seconds: float) -> Iterator[dict[str, str]]:
    """Let the blocks of workers started meanwhile take so long and be noted in `log`; gives the environment for it."""
    added = {"FAULTS_LOG": str(log), "FAULTS_SLOW": str(seconds), "PYTHONPATH": str(ROOT)}
    before = dict(os.environ)
    os.environ.update(added)
    configuration = {
        "distributed.worker.preload": ["tests.faults.slow_worker"],
        "distributed.scheduler.worker-ttl": UNHEARD,
    }
    try:
        with dask.config.set(configuration):
            yield {**before, **added, "DASK_DISTRIBUTED__WORKER__PRELOAD": "tests.faults.slow_worker"}
    finally:
        os.environ.clear()
        os.environ.update(before)


class Killer(threading.Thread):
    """Makes workers fail, one after another, at random moments of a run that has begun.

    The moments do not follow the blocks, as those of preemption do not: a worker that is killed each time a certain
    block begins cannot be told from a block that kills.
    """

    def __init__(self, log: Path, kills: int, seed: int, longest_seconds: float = 6.0) -> None:
        super().__init__(daemon=True)
        self.log, self.kills, self.longest_seconds = log, kills, longest_seconds
        self.random, self.done, self.over = random.Random(seed), Counter[str](), threading.Event()

    def run(self) -> None:
        kinds = tuple(KINDS)
        while sum(self.done.values()) < self.kills:
            if self.over.wait(self.random.uniform(0.0, self.longest_seconds)):
                return
            # Those that began a block: Dask looks after workers that have started, and we after those it gives up.
            workers = [p for p in worker_processes() if p.pid in busy_processes(self.log)]
            if workers:
                kind = kinds[sum(self.done.values()) % len(kinds)]
                with suppress(psutil.Error):
                    self.random.choice(workers).send_signal(KINDS[kind])
                    self.done[kind] += 1

    def end(self) -> None:
        """Kill no more."""
        self.over.set()
        self.join()


def worker_processes() -> list[psutil.Process]:
    """Worker processes of the clusters that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("spawn_main" in part for part in process.cmdline()):
                found.append(process)
    return found


def expected_of(folder: Path) -> tuple[Volume, dict[str, bytes]]:
    """Source, and what is made of it when nothing fails."""
    source = make_source(folder / "source.zarr")
    (folder / "expected").mkdir()
    run_all(source, folder / "expected", Work(block_shape=BLOCK, progress=False))
    return source, made(folder / "expected")


def kill_workers(
    folder: Path, kills: int, seed: int = 0, *, slow_seconds: float = 0.04, longest_seconds: float = 6.0
) -> dict[str, Any]:
    """Run everything on two workers, again and again until enough of them were made to fail."""
    source, expected = expected_of(folder)
    log, rounds, different, blocks = folder / "begun.log", 0, 0, set()
    started = time.monotonic()
    killer = Killer(log, kills, seed, longest_seconds)
    with slow_blocks(log, slow_seconds), local(2, memory_bytes=MEMORY_BYTES) as client:
        killer.start()
        try:
            while sum(killer.done.values()) < kills or not rounds:
                target = folder / f"round{rounds}"
                target.mkdir()
                resources = resources_of(client)
                run_all(source, target, Work(client, resources, BLOCK, progress=False))
                different += differing_bytes(made(target), expected)
                blocks |= set(begun_blocks(log))
                rounds += 1
        finally:
            killer.end()
            for process in worker_processes():
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
    return {
        "kills": sum(killer.done.values()),
        "by_kind": dict(killer.done),
        "rounds": rounds,
        "blocks": len(blocks),
        "blocks_computed_again": len(begun_blocks(log)) - len(blocks),
        "differing_bytes": different,
        "seconds": round(time.monotonic() - started, 1),
    }


def recorded(folder: Path) -> set[str]:
    """Blocks that the ledgers in a folder hold as done, named as `slow_worker` does."""
    found = set()
    for plan in folder.glob("**/plan.json"):
        ledger = plan.parent
        name = ledger.parents[1] if ledger.name == ".tomoscale" else ledger
        found |= {f"{name} {n}" for n in Ledger.load(ledger).done.nonzero()[0]}
    return found


def kill_everything(
    folder: Path,
    kills: int,
    seed: int = 0,
    *,
    workers: tuple[str, ...] = ("threads", "processes"),
    slow_seconds: float = 0.04,
) -> dict[str, Any]:
    """Run everything in a process group that is killed at random moments, resumed until enough kills, then to the end."""
    _, expected = expected_of(folder)
    chance, started = random.Random(seed), time.monotonic()
    figures = Counter[str]()
    while True:
        target, log = folder / f"round{figures['rounds']}", folder / f"begun{figures['rounds']}.log"
        target.mkdir()
        while not run_until_killed(folder, target, log, chance, figures["kills"] < kills, workers, slow_seconds):
            figures["kills"] += 1
            figures["begun_and_lost"] += len(set(begun_blocks(log)) - recorded(target))
            done = recorded(target)
            before = len(begun_blocks(log))
            log.with_suffix(f".{figures['kills']}").write_text("\n".join([str(before), *sorted(done)]))
        figures["rounds"] += 1
        figures["differing_bytes"] += differing_bytes(made(target), expected)
        figures["blocks"] += len(set(begun_blocks(log)))
        figures["blocks_computed_again"] += len(begun_blocks(log)) - len(set(begun_blocks(log)))
        figures["recorded_blocks_computed_again"] += recomputed_though_recorded(log)
        if figures["kills"] >= kills:
            return {**figures, "seconds": round(time.monotonic() - started, 1)}


def run_until_killed(
    folder: Path, target: Path, log: Path, chance: random.Random, kill: bool, workers: tuple[str, ...], slow: float
) -> bool:
    """Start everything in a group of processes; True if it ended by itself."""
    before = len(begun_blocks(log))
    command = [*RUN_ALL, str(folder / "source.zarr"), str(target)]
    with slow_blocks(log, slow) as environment:
        process = subprocess.Popen(
            [*command, chance.choice(workers)],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    blocks, delay = chance.randint(1, 30), chance.uniform(0.0, 0.1)
    while process.poll() is None:
        if kill and len(begun_blocks(log)) >= before + blocks:
            time.sleep(delay)
            break
        time.sleep(0.01)
    ended = process.poll() is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    if ended and process.returncode:
        raise RuntimeError(f"a run failed that nobody killed:\n{errors.decode()[-2000:]}")
    return ended


def recomputed_though_recorded(log: Path) -> int:
    """Blocks begun after a kill although a ledger held them as done then."""
    begun, again = begun_blocks(log), 0
    for snapshot in log.parent.glob(f"{log.stem}.*"):
        if snapshot == log:
            continue
        first, *done = snapshot.read_text().splitlines()
        again += len(set(begun[int(first) :]) & set(done))
    return again


@contextmanager
def cluster_of_its_own(environment: dict[str, str], workers: int = 2) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Scheduler and workers as processes of their own: address and process of the scheduler."""
    options = {"cwd": ROOT, "env": environment, "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
        ],
        **options,  # type: ignore[call-overload]
    )
    processes = [scheduler]
    try:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        for _ in range(workers):
            command = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "2", "--no-dashboard"]
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, "--memory-limit", "1GiB"], **{**options, "stderr": subprocess.DEVNULL}
                )  # type: ignore[call-overload]
            )
        with Client(address) as client:
            client.wait_for_workers(workers, timeout=120)
        yield address, scheduler
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        scheduler.stderr.close()  # type: ignore[union-attr]
