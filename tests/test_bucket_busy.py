"""A server that is busy for a while only slows a run down; one that stays busy ends it with what to do."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.formats.object_store import credentials, running
from tests.world import volume_at
from tomoscale import bucket_client, zarr_handles
from tomoscale.audit import verify
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import BlocksFailed
from tomoscale.geometry import Halo
from tomoscale.places import place
from tomoscale.step import Kernel
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.work import Work

SHAPE = (20, 24, 28)
WHOLE = tuple(slice(0, n) for n in SHAPE)
KINDS = ("GET", "part", "PUT", "HEAD", "LIST", "DELETE")
FIRST, LONGEST = 0.05, 0.2
ADVICE = r"run it again later, or with fewer workers at once: what a run has finished is kept"


def keep(values: np.ndarray) -> np.ndarray:
    return values


KEEP = Kernel("keep", keep, Halo.uniform(2), np.dtype(np.uint8), 1)


def kind_of(method: str, path: str) -> str:
    if "list-type" in path:
        return "LIST"
    if method == "GET" and "/c/" in path:
        return "part"  # of an object: shards are asked for by ranges
    return "DELETE" if method == "POST" else method


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 200, SHAPE).astype(np.uint8)


@pytest.fixture
def short_pauses(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(bucket_client, "RETRIES", 4)
    monkeypatch.setattr(bucket_client, "FIRST_PAUSE_SECONDS", FIRST)
    monkeypatch.setattr(bucket_client, "LONGEST_PAUSE_SECONDS", LONGEST)
    for one in (bucket_client.client_of, zarr_handles._open, zarr_handles._context):
        one.cache_clear()
    yield
    for one in (bucket_client.client_of, zarr_handles._open, zarr_handles._context):
        one.cache_clear()


@pytest.mark.usefixtures("short_pauses")
def test_a_server_that_refuses_everything_at_first_only_slows_a_run(tmp_path, values):
    refused, asked = Counter[str](), Counter[str]()

    def busy(method: str, path: str, times: int) -> int | None:
        asked[kind_of(method, path)] += 1
        if times > 2:
            return None
        refused[kind_of(method, path)] += 1
        return 503

    source = open_zarr(volume_at(tmp_path / "source.zarr", values))
    with running(tmp_path / "store", busy) as server, credentials(server.address):
        for overwrite in (False, True):
            work = Work(block_shape=(16, 16, 16), progress=False, overwrite=overwrite)
            first = work.map(KEEP, source, place("s3://scans/first.zarr"))
            made = work.map(KEEP, first, place("s3://scans/made.zarr"))
            server.counts.clear()
            np.testing.assert_array_equal(made.read(), values)
        assert verify(place("s3://scans/made.zarr"))["finished"]
    assert {kind for kind in KINDS if refused[kind] >= 2} == set(KINDS), refused
    assert all(asked[kind] > refused[kind] for kind in KINDS)


def written(name: str, values: np.ndarray) -> Volume:
    volume = create_volume(
        f"s3://scans/{name}.zarr", shape=SHAPE, dtype=np.uint8, shard_shape=(16, 16, 16), chunk_shape=(8, 8, 8)
    )
    volume.create()
    volume.write(WHOLE, values)
    return volume


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [503, 429])
def test_tries_end_with_the_place_and_what_to_do(tmp_path, values, kind, status):
    moments: dict[str, list[float]] = defaultdict(list)
    begun: list[str] = []

    def busy(method: str, path: str, times: int) -> int | None:
        if not begun or kind_of(method, path) != kind:
            return None
        moments[f"{method} {path}"].append(time.monotonic())
        return status

    with running(tmp_path / "store", busy) as server, credentials(server.address):
        volume, found = written("v", values), place("s3://scans/v.zarr/zarr.json")
        assert isinstance(found, BucketPath)
        asking: dict[str, Callable[[], object]] = {
            "GET": found.read_bytes,
            "part": volume.read,
            "PUT": lambda: volume.write(WHOLE, values),
            "HEAD": found.stored,
            "LIST": lambda: list(found.parent.below()),
            "DELETE": lambda: found.unlink(missing_ok=True),
        }
        begun.append(kind)
        match = rf"s3://scans/v.zarr.*: the object store is busy and refused 5 tries \(.*{status}.*\); {ADVICE}"
        with pytest.raises(OSError, match=match):
            asking[kind]()
        time.sleep(5 * LONGEST if kind == "PUT" else 0)  # the other shards are given up too
    pauses = [np.diff(times) for times in moments.values()]
    assert all(1 <= len(one) <= 4 for one in pauses)
    assert max(len(one) for one in pauses) == 4
    # Twice the longest: what chance adds, and what other processes of the machine take.
    assert all(FIRST * 0.9 < pause < 2 * LONGEST + 0.5 for one in pauses for pause in one)


@pytest.mark.usefixtures("short_pauses")
def test_many_who_were_refused_at_once_do_not_come_back_at_once(tmp_path, values):
    moments: dict[str, list[float]] = defaultdict(list)

    def busy(method: str, path: str, times: int) -> int | None:
        if "/c/" in path and method == asked[0] and times < 4:
            moments[path].append(time.monotonic())
            return 503
        return None

    asked = ["PUT"]
    with running(tmp_path / "store", busy) as server, credentials(server.address):
        volume = written("v", values)
        puts = [times[2] - times[1] for times in moments.values()]
        server.counts.clear()
        moments.clear()
        asked[0] = "GET"
        np.testing.assert_array_equal(volume.read(), values)
        gets = [times[2] - times[1] for times in moments.values()]
    assert len(puts) == len(gets) == 8
    assert max(puts) - min(puts) > FIRST / 10
    assert max(gets) - min(gets) > FIRST / 10


@pytest.mark.usefixtures("short_pauses")
def test_a_run_whose_server_stays_busy_says_so_and_goes_on_when_it_is_not(tmp_path, values):
    still = [True]

    def busy(method: str, path: str, times: int) -> int | None:
        return 503 if still and method == "PUT" and path.endswith("c/1/1/1") else None

    source, target = open_zarr(volume_at(tmp_path / "source.zarr", values)), "s3://scans/made.zarr"
    work = Work(block_shape=(16, 16, 16), progress=False)
    with running(tmp_path / "store", busy) as server, credentials(server.address):
        with pytest.raises(BlocksFailed, match=rf"s3://scans/made.zarr .*the object store is busy.*{ADVICE}"):
            work.map(KEEP, source, place(target))
        still.clear()
        server.asked.clear()
        np.testing.assert_array_equal(work.map(KEEP, source, place(target)).read(), values)
    assert [path for method, path in server.asked if method == "PUT" and "/c/" in path] == [
        "/scans/made.zarr/0/c/1/1/1"
    ]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda one: one.write(b"new"), {"one": b"new"}),
        (lambda one: (one.parent / "two").create(b"new"), {"one": b"old", "two": b"new"}),
        (lambda one: one.update(b"new", one.stored().version), {"one": b"new"}),
        (lambda one: one.unlink(), {}),
        (lambda one: one.parent.remove_below(), {}),
    ],
    ids=["write", "create", "update", "unlink", "remove all"],
)
def test_a_connection_that_breaks_is_made_again_for_every_change(tmp_path, change, left):
    broken = [9]

    def breaking(method: str, path: str, times: int) -> str | None:
        if method in ("PUT", "POST", "DELETE") and len(broken) < 3:
            broken.append(times)
            return "reset"
        return None

    with running(tmp_path / "store", breaking) as server, credentials(server.address):
        (tmp_path / "store" / "bucket" / "folder").mkdir(parents=True)
        one = place("s3://bucket/folder/one")
        broken += [9, 9]
        one.write(b"old")
        broken.clear()
        change(one)
        assert len(broken) == 3
        assert {path.name: path.read_bytes() for path in one.parent.iterdir()} == left
