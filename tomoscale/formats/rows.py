"""Rows of a region out of bytes that hold a volume with x fastest: which are read together, and their byte order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import Region, Shape, region_shape

MAX_GAP_BYTES = 16 * 2**10
"""Rows with at most this between them are read in one go: a read costs some 2 µs, in which 16 KiB are copied."""
SCRATCH_BYTES = 2**20
_MAX_READ_BYTES = 2**30  # the system gives less than 2 GiB at a time

ByteOrder = Literal["little", "big"]
ReadInto = Callable[[int, memoryview], None]
"""Fill a piece of memory with the bytes from an offset on; offsets ascend."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a volume lie.

    Attributes
    ----------
    shape : (Z, Y, X)
    dtype : numpy dtype
        In native byte order.
    byte_order : "little" or "big"
        Of the bytes.
    offset_bytes : int
        Where the first voxel begins.
    """

    shape: Shape
    dtype: np.dtype[Any]
    byte_order: ByteOrder
    offset_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where the last voxel ends."""
        return self.offset_bytes + math.prod(self.shape) * self.dtype.itemsize

    def first_byte(self, region: Region) -> int:
        """Where the first voxel of a region begins."""
        return self._offset(region[0].start, region[1].start, region[2].start)

    def gather(self, region: Region, read_into: ReadInto) -> np.ndarray:
        """Values of a region, in C order and native byte order."""
        values = np.empty(region_shape(region), self.dtype)
        if values.shape[1:] == self.shape[1:]:
            read_into(self.first_byte(region), _bytes(values))
        else:
            for z, plane in enumerate(values, region[0].start):
                self._fill_plane(plane, (z, region[1].start, region[2].start), read_into)
        native = self.dtype.newbyteorder("<" if self.byte_order == "little" else ">").isnative
        return values if native else values.byteswap(inplace=True)

    def _fill_plane(self, plane: np.ndarray, corner: Shape, read_into: ReadInto) -> None:
        """Fill a (Y, X) part of a plane whose first voxel is `corner`."""
        z, y, x = corner
        row_bytes = self.shape[2] * self.dtype.itemsize
        if plane.shape[1] == self.shape[2]:
            read_into(self._offset(z, y, x), _bytes(plane))
            return
        if row_bytes - plane.shape[1] * self.dtype.itemsize > MAX_GAP_BYTES:
            for number, row in enumerate(plane, y):
                read_into(self._offset(z, number, x), _bytes(row))
            return
        at_once = min(len(plane), max(1, SCRATCH_BYTES // row_bytes))
        scratch = np.empty((at_once, self.shape[2]), self.dtype)
        for first in range(0, len(plane), at_once):
            rows = plane[first : first + at_once]
            # Up to the last voxel wanted: what follows it may be past the end of the file.
            size = (len(rows) - 1) * row_bytes + rows.shape[1] * self.dtype.itemsize
            read_into(self._offset(z, y + first, x), _bytes(scratch)[:size])
            rows[...] = scratch[: len(rows), : rows.shape[1]]

    def _offset(self, z: int, y: int, x: int) -> int:
        return self.offset_bytes + ((z * self.shape[1] + y) * self.shape[2] + x) * self.dtype.itemsize


def pread_into(file: int, path: str, offset: int, target: memoryview) -> None:
    """Fill `target` from byte `offset` of an open file, without moving its position, which threads share.

    Raises
    ------
    InputError
        If the file ends before.
    """
    done = 0
    while done < len(target):
        got = os.preadv(file, [target[done : done + _MAX_READ_BYTES]], offset + done)
        if got == 0:
            raise InputError(
                f"{path} ends at byte {offset + done}: it is shorter than when it was opened; copy it again"
            )
        done += got


def _bytes(values: np.ndarray) -> memoryview:
    return values.reshape(-1).view(np.uint8).data
