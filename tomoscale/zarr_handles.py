"""Open Zarr arrays, kept in each process until their metadata change.

Why tensorstore reads and writes, and how (measured on 2 cores):

- On a quiet machine, 1 GiB of uint8 in 512^3 shards of 64^3 chunks, MiB/s written / read: zarr-python 327 / 500, its Rust
  pipeline zarrs 502 / 979, tensorstore 734 / 1437; ``benchmarks/storage.py`` repeats it. zarrs also writes files in
  place, so that a killed writer leaves half a shard. Here 40 of 40 shards were whole after a SIGKILL during writing.
- Its local writes go to another name, are synced and renamed. Only ``file_io_locking: none`` does so safely: with the
  default, all writers of a shard share the name ``0.__lock`` and do not truncate it, so that what a killed writer left
  there ends up behind the next, shorter, shard, which then cannot be read. Without locks the name is unique. Locks
  would be of no use: one block owns a shard.
- ``durable`` syncs every shard and its folder before the block counts as done (0 to 13 % slower). It is the default, because the ledger
  says "done" once: what a power loss takes away afterwards would be found only when it is read.
- ``fill_missing_data_reads: false`` turns a chunk that is not there, whole shards included, into an error.
- In a bucket a shard is one object, put whole by tensorstore, which asks busy servers again; what is read there is got by
  `tomoscale.zarr_objects` and only decoded by tensorstore.
- tensorstore keeps threads, so a process forked after its use cannot use it (it aborts): we say so instead.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tensorstore

from tomoscale import bucket_client
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError, PlanError
from tomoscale.geometry import Shape
from tomoscale.ome import LEVEL, Kind
from tomoscale.places import Place
from tomoscale.zarr_chunks import StoredChunks
from tomoscale.zarr_errors import translated
from tomoscale.zarr_layout import check_array
from tomoscale.zarr_metadata import read_node
from tomoscale.zarr_objects import StoredObjects

THREADS = min(8, len(os.sched_getaffinity(0)))
"""Chunks decoded or encoded at once in a process; each holds one chunk, stored and decoded."""
BUCKET_LOOK_SECONDS = 1.0
"""An array in a bucket is not asked more often whether it was replaced."""


@dataclass(frozen=True)
class ZarrAddress:
    """Where a Zarr array is, and what is known of it.

    Attributes
    ----------
    directory : Path or BucketPath
        Of the group, or of the array where it stands alone; a path is absolute.
    inside : str
        Path of the array in it: "0" is the full resolution, "1" a coarser level; "" where it stands alone.
    shape : (Z, Y, X)
    dtype : numpy dtype
    chunk_shape : (z, y, x)
        Inner chunk: what is decoded as a whole.
    shard_shape : (z, y, x)
        What is written as a whole, one file each; equal to the chunk where there are no shards.
    kind : str
        "grey", "labels" or "mask".
    complete : bool
        Every chunk was written, so one that is missing is an error, not zeros.
    writable : bool
        Made by us and not finished.
    durable : bool
        Sync every shard to the disk as it is written.
    version : int
        Of the Zarr format, 3 or 2.
    leading : int
        Axes of length one before (z, y, x).
    """

    directory: Place
    inside: str
    shape: Shape
    dtype: np.dtype[Any]
    chunk_shape: Shape
    shard_shape: Shape
    kind: Kind = "grey"
    complete: bool = False
    writable: bool = False
    durable: bool = True
    version: int = 3
    leading: int = 0

    @property
    def name(self) -> str:
        """Path of the volume, with the array's where it is not the full resolution."""
        return str(self.directory if self.inside in ("", LEVEL) else self.folder)

    @property
    def folder(self) -> Place:
        """Folder of the array."""
        return self.directory / self.inside

    @property
    def metadata_file(self) -> Place:
        """File that says what the array is."""
        return self.folder / ("zarr.json" if self.version == 3 else ".zarray")


