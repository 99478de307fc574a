"""Reading from a bucket: few requests, every stored chunk in memory once, and what is damaged or replaced is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec, ZstdCodec

from tests.formats.object_store import credentials, running
from tomoscale import zarr_objects
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import IntegrityError
from tomoscale.formats import open_volume
from tomoscale.geometry import Halo
from tomoscale.places import place, remove_tree
from tomoscale.plan import plan_map
from tomoscale.resources import Resources
from tomoscale.step import Kernel
from tomoscale.volume import Volume, create_volume, open_zarr
from tomoscale.zarr_objects import StoredChunk, cut, stretches_of

ROOT = Path(__file__).resolve().parents[1]
PART = (slice(40, 90), slice(40, 90), slice(40, 90))


@pytest.fixture
def server(tmp_path) -> Iterator:
    with running(tmp_path / "store", lambda *one: server_failure(*one)) as found, credentials(found.address):
        yield found
    server_failure.__dict__.clear()


def server_failure(method: str, path: str, times: int) -> int | str | float | None:
    """Do before an answer what a test asks for."""
    before = getattr(server_failure, "before", None)
    return before(method, path, times) if before else None


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def stored(values: np.ndarray, shard: tuple[int, int, int], chunk: tuple[int, int, int], name: str = "v") -> Volume:
    volume = create_volume(
        f"s3://scans/{name}.zarr", shape=values.shape, dtype=values.dtype, shard_shape=shard, chunk_shape=chunk
    )
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    volume.finish({})
    return open_zarr(f"s3://scans/{name}.zarr")


def test_part_of_a_shard_takes_one_request_for_its_index_and_one_for_each_stretch(server, monkeypatch):
    # Chunks of more than 32 kB: what looks at each before it is decoded must not ask for each.
    values = noise((128, 128, 128))
    volume = stored(values, (64, 64, 64), (32, 32, 32))
    np.testing.assert_array_equal(volume.read((slice(0, 1),) * 3), values[:1, :1, :1])
    server.asked.clear()
    np.testing.assert_array_equal(volume.read(PART), values[PART])
    asked = Counter((method, path) for method, path in server.asked if "/c/" in path)
    assert set(asked.values()) == {2}
    assert len(asked) == 8
    assert {method for method, _ in asked} == {"GET"}
    monkeypatch.setattr(zarr_objects, "GAP_BYTES", 0)
    server.asked.clear()
    column = (slice(0, 64), slice(0, 64), slice(0, 32))
    np.testing.assert_array_equal(volume.read(column), values[column])
    assert len([path for _, path in server.asked if "/c/" in path]) == 1 + 4, "every second of eight chunks"


@pytest.mark.parametrize("packed", [None, BloscCodec(), ZstdCodec()])
@pytest.mark.parametrize("kind", ["index at the end", "index at the start", "no shards", "version 2"])
def test_arrays_of_other_programs_take_as_few_requests(tmp_path, server, kind, packed):
    values = noise((40, 40, 40)).astype(">u2" if packed is None else np.uint16)
    values[:16] = 0  # chunks that are not stored, and a shard of none
    path = tmp_path / "store" / "scans" / "other.zarr"
    options = {"shape": values.shape, "dtype": values.dtype, "fill_value": 0}
    if kind == "version 2":
        array = zarr.create_array(path, **options, chunks=(8, 8, 8), zarr_format=2)
    elif kind == "no shards":
        array = zarr.create_array(path, **options, chunks=(8, 8, 8), compressors=packed)
    else:
        inner = [BytesCodec(), *([packed] if packed else [])]
        sharding = ShardingCodec(chunk_shape=(8, 8, 8), codecs=inner, index_location=kind.split()[-1])
        array = zarr.create_array(
            path, **options, chunks=(16, 16, 16), serializer=sharding, compressors=None, filters=None
        )
    array[:] = values
    volume = open_volume("s3://scans/other.zarr", voxel_size_um=1.0)
    volume.read((slice(0, 1),) * 3)
    for part in ((slice(0, 40),) * 3, (slice(3, 37), slice(7, 18), slice(0, 25)), (slice(16, 32),) * 3):
        server.asked.clear()
        found = volume.read(part)
        np.testing.assert_array_equal(found, values[part])
        assert found.dtype.isnative
        asked = Counter(one for one in server.asked if "/c/" in one[1] or "." in one[1].rpartition("/")[2])
        assert max(n for (_, path), n in asked.items() if not path.endswith("zarr.json")) <= (
            2 if "index" in kind else 1
        )


PEAK = """
import json, sys
from tomoscale.volume import open_zarr

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024

