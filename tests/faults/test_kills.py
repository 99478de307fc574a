"""Workers, schedulers, clients and everything at once are killed, hang or run out of memory: no byte differs afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
from distributed import Client

from tests.faults.kills import (
    ROOT,
    RUN_ALL,
    cluster_of_its_own,
    expected_of,
    kill_everything,
    kill_workers,
    slow_blocks,
    worker_processes,
)
from tests.faults.pipelines import BLOCK, begun_blocks, differing_bytes, made, make_source, run_all, smooth
from tomoscale import blame
from tomoscale import workers as pools
from tomoscale.audit import status, verify
from tomoscale.cluster import local, resources_of
from tomoscale.errors import BlocksFailed, Interrupted
from tomoscale.geometry import Block, Halo
from tomoscale.lease import LEASE_SECONDS
from tomoscale.step import Kernel
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work


def test_workers_that_are_killed_exit_stop_or_take_too_much_memory_change_no_byte(tmp_path):
    figures = kill_workers(tmp_path, 4, longest_seconds=1.0)
    assert set(figures["by_kind"].values()) == {1}
    assert figures["differing_bytes"] == 0


def test_a_run_killed_with_everything_in_it_goes_on_and_computes_nothing_again_that_was_recorded(tmp_path):
    figures = kill_everything(tmp_path, 4, workers=("threads", "threads", "processes"), slow_seconds=0.02)
    assert figures["kills"] == 4
    assert figures["differing_bytes"] == 0
    assert figures["recorded_blocks_computed_again"] == 0
    assert figures["blocks_computed_again"] <= figures["begun_and_lost"]


def test_a_lost_client_and_a_lost_scheduler_cost_what_was_in_flight(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "UNREACHED_SECONDS", 1.0)
    source, expected = expected_of(tmp_path)
    target, log = tmp_path / "made", tmp_path / "begun.log"
    target.mkdir()
    with slow_blocks(log, 0.05) as environment, cluster_of_its_own(environment) as (address, scheduler):
        command = [*RUN_ALL, str(tmp_path / "source.zarr"), str(target), address]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        after(log, 5, lambda: process.kill())
        assert process.wait() == -signal.SIGKILL
        with Client(address) as client:
            watcher = threading.Thread(target=after, args=(log, len(begun_blocks(log)) + 5, scheduler.kill))
            watcher.start()
            with pytest.raises(Interrupted, match=r"scheduler of the workers is gone: .* blocks are done and recorded"):
                run_all(source, target, Work(client, resources_of(client), BLOCK, progress=False))
            watcher.join()
    assert Interrupted.exit_code == 6
    run_all(source, target, Work(block_shape=BLOCK, progress=False))
    assert differing_bytes(made(target), expected) == 0


def test_a_run_that_slept_while_another_took_over_stops_before_it_writes_on(tmp_path):
    source, expected = expected_of(tmp_path)
    target, log = tmp_path / "made", tmp_path / "begun.log"
    target.mkdir()
    with slow_blocks(log, 0.1) as environment:
        command = [*RUN_ALL, str(tmp_path / "source.zarr"), str(target), "threads"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    after(log, 4, lambda: process.send_signal(signal.SIGSTOP))
    (lease,) = (target / "smooth.zarr" / "0" / ".tomoscale").glob("lease.*.json")
    past = time.time() - LEASE_SECONDS - 5
    os.utime(lease, (past, past))
    run_all(source, target, Work(block_shape=BLOCK, progress=False))
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Interrupted: " in errors
    assert "is not this run's any more" in errors
    assert differing_bytes(made(target), expected) == 0
    assert verify(target / "smooth.zarr")["finished"]


def test_no_process_outlives_a_run_whose_workers_were_stopped_while_they_started():
    environment = dict(os.environ)
    with local(1, memory_bytes=2**30):
        pass  # what Dask sets for its workers must not be found by those of the next cluster
    assert {n for n in {*environment, *os.environ} if os.environ.get(n) != environment.get(n)} <= {"__DASK_PARENT_PID"}
    before = {process.pid for process in worker_processes()}
    with local(2, memory_bytes=2**30) as client:
        first = {process.pid for process in worker_processes()} - before
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not (fresh := [p for p in worker_processes() if p.pid not in first | before]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in fresh:
            process.send_signal(signal.SIGSTOP)
    left = [p for p in worker_processes() if p.pid not in before and p.status() != psutil.STATUS_ZOMBIE]
    assert psutil.wait_procs(left, timeout=5)[1] == []


def after(log: Path, blocks: int, act) -> None:
    """Act once so many blocks were begun, or never will be."""
    deadline = time.monotonic() + 60
    while len(begun_blocks(log)) < blocks and time.monotonic() < deadline:
        time.sleep(0.01)
    act()


def smooth_unless(values: np.ndarray, block: Block, number: int, log: str) -> np.ndarray:
    with open(log, "ab", buffering=0) as file:
        file.write(f"{block.number} {os.getpid()}\n".encode())
    if block.number == number:
        time.sleep(3600)
    return smooth(values)[block.core]


def located(number: int, log: Path, name: str = "smooth") -> Kernel:
    function = partial(smooth_unless, number=number, log=str(log))
    return Kernel(name, function, Halo.uniform(1), np.dtype(np.uint8), 6, located=True)


def chain(source: Volume, folder: Path, number: int, work: Work) -> None:
    """Two steps, of which the second reads what the first makes."""
    between = work.map(located(number, folder / "first.log"), source, folder / "first.zarr")
    work.map(located(-1, folder / "second.log", "second"), between, folder / "second.zarr")


def test_a_block_that_hangs_is_set_aside_and_once_mended_alone_computed_with_what_depends_on_it(tmp_path, monkeypatch):
    # Fewer workers have to die for it.
    monkeypatch.setattr(blame, "CHANCE", 0.1)
    source = make_source(tmp_path / "source.zarr", (16, 32, 32))
    blocks = 4
    # Loaded before a worker has its first task, whose time is short here.
    preload = {"distributed.worker.preload": ["tests.faults.test_kills"]}
    with dask.config.set(preload), local(2, memory_bytes=2**30) as client:
        work = Work(client, resources_of(client), BLOCK, progress=False, hanging_seconds=3.0)
        with pytest.raises(
            BlocksFailed, match=r"(?s)block 2 \(z 0:16, y 16:32, x 0:16\).*longer than .* s\n.*the same command"
        ):
            chain(source, tmp_path, 2, work)
    assert BlocksFailed({1: ""}, {1: ""}).exit_code == 5
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    assert sorted(set(begun_blocks(first))) == [str(n) for n in range(blocks)]
    assert not second.exists()
    found = status(tmp_path / "first.zarr")
    assert (found["blocks_done"], list(found["set_aside"])) == (blocks - 1, ["2"])
    first.unlink()
    for _ in range(2):
        chain(source, tmp_path, -1, Work(block_shape=BLOCK, progress=False))
    assert begun_blocks(first) == ["2"]
    assert sorted(begun_blocks(second)) == [str(n) for n in range(blocks)]
    np.testing.assert_array_equal(open_zarr(tmp_path / "second.zarr").read(), smooth(smooth(source.read())))
