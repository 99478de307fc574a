"""Kernels and measures as people write them in a notebook: right, and wrong in the ways that happen."""

from __future__ import annotations

import contextlib
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tomoscale import Volume, create_volume, open_volume, plan_map, plan_measure, run
from tomoscale.block_runs import load_plan
from tomoscale.cli.failures import failure_of
from tomoscale.cluster import local
from tomoscale.errors import TRACEBACK_CHARACTERS, BlocksFailed, BlockTraceback, PlanError, traceback_text
from tomoscale.geometry import Halo
from tomoscale.memory_array import MemoryArray
from tomoscale.own_code import code_digest
from tomoscale.step import Kernel, Measure, add_counts
from tomoscale.tries import ATTEMPTS, Tries
from tomoscale.zarr_creation import create_folder

GREY = np.random.default_rng(0).integers(0, 255, (8, 9, 10), dtype=np.uint8)
BLOCK = (4, 9, 10)


def scan() -> Volume:
    return Volume(MemoryArray(GREY), (5.0, 5.0, 5.0))


def kernel(function: Callable[..., Any], **what: Any) -> Kernel:
    return Kernel("own", function, Halo.uniform(0), np.dtype(np.uint8), bytes_per_voxel=4, **what)


def measure(function: Callable[..., Any]) -> Measure:
    return Measure("own", function, inputs=("grey",))


def mapped(function: Callable[..., Any], target: Path, **what: Any) -> np.ndarray:
    return run(plan_map(kernel(function, **what), scan(), target, block_shape=BLOCK)).read()


@pytest.mark.parametrize(
    "function",
    [
        lambda values: values[1:],
        lambda values: np.pad(values, 2),
        lambda values: values[0],
        lambda values: values / 2,
        lambda values: values > 5,
        lambda values: None,
        lambda values: values.tolist(),
    ],
)
def test_what_a_kernel_must_not_make_ends_the_run_at_once(function: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"own made an? .* but must make an array of \(4, 9, 10\) uint8"):
        mapped(function, tmp_path / "out.zarr")


def divide_by(divisor: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values // divisor


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda values: 255 - values, lambda values: 254 - values),
        (divide_by(2), divide_by(3)),
        (functools.partial(np.right_shift, np.uint8(255)), functools.partial(np.right_shift, np.uint8(127))),
    ],
)
def test_a_finished_output_is_not_taken_for_that_of_changed_code(
    first: Callable[..., Any], second: Callable[..., Any], tmp_path: Path
) -> None:
    made = mapped(first, tmp_path / "out.zarr")
    np.testing.assert_array_equal(mapped(first, tmp_path / "out.zarr"), made)
    with pytest.raises(PlanError, match=r"code\.own: was .*\n.*has changed since"):
        mapped(second, tmp_path / "out.zarr")


def test_the_record_of_a_measure_is_not_taken_for_that_of_changed_code(tmp_path: Path) -> None:
    plan = functools.partial(plan_measure, volumes=scan(), record=tmp_path / "record", block_shape=BLOCK)
    assert run(plan(measure(lambda grey, block: {"n": np.array([1])})))["n"] == [2]
    with pytest.raises(PlanError, match=r"code\.own"):
        run(plan(measure(lambda grey, block: {"n": np.array([2])})))


def test_a_version_stands_for_the_code(tmp_path: Path) -> None:
    made = mapped(lambda values: 255 - values, tmp_path / "out.zarr", parameters={"version": 1})
    np.testing.assert_array_equal(
        mapped(lambda values: ~values, tmp_path / "out.zarr", parameters={"version": 1}), made
    )
    with pytest.raises(PlanError, match="version"):
        mapped(lambda values: ~values, tmp_path / "out.zarr", parameters={"version": 2})


def test_a_function_mended_for_blocks_set_aside_goes_on_and_is_the_one_from_then_on(tmp_path: Path) -> None:
    def failing(values: np.ndarray) -> np.ndarray:
        if values[0, 0, 0] == GREY[4, 0, 0]:
            raise RuntimeError("only here")
        return 255 - values

    def mended(values: np.ndarray) -> np.ndarray:
        return 255 - values

    with pytest.raises(BlocksFailed, match="only here"):
        mapped(failing, tmp_path / "out.zarr")
    np.testing.assert_array_equal(mapped(mended, tmp_path / "out.zarr"), 255 - GREY)
    np.testing.assert_array_equal(mapped(mended, tmp_path / "out.zarr"), 255 - GREY)
    with pytest.raises(PlanError, match=r"code\.own"):
        mapped(failing, tmp_path / "out.zarr")


