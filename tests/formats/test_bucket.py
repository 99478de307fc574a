"""Volumes in an object store are read as those on a disk, also from one that stumbles."""

from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.formats.object_store import object_store, running
from tests.world import volume_at
from tomoscale import bucket_client, bucket_conditions, zarr_handles, zarr_objects
from tomoscale.bucket_path import BucketPath
from tomoscale.cli import main
from tomoscale.commands import clean
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.formats import open_volume
from tomoscale.places import place, remove_tree
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work

SHAPE = (20, 24, 28)


@pytest.fixture(autouse=True)
def few_tries(monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "name", "SECRET_ACCESS_KEY": "word", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(bucket_client, "RETRIES", 3)
    bucket_client.client_of.cache_clear()
    zarr_handles._open.cache_clear()
    zarr_handles._context.cache_clear()
    yield
    bucket_client.client_of.cache_clear()
    zarr_handles._context.cache_clear()


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
        assert volume.name == "s3://scans/bone/labels.zarr"
        again = pickle.loads(pickle.dumps(volume))
        np.testing.assert_array_equal(again.read(), values)
        part = (slice(3, 9), slice(0, 5), slice(20, 28))
        np.testing.assert_array_equal(volume.read(part), values[part])
        made = clean(volume, tmp_path / "cleaned.zarr", work=Work(block_shape=(16, 16, 16), progress=False))
    local = clean(open_zarr(tmp_path / "scans" / "bone" / "labels.zarr"), tmp_path / "local.zarr")
    np.testing.assert_array_equal(made.read(), local.read())
    assert not [path for _, path in asked if ".." in path]
    assert b"word" not in pickle.dumps(volume)


def test_a_busy_server_and_dropped_connections_are_asked_again(tmp_path, monkeypatch, values):
    volume_at(tmp_path / "scans" / "labels.zarr", values)

    def failure(method, path, times):
        return {1: 503, 2: "drop"}.get(times) if path.endswith(("0/0/0", "zarr.json")) else None

    with object_store(tmp_path, failure) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        np.testing.assert_array_equal(open_volume("s3://scans/labels.zarr").read(), values)
    assert max(asked.count(one) for one in asked) >= 3


def test_a_server_that_never_answers_and_one_that_refuses_are_named(tmp_path, monkeypatch, values):
    volume_at(tmp_path / "scans" / "labels.zarr", values)
    for status, error, match in ((503, OSError, "is busy and refused 4 tries"), (403, InputError, "no permission")):
        with object_store(tmp_path, lambda method, path, times, status=status: status) as (address, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            with pytest.raises(error, match=f"s3://scans/labels.zarr.*{match}"):
                open_volume("s3://scans/labels.zarr")


def shard_of(path: Path) -> Path:
    (shard,) = (p for p in (path / "0" / "c").rglob("*") if p.is_file())
    return shard


def test_missing_and_damaged_chunks_are_errors(tmp_path, monkeypatch, values):
    shard = shard_of(volume_at(tmp_path / "scans" / "labels.zarr", values))
    content = shard.read_bytes()
    with object_store(tmp_path) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        volume = open_volume("s3://scans/labels.zarr")
        shard.write_bytes(content[:100] + bytes([content[100] ^ 4]) + content[101:])
        with pytest.raises(IntegrityError, match=r"s3://scans/labels.zarr is damaged"):
            volume.read()
        shard.unlink()
        with pytest.raises(IntegrityError, match="or a chunk in it is missing"):
            volume.read()


def test_a_chunk_that_says_it_unpacks_to_more_is_not_decoded(tmp_path, monkeypatch, values):
    shard = shard_of(volume_at(tmp_path / "scans" / "labels.zarr", values))
    content = shard.read_bytes()
    with object_store(tmp_path) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        volume = open_volume("s3://scans/labels.zarr")
        shard.write_bytes(content[:4] + struct.pack("<I", 2**31 - 16) + content[8:])
        with pytest.raises(IntegrityError, match=r"says that it unpacks to 2147483632 bytes"):
            volume.read()


@pytest.mark.parametrize("most_bytes", [2**25, 10])
def test_a_shard_that_is_read_whole_takes_one_request(tmp_path, monkeypatch, values, most_bytes):
    described = {"shape": SHAPE, "dtype": np.uint8, "voxel_size_um": 5.0, "kind": "labels"}
    volume = create_volume(
        tmp_path / "scans" / "labels.zarr", **described, shard_shape=(16, 16, 16), chunk_shape=(8, 8, 8)
    )
    volume.create()
    volume.write(tuple(slice(0, n) for n in SHAPE), values)
    volume.finish({})
    monkeypatch.setattr(zarr_objects, "MOST_BYTES", most_bytes)
    with object_store(tmp_path) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = open_volume("s3://scans/labels.zarr")
        before = len(asked)
        np.testing.assert_array_equal(found.read(), values)
        shards = [path for method, path in asked[before:] if method == "GET" and "/c/" in path]
        assert len(shards) == len(set(shards)) or most_bytes == 10
        # One shard whole, and parts of its neighbours.
        part = (slice(0, 17), slice(0, 18), slice(0, 20))
        np.testing.assert_array_equal(found.read(part), values[part])


def test_an_array_that_was_made_again_is_read_as_it_is(tmp_path, monkeypatch, values):
    with object_store(tmp_path / "store") as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for now in (values, values[::-1].copy(), values):
            remove_tree(place("s3://scans/labels.zarr"))
            volume = create_volume(
                "s3://scans/labels.zarr", shape=SHAPE, dtype=np.uint8, shard_shape=(16, 16, 16), chunk_shape=(8, 8, 8)
            )
            volume.create()
            volume.write(tuple(slice(0, n) for n in SHAPE), now)
            volume.finish({})
            np.testing.assert_array_equal(volume.read(), now)
            np.testing.assert_array_equal(open_zarr("s3://scans/labels.zarr").read(), now)


def test_what_is_no_volume_or_not_finished_is_refused(tmp_path, monkeypatch):
    create_volume(tmp_path / "scans" / "begun.zarr", shape=SHAPE, dtype=np.uint8, voxel_size_um=5.0).create()
    with object_store(tmp_path) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(InputError, match=r"s3://scans/begun.zarr is not finished"):
            open_volume("s3://scans/begun.zarr")
        with pytest.raises(InputError, match=r"s3://scans/nothing: there is no Zarr array or group here"):
            open_volume("s3://scans/nothing")


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
        before = volume.identity()
        array[0, 0, 0] = 7
        assert open_volume("s3://scans/plain.zarr", voxel_size_um=3.0).identity() != before


def test_what_no_bucket_can_keep_is_refused_before_any_work(tmp_path, monkeypatch, capsys, values):
    monkeypatch.chdir(tmp_path)
    volume_at(tmp_path / "labels.zarr", values)
    for command in (
        "clean labels.zarr gs://scans/cleaned.zarr",
        "measure labels.zarr s3://scans/results",
        "export labels.zarr s3://scans/part.tif",
        "object-table labels.zarr s3://scans/table.csv",
    ):
        assert main(command.split()) == 2
        assert "is an address: volumes are written to s3://BUCKET/PATH too" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["labels.zarr"]


def test_an_address_is_no_path_by_mistake():
    found = place("s3://scans/a/b.zarr")
    assert isinstance(found, BucketPath)
    assert str(found / "" / "0/.tomoscale") == "s3://scans/a/b.zarr/0/.tomoscale"
    assert [str(above) for above in found.parents] == ["s3://scans/a", "s3://scans/"]
    assert str(found.with_suffix(".histogram")) == "s3://scans/a/b.histogram"
    with pytest.raises(TypeError):
        Path(found)


def test_credentials_come_from_the_users_file_and_go_nowhere(tmp_path, monkeypatch, values):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = filed\naws_secret_access_key = secretword\n"
        "[lab]\naws_access_key_id = lab\naws_secret_access_key = secretword\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    source = open_zarr(volume_at(tmp_path / "labels.zarr", values))
    with running(tmp_path / "store") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        made = clean(source, "s3://scans/clean.zarr", work=Work(progress=False))
        np.testing.assert_array_equal(made.read(), clean(source, tmp_path / "clean.zarr").read())
        assert server.names == {"lab"}
        assert b"secretword" not in pickle.dumps(made)
    assert not [p for p in (tmp_path / "store").rglob("*") if p.is_file() and b"secretword" in p.read_bytes()]


def test_without_permission_nothing_is_begun(tmp_path, monkeypatch, capsys, values):
    volume_at(tmp_path / "labels.zarr", values)
    monkeypatch.setattr(bucket_conditions, "_kept", set())
    with object_store(tmp_path, lambda method, path, times: 403 if method == "PUT" else None) as (address, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert main(["clean", str(tmp_path / "labels.zarr"), "s3://scans/clean.zarr"]) == 4
        error = capsys.readouterr().err
        assert "s3://scans/clean.zarr/." in error
        assert ".probe: no permission (AccessDenied): check AWS_ACCESS_KEY_ID" in error
        assert all(path.endswith(".probe") for method, path in asked if method == "PUT")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(PlanError, match=r"need obstore: pip install 'tomoscale\[s3\]'"):
        open_volume("s3://scans/labels.zarr")
