"""A ledger keeps what was finished through any crash, and refuses to mix two plans."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscale.errors import IntegrityError, PlanError
from tomoscale.frames import RECORD
from tomoscale.ledger import Ledger

PLAN = {"step": {"opening": {"radius_um": 10.0}}, "grid": {"shape": [8, 8, 8]}}


def records(*numbers: int) -> np.ndarray:
    return np.array([(n, 1000 + n, 1, (0.1, 0.2, 0.3)) for n in numbers], RECORD)


def test_what_was_appended_is_found_again(tmp_path):
    ledger = Ledger.start(tmp_path / "run", PLAN, 10)
    ledger.append(records(3, 7), {"faces": np.arange(6).reshape(2, 3)})
    ledger.append(records(1), {"faces": np.ones((2, 3), np.int64)})
    again = Ledger.load(tmp_path / "run")
    assert np.flatnonzero(again.done).tolist() == [1, 3, 7]
    assert again.checksums[7] == 1007
    np.testing.assert_array_equal(again.counts["faces"], np.arange(6).reshape(2, 3) + 1)
    np.testing.assert_allclose(again.seconds, [0.3, 0.6, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(again.records(), records(3, 7, 1))
    assert len(Ledger.in_memory(10).records()) == 0


@given(cut=st.integers(0, 400))
def test_a_log_cut_anywhere_keeps_its_whole_frames_and_can_be_continued(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger.start(folder, PLAN, 10)
    ends = []
    for number in range(4):
        ledger.append(records(number), {"n": np.array([10**number])})
        ends.append((folder / "blocks.log").stat().st_size)
    ledger.release()
    cut = min(cut, ends[-1])
    os.truncate(folder / "blocks.log", cut)
    whole = sum(end <= cut for end in ends)
    again = Ledger.start(folder, PLAN, 10)
    assert again.done.sum() == whole
    assert again.counts.get("n", np.array([0]))[0] == sum(10**k for k in range(whole))
    again.append(records(9), {"n": np.array([5])})
    assert Ledger.load(folder).done.sum() == whole + 1


def test_a_flipped_byte_drops_the_frame_it_is_in(tmp_path):
    ledger = Ledger.start(tmp_path, PLAN, 10)
    ledger.append(records(0), {})
    first = (tmp_path / "blocks.log").stat().st_size
    ledger.append(records(1), {})
    data = bytearray((tmp_path / "blocks.log").read_bytes())
    data[first + 20] ^= 4
    (tmp_path / "blocks.log").write_bytes(bytes(data))
    assert np.flatnonzero(Ledger.load(tmp_path).done).tolist() == [0]


def test_another_plan_is_refused_with_what_differs(tmp_path):
    other = {**PLAN, "step": {"opening": {"radius_um": 20.0}}}
    Ledger.start(tmp_path / "run", other, 10).release()
    ledger = Ledger.start(tmp_path / "run", PLAN, 10)  # of the other no block was done
    ledger.append(records(3), {})
    ledger.release()
    with pytest.raises(PlanError, match=r"step.opening.radius_um: was 10.0, is 20.0"):
        Ledger.start(tmp_path / "run", other, 10)


def test_a_block_recorded_twice_is_an_integrity_error(tmp_path):
    ledger = Ledger.start(tmp_path, PLAN, 10)
    ledger.append(records(2), {})
    with pytest.raises(IntegrityError, match="records a block twice"):
        ledger.append(records(2), {})


def test_a_damaged_plan_is_named(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(IntegrityError, match="the record of a run cannot be read"):
        Ledger.load(tmp_path)


def test_failures_are_kept_until_their_blocks_are_done(tmp_path):
    ledger = Ledger.start(tmp_path, PLAN, 10)
    ledger.close({4: "ValueError: odd"})
    assert Ledger.load(tmp_path).failures() == {4: "ValueError: odd"}
    ledger.append(records(4), {})
    assert Ledger.load(tmp_path).failures() == {}


def test_a_ledger_that_cannot_be_opened_gives_its_lease_back(tmp_path):
    ledger = Ledger.start(tmp_path, PLAN, 10)
    ledger.append(records(2), {})
    frame = (tmp_path / "blocks.log").read_bytes()
    (tmp_path / "blocks.log").write_bytes(frame + frame)
    ledger.release()
    for _ in range(2):
        with pytest.raises(IntegrityError, match="records a block twice"):
            Ledger.start(tmp_path, PLAN, 10)