def brightest(values: np.ndarray) -> np.ndarray:
    if values.shape[0] == 1:
        raise ZeroDivisionError("nothing\x1b[2J to divide\u202e")
    return values


@pytest.mark.parametrize("workers", [0, 1])
def test_where_a_function_raised_is_the_cause_of_the_failure_as_text(workers: int, tmp_path: Path) -> None:
    source = create_volume(tmp_path / "scan.zarr", shape=(9, 4, 4), dtype=np.uint8, voxel_size_um=1.0)
    source.create()
    source.write((slice(0, 9), slice(0, 4), slice(0, 4)), np.ones((9, 4, 4), np.uint8))
    source.finish({})
    plan = plan_map(kernel(brightest), source, tmp_path / "out.zarr", block_shape=(4, 4, 4))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(local(workers, memory_bytes=2**30)) if workers else None
        with pytest.raises(BlocksFailed) as caught:
            run(plan, client)
    cause = caught.value.__cause__
    assert type(cause) is BlockTraceback
    text = str(cause)
    assert text.startswith(
        "in block 2 (z 8:9, y 0:4, x 0:4), when it was last tried\nTraceback (most recent call last):"
    )
    assert text.endswith("ZeroDivisionError: nothing\ufffd[2J to divide\ufffd")
    assert 'raise ZeroDivisionError("nothing' in text
    assert f'"{__file__}", line' in text
    assert "\x1b" not in str(caught.value)
    shown = failure_of(caught.value, "tomoscale map").message
    assert "nothing\ufffd[2J to divide" in shown
    assert "Traceback" not in shown


def test_the_traceback_kept_is_that_of_the_first_block_set_aside_and_bounded() -> None:
    tries = Tries()
    for number in (5, 3, 7):
        for attempt in range(ATTEMPTS):
            tries.after_error(number, "e", f"{number}, {attempt}")
    tries.after_error(1, "once, and then done", "1, 0")
    assert tries.traceback == (3, f"3, {ATTEMPTS - 1}")
    text = traceback_text(ValueError("x" * 10**6 + "the end"))
    assert len(text) < TRACEBACK_CHARACTERS + 10
    assert text.startswith("...")
    assert text.endswith("the end")


FACTOR, CALLS, SEEN = 3, [], 0


def uses_globals(values: np.ndarray) -> np.ndarray:
    global SEEN
    SEEN += 1
    CALLS.append(values.shape)
    return values // FACTOR


def test_values_a_function_uses_count_but_not_those_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(uses_globals)
    uses_globals(GREY)
    assert code_digest(uses_globals) == before
    monkeypatch.setitem(uses_globals.__globals__, "FACTOR", 4)
    assert code_digest(uses_globals) != before


def test_functions_of_this_program_need_no_digest() -> None:
    from tomoscale.kernels.filters import cast, median
    from tomoscale.kernels.majority import majority

    assert code_digest(median(3, np.uint8).then(cast(np.float32)).function) is None
    assert code_digest(majority(1, 4, np.uint8).function) is None
    assert code_digest(np.add) is not None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda grey, block: {"n": grey.mean()}, "must be integers"),
        (lambda grey, block: {"n": np.array([0.5])}, "must be integers"),
        (lambda grey, block: 5, "must return integers by name"),
        (lambda grey, block: {"n": np.arange(block.write_shape[0])}, "the same shape in every block"),
    ],
)
def test_counts_that_do_not_add_are_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        run(plan_measure(measure(function), scan(), block_shape=(5, 9, 10)))


@pytest.mark.parametrize("number", [np.array([200], np.uint8), np.array([2**31 - 1], np.int32), np.uint8(200), 7, True])
def test_sums_do_not_run_over_the_type_of_one_block(number: Any) -> None:
    counts = run(plan_measure(measure(lambda grey, block: {"n": number}), scan(), block_shape=(1, 9, 10)))
    assert int(np.sum(counts["n"])) == 8 * int(np.sum(number))


def test_one_number_is_not_spread_over_many() -> None:
    with pytest.raises(PlanError, match="n has"):
        add_counts({"n": np.ones(3, np.int64)}, {"n": np.ones(1, np.int64)})


