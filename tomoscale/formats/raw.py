"""Voxels that lie in a file as they are, or as one compressed stream: x fastest, then y, then z."""

from __future__ import annotations

import math
import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.inflate import Wrapper, check_ratio, stream_of
from tomoscale.formats.rows import ByteOrder, Rows, pread_into
from tomoscale.geometry import Region, Shape, Spacing, three
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size
from tomoscale.zarr_metadata import DTYPES

RAW_DTYPES = tuple(name for name in DTYPES if name != "bool")


@dataclass(frozen=True)
class RawLayout:
    """What a file without a header does not say of its voxels.

    Attributes
    ----------
    shape : (Z, Y, X)
    dtype : str
        Such as ``"uint16"``.
    byte_order : "little" or "big"
    offset_bytes : int
        Bytes before the first voxel; of the decompressed stream, where there is one.

    Raises
    ------
    ValueError
        If one of them makes no sense.
    """

    shape: Shape
    dtype: str
    byte_order: ByteOrder = "little"
    offset_bytes: int = 0

    def __post_init__(self) -> None:
        shape = tuple(operator.index(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be three positive numbers of voxels (z, y, x), got {self.shape}")
        object.__setattr__(self, "shape", shape)
        if self.dtype not in RAW_DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(RAW_DTYPES)}, got {self.dtype!r}")
        if self.byte_order not in ("little", "big"):
            raise ValueError(f"byte_order must be little or big, got {self.byte_order!r}")
        if operator.index(self.offset_bytes) < 0:
            raise ValueError(f"offset_bytes must not be negative, got {self.offset_bytes}")

    @property
    def end_bytes(self) -> int:
        """Where the last voxel ends."""
        return self.offset_bytes + math.prod(self.shape) * np.dtype(self.dtype).itemsize


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
    name, size = os.path.abspath(path), size_of(path)
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
    name = os.path.abspath(path)
    size_of(name)
    check_ratio(name, start_bytes, layout.end_bytes)
    return CompressedRaw(
        name, start_bytes, wrapper, layout.offset_bytes, layout.shape, np.dtype(layout.dtype), layout.byte_order
    )


def is_raw_name(name: str) -> bool:
    """Tell whether a file name is one that programs give to voxels without a header."""
    return name.lower().endswith((".raw", ".bin", ".vol", ".dat"))


def without_layout(path: Path) -> InputError:
    """Error for a file without a header whose layout was not given, with the shapes that its size and name suggest."""
    size = size_of(path)
    hints = [
        f"{' x '.join(map(str, shape))} of {bits} bits"
        for bits in (8, 16, 32)
        for shape in _suggested_shapes(path.name, size * 8 // bits)
        if size and math.prod(shape) * bits == size * 8
    ]
    suits = f" Its size would suit, for example, {'; '.join(hints[:3])}." if hints else ""
    return InputError(
        f"{path} has {size} bytes and no header, so nothing says how its voxels lie.{suits}\n"
        "Give its shape (z, y, x), dtype and voxel size, such as --shape 1000x800x800 --dtype uint16 --voxel-size 5um, or "
        "raw=RawLayout((1000, 800, 800), 'uint16') in Python"
    )


def _suggested_shapes(name: str, voxels: int) -> list[Shape]:
    """Three numbers of a name in both orders, and the cube."""
    found = [
        three(map(int, match))
        for match in re.findall(r"(\d{1,6})[x_×,-](\d{1,6})[x_×,-](\d{1,6})", name)
        for match in (match, match[::-1])
    ]
    edge = round(voxels ** (1 / 3))
    return list(dict.fromkeys([*found, (edge, edge, edge)]))


def size_of(path: str | os.PathLike[str]) -> int:
    """Bytes in a file; raise `InputError` if there is no such file."""
    place = Path(os.path.abspath(path))
    if not place.is_file():
        raise InputError(f"{place} {'is not a file' if place.exists() else 'does not exist; check the path'}")
    return place.stat().st_size


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
