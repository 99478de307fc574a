"""One run at a time writes an output, whatever the clocks say and whoever comes at the same moment."""

from __future__ import annotations

import json
import os
import threading
import time

import numpy as np
import pytest

from tomoscale import lease as module
from tomoscale.errors import Interrupted, PlanError
from tomoscale.frames import RECORD, pack_frame
from tomoscale.lease import LEASE_SECONDS, lease_owner, take_lease
from tomoscale.ledger import Ledger

PLAN = {"step": {"opening": {}}}
ONE = np.array([(0, 1, 1, (0, 0, 0))], RECORD)


@pytest.fixture(autouse=True)
def _a_sign_of_life_each_time(monkeypatch):
    monkeypatch.setattr(module, "SIGN_SECONDS", 0.0)


def aged(folder, seconds: float = 3600.0, **changes) -> None:
    """Make the lease of a folder that old, and another's."""
    path = max(folder.glob("lease.*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_a_second_run_is_refused_with_the_owner_and_its_age(tmp_path):
    Ledger.start(tmp_path, PLAN, 10)
    with pytest.raises(
        PlanError, match=rf"being written by process {os.getpid()} on .*, which is this one .last sign of life 0 s ago"
    ):
        Ledger.start(tmp_path, PLAN, 10)


def test_a_lease_given_back_can_be_taken_even_where_no_byte_can_be_written(tmp_path, monkeypatch):
    lease = take_lease(tmp_path)
    lease.drop()
    assert lease_owner(tmp_path) is None
    assert take_lease(tmp_path).number == 2
    assert [p.name for p in tmp_path.iterdir()] == ["lease.000002.json"]


def test_the_lease_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path):
    take_lease(tmp_path)
    aged(tmp_path, 1.0, process=2**22 + 1)
    take_lease(tmp_path)
    # A number that another process has now is no sign of life, nor is a process of that number in another container.
    aged(tmp_path, 1.0, born=1.0)
    take_lease(tmp_path)
    aged(tmp_path, 1.0, born=1.0, machine="another container")
    with pytest.raises(PlanError, match="being written by"):
        take_lease(tmp_path)


def test_an_old_lease_of_another_machine_is_taken_over_and_its_owner_notices(tmp_path):
    first = Ledger.start(tmp_path, PLAN, 10)
    aged(tmp_path, 1.0, host="elsewhere", process=1)
    with pytest.raises(PlanError, match="on elsewhere"):
        take_lease(tmp_path)
    aged(tmp_path, LEASE_SECONDS + 5)
    second = Ledger.start(tmp_path, PLAN, 10)
    size = (tmp_path / "blocks.log").stat().st_size
    with pytest.raises(Interrupted, match="is not this run's any more"):
        first.append(ONE, {})
    assert (tmp_path / "blocks.log").stat().st_size == size
    second.append(ONE, {})
    first.release()
    second.renew()
    assert lease_owner(tmp_path) is not None


def test_a_sign_of_life_is_given_once_a_second_and_at_once_by_who_slept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SIGN_SECONDS", 1.0)
    now = time.monotonic()
    lease = take_lease(tmp_path)
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 0.9)
    os.utime(lease.path, (5, 5))
    lease.renew()
    assert lease.path.stat().st_mtime == 5
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 1.5)
    lease.renew()
    assert lease.path.stat().st_mtime > 5
    (tmp_path / "lease.000002.json").touch()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + LEASE_SECONDS + 1.5)
    with pytest.raises(Interrupted, match="another run took over"):
        lease.renew()


def test_an_owner_sees_who_comes_after_before_its_own_file_is_removed(tmp_path):
    first = take_lease(tmp_path)
    (tmp_path / "lease.000002.json").touch()
    with pytest.raises(Interrupted, match="another run took over"):
        first.renew()


def test_a_removed_output_ends_the_run(tmp_path):
    lease = take_lease(tmp_path)
    lease.path.unlink()
    with pytest.raises(Interrupted, match="or the output was removed"):
        lease.renew()


def test_who_saw_an_old_state_does_not_take_a_number_that_was_passed(tmp_path, monkeypatch):
    for _ in range(3):
        take_lease(tmp_path).drop()
    highest, seen = module._highest, iter([1])
    monkeypatch.setattr(module, "_highest", lambda folder: next(seen, None) or highest(folder))
    with pytest.raises(PlanError, match="being taken by another run"):
        take_lease(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["lease.000003.json"]


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_the_clock_of_the_machine_does_not_count(tmp_path, monkeypatch, ahead):
    take_lease(tmp_path)
    aged(tmp_path, 0.0, host="elsewhere")
    now = time.time
    monkeypatch.setattr(module.time, "time", lambda: now() + ahead)
    with pytest.raises(PlanError, match=r"on elsewhere \(last sign of life 0 s ago"):
        take_lease(tmp_path)
    past = now() - LEASE_SECONDS - 5
    os.utime(tmp_path / "lease.000001.json", (past, past))
    take_lease(tmp_path)


def test_a_server_that_does_not_answer_is_waited_for_while_nobody_can_have_taken_over(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(5, "Input/output error")

    lease = take_lease(tmp_path)
    monkeypatch.setattr("tomoscale.retries.PAUSES_SECONDS", ())
    monkeypatch.setattr(module.os, "utime", failing)
    lease.renew()
    lease.renewed -= LEASE_SECONDS
    with pytest.raises(Interrupted, match="could not be renewed for 60 s"):
        lease.renew()


def test_of_many_who_take_over_the_same_stale_lease_one_does(tmp_path):
    for round_ in range(40):
        folder = tmp_path / str(round_)
        folder.mkdir()
        take_lease(folder)
        aged(folder)
        start, won, lost = threading.Barrier(6), [], []

        def take(folder=folder, start=start, won=won, lost=lost):
            start.wait()
            try:
                won.append(take_lease(folder))
            except PlanError as error:
                lost.append(error)

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 5)
        won[0].renew()


def test_a_run_that_slept_until_another_took_over_records_nothing(tmp_path, monkeypatch):
    """The hole that no look at a lease closes: it wakes behind the look, with the frame in its hands."""
    sleeper = Ledger.start(tmp_path, PLAN, 10)
    sleeper.append(ONE, {"n": np.array([1])})
    aged(tmp_path, host="elsewhere")
    second = Ledger.start(tmp_path, PLAN, 10)
    two, three = ONE.copy(), ONE.copy()
    two["number"], three["number"] = 1, 2
    second.append(two, {"n": np.array([1])})
    monkeypatch.setattr(sleeper.lease, "renew", lambda: None)
    with pytest.raises(Interrupted, match="another run took over"):
        sleeper.append(two, {"n": np.array([1])})
    recorded = (tmp_path / "blocks.log").read_bytes()
    with pytest.raises(Interrupted, match="another run took over"):
        sleeper.close({})  # which tries to write what is left
    assert (tmp_path / "blocks.log").read_bytes() == recorded
    # And if it slept behind its look at the log as well:
    with (tmp_path / "blocks.log").open("ab") as file:
        file.write(pack_frame(two, {"n": np.array([1])}, sleeper.part.run))
    second.append(three, {"n": np.array([1])})
    again = Ledger.load(tmp_path)
    assert np.flatnonzero(again.done).tolist() == [0, 1, 2]
    assert again.counts["n"].tolist() == [3]
