"""A run gives the same bytes for every tiling, worker count and restart, and loses nothing when it fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings

from tests.blocks import block_shapes, seeds, small_shapes
from tomoscale import blame
from tomoscale.cluster import local, resources_of
from tomoscale.engine import open_ledger, run
from tomoscale.errors import BlocksFailed, InputError, PlanError
from tomoscale.geometry import Block, Halo
from tomoscale.kernels.filters import cast
from tomoscale.ledger import Ledger
from tomoscale.plan import ledger_folder, plan_map, plan_measure
from tomoscale.resources import Resources
from tomoscale.step import Counts, Kernel, Measure
from tomoscale.volume import MemoryArray, Volume, create_volume, open_zarr

SHAPE = (40, 50, 60)
BLOCK = (16, 32, 32)
SMALL = Resources(slots=2, io_slots=1)


def memory_volume(values: np.ndarray) -> Volume:
    return Volume(MemoryArray(values), (1.0, 1.0, 1.0))


def smooth(values: np.ndarray) -> np.ndarray:
    return scipy.ndimage.uniform_filter(values, 3, mode="nearest")


def count_above(values: np.ndarray, block: Block, level: int) -> Counts:
    """Voxels above a level, and sums per z plane (a large count that needs combining)."""
    core = values[block.core]
    planes = np.zeros(40_000, np.int64)
    planes[block.write[0].start : block.write[0].stop] = core.sum(axis=(1, 2), dtype=np.int64)
    return {"above": np.array([(core > level).sum()]), "planes": planes}


SMOOTH = Kernel("smooth", smooth, Halo.uniform(1), np.dtype(np.uint16), 6)
ABOVE = Measure("above", partial(count_above, level=100), ("grey",), Halo(), 9, 320_000, {"level": 100})


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 200, SHAPE).astype(np.uint16)


@pytest.fixture
def source(tmp_path, values) -> Volume:
    volume = create_volume(
        tmp_path / "source.zarr", shape=SHAPE, dtype=np.uint16, voxel_size_um=(2.0, 2.0, 2.0), kind="grey"
    )
    volume.create()
    volume.write(tuple(slice(0, n) for n in SHAPE), values)
    volume.finish({})
    return volume


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_a_map_in_memory_by_blocks_equals_the_whole(seed, shape, block_shape):
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint16)
    target = memory_volume(np.zeros(shape, np.uint16))
    run(plan_map(SMOOTH, memory_volume(values), target, block_shape=block_shape, resources=SMALL))
    np.testing.assert_array_equal(target.read(), smooth(values))


@settings(max_examples=10)
@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_counts_by_blocks_equal_the_whole(seed, shape, block_shape):
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint16)
    counts = run(plan_measure(ABOVE, memory_volume(values), block_shape=block_shape, resources=SMALL))
    assert counts["above"][0] == (values > 100).sum()
    np.testing.assert_array_equal(counts["planes"][: shape[0]], values.sum(axis=(1, 2)))


def test_two_tilings_and_any_worker_count_give_the_same_bytes(tmp_path, source, values):
    expected = smooth(values)
    results = [
        run(plan_map(SMOOTH, source, tmp_path / "threads.zarr", block_shape=b, resources=SMALL)) for b in [BLOCK]
    ]
    results.append(run(plan_map(SMOOTH, source, tmp_path / "other.zarr", block_shape=(40, 16, 48), resources=SMALL)))
    for processes in (1, 2, 4):
        with local(processes, memory_bytes=2**30) as client:
            plan = plan_map(
                SMOOTH, source, tmp_path / f"{processes}.zarr", block_shape=BLOCK, resources=resources_of(client)
            )
            results.append(run(plan, client))
            counts = run(plan_measure(ABOVE, source, block_shape=(8, 16, 32), resources=resources_of(client)), client)
            assert counts["above"][0] == (values > 100).sum()
            np.testing.assert_array_equal(counts["planes"][:40], values.sum(axis=(1, 2)))
    for result in results:
        np.testing.assert_array_equal(result.read(), expected)
    one, four = (tmp_path / name for name in ("1.zarr", "4.zarr"))
    files = sorted(
        p.relative_to(one)
        for p in one.rglob("*")
        if p.is_file() and ".tomoscale" not in p.parts and p.name != "zarr.json"
    )
    assert files
    assert all((one / f).read_bytes() == (four / f).read_bytes() for f in files)


def test_several_measures_in_one_pass_are_given_by_name(values):
    other = replace(ABOVE, name="dim", function=partial(count_above, level=10))
    counts = run(plan_measure((ABOVE, other), memory_volume(values), block_shape=BLOCK, resources=SMALL))
    assert counts["above"]["above"][0] == (values > 100).sum()
    assert counts["dim"]["above"][0] == (values > 10).sum()


def test_a_finished_run_is_not_run_again(tmp_path, source):
    plan = plan_map(SMOOTH, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL)
    run(plan)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out.zarr").rglob("c/**/*")}
    run(plan_map(SMOOTH, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out.zarr").rglob("c/**/*")}


def test_a_changed_input_is_refused_with_the_difference(tmp_path, source, values):
    run(plan_map(SMOOTH, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))
    other = create_volume(tmp_path / "other.zarr", like=source)
    other.create()
    other.write(tuple(slice(0, n) for n in SHAPE), values + 1)
    other.finish({"made": "otherwise"})
    with pytest.raises(PlanError, match=r"(?s)begun with another plan.*sources.source"):
        run(plan_map(SMOOTH, other, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))


def test_an_input_refused_at_its_first_block_leaves_nothing_in_the_way_of_the_next_try(tmp_path):
    values = np.full((4, 8, 8), np.nan, np.float32)
    for kernel in (cast(np.float32), cast(np.float32, "zero")):
        plan = plan_map(kernel, memory_volume(values), tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL)
        if kernel.parameters["nan_policy"] == "refuse":
            with pytest.raises(InputError, match="nan at voxel"):
                run(plan)
    assert not run(plan).read().any()


def test_a_begun_output_without_blocks_stays_while_another_run_holds_it(tmp_path, source):
    begun = plan_map(SMOOTH, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL)
    ledger = open_ledger(begun)
    with pytest.raises(PlanError, match="begun with another plan"):
        run(plan_map(cast(source.dtype), source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))
    ledger.release()
    done = run(plan_map(cast(source.dtype), source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))
    np.testing.assert_array_equal(done.read(), source.read())


def test_a_measure_is_resumed_from_its_record(tmp_path, source, values):
    plan = plan_measure(ABOVE, source, record=tmp_path / "counts", block_shape=BLOCK, resources=SMALL)
    first = run(plan)
    again = run(plan_measure(ABOVE, source, record=tmp_path / "counts", block_shape=BLOCK, resources=SMALL))
    assert first["above"] == again["above"] == (values > 100).sum()
    with pytest.raises(PlanError, match=r"grid\.block_shape"):
        run(plan_measure(ABOVE, source, record=tmp_path / "counts", block_shape=(8, 16, 16), resources=SMALL))


def fails_once(values: np.ndarray, block: Block, folder: str) -> np.ndarray:
    marker = Path(folder) / f"block{block.number}"
    if not marker.exists():
        marker.touch()
        raise RuntimeError("odd")
    return smooth(values)[block.core]


def fails_at(values: np.ndarray, block: Block, number: int) -> np.ndarray:
    if block.number == number:
        raise RuntimeError("always odd")
    return smooth(values)[block.core]


def kills_worker(values: np.ndarray, block: Block, number: int) -> np.ndarray:
    if block.number == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return smooth(values)[block.core]


def test_a_block_that_fails_once_is_tried_again(tmp_path, source, values):
    kernel = Kernel(
        "smooth", partial(fails_once, folder=str(tmp_path)), Halo.uniform(1), np.dtype(np.uint16), 6, located=True
    )
    result = run(plan_map(kernel, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))
    np.testing.assert_array_equal(result.read(), smooth(values))
    ledger = Ledger.load(ledger_folder(result))
    assert ledger.retries == len(ledger.done)


def test_a_block_that_always_fails_is_set_aside_with_its_place_and_the_others_finish(tmp_path, source, values):
    bad = Kernel("smooth", partial(fails_at, number=3), Halo.uniform(1), np.dtype(np.uint16), 6, located=True)
    plan = plan_map(bad, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL)
    with pytest.raises(
        BlocksFailed, match=r"(?s)1 block failed, all others are done: block 3 \(z 0:16, y 32:50, x 32:60\).*always odd"
    ):
        run(plan)
    with pytest.raises(InputError, match="not finished"):
        open_zarr(tmp_path / "out.zarr")
    good = replace(bad, function=partial(fails_at, number=-1))
    result = run(plan_map(good, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))
    np.testing.assert_array_equal(result.read(), smooth(values))


def test_a_block_that_kills_its_worker_is_set_aside_and_no_other_suffers(tmp_path, source, monkeypatch):
    # Fewer workers have to die for it.
    monkeypatch.setattr(blame, "CHANCE", 0.1)
    bad = Kernel("smooth", partial(kills_worker, number=5), Halo.uniform(1), np.dtype(np.uint16), 6, located=True)
    with local(2, memory_bytes=2**30) as client:
        plan = plan_map(bad, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=resources_of(client))
        with pytest.raises(BlocksFailed, match=r"(?s)1 block failed, all others are done: block 5 .*its worker died"):
            run(plan, client)
    ledger = Ledger.load(plan.record)
    assert np.flatnonzero(~ledger.done).tolist() == [5]
    assert list(ledger.failures()) == [5]


def disk_full(values: np.ndarray, block: Block) -> np.ndarray:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_stops_the_run_with_one_message_and_nothing_is_lost(tmp_path, source):
    kernel = Kernel("smooth", disk_full, Halo(), np.dtype(np.uint16), 6, located=True)
    with pytest.raises(
        PlanError, match=r"out.zarr cannot be written: No space left on device; finished blocks are kept"
    ):
        run(plan_map(kernel, source, tmp_path / "out.zarr", block_shape=BLOCK, resources=SMALL))


SCRIPT = """
import sys
from tests.test_engine import BLOCK, slowly
from tomoscale.cluster import connect, resources_of
from tomoscale.engine import open_ledger, run
from tomoscale.plan import plan_map
from tomoscale.resources import Resources
from tomoscale.volume import open_zarr

