"""A Zarr array on a file system or in a bucket: where the voxels of a `Volume` are.

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
- In a bucket a shard is one object, put whole; busy servers and lost connections are asked again by tensorstore.
- tensorstore keeps threads, so a process forked after its use cannot use it (it aborts): we say so instead.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from tomoscale.bucket_client import RETRIES
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.geometry import AXES, Grid, Region, Shape, region_shape
from tomoscale.ome import LEVEL, STATE, Kind
from tomoscale.places import Place
from tomoscale.zarr_chunks import StoredChunks
from tomoscale.zarr_creation import create_folder, create_objects
from tomoscale.zarr_errors import translated
from tomoscale.zarr_layout import check_array
from tomoscale.zarr_metadata import array_metadata, group_metadata, read_node, write_node
from tomoscale.zarr_objects import StoredObjects

THREADS = min(8, len(os.sched_getaffinity(0)))
"""Chunks decoded or encoded at once in a process; each holds one chunk, stored and decoded."""
BUCKET_LOOK_SECONDS = 1.0
"""An array in a bucket is not asked more often whether it was replaced."""


@dataclass(frozen=True)
class ZarrArray:
    """Address of a Zarr array and what is known of it; opened on first use in each process.

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
    def exists(self) -> bool:
        """Whether the array is on disk, finished or not."""
        return _metadata_file(self).is_file()

    def read(self, region: Region) -> np.ndarray:
        """Values of a region, in C order.

        Raises
        ------
        IntegrityError
            If a chunk is damaged or missing.
        InputError
            If there is no such array, no permission to read it, or a chunk leads out of it.
        """
        store, chunks = _opened(self)
        store = chunks.looked_at(store, (slice(0, 1),) * self.leading + region)
        with translated(self.name, self._where(region), writing=False):
            values = store[(0,) * self.leading + region].read(order="C").result()
        # The type system of the reader ends here: it has native byte order only.
        return np.ascontiguousarray(values)

    def write(self, region: Region, values: np.ndarray) -> None:
        """Write whole shards, each atomically.

        Raises
        ------
        ValueError
            If the region is not made of whole shards, or `values` does not fit it or the dtype.
        OSError
            If the file system refuses (full, read-only, no permission), with its errno.
        """
        self._check_write(region, values)
        store, chunks = _opened(self)
        chunks.check_links(self._shards(region))
        try:
            self._write(store, region, values)
        except InputError:
            # A shard that reaches past the end of the array is never covered whole, so its old file is read and merged,
            # and one that is damaged cannot be. Only then it goes first: whoever writes it a second time, because it was
            # taken for dead, must not leave nothing when it ends in between.
            clipped = [
                shard
                for shard in self._shards(region)
                if any((p + 1) * s > n for p, s, n in zip(shard, self.shard_shape, self.shape, strict=True))
            ]
            old = [file for file in map(self._shard_file, clipped) if file.is_file()]
            if not old:
                raise
            for file in old:
                file.unlink(missing_ok=True)
            self._write(store, region, values)

    def create(self, attributes: dict[str, Any]) -> None:
        """Put the metadata of an array without voxels on disk, at once or not at all.

        Parameters
        ----------
        attributes : dict
            Of the group that holds the full resolution, which is made with it; of any other array its own.

        Raises
        ------
        PlanError
            If something is in the way.
        """
        look_again()
        target = self._described
        array = array_metadata(self.shape, self.dtype, self.kind, self.chunk_shape, self.shard_shape, self.version)
        nodes = [("", array, attributes)]
        if self.inside == LEVEL:
            nodes = [("", group_metadata(self.version), attributes), (LEVEL, array, {})]
        if isinstance(target, BucketPath):
            create_objects(target, nodes)
        else:
            create_folder(target, nodes)

    def state(self) -> dict[str, Any] | None:
        """Our own state of the array; None if the volume is not ours, or not there.

        It is in the attributes of the group that holds the full resolution, and of any other array in its own.
        """
        node = read_node(self._described)
        state = node.attributes.get(STATE) if node else None
        return state if isinstance(state, dict) else None

    def finish(self, record: dict[str, Any]) -> None:
        """Write into the metadata that all voxels are there, and what made them.

        Raises
        ------
        IntegrityError
            If a shard is not there.
        """
        grid = Grid(self.shape, self.shard_shape)
        there = self._stored_shards()
        for number in range(len(grid)):
            position = grid.position(number)
            if not there(position):
                raise IntegrityError(
                    f"{self.name} is not complete: {self._shard_file(position)} ({_words(grid.region(number))}) is missing"
                )
        folder = self._chunk_folder
        for leftover in folder.glob("*/*/*.__lock") if isinstance(folder, Path) else ():
            leftover.unlink(missing_ok=True)
        node = read_node(self._described)
        assert node is not None
        state = {**(self.state() or {}), "finished": True, "record": record}
        write_node(self._described, node.metadata, {**node.attributes, STATE: state})

    def identity(self) -> dict[str, Any]:
        """Small JSON that changes when the voxels change.

        Of a finished volume of ours it is a digest of its metadata, which record what the voxels are; of any other
        array a digest of the names, sizes and times of its files.
        """
        state = self.state()
        digest = hashlib.sha256(_metadata_file(self).read_bytes())
        if state is not None and state.get("finished"):
            digest.update(json.dumps(state, sort_keys=True).encode())
        else:
            for line in sorted(_stats(self.folder, "")):
                digest.update(line.encode())
        return {"volume": self.directory.name, "array": self.inside, "sha256": digest.hexdigest()[:32]}

    def layout_digest(self) -> str:
        """Digest of what the array's metadata say, without attributes: shape, type, chunks and how they are encoded."""
        node = read_node(self.folder)
        layout = {} if node is None else {k: v for k, v in node.metadata.items() if k != "attributes"}
        return hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()[:32]

    def _write(self, store: Any, region: Region, values: np.ndarray) -> None:
        with translated(self.name, self._where(region), writing=True):
            # Waited for here, so the values may be read in place: without that they are copied whole first.
            store[region].write(values, can_reference_source_data_indefinitely=True).result()

    @property
    def _described(self) -> Place:
        """Folder whose attributes hold our state."""
        return self.directory if self.inside == LEVEL else self.folder

    @property
    def _chunk_folder(self) -> Place:
        return self.folder / "c" if self.version == 3 else self.folder

    def shard_files(self, region: Region) -> list[Place]:
        """Files of the shards that hold a region."""
        return [self._shard_file(position) for position in self._shards(region)]

    def _shard_file(self, position: tuple[int, ...]) -> Place:
        return self._chunk_folder / "/".join(map(str, position))

    def _stored_shards(self) -> Callable[[tuple[int, ...]], bool]:
        """What tells whether there is a shard: in a bucket all are listed at once."""
        folder = self._chunk_folder
        if not isinstance(folder, BucketPath):
            return lambda position: self._shard_file(position).is_file()
        names = {name for name, _ in folder.below()}
        return lambda position: "/".join(map(str, position)) in names

    def _shards(self, region: Region) -> Iterator[tuple[int, ...]]:
        axes = zip(region, self.shard_shape, strict=True)
        return itertools.product(*(range(r.start // s, -(-r.stop // s)) for r, s in axes))

    def _where(self, region: Region) -> str:
        return f" ({_words(region)} of {self.name})"

    def _check_write(self, region: Region, values: np.ndarray) -> None:
        if not self.writable:
            raise ValueError(f"{self.name} was opened for reading: only a volume of create_volume is written to")
        if values.shape != region_shape(region) or values.dtype != self.dtype:
            raise ValueError(
                f"{self.name}: values are {values.shape} {values.dtype} but the region {_words(region)} takes "
                f"{region_shape(region)} {self.dtype}; nothing is cast silently"
            )
        for axis, r, shard, n in zip(AXES, region, self.shard_shape, self.shape, strict=True):
            if r.start % shard or (r.stop % shard and r.stop != n):
                raise ValueError(
                    f"{self.name}: the region {_words(region)} is not made of whole shards {self.shard_shape} on axis {axis}: "
                    "two writers of one shard would lose data"
                )


def _stats(folder: Place, prefix: str) -> Iterator[str]:
    if isinstance(folder, BucketPath):
        yield from (f"{name} {stored.size} {stored.version}\n" for name, stored in folder.below())
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _stats(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                stat = entry.stat()
                yield f"{prefix}{entry.name} {stat.st_size} {stat.st_mtime_ns}\n"


def _metadata_file(array: ZarrArray) -> Place:
    return array.folder / ("zarr.json" if array.version == 3 else ".zarray")


def _opened(array: ZarrArray) -> tuple[Any, StoredChunks | StoredObjects]:
    """Open handle of an array and the look at its files before they are decoded, kept until its metadata file changes."""
    if _forked:
        raise RuntimeError(
            f"{array.name}: this process was forked from one that had read volumes, whose threads it lacks: start processes "
            'with "spawn" or "forkserver" (multiprocessing.get_context)'
        )
    version = _version(_metadata_file(array))
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
def _open(array: ZarrArray, version: str) -> tuple[Any, StoredChunks | StoredObjects]:
    global _used
    _used = True
    folder = array.folder
    node = read_node(folder)
    if node is None or not node.is_array:
        raise InputError(f"{array.name} is no array any more: mend the path")
    layout = check_array(node)
    spec = {
        "driver": "zarr3" if array.version == 3 else "zarr",
        "kvstore": folder.bucket.spec(folder.key)
        if isinstance(folder, BucketPath)
        else {"driver": "file", "path": f"{folder}/"},
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": not array.complete,
        "recheck_cached_metadata": "open",
    }
    context = _context(array.durable)
    file = _metadata_file(array)
    chunks: StoredChunks | StoredObjects = (
        StoredObjects(folder, layout, spec, context, (file.name, file.read_bytes()))
        if isinstance(folder, BucketPath)
        else StoredChunks(folder, layout)
    )
    with translated(array.name, "", writing=False):
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
            "s3_request_retries": {"max_retries": RETRIES, "initial_delay": "200ms", "max_delay": "8s"},
        }
    )


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(str(v) for v in values)


def _words(region: Region) -> str:
    return ", ".join(f"{a} {r.start}:{r.stop}" for a, r in zip(AXES, region, strict=True))


_used = False
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)
