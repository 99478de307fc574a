"""What blocks of a run are doing is told by its files: all of it, only what is so, and reading what is new alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale.block_log import FileLog
from tomoscale.block_states import AGAIN, ASIDE, DONE, MOST_SPANS, RUNNING, WAITING, RunBlocks, numbers_of, spans_of
from tomoscale.driver import Driver
from tomoscale.engine import run
from tomoscale.errors import BlocksFailed, IntegrityError
from tomoscale.frames import RECORD
from tomoscale.geometry import Halo
from tomoscale.ledger import Ledger
from tomoscale.plan import plan_map
from tomoscale.resources import Resources
from tomoscale.step import Kernel
from tomoscale.volume import MemoryArray, Volume

GRID = {"shape": [6, 4, 5], "block_shape": [2, 2, 2]}  # 3 x 2 x 3 blocks


def begun(folder: Path, grid=GRID, n_blocks: int = 18) -> Ledger:
    return Ledger.start(folder, {"step": {"opening": {}}, "grid": grid}, n_blocks)


def finish(ledger: Ledger, *numbers: int) -> None:
    records = np.zeros(len(numbers), RECORD)
    records["number"], records["attempts"] = numbers, 1
    ledger.append(records, {"faces": np.arange(5)})


def say(folder: Path, **line) -> None:
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "state": "running", **line}) + "\n")


def test_a_block_is_in_the_state_its_run_says(tmp_path):
    ledger = begun(tmp_path / "r")
    blocks = RunBlocks(tmp_path / "r")
    assert (blocks.look() == WAITING).all()
    finish(ledger, 0, 4)
    say(tmp_path / "r", running=[[4, 3]], again=[[7, 1]], set_aside=[[17, 1]])
    expected = np.full(18, WAITING)
    # What was recorded after the line was written is done, whatever the line says.
    expected[[0, 4]], expected[[5, 6]], expected[7], expected[17] = DONE, RUNNING, AGAIN, ASIDE
    np.testing.assert_array_equal(blocks.look(), expected.reshape(3, 2, 3))


def test_a_run_that_is_gone_runs_no_blocks_and_its_list_of_failures_counts(tmp_path):
    ledger = begun(tmp_path / "r")
    finish(ledger, 0, 1)
    say(tmp_path / "r", running=[[2, 3]], again=[[7, 1]])
    ledger.close({1: "done since", 5: "ValueError: odd"})
    ledger.release()
    states = RunBlocks(tmp_path / "r").look().ravel()
    assert (np.bincount(states, minlength=5) == [15, 2, 0, 0, 1]).all()
    assert states[5] == ASIDE


def test_a_look_reads_only_what_is_new(tmp_path, monkeypatch):
    ledger, log, starts = begun(tmp_path / "r"), tmp_path / "r" / "blocks.log", []
    read = FileLog.frames
    monkeypatch.setattr(FileLog, "frames", lambda log, start=0: starts.append(start) or read(log, start))
    blocks, end = RunBlocks(tmp_path / "r"), 0
    for number in range(3):
        finish(ledger, number)
        starts.clear()
        assert (blocks.look() == DONE).sum() == number + 1
        assert starts == [0, end], "only the first frame, which says whose log it is, is looked at again"
        end = log.stat().st_size


def test_a_frame_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    ledger = begun(tmp_path / "r")
    finish(ledger, 3)
    log = tmp_path / "r" / "blocks.log"
    whole = log.read_bytes()
    blocks = RunBlocks(tmp_path / "r")
    for cut in (0, 1, 13, len(whole) - 1):
        os.truncate(log, 0)
        with log.open("ab") as file:
            file.write(whole[:cut])
        assert (blocks.look() == WAITING).all()
    with log.open("ab") as file:
        file.write(whole[-1:])
    assert blocks.look().ravel()[3] == DONE


def test_an_output_that_was_begun_anew_is_followed(tmp_path):
    finish(begun(tmp_path / "r"), 0, 1, 2)
    blocks = RunBlocks(tmp_path / "r")
    assert (blocks.look() == DONE).sum() == 3
    (tmp_path / "r").rename(tmp_path / "old")  # so that its log keeps its place on the disk
    finish(begun(tmp_path / "r"), 5, 6, 7, 8)  # a log longer than the old one
    assert np.flatnonzero(blocks.look() == DONE).tolist() == [5, 6, 7, 8]
    shutil.rmtree(tmp_path / "r")
    assert (blocks.look() == DONE).sum() == 4, "what was seen last stays"


@pytest.mark.parametrize(
    "grid", [None, {}, {"shape": [6, 4], "block_shape": [2, 2]}, {"shape": "abc", "block_shape": [1, 1, 1]}]
)
def test_a_plan_without_a_grid_is_refused(tmp_path, grid):
    begun(tmp_path / "r", grid)
    with pytest.raises(IntegrityError, match="holds no grid of blocks"):
        RunBlocks(tmp_path / "r")


def test_a_grid_or_a_log_of_other_blocks_is_refused(tmp_path):
    begun(tmp_path / "other", n_blocks=17)
    with pytest.raises(IntegrityError, match="for 17 blocks"):
        RunBlocks(tmp_path / "other")
    finish(begun(tmp_path / "many", n_blocks=19), 18)
    begun(tmp_path / "r")
    shutil.copy(tmp_path / "many" / "blocks.log", tmp_path / "r")
    with pytest.raises(IntegrityError, match="names block 18 of 18"):
        RunBlocks(tmp_path / "r").look()


@given(seed=seeds, n_tasks=st.integers(0, 20))
def test_spans_hold_the_blocks_of_the_tasks(seed, n_tasks):
    random = np.random.default_rng(seed)
    numbers = np.sort(random.choice(60, random.integers(n_tasks, 60), replace=False))
    tasks = [t.tolist() for t in np.array_split(numbers, max(n_tasks, 1))]
    random.shuffle(tasks)
    spans = spans_of(tasks)
    assert numbers_of(spans, 60).tolist() == numbers.tolist()
    assert len(spans) == (np.diff(numbers) > 1).sum() + bool(numbers.size)


def test_spans_are_bounded_and_nonsense_is_passed_over():
    assert len(spans_of([(n,) for n in range(0, 1000, 2)])) == MOST_SPANS
    assert numbers_of([[8, 10**18], [1], "ab", [-1, 5], [0.5, 1], [True, 1], None, [3, 1]], 10).tolist() == [8, 9, 3]
    assert numbers_of({"a": 1}, 10).size == numbers_of(None, 10).size == 0


def odd(values: np.ndarray) -> np.ndarray:
    if values[0, 0, 0] == 4:
        raise ValueError("odd")
    return values


def test_a_real_run_tells_what_runs_and_what_is_in_trouble(tmp_path, monkeypatch):
    seen = []
    told = Driver._doing
    monkeypatch.setattr(Driver, "_doing", lambda self: seen.append(told(self)) or seen[-1])
    monkeypatch.setattr("tomoscale.progress.FILE_SECONDS", 0.0)
    source = Volume(MemoryArray(np.arange(8, dtype=np.uint8).reshape(8, 1, 1).repeat(4, 2)), 1.0)
    kernel = Kernel("odd", odd, Halo(), source.dtype, 2.0)
    plan = plan_map(kernel, source, tmp_path / "o.zarr", block_shape=(1, 1, 4), resources=Resources(1, 1, 1))
    with pytest.raises(BlocksFailed, match="odd"):
        run(plan, progress=False)
    assert {"running": [], "again": [], "set_aside": [[4, 1]]} in seen
    assert any([4, 1] in doing["again"] or [4, 1] in doing["running"] for doing in seen)
    states = RunBlocks(plan.record).look().ravel()
    assert states.tolist() == [DONE] * 4 + [ASIDE] + [DONE] * 3
    lines = [json.loads(line) for line in (plan.record / "progress.jsonl").read_text().splitlines()]
    assert any("running" in line for line in lines)
