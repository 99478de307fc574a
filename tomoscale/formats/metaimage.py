"""MetaImage of ITK: a text header and the voxels, in one file (.mha) or two (.mhd and .raw)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tomoscale.errors import InputError
from tomoscale.formats.header import file_beside, first_bytes, lengths, spacing, three_axes, whole_number, whole_numbers
from tomoscale.formats.raw import CompressedRaw, RawFile, compressed_storage, raw_storage
from tomoscale.formats.raw_layout import RawLayout, size_of
from tomoscale.geometry import Spacing
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size

SUFFIXES = (".mha", ".mhd")
MICROMETRES_PER_MILLIMETRE = 1000.0
DTYPES = {
    "MET_CHAR": "int8",
    "MET_UCHAR": "uint8",
    "MET_SHORT": "int16",
    "MET_USHORT": "uint16",
    "MET_INT": "int32",
    "MET_UINT": "uint32",
    "MET_LONG": "int32",  # four bytes on every machine, says the format
    "MET_ULONG": "uint32",
    "MET_LONG_LONG": "int64",
    "MET_ULONG_LONG": "uint64",
    "MET_FLOAT": "float32",
    "MET_DOUBLE": "float64",
}
_START = re.compile(rb"\s*(ObjectType|ObjectSubType|NDims|Comment)\s*=")
_LAST = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=([^\n]*)\n?", re.MULTILINE)


def is_metaimage(start: bytes, path: Path) -> bool:
    """Tell whether a file is a MetaImage; the format has no signature, only the way its header begins."""
    return path.suffix.lower() in SUFFIXES or _START.match(start) is not None


def open_metaimage(path: str | os.PathLike[str], *, voxel_size_um: float | Spacing | None = None) -> Volume:
    """Open a MetaImage; lengths in it are millimetres by definition.

    The voxel size is ``ElementSpacing``, or ``ElementSize`` where that alone is given. Position and direction in space
    are not used: voxels stay in the order of the file.

    Parameters
    ----------
    path : path
        Of the ``.mha`` or ``.mhd``.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; needed only where the header states none.

    Raises
    ------
    InputError
        If the header is damaged or of a kind we do not read, or the voxels are not there as it says.
    """
    place = Path(os.path.abspath(local_path(path)))
    start = first_bytes(place)
    last = _LAST.search(start)
    if last is None:
        raise InputError(f"{place} is not a MetaImage that can be read: its header has no line 'ElementDataFile = ...'")
    fields = _fields(start[: last.end()])
    storage = _storage(place, fields, last.end())
    stated = fields.get("ElementSpacing", fields.get("ElementSize"))
    stored = None
    if stated is not None:
        stored = spacing(lengths(stated, f"{place}: ElementSpacing"), MICROMETRES_PER_MILLIMETRE, str(place))
    return Volume(storage, agreed_voxel_size(str(place), stored, voxel_size_um))


def _fields(header: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in header.decode("utf-8", "replace").splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _storage(path: Path, fields: Mapping[str, str], header_bytes: int) -> RawFile | CompressedRaw:
    layout = _layout(path, fields)
    where = fields["ElementDataFile"]
    if where == "LOCAL":
        data, start = path, header_bytes
    elif where.split()[:1] == ["LIST"] or "%" in where:
        raise InputError(
            f"{path} keeps every slice in a file of its own ({where[:40]!r}), which we do not read: save it as one .mha"
        )
    else:
        data, start = file_beside(path, where), 0
    skip = whole_number(fields.get("HeaderSize", "0"), f"{path}: HeaderSize")
    if _true(fields, "CompressedData"):
        if skip != 0:
            raise InputError(f"{path}: HeaderSize {skip} with compressed voxels is not read; save it uncompressed")
        return compressed_storage(data, layout, wrapper="zlib", start_bytes=start)
    if skip == -1:
        start = size_of(data) - layout.end_bytes
    elif skip:
        start = skip
    if start < (header_bytes if where == "LOCAL" else 0):
        raise InputError(
            f"{path}: the voxels would begin at byte {start} of {data.name}, before its {'header ends' if data == path else 'start'}"
            f": HeaderSize {skip} or DimSize {fields['DimSize']} is wrong, or the file is truncated"
        )
    return raw_storage(data, RawLayout(layout.shape, layout.dtype, layout.byte_order, start))


def _layout(path: Path, fields: Mapping[str, str]) -> RawLayout:
    missing = [key for key in ("DimSize", "ElementType") if key not in fields]
    if missing:
        raise InputError(f"{path} is not a MetaImage that can be read: its header has no {' and no '.join(missing)}")
    sizes = whole_numbers(fields["DimSize"], f"{path}: DimSize")
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), f"{path}: ElementNumberOfChannels")
    shape = three_axes([*sizes, *channels] if channels != [1] else sizes, f"{path}: DimSize")
    if fields.get("NDims", str(len(sizes))) != str(len(sizes)):
        raise InputError(f"{path}: NDims is {fields['NDims'][:20]} but DimSize has {len(sizes)} numbers: one is wrong")
    dtype = DTYPES.get(fields["ElementType"])
    if dtype is None:
        raise InputError(f"{path}: ElementType {fields['ElementType'][:40]!r} is not read, only {', '.join(DTYPES)}")
    if not _true(fields, "BinaryData", default="True"):
        raise InputError(f"{path} holds its voxels as text (BinaryData = False), which is not read: save it as binary")
    big = _true(fields, "BinaryDataByteOrderMSB") or _true(fields, "ElementByteOrderMSB")
    return RawLayout(shape, dtype, "big" if big else "little")


def _true(fields: Mapping[str, str], key: str, default: str = "False") -> bool:
    return fields.get(key, default).lower() in ("true", "1", "t")