def test_a_function_of_no_module_travels_with_its_code(tmp_path: Path) -> None:
    volume = open_volume(run(plan_map(kernel(divide_by(1)), scan(), tmp_path / "in.zarr")).name)
    plan = plan_map(kernel(divide_by(7)).then(kernel(divide_by(2))), volume, tmp_path / "out.zarr")
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    assert load_plan(pickle.dumps(plan)).step.function(GREY).tolist() == (GREY // 14).tolist()
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).step.function(100))"
    told = subprocess.run([sys.executable, "-c", code, tmp_path / "plan"], capture_output=True, text=True, check=True)
    assert told.stdout == "7\n"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: open_volume(GREY), TypeError, r"Volume\(MemoryArray\(array\)"),
        (lambda path: Volume(GREY), TypeError, r"MemoryArray\(array\)"),
        (lambda path: np.asarray(scan()), TypeError, r"no array but the address of one"),
        (lambda path: MemoryArray(GREY.tolist()), TypeError, "must be a NumPy array"),
        (lambda path: MemoryArray(np.ma.masked_array(GREY, GREY > 5)), TypeError, "without a mask"),
        (lambda path: plan_map(lambda values: values, scan(), path), TypeError, "is no kernel"),
        (lambda path: plan_map(kernel(abs), GREY, path), TypeError, "takes volumes, got a ndarray"),
        (lambda path: plan_map(kernel(abs), "scan.zarr", path), TypeError, "takes volumes, got a str"),
        (lambda path: plan_map(kernel(abs), scan(), path, block_shape=16), ValueError, "three positive numbers"),
        (lambda path: plan_map(kernel(abs), scan(), path, block_shape=(0, 9, 9)), ValueError, "three positive numbers"),
        (lambda path: Kernel("own", abs, 0, np.uint8, 4), TypeError, r"Halo\.uniform"),
        (lambda path: Kernel("own", None, Halo(), np.uint8, 4), TypeError, "must be callable"),
        (lambda path: plan_measure(scan(), scan()), TypeError, "takes a Measure"),
        (lambda path: plan_measure((measure(abs), measure(abs)), scan()), ValueError, "comes twice"),
        (
            lambda path: run(plan_map(kernel(abs), scan(), path), "tcp://127.0.0.1:8786"),
            TypeError,
            "distributed.Client",
        ),
    ],
)
def test_a_slip_is_told_with_the_way_out(
    make: Callable[[Path], Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path / "out.zarr")


def test_what_is_meant_is_taken(tmp_path: Path) -> None:
    assert kernel(abs).dtype == Kernel("own", abs, Halo(), "uint8", 4).dtype == np.uint8
    plan = plan_map(kernel(abs), scan(), tmp_path / "out.zarr", block_shape=tuple(np.array(BLOCK)))
    assert run(plan).shape == GREY.shape
    sized = open_volume(plan.target.name, voxel_size_um=np.array([5.0, 5.0, 5.0]))
    assert repr(sized).endswith("out.zarr: 8 x 9 x 10 uint8 grey, voxels of 5 x 5 x 5 µm>")
    assert len(repr(scan())) < 100


def test_a_record_stays_beside_its_volume_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    plan = plan_map(kernel(abs), scan(), "out.zarr")
    counting = plan_measure(measure(lambda grey, block: {"n": 1}), scan(), record="record")
    monkeypatch.chdir(tmp_path / "b")
    run(plan)
    run(counting)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["out.zarr", "record"]
    assert list((tmp_path / "b").iterdir()) == []


def test_of_two_runs_that_make_one_volume_at_the_same_moment_the_lease_lets_one_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Volume.create

    def after_another(volume: Volume) -> None:
        create(volume)
        create(volume)

    monkeypatch.setattr(Volume, "create", after_another)
    assert mapped(abs, tmp_path / "out.zarr").shape == GREY.shape
    monkeypatch.setattr("os.path.lexists", lambda path: False)
    with pytest.raises(PlanError, match="is in the way"):
        create_folder(tmp_path / "out.zarr", [("", {"zarr_format": 3, "node_type": "group"}, {})])


def test_tab_completion_and_help_know_the_public_names() -> None:
    code = "import tomoscale; print(*dir(tomoscale)); import sys; assert 'torch' not in sys.modules"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"open_volume", "plan_map", "run", "implant"} <= set(names)
    assert "importlib" not in names
