"""A Zarr array on a file system or in a bucket: where the voxels of a `Volume` are (`tomoscale.zarr_handles` opens it)."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError, IntegrityError
from tomoscale.geometry import AXES, Grid, Region, region_shape
from tomoscale.ome import LEVEL, STATE
from tomoscale.places import Place
from tomoscale.zarr_creation import create_folder, create_objects
from tomoscale.zarr_errors import translated
from tomoscale.zarr_handles import ZarrAddress, look_again, opened
from tomoscale.zarr_metadata import array_metadata, group_metadata, read_node, write_node


@dataclass(frozen=True)
class ZarrArray(ZarrAddress):
    """A Zarr array that is opened on first use in each process."""

    @property
    def exists(self) -> bool:
        """Whether the array is on disk, finished or not."""
        return self.metadata_file.is_file()

    def read(self, region: Region) -> np.ndarray:
        """Values of a region, in C order.

        Raises
        ------
        IntegrityError
            If a chunk is damaged or missing.
        InputError
            If there is no such array, no permission to read it, or a chunk leads out of it.
        """
        store, chunks = opened(self)
        decoding = partial(translated, self.name, self._where(region), writing=False, begun=self.writable)
        values = chunks.read(store, (slice(0, 1),) * self.leading + region, decoding)
        # The type system of the reader ends here: it has native byte order only.
        return np.ascontiguousarray(values[(0,) * self.leading])

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
        store, chunks = opened(self)
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
        digest = hashlib.sha256(self.metadata_file.read_bytes())
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


def _words(region: Region) -> str:
    return ", ".join(f"{a} {r.start}:{r.stop}" for a, r in zip(AXES, region, strict=True))