volume = open_zarr("s3://scans/v.zarr")
volume.read((slice(0, 2),) * 3)
region, before = tuple(slice(*r) for r in json.loads(sys.argv[1])), memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
volume.read(region)
print(memory("VmHWM") - before)
"""


def keep(values: np.ndarray) -> np.ndarray:
    return values


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_a_read_takes_what_the_plan_says(server):
    values = noise((192, 384, 384))
    volume = stored(values, (64, 384, 384), (64, 64, 64))
    resources = Resources(memory_bytes=2**33)

    def reading(block: tuple[int, int, int], margin: int) -> int:
        kernel = Kernel("keep", keep, Halo.uniform(margin), values.dtype, 1)
        return plan_map(kernel, volume, "s3://scans/w.zarr", block_shape=block, resources=resources)._reading_bytes

    whole, shard, part = (
        [[0, 192], [0, 384], [0, 384]],
        [[64, 128], [0, 384], [0, 384]],
        [[63, 129], [0, 384], [0, 384]],
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def peak(region: list[list[int]]) -> int:
        # Each in a process of its own: an allocator keeps what was let go before.
        command = [sys.executable, "-c", PEAK, json.dumps(region)]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    said = [reading((64, 384, 384), 0), reading((64, 384, 384), 1), reading((192, 384, 384), 0)]
    assert said[1] > said[0] + 2 * 64 * 384**2, "whole chunks are got for a margin"
    # Pieces that are on their way, and what the allocator keeps of them.
    slack = 24 * 2**20
    peaks = [peak(region) for region in (shard, part, whole)]
    assert all(found < bytes_ + slack for found, bytes_ in zip(peaks, said, strict=True)), (peaks, said)


def test_a_shard_is_counted_twice_while_it_is_put(tmp_path, server):
    volume = stored(noise((64, 64, 64)), (64, 64, 64), (32, 32, 32))
    kernel = Kernel("keep", keep, Halo(), np.dtype(np.uint8), 1)
    block = {"block_shape": (64, 64, 64), "resources": Resources(memory_bytes=2**33)}
    here, there = (plan_map(kernel, volume, target, **block) for target in (tmp_path / "w.zarr", "s3://scans/w.zarr"))
    assert there._writing_bytes == here._writing_bytes + 64**3


def test_an_object_that_is_replaced_while_it_is_read_is_told(tmp_path, server):
    values = noise((64, 64, 64))
    volume = stored(values, (64, 64, 64), (32, 32, 32))
    volume.read((slice(0, 1),) * 3)
    (shard,) = (p for p in (tmp_path / "store").rglob("c/0/0/0") if p.is_file())
    content = shard.read_bytes()

    def replaced(method: str, path: str, times: int) -> None:
        if path.endswith("c/0/0/0") and times % 2 == 0:
            shard.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])

    server.counts.clear()
    server_failure.before = replaced
    with pytest.raises(OSError, match=r"s3://scans/v.zarr/0/c/0/0/0 was replaced while it was read: read it again"):
        volume.read((slice(0, 32), slice(0, 64), slice(0, 64)))


@pytest.mark.parametrize("sharded", [True, False])
def test_a_chunk_that_is_stored_in_far_more_than_it_holds_is_not_got(tmp_path, server, sharded):
    path, chunks = tmp_path / "store" / "scans" / "v.zarr", {"shards": (8, 8, 8), "chunks": (4, 4, 4)}
    chunks = chunks if sharded else {"chunks": (8, 8, 8)}
    array = zarr.create_array(path, shape=(8, 8, 8), dtype="u1", compressors=None, **chunks)
    array[:] = noise((8, 8, 8))
    file = path / "c" / "0" / "0" / "0"
    # Every chunk is said to be the whole object, or the only one is.
    entries = np.tile(np.array([0, 10**6], "<u8"), 8).tobytes()
    index = entries + crc32c(entries).to_bytes(4, "little")
    file.write_bytes(bytes(10**6) + (index if sharded else b""))
    with pytest.raises(IntegrityError, match=r"c/0/0/0 is damaged: a chunk of \d+ bytes is stored in 1000000; compute"):
        open_volume("s3://scans/v.zarr", voxel_size_um=1.0).read()


@pytest.mark.parametrize("damage", ["index", "beyond", "short", "empty"])
@pytest.mark.parametrize("region", [(slice(0, 64),) * 3, (slice(0, 32),) * 3])
def test_a_damaged_shard_is_named(tmp_path, server, damage, region):
    volume = stored(noise((64, 64, 64)), (64, 64, 64), (32, 32, 32))
    (shard,) = (p for p in (tmp_path / "store").rglob("c/0/0/0") if p.is_file())
    content, index = shard.read_bytes(), 8 * 16 + 4
    shard.write_bytes(
        {
            "index": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
            "beyond": content[-index:],
            "short": content[-index + 1 :],
            "empty": b"",
        }[damage]
    )
    match = {"index": "its checksum", "beyond": "names a chunk up to byte", "short": "131 bytes", "empty": "0 bytes"}
    with pytest.raises(IntegrityError, match=rf"s3://scans/v.zarr/0/c/0/0/0 is damaged: .*{match[damage]}.*; compute"):
        volume.read(region)


def test_an_array_made_anew_with_other_chunks_and_again_as_it_was_is_read_and_written(server):
    shapes = [((16, 16, 16), (8, 8, 8)), ((32, 32, 32), (16, 16, 16)), ((16, 16, 16), (8, 8, 8))]
    for number, (shard, chunk) in enumerate(shapes):
        values = noise((20, 24, 28)) + np.uint8(number)
        remove_tree(place("s3://scans/v.zarr"))
        np.testing.assert_array_equal(stored(values, shard, chunk).read(), values)


@given(
    gaps=st.lists(st.integers(-5, 40), max_size=8),
    lengths=st.lists(st.integers(0, 30), min_size=8, max_size=8),
    piece=st.integers(1, 50),
    start=st.integers(0, 10),
)
def test_chunks_cut_out_of_pieces_are_those_of_the_whole(gaps, lengths, piece, start):
    content, chunks, at = noise((1000,)).tobytes(), [], start
    for gap, length in zip(gaps, lengths, strict=False):
        at = max(start, at + gap)
        chunks.append(StoredChunk(at, at + length, str(at)))
        at += length
    pieces = (content[p : p + piece] for p in range(start, len(content), piece))
    found = place("s3://scans/o")
    assert isinstance(found, BucketPath)
    cuts = list(cut(found, pieces, start, sorted(chunks)))
    assert [c for c, _ in cuts] == sorted(chunks)
    assert all(part == content[c.start : c.stop] for c, part in cuts)
    assert sum(map(len, stretches_of(sorted(chunks)))) == len(chunks)
    beyond = [StoredChunk(990, 1001, "beyond")]
    with pytest.raises(OSError, match=r"s3://scans/o: the object store sent less than it said"):
        list(cut(found, iter([content[900:]]), 900, beyond))