def opened(array: ZarrAddress) -> tuple[Any, StoredChunks | StoredObjects]:
    """Open handle of an array and the look at its files before they are decoded, kept until its metadata file changes."""
    if _forked:
        raise RuntimeError(
            f"{array.name}: this process was forked from one that had read volumes, whose threads it lacks: start processes "
            'with "spawn" or "forkserver" (multiprocessing.get_context)'
        )
    version = _version(array.metadata_file)
    if version is None:
        look_again()
        raise InputError(f"{array.name} does not exist: create it, run the step that makes it, or mend the path")
    return _open(array, version)


def look_again() -> None:
    """Forget which versions of arrays in buckets were seen a moment ago: one may have been made or replaced since."""
    _version_in_bucket.cache_clear()


@lru_cache(maxsize=64)
def _version_in_bucket(file: BucketPath, moment: int) -> str | None:
    """Version of an object, asked for once in a moment: for small blocks that is half of all requests else."""
    stored = file.stored()
    return None if stored is None else stored.version


def _version(file: Place) -> str | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        if isinstance(file, BucketPath):
            return _version_in_bucket(file, int(time.monotonic() / BUCKET_LOOK_SECONDS))
        stat = file.stat()
    except FileNotFoundError:
        return None
    return f"{stat.st_ino} {stat.st_mtime_ns}"


@lru_cache(maxsize=64)
def _open(array: ZarrAddress, version: str) -> tuple[Any, StoredChunks | StoredObjects]:
    global _used
    _used = True
    folder = array.folder
    node = read_node(folder)
    if node is None or not node.is_array:
        raise InputError(f"{array.name} is no array any more: mend the path")
    layout = check_array(node)
    spec: dict[str, Any] = {
        "driver": "zarr3" if array.version == 3 else "zarr",
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": not array.complete,
    }
    context = _context(array.durable)
    chunks: StoredChunks | StoredObjects
    with translated(array.name, "", writing=False):
        if isinstance(folder, BucketPath):
            chunks = StoredObjects(folder, layout, node.metadata, spec, context)
            spec |= {"kvstore": folder.bucket.spec(folder.key)}
            # Of its own, since the library keeps there what it read of a place, and takes an array that was made anew, and then
            # again as it was, for one that changes under it. Opened by a request of its own: where many puts were the first
            # requests, some waited for a minute.
            context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}}, context)
        else:
            chunks = StoredChunks(folder, layout)
            spec |= {"kvstore": {"driver": "file", "path": f"{folder}/"}, "recheck_cached_metadata": "open"}
        store = tensorstore.open(spec, context=context).result()
    found: tuple[Any, ...] = (tuple(store.shape)[array.leading :], store.dtype.numpy_dtype)
    wanted: tuple[Any, ...] = (array.shape, array.dtype)
    if array.writable:
        stored = store.chunk_layout
        found = (*found, tuple(stored.read_chunk.shape or ()), tuple(stored.write_chunk.shape or ()))
        wanted = (*wanted, array.chunk_shape, array.shard_shape)
    if found != wanted:
        raise PlanError(
            f"{array.name} is described with shape, dtype (and, to write, chunk and shard) {_listed(wanted)}, but on disk it has "
            f"{_listed(found)}: it was made by another command; give another output, or remove it"
        )
    return store, chunks


@lru_cache(maxsize=2)
def _context(durable: bool) -> Any:
    # No cache: blocks are read once, and what another process writes must be seen. Few threads: memory stays predictable.
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": THREADS},
            "file_io_concurrency": {"limit": THREADS},
            "file_io_sync": durable,
            "file_io_locking": {"mode": "none"},
            "s3_request_concurrency": {"limit": 2 * THREADS},
            "s3_request_retries": {
                "max_retries": bucket_client.RETRIES,
                "initial_delay": f"{bucket_client.FIRST_PAUSE_SECONDS}s",
                "max_delay": f"{bucket_client.LONGEST_PAUSE_SECONDS}s",
            },
        }
    )


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(str(v) for v in values)


_used = False
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)
