"""A bucket whose server does not put objects under conditions is refused before anything is written there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.formats.object_store import Conditions, credentials, object_store
from tests.world import volume_at
from tomoscale import bucket_conditions, lease
from tomoscale.audit import verify
from tomoscale.bucket_conditions import refuse_unconditional
from tomoscale.bucket_path import BucketPath
from tomoscale.cli import main
from tomoscale.ledger import Ledger
from tomoscale.places import place
from tomoscale.volume import create_volume


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch) -> None:
    """Of servers: another test may have had one at the same port."""
    monkeypatch.setattr(bucket_conditions, "_kept", set())


@pytest.fixture
def labels(tmp_path) -> str:
    values = np.random.default_rng(3).integers(0, 4, (20, 24, 28)).astype(np.uint8)
    return str(volume_at(tmp_path / "labels.zarr", values))


def stored(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file()]


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_a_condition_is_refused_and_nothing_is_left_there(tmp_path, capsys, labels, condition):
    conditions: Conditions = "no If-Match" if condition == "If-Match" else "no If-None-Match"
    with object_store(tmp_path / "store", conditions=conditions) as (address, asked), credentials(address):
        assert main(["clean", labels, "s3://scans/clean.zarr", "--quiet"]) == 4
        assert not stored(tmp_path / "store")
        assert all(path.endswith(".probe") for method, path in asked if method == "PUT")
    error = capsys.readouterr().err
    assert f"s3://scans/clean.zarr cannot be written safely: {address} does not keep the condition {condition}" in error
    assert "give an output on a file system" in error


def test_a_record_and_a_begun_output_are_refused_too(tmp_path, capsys, labels):
    with object_store(tmp_path / "store") as (address, _), credentials(address):
        assert main(["clean", labels, "s3://scans/clean.zarr", "--quiet"]) == 0
    with object_store(tmp_path / "store", conditions="no If-Match") as (address, asked), credentials(address):
        assert main(["clean", labels, "s3://scans/clean.zarr", "--quiet"]) == 4
        assert all(path.endswith(".probe") for method, path in asked if method == "PUT")
    assert "clean.zarr/0/.tomoscale cannot be written safely" in capsys.readouterr().err


def test_a_server_is_tried_once_in_a_process(tmp_path):
    with object_store(tmp_path / "store") as (address, asked), credentials(address):
        folder = place("s3://scans/out")
        assert isinstance(folder, BucketPath)
        refuse_unconditional(folder)
        assert not stored(tmp_path / "store")
        before = len(asked)
        refuse_unconditional(folder / "other")
        assert len(asked) == before


def test_answers_that_are_lost_are_no_fault_of_the_conditions(tmp_path):
    def losing(method: str, path: str, times: int) -> str | None:
        return "lose" if method == "PUT" and times in (1, 6) else None

    with object_store(tmp_path / "store", losing) as (address, _), credentials(address):
        folder = place("s3://scans/out")
        assert isinstance(folder, BucketPath)
        refuse_unconditional(folder)


def test_a_probe_that_a_killed_run_left_is_in_nobodys_way(tmp_path, labels):
    with object_store(tmp_path / "store") as (address, _), credentials(address):
        left = tmp_path / "store" / "scans" / "clean.zarr" / ".0123456789ab.probe"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"x")
        assert main(["clean", labels, "s3://scans/clean.zarr", "--quiet"]) == 0
        assert verify(place("s3://scans/clean.zarr"))["finished"]


@pytest.mark.parametrize("conditions", ["kept", "bare"])
def test_a_shard_that_reaches_past_the_end_is_written_again(tmp_path, conditions):
    # As a run does that was killed between writing a block and recording it; the old shard is read and merged.
    values = np.random.default_rng(4).integers(0, 9, (5, 20, 20)).astype(np.uint8)
    with object_store(tmp_path / "store", conditions=conditions) as (address, _), credentials(address):
        volume = create_volume(
            "s3://scans/v.zarr", shape=values.shape, dtype=np.uint8, shard_shape=(16, 16, 16), chunk_shape=(8, 8, 8)
        )
        volume.create()
        whole = (slice(0, 5), slice(0, 20), slice(0, 20))
        volume.write(whole, values)
        volume.write(whole, values[::-1].copy())
        np.testing.assert_array_equal(volume.read(), values[::-1])


def test_a_lease_is_renewed_where_etags_are_compared_without_quotes(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BUCKET_SIGN_SECONDS", 0.0)
    with object_store(tmp_path / "store", conditions="bare") as (address, _), credentials(address):
        ledger = Ledger.start(place("s3://scans/run"), {"step": {"opening": {}}}, 10)
        for _ in range(3):
            ledger.renew()
        found = place("s3://scans/object")
        assert isinstance(found, BucketPath)
        version = found.create(b"first")
        assert version is not None
        assert found.update(b"second", version) is not None
        assert found.update(b"third", version) is None
        assert found.read_bytes() == b"second"
        ledger.release()
        assert Ledger.start(place("s3://scans/run"), {"step": {"opening": {}}}, 10).lease is not None
