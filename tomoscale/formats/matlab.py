"""MATLAB files of version 5: one three-dimensional numeric array, found by its tag and read where it lies."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tomoscale.errors import InputError
from tomoscale.formats.hdf5 import open_hdf5
from tomoscale.formats.raw import compressed_storage, raw_storage
from tomoscale.formats.raw_layout import RawLayout, size_of
from tomoscale.formats.rows import ByteOrder
from tomoscale.geometry import Shape, Spacing, three
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {
    1: "int8",
    2: "uint8",
    3: "int16",
    4: "uint16",
    5: "int32",
    6: "uint32",
    7: "float32",
    9: "float64",
    12: "int64",
    13: "uint64",
}
_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function", 17: "opaque"}
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX_FLAG = 0x0800
_DESCRIPTION_BYTES = 1024
"""Dimensions and name of a variable lie within this; names have at most 63 letters."""
MAX_VARIABLES = 10_000


@dataclass(frozen=True)
class _Variable:
    """A variable and where its real part begins: in the file, or in what its zlib stream unpacks to."""

    name: str
    shape: tuple[int, ...]
    what: str
    dtype: str | None
    offset_bytes: int
    data_bytes: int
    stream_bytes: int | None

    @property
    def usable(self) -> bool:
        return self.dtype is not None and len(self.shape) == 3 and min(self.shape) > 0

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))} {self.what}"


def is_matlab(start: bytes, path: Path) -> bool:
    """Tell whether a file that begins with `start` is one of MATLAB; the oldest kind goes by its name."""
    return start.startswith(b"MATLAB ") or path.suffix.lower() == ".mat"


def open_matlab(
    path: str | os.PathLike[str], *, variable: str | None = None, voxel_size_um: float | Spacing | None = None
) -> Volume:
    """Open a three-dimensional numeric array of a MATLAB file (``-v6``, ``-v7``; ``-v7.3`` is HDF5 and read as such).

    MATLAB stores the first index fastest, so an array that is ``vol(i, j, k)`` there has z = k, y = j and x = i here: the
    shape (z, y, x) is the reverse of ``size(vol)``. MATLAB packs doubles that are small integers into bytes; they keep
    the stored type, whose values are the same.

    Parameters
    ----------
    path : path
    variable : str, optional
        Not needed where only one variable is a three-dimensional numeric array.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; these files state none.

    Raises
    ------
    InputError
        If there is no such variable or several, or the file is damaged.
    """
    place = Path(os.path.abspath(local_path(path)))
    size = size_of(place)
    with place.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        order = _byte_order(place, header)
        if order is None:
            return open_hdf5(place, dataset=variable, voxel_size_um=voxel_size_um)
        found = _choose(place, _variables(place, file, size, order), variable)
    assert found.dtype is not None
    layout = RawLayout(_zyx(found.shape), found.dtype, order, found.offset_bytes)
    if layout.end_bytes - found.offset_bytes != found.data_bytes:
        raise InputError(f"{place}: {found} has {found.data_bytes} bytes of data: the file is damaged")
    name = str(place)
    if found.stream_bytes is None:
        return Volume(raw_storage(place, layout, longer=True), agreed_voxel_size(name, None, voxel_size_um))
    storage = compressed_storage(place, layout, wrapper="zlib", start_bytes=found.stream_bytes)
    return Volume(storage, agreed_voxel_size(name, None, voxel_size_um))


def _byte_order(path: Path, header: bytes) -> ByteOrder | None:
    """Byte order of a file of version 5; None for version 7.3, which is HDF5 after a block for the user."""
    mark = header[126:128]
    if len(header) == _HEADER_BYTES and mark in (b"IM", b"MI"):
        order: ByteOrder = "little" if mark == b"IM" else "big"
        version = int.from_bytes(header[124:126], order)
        if version == 0x0200:
            return None
        if version == 0x0100:
            return order
        raise InputError(f"{path} is of MATLAB format {version:#06x}, which is not known: save it with -v7")
    if header.startswith(b"\x89HDF\r\n\x1a\n"):
        return None
    raise InputError(
        f"{path} is not a MATLAB file of version 5 or later (a version 4 file has no mark and cannot hold three axes): save "
        "it again with save(..., '-v7')"
    )


def _variables(path: Path, file: BinaryIO, size: int, order: ByteOrder) -> list[_Variable]:
    """All variables, from their tags alone: the data are stepped over, or not unpacked."""
    found: list[_Variable] = []
    position = _HEADER_BYTES
    while position < size:
        if len(found) >= MAX_VARIABLES:
            raise InputError(f"{path} holds more than {MAX_VARIABLES} variables: save the volume in a file of its own")
        file.seek(position)
        tag = file.read(8)
        if not tag.strip(b"\0") and not file.read(1):
            break
        if len(tag) < 8:
            raise InputError(f"{path} is truncated: {len(tag)} bytes are left where a variable would begin")
        kind, count = struct.unpack(_end(order) + "2I", tag)
        if kind not in (_MATRIX, _COMPRESSED):
            raise InputError(f"{path} is damaged: byte {position} holds an element of type {kind}, not a variable")
        if position + 8 + count > size:
            raise InputError(
                f"{path} is truncated: a variable at byte {position} has {count} bytes, but the file ends at {size}"
            )
        file.seek(position + 8)
        packed = file.read(min(count, _DESCRIPTION_BYTES))
        variable = (
            _compressed(path, packed, position + 8, order)
            if kind == _COMPRESSED
            else _described(path, packed, position + 8, None, order)
        )
        if variable is not None:
            found.append(variable)
        position += 8 + count
    return found


def _compressed(path: Path, packed: bytes, at: int, order: ByteOrder) -> _Variable | None:
    try:
        start = zlib.decompressobj().decompress(packed, _DESCRIPTION_BYTES)
    except zlib.error as error:
        raise InputError(f"{path} is damaged: the variable at byte {at} cannot be unpacked ({error})") from None
    if len(start) < 8 or int.from_bytes(start[:4], order) != _MATRIX:
        raise InputError(f"{path} is damaged: the stream at byte {at} does not hold a variable")
    return _described(path, start[8:], 8, at, order)


def _described(path: Path, start: bytes, offset: int, stream: int | None, order: ByteOrder) -> _Variable | None:
    """Variable whose elements begin with `start`, at `offset` of the file or of its stream."""
    try:
        flags, at = _element(start, 0, order)
        dims, at = _element(start, at, order)
        name, at = _element(start, at, order)
        (flag,) = struct.unpack_from(_end(order) + "I", flags)
        shape = struct.unpack(f"{_end(order)}{len(dims) // 4}i", dims)
        kind = flag & 0xFF
        if kind not in _NUMERIC_CLASSES or flag & _COMPLEX_FLAG:
            what = "complex" if kind in _NUMERIC_CLASSES else _CLASSES.get(kind, "unknown")
            return _Variable(_text(name), shape, what, None, 0, 0, stream)
        # Empty arrays may end here.
        tag = (*_tag(start, at, order),) if 0 not in shape else (0, 0, 0)
    except (struct.error, IndexError):
        raise InputError(
            f"{path} is damaged: the variable at byte {offset if stream is None else stream} has no description"
        ) from None
    if any(n < 0 for n in shape):
        raise InputError(f"{path} is damaged: variable {_text(name)!r} has {shape} voxels")
    dtype = _TYPES.get(tag[0])
    return _Variable(_text(name), shape, dtype or "unknown", dtype, offset + tag[2], tag[1], stream)


def _tag(data: bytes, at: int, order: ByteOrder) -> tuple[int, int, int]:
    """Type and length of an element, and where it begins; up to four bytes lie within the tag itself."""
    first, count = struct.unpack_from(_end(order) + "2I", data, at)
    small = first >> 16
    return (first & 0xFFFF, small, at + 4) if small else (first, count, at + 8)


def _element(data: bytes, at: int, order: ByteOrder) -> tuple[bytes, int]:
    """Content of a small element, and where the next begins: at a multiple of eight bytes."""
    _, count, begin = _tag(data, at, order)
    content = data[begin : begin + count]
    if len(content) < count:
        raise IndexError
    return content, at + 8 if begin == at + 4 else begin + -(-count // 8) * 8


def _choose(path: Path, variables: list[_Variable], wanted: str | None) -> _Variable:
    usable = [v for v in variables if v.usable]
    if wanted is None and len(usable) == 1:
        return usable[0]
    named = [v for v in variables if v.name == wanted]
    if wanted is not None and named:
        if named[0].usable:
            return named[0]
        raise InputError(f"{path}: {named[0]} is not a real, numeric array with three axes; {_listing(usable)}")
    held = ", ".join(str(v) for v in variables[:12]) or "nothing"
    if wanted is not None:
        raise InputError(f"{path} has no variable {wanted!r}; it holds: {held}")
    raise InputError(
        f"{path} holds {'several volumes' if usable else f'no three-dimensional numeric array, but {held}'}; "
        f"{_listing(usable)}"
    )


def _listing(usable: list[_Variable]) -> str:
    names = "; ".join(str(v) for v in usable[:12])
    return f"give variable= one of: {names}" if usable else "arrays inside a struct or cell must be saved by themselves"


def _zyx(shape: tuple[int, ...]) -> Shape:
    return three(shape[::-1])


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace").rstrip("\0")


def _end(order: ByteOrder) -> str:
    return "<" if order == "little" else ">"
