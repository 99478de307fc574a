"""Voxels that lie in a file as they are, or as one compressed stream: x fastest, then y, then z."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.inflate import Wrapper, check_ratio, stream_of
from tomoscale.formats.raw_layout import RawLayout, size_of
from tomoscale.formats.rows import ByteOrder, Rows, pread_into
from tomoscale.geometry import Region, Shape, Spacing
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size


@dataclass(frozen=True)
class RawFile:
    """Address of voxels that lie uncompressed in a file.

    Attributes
    ----------
    path : str
        Absolute.
    shape : (Z, Y, X)
    dtype : numpy dtype
        In native byte order, whatever the file has.
    byte_order : "little" or "big"
        Of the file.
    offset_bytes : int
        Where the first voxel begins.
    """

    path: str
    shape: Shape
    dtype: np.dtype[Any]
    byte_order: ByteOrder = "little"
    offset_bytes: int = 0

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.path

    @property
    def chunk_shape(self) -> Shape:
        """One voxel: none needs another."""
        return 1, 1, 1

    def read(self, region: Region) -> np.ndarray:
        """Values of a region; of the rest, only gaps up to `rows.MAX_GAP_BYTES` are touched.

        Raises
        ------
        InputError
            If the file is gone or shorter than it was.
        """
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read any more: {error.strerror}") from None
        try:
            return _rows(self).gather(region, lambda offset, part: pread_into(file, self.path, offset, part))
        finally:
            os.close(file)

    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how it is read."""
        return {"raw": Path(self.path).name, **_state(self)}


@dataclass(frozen=True)
class CompressedRaw:
    """Address of voxels that lie in a file as one deflated stream.

    It is decoded from the nearest place this process has been at, never whole in memory: planes in ascending order cost
    one pass. The checksum of the stream is compared when its end is read.

    Attributes
    ----------
    path : str
        Absolute.
    start_bytes : int
        Where in the file the stream begins.
    wrapper : "gzip" or "zlib"
    offset_bytes : int
        Where in the decompressed stream the first voxel begins.
    shape : (Z, Y, X)
    dtype : numpy dtype
        In native byte order, whatever the stream has.
    byte_order : "little" or "big"
        Of the stream.
    """

    path: str
    start_bytes: int
    wrapper: Wrapper
    offset_bytes: int
    shape: Shape
    dtype: np.dtype[Any]
    byte_order: ByteOrder = "little"

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.path

    @property
    def chunk_shape(self) -> Shape:
        """One plane: all of it is decoded on the way to the next."""
        return 1, self.shape[1], self.shape[2]

    def read(self, region: Region) -> np.ndarray:
        """Values of a region; no more than the voxels the header tells of is ever decoded.

        Raises
        ------
        InputError
            If the file is gone, or the stream is damaged or too short.
        """
        rows = _rows(self)
        try:
            modified = os.stat(self.path).st_mtime_ns
            stream = stream_of(self.path, self.start_bytes, self.wrapper, rows.end_bytes, modified)
            with stream.cursor(rows.first_byte(region)) as cursor:
                return rows.gather(region, cursor.read_into)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read any more: {error.strerror}") from None

    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how it is read."""
        return {self.wrapper: Path(self.path).name, "start_bytes": self.start_bytes, **_state(self)}


def open_raw(path: str | os.PathLike[str], layout: RawLayout, *, voxel_size_um: float | Spacing | None) -> Volume:
    """Open a file that holds voxels and says nothing of them.

    Parameters
    ----------
    path : path
    layout : RawLayout
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; None if it is not known.

    Raises
    ------
    InputError
        If the file is not there or its size is not that of the layout.
    """
    storage = raw_storage(path, layout)
    return Volume(storage, agreed_voxel_size(storage.name, None, voxel_size_um))


def raw_storage(path: str | os.PathLike[str], layout: RawLayout, *, longer: bool = False) -> RawFile:
    """Address of the plain voxels of a file, after a check of its size.

    Parameters
    ----------
    path : path
    layout : RawLayout
    longer : bool
        Whether the file may go on after the voxels; one that does so unasked has another shape than is thought.

    Raises
    ------
    InputError
        If the file is not there, or its size does not fit.
    """
    name, size = os.path.abspath(local_path(path)), size_of(path)
    if size < layout.end_bytes or (size > layout.end_bytes and not longer):
        before = f" after {layout.offset_bytes} bytes of header" if layout.offset_bytes else ""
        raise InputError(
            f"{name} has {size} bytes, but {' x '.join(map(str, layout.shape))} voxels (z, y, x) of {layout.dtype}{before} "
            f"take {layout.end_bytes}: "
            + ("the file is truncated, or " if size < layout.end_bytes else "")
            + "shape, type or offset are wrong"
        )
    return RawFile(name, layout.shape, np.dtype(layout.dtype), layout.byte_order, layout.offset_bytes)


def compressed_storage(
    path: str | os.PathLike[str], layout: RawLayout, *, wrapper: Wrapper, start_bytes: int = 0
) -> CompressedRaw:
    """Address of the voxels of a deflated stream that begins at byte `start_bytes` of a file.

    Raises
    ------
    InputError
        If the file is not there, or too small for that many voxels however well they are packed.
    """
    name = os.path.abspath(local_path(path))
    size_of(name)
    check_ratio(name, start_bytes, layout.end_bytes)
    return CompressedRaw(
        name, start_bytes, wrapper, layout.offset_bytes, layout.shape, np.dtype(layout.dtype), layout.byte_order
    )


def _state(storage: RawFile | CompressedRaw) -> dict[str, Any]:
    stat = os.stat(storage.path)
    return {
        "offset_bytes": storage.offset_bytes,
        "byte_order": storage.byte_order,
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }


def _rows(storage: RawFile | CompressedRaw) -> Rows:
    return Rows(storage.shape, storage.dtype, storage.byte_order, storage.offset_bytes)
