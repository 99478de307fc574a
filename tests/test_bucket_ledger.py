"""The record of a run in a bucket: one run at a time writes it, whatever is lost, late, or asleep."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.formats.object_store import Failure, credentials, object_store, well
from tomoscale import block_log, lease
from tomoscale.block_log import Follower
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import IntegrityError, Interrupted, PlanError
from tomoscale.frames import RECORD
from tomoscale.lease import LEASE_SECONDS, lease_owner, take_lease
from tomoscale.ledger import Ledger
from tomoscale.places import place, remove_tree, replace_text, server_time

PLAN = {"step": {"opening": {}}}
FOLDER = "s3://scans/run.zarr/0/.tomoscale"


def record(number: int) -> np.ndarray:
    return np.array([(number, 1000 + number, 1, (0.1, 0.2, 0.3))], RECORD)


def finish(ledger: Ledger, *numbers: int) -> None:
    for number in numbers:
        ledger.append(record(number), {"n": np.array([10**number])})


@pytest.fixture
def failure() -> Failure:
    return well


@pytest.fixture
def server(tmp_path, failure) -> Iterator[Path]:
    """The folder in which a server keeps the ledger."""
    (tmp_path / "scans").mkdir()
    with object_store(tmp_path, failure) as (address, _), credentials(address):
        yield tmp_path / "scans" / "run.zarr" / "0" / ".tomoscale"


@pytest.fixture
def at_once(monkeypatch) -> None:
    """Let every frame be put as soon as it is there, and a lease be renewed whenever it can be."""
    monkeypatch.setattr(block_log.ObjectLog, "due", lambda *_: True)
    monkeypatch.setattr(lease, "BUCKET_SIGN_SECONDS", 0.0)


def aged(server: Path, seconds: float, **changes) -> None:
    """Make the lease that old by the server's clock, and another's."""
    path = max(server.glob("lease.*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    os.utime(path, (time.time() - seconds,) * 2)


def test_what_was_finished_is_found_again(server, at_once):
    ledger = Ledger.start(place(FOLDER), PLAN, 60)
    finish(ledger, 3, 7, 1)
    ledger.close({4: "ValueError: odd"})
    again = Ledger.load(place(FOLDER))
    assert np.flatnonzero(again.done).tolist() == [1, 3, 7]
    assert again.counts["n"].tolist() == [10**3 + 10**7 + 10]
    assert again.failures() == {4: "ValueError: odd"}
    assert [p.name for p in sorted((server / "blocks").iterdir())] == [f"{n:09d}.frame" for n in (1, 2, 3, 4)]
    ledger.release()
    more = Ledger.start(place(FOLDER), PLAN, 60)
    # More than are read ahead, or listed at once.
    finish(more, *(n for n in range(8, 18)))
    records = np.concatenate([record(n) for n in range(18, 60)])
    for one in np.split(records, len(records)):
        more.append(one, {})
    np.testing.assert_array_equal(Ledger.load(place(FOLDER)).checksums[8:], 1000 + np.arange(8, 60))


def test_frames_wait_for_each_other_and_none_is_lost_at_the_end(server, monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr("tomoscale.log_part.time.monotonic", lambda: now[0])
    ledger = Ledger.start(place(FOLDER), PLAN, 2000)
    for number in range(1900):
        now[0] += 1.0
        ledger.append(record(number), {})
    # Every second for 100 s, then a hundredth of the time so far: 100 (1 + ln 19) = 394.
    assert 350 < len(list((server / "blocks").iterdir())) < 440
    lost = 1900 - int(Ledger.load(place(FOLDER)).done.sum())
    assert lost <= 20
    ledger.close({})
    assert Ledger.load(place(FOLDER)).done.sum() == 1900


def test_a_second_run_is_refused_and_a_stale_lease_is_taken_over(server, at_once):
    first = Ledger.start(place(FOLDER), PLAN, 10)
    with pytest.raises(
        PlanError, match=rf"run.zarr is being written by process {os.getpid()} .*sign of life [01] s ago"
    ):
        Ledger.start(place(FOLDER), PLAN, 10)
    aged(server, 1.0, host="elsewhere", process=1)
    with pytest.raises(PlanError, match=r"on elsewhere \(last sign of life [12] s ago"):
        Ledger.start(place(FOLDER), PLAN, 10)
    aged(server, LEASE_SECONDS + 5)
    second = Ledger.start(place(FOLDER), PLAN, 10)
    with pytest.raises(Interrupted, match="is not this run's any more"):
        first.append(record(0), {})
    first.release()
    second.renew()
    assert lease_owner(place(FOLDER)) is not None
    second.release()
    assert lease_owner(place(FOLDER)) is None
    assert take_lease(place(FOLDER)).number == 3


def test_a_lease_that_is_renewed_stays_fresh_whatever_the_clock_says(server, at_once, monkeypatch):
    ledger = Ledger.start(place(FOLDER), PLAN, 10)
    path = max(server.glob("lease.*.json"))
    os.utime(path, (time.time() - 50,) * 2)
    ledger.renew()
    assert time.time() - path.stat().st_mtime < 5
    now = time.time
    monkeypatch.setattr(lease.time, "time", lambda: now() + 7200)
    aged(server, 0.0, host="elsewhere")
    with pytest.raises(PlanError, match=r"on elsewhere \(last sign of life [01] s ago"):
        take_lease(place(FOLDER))


def test_a_sleeper_cannot_add_a_frame_after_another_took_over(server, at_once, monkeypatch):
    sleeper = Ledger.start(place(FOLDER), PLAN, 10)
    finish(sleeper, 0)
    aged(server, LEASE_SECONDS + 5, host="elsewhere")
    second = Ledger.start(place(FOLDER), PLAN, 10)
    assert second.done.tolist() == [True] + 9 * [False]
    monkeypatch.setattr(sleeper.lease, "renew", lambda: None)  # it wakes behind its look at the lease
    with pytest.raises(Interrupted, match="another run took over"):
        finish(sleeper, 1)
    finish(second, 1)
    assert np.flatnonzero(Ledger.load(place(FOLDER)).done).tolist() == [0, 1]


def test_a_sleeper_whose_output_was_begun_anew_counts_for_nothing(server, at_once, monkeypatch):
    sleeper = Ledger.start(place(FOLDER), PLAN, 10)
    finish(sleeper, 0, 1)
    remove_tree(place("s3://scans/run.zarr"))
    assert not list(server.rglob("*.json"))
    second = Ledger.start(place(FOLDER), {"step": {"closing": {}}}, 10)
    follower = Follower(place(FOLDER))
    monkeypatch.setattr(sleeper.lease, "renew", lambda: None)
    finish(sleeper, 2, 3)  # frames 4 and 5, where the new run has only opened its part
    finish(second, 5, 6, 7, 8)
    assert np.flatnonzero(Ledger.load(place(FOLDER)).done).tolist() == [5, 6, 7, 8]
    assert follower.records()["number"].tolist() == [5, 6, 7, 8]
    with pytest.raises(PlanError, match=r"step.closing: was \{\}, is absent"):
        Ledger.start(place(FOLDER), PLAN, 10)


def test_of_many_who_come_at_once_one_runs(server):
    folder = place(FOLDER)
    start, won, lost = threading.Barrier(5), [], []

    def take() -> None:
        start.wait()
        try:
            won.append(Ledger.start(folder, PLAN, 10))
        except PlanError as error:
            lost.append(error)

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 4)


def losing(method: str, path: str, times: int) -> str | None:
    """Of every object that is put, the answer to the first try is lost after it was done."""
    return "lose" if method == "PUT" and times == 1 else None


@pytest.mark.parametrize("failure", [losing])
def test_an_answer_that_was_lost_is_no_sign_of_another_run(server, at_once):
    ledger = Ledger.start(place(FOLDER), PLAN, 10)
    finish(ledger, 0, 1, 2)
    ledger.renew()
    ledger.release()
    assert Ledger.load(place(FOLDER)).done.sum() == 3
    assert Ledger.start(place(FOLDER), PLAN, 10).done.sum() == 3


def test_an_object_is_made_once_and_replaced_as_it_was_read(server):
    found = place("s3://scans/some/object")
    assert isinstance(found, BucketPath)
    version = found.create(b"first")
    assert version is not None
    assert found.create(b"second") is None
    assert found.create(b"first") == version
    assert found.update(b"third", "other") is None
    assert found.update(b"third", version) is not None
    assert found.update(b"fourth", version) is None
    assert found.read(5) == (5, b"third")
    assert found.read(4) == (5, None)
    assert abs(server_time(found.parent) - time.time()) < 3
    assert [name for name, _ in found.parent.below()] == ["object"]
    replace_text(found.parent / "other" / "text", "words")
    assert [p.name for p in found.parent.iterdir()] == ["object", "other"]
    found.unlink()
    assert not found.exists()
    assert found.parent.exists()
    with pytest.raises(FileNotFoundError):
        found.read_bytes()


@pytest.mark.parametrize("name", ["frame", "stranger"])
def test_a_damaged_record_is_named(server, at_once, name):
    finish(Ledger.start(place(FOLDER), PLAN, 10), 0, 1)
    frame = server / "blocks" / "000000002.frame"
    if name == "frame":
        frame.write_bytes(frame.read_bytes()[:-1])
    else:
        (server / "blocks" / "notes.txt").write_text("odd")
        frame = server / "blocks" / "notes.txt"
    with pytest.raises(IntegrityError, match=f"blocks/{frame.name} is damaged or no record of finished blocks"):
        Ledger.load(place(FOLDER))