if __name__ == "__main__":
    folder, workers = sys.argv[1:]
    with connect(workers, processes=2) as client:
        resources = resources_of(client) if client else Resources(slots=1)
        source = open_zarr(folder + "/source.zarr")
        run(plan_map(slowly(), source, folder + "/killed.zarr", block_shape=BLOCK, resources=resources), client)
"""


def smooth_slowly(values: np.ndarray) -> np.ndarray:
    time.sleep(0.15)
    return smooth(values)


def slowly() -> Kernel:
    return Kernel("smooth", smooth_slowly, Halo.uniform(1), np.dtype(np.uint16), 6)


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_run_whose_processes_are_all_killed_is_resumed_to_the_same_bytes(tmp_path, source, values, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(script), str(tmp_path), workers]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    ledger = tmp_path / "killed.zarr" / "0" / ".tomoscale" / "blocks.log"
    deadline = time.monotonic() + 60
    while (
        not (ledger.exists() and ledger.stat().st_size > 150) and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = Ledger.load(ledger.parent).done
    assert 0 < done.sum() < done.size
    with pytest.raises(InputError, match="not finished"):
        open_zarr(tmp_path / "killed.zarr")
    result = run(plan_map(slowly(), source, tmp_path / "killed.zarr", block_shape=BLOCK, resources=SMALL))
    np.testing.assert_array_equal(result.read(), smooth(values))
    assert Ledger.load(ledger.parent).done.all()


def test_a_kernel_with_two_inputs_gets_both_in_order(tmp_path):
    random = np.random.default_rng(5)
    first, second = (random.integers(0, 100, (9, 10, 11)).astype(np.int32) for _ in range(2))
    kernel = Kernel("difference", np.subtract, Halo(), np.dtype(np.int32), 4.0, inputs=("first", "second"))
    volumes = {"second": memory_volume(second), "first": memory_volume(first)}
    target = run(plan_map(kernel, volumes, tmp_path / "difference.zarr", block_shape=(4, 4, 4)))
    np.testing.assert_array_equal(target.read((slice(0, 9), slice(0, 10), slice(0, 11))), first - second)
    with pytest.raises(InputError, match=r"reads the volumes \['first', 'second'\], given are \['first'\]"):
        plan_map(kernel, {"first": memory_volume(first)}, tmp_path / "other.zarr")
