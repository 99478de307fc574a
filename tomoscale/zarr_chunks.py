"""What is asked of the files of chunks before they are decoded: where they lie, and how much they unpack to.

The reader follows links wherever they lead, waits for pipes, and gives a blosc block the memory its head asks for (all
other codecs are unpacked no further than to the size of a chunk). Looking takes 1 to 3 µs a chunk, decoding one of 64^3
random bytes 470 (measured on a loaded machine of 2 cores).
"""

from __future__ import annotations

import itertools
import math
import os
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError, IntegrityError
from tomoscale.zarr_layout import Layout, ShardIndex

HEAD = struct.Struct("<4xI8x")
"""Head of a blosc block, with the bytes it unpacks to."""
_SLACK_BYTES = 64
"""A checksum may be packed with the voxels."""


@dataclass(frozen=True)
class StoredChunks:
    """Files of the chunks of an array.

    Attributes
    ----------
    folder : Path
    layout : Layout
    root : str
        Resolved folder, inside which all files must lie.
    """

    folder: Path
    layout: Layout
    root: str = field(init=False)
    _inside: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", os.path.realpath(self.folder))

    def read(
        self, store: Any, region: tuple[slice, ...], decoding: Callable[[], AbstractContextManager[None]]
    ) -> np.ndarray:
        """Values of a region, with all axes of the array; the files that hold it are looked at before.

        Parameters
        ----------
        store : tensorstore.TensorStore
        region : tuple of slice
        decoding : callable
            Gives what turns errors of the reader into ours.

        Raises
        ------
        InputError
            If one leads out of the array, or is no file.
        IntegrityError
            If a chunk says that it unpacks to more than a chunk.
        """
        layout = self.layout
        for position in positions_of(region, layout.shard):
            file = self._file(position)
            size = self._size(file)
            if size is not None and layout.blosc:
                self._check_heads(file, size, position, region)
        with decoding():
            values: np.ndarray = store[region].read(order="C").result()
        return values

    def check_links(self, positions: Iterable[tuple[int, ...]]) -> None:
        """Look only at where the files of some shards lie, written or not."""
        for position in positions:
            self._size(self._file(position))

    def _file(self, position: tuple[int, ...]) -> str:
        layout = self.layout
        return f"{self.folder}/{layout.prefix}{layout.separator.join(map(str, position))}"

    def _size(self, file: str) -> int | None:
        """Bytes of a file; None where there is none."""
        above = os.path.dirname(file)
        if above not in self._inside:
            self._check_inside(above, file)
            self._inside.add(above)
        try:
            found = os.lstat(file)
            if stat.S_ISLNK(found.st_mode):
                self._check_inside(file, file)
                found = os.stat(file)
        except OSError:
            return None  # missing, or not to be read: the reader says which
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{file} is not a file, but a chunk must be one: copy the volume again")
        return found.st_size

    def _check_inside(self, place: str, file: str) -> None:
        real = os.path.realpath(place)
        if real != self.root and not real.startswith(self.root + "/"):
            raise InputError(
                f"{file} leads out of the volume, to {real}, so it is not followed: copy what it leads to into the volume"
            )

    def _check_heads(self, file: str, size: int, shard: tuple[int, ...], region: tuple[slice, ...]) -> None:
        index = self.layout.index
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            places = [0]
            if index is not None:
                start = size - index.bytes if index.at_end else 0
                stored = os.pread(descriptor, index.bytes, start) if start >= 0 else b""
                places = places_in(self.layout, index, stored, size, shard, region)
            check_heads(file, self.layout, [os.pread(descriptor, HEAD.size, place) for place in places])
        finally:
            os.close(descriptor)


def check_heads(file: str, layout: Layout, heads: Iterable[bytes]) -> None:
    """Raise `IntegrityError` if a chunk says that it unpacks to more than a chunk."""
    for head in heads:
        held = HEAD.unpack(head)[0] if len(head) == HEAD.size else 0
        if held > layout.chunk_bytes + _SLACK_BYTES:
            raise IntegrityError(
                f"{file} is damaged: a chunk of {layout.chunk_bytes} bytes says that it unpacks to {held} bytes; "
                "compute the volume again or restore the file"
            )


def places_in(
    layout: Layout, index: ShardIndex, stored: bytes, size: int, shard: tuple[int, ...], region: tuple[slice, ...]
) -> list[int]:
    """Where in a shard the chunks that a region touches begin; those that lie beyond its end are left to the reader."""
    counts = tuple(s // c for s, c in zip(layout.shard, layout.chunk, strict=True))
    if len(stored) < index.bytes:
        return []
    order = ">u8" if index.big_endian else "<u8"
    entries = np.frombuffer(stored, order, 2 * math.prod(counts)).reshape(*counts, 2)
    offsets = entries[touched_chunks(layout, shard, region)][..., 0].ravel()
    return [int(offset) for offset in offsets[offsets <= np.uint64(max(size - HEAD.size, 0))]]


def touched_chunks(layout: Layout, shard: tuple[int, ...], region: tuple[slice, ...]) -> tuple[slice, ...]:
    """Chunks of a shard that a region touches, counted from its first."""
    axes = zip(region, shard, layout.shard, layout.chunk, strict=True)
    return tuple(slice(max(r.start - p * s, 0) // c, -(-min(r.stop - p * s, s) // c)) for r, p, s, c in axes)


def positions_of(region: tuple[slice, ...], shard: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    """Positions of the shards that a region touches."""
    return itertools.product(*(range(r.start // s, -(-r.stop // s)) for r, s in zip(region, shard, strict=True)))
