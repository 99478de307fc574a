"""Volumes in an object store are read as those on a disk, also from one that stumbles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr

from tests.formats.object_store import object_store
from tests.world import volume_at
from tomoscale.cli import main
from tomoscale.commands import clean
from tomoscale.errors import InputError, IntegrityError
from tomoscale.formats import bucket, open_volume
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work

SHAPE = (20, 24, 28)


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "name", "SECRET_ACCESS_KEY": "word", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(bucket, "RETRIES", 3)
    bucket._context.cache_clear()
    bucket._opened.cache_clear()


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4, SHAPE).astype(np.uint8)


def test_a_volume_in_a_bucket_is_that_on_the_disk(tmp_path, monkeypatch, values):
    volume_at(tmp_path / "scans" / "bone" / "labels.zarr", values)
    with object_store(tmp_path) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        volume = open_volume("s3://scans/bone/labels.zarr")
        assert (volume.shape, volume.dtype, volume.kind) == (SHAPE, np.uint8, "labels")
        assert volume.voxel_size_um == (5.0, 5.0, 5.0)
        assert volume.name == "s3://scans/bone/labels.zarr/0"
        again = pickle.loads(pickle.dumps(volume))
        np.testing.assert_array_equal(again.read(), values)
        part = (slice(3, 9), slice(0, 5), slice(20, 28))
        np.testing.assert_array_equal(volume.read(part), values[part])
        made = clean(volume, tmp_path / "cleaned.zarr", work=Work(block_shape=(16, 16, 16), progress=False))
    local = clean(open_zarr(tmp_path / "scans" / "bone" / "labels.zarr"), tmp_path / "local.zarr")
    np.testing.assert_array_equal(made.read(), local.read())
    assert not [path for path in asked if ".." in path]


def test_a_busy_server_and_dropped_connections_are_asked_again(tmp_path, monkeypatch, values):
    volume_at(tmp_path / "scans" / "labels.zarr", values)

    def failure(path, times):
        return {1: 503, 2: "drop"}.get(times) if path.endswith(("0/0/0", "zarr.json")) else None

    with object_store(tmp_path, failure) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        np.testing.assert_array_equal(open_volume("s3://scans/labels.zarr").read(), values)
    assert max(asked.count(path) for path in asked) >= 3


def test_a_server_that_never_answers_and_one_that_refuses_are_named(tmp_path, monkeypatch, values):
    volume_at(tmp_path / "scans" / "labels.zarr", values)
    for status, error, match in ((503, OSError, "does not answer"), (403, InputError, "no permission to read it")):
        with object_store(tmp_path, lambda path, times, status=status: status) as (address, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            with pytest.raises(error, match=f"s3://scans/labels.zarr.*{match}"):
                open_volume("s3://scans/labels.zarr")


def test_missing_and_damaged_chunks_are_errors(tmp_path, monkeypatch, values):
    path = volume_at(tmp_path / "scans" / "labels.zarr", values)
    (shard,) = (p for p in (path / "0" / "c").rglob("*") if p.is_file())
    content = shard.read_bytes()
    with object_store(tmp_path) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        volume = open_volume("s3://scans/labels.zarr")
        shard.write_bytes(content[:100] + bytes([content[100] ^ 4]) + content[101:])
        with pytest.raises(IntegrityError, match=r"s3://scans/labels.zarr/0 is damaged"):
            volume.read()
        shard.unlink()
        with pytest.raises(IntegrityError, match="a chunk is missing"):
            volume.read()


def test_what_is_no_volume_or_not_finished_is_refused(tmp_path, monkeypatch):
    create_volume(tmp_path / "scans" / "begun.zarr", shape=SHAPE, dtype=np.uint8, voxel_size_um=5.0).create()
    with object_store(tmp_path) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(InputError, match=r"s3://scans/begun.zarr is not finished"):
            open_volume("s3://scans/begun.zarr")
        with pytest.raises(InputError, match=r"s3://scans/nothing: there is no Zarr array or group here"):
            open_volume("s3://scans/nothing")
        with pytest.raises(InputError, match="give s3://BUCKET/PATH"):
            bucket.open_bucket("s3://scans")


@pytest.mark.parametrize("version", [2, 3])
def test_arrays_of_other_programs_are_read_with_the_voxel_size_given(tmp_path, monkeypatch, values, version):
    array = zarr.create_array(
        tmp_path / "scans" / "plain.zarr", shape=SHAPE, chunks=(8, 8, 8), dtype="u1", zarr_format=version
    )
    array[:] = values
    with object_store(tmp_path) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        volume = open_volume("s3://scans/plain.zarr", voxel_size_um=3.0)
        np.testing.assert_array_equal(volume.read(), values)
        assert volume.voxel_size_um == (3.0, 3.0, 3.0)


def test_nothing_is_written_to_an_address(tmp_path, monkeypatch, values):
    monkeypatch.chdir(tmp_path)
    source = open_zarr(volume_at(tmp_path / "labels.zarr", values))
    with pytest.raises(ValueError, match="is an address: volumes are written to file systems alone"):
        clean(source, "s3://scans/cleaned.zarr")
    assert main(["clean", "labels.zarr", "s3://scans/cleaned.zarr"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["labels.zarr"]
