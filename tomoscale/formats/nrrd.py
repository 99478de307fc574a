"""NRRD of teem and 3D Slicer: a text header and the voxels, in one file (.nrrd) or two (.nhdr and another)."""

from __future__ import annotations

import math
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
from tomoscale.voxel_size import agreed_voxel_size, micrometres_per

_DTYPES = {
    name: dtype
    for dtype, names in {
        "int8": "signed char/int8/int8_t",
        "uint8": "uchar/unsigned char/uint8/uint8_t",
        "int16": "short/short int/signed short/signed short int/int16/int16_t",
        "uint16": "ushort/unsigned short/unsigned short int/uint16/uint16_t",
        "int32": "int/signed int/int32/int32_t",
        "uint32": "uint/unsigned int/uint32/uint32_t",
        "int64": "longlong/long long/long long int/signed long long/signed long long int/int64/int64_t",
        "uint64": "ulonglong/unsigned long long/unsigned long long int/uint64/uint64_t",
        "float32": "float",
        "float64": "double",
    }.items()
    for name in names.split("/")
}
_END = re.compile(rb"\r?\n\r?\n")


def is_nrrd(start: bytes, path: Path) -> bool:
    """Tell whether a file begins as every NRRD does, or has the name of one."""
    return start.startswith(b"NRRD") or path.suffix.lower() in (".nrrd", ".nhdr")


def open_nrrd(path: str | os.PathLike[str], *, voxel_size_um: float | Spacing | None = None) -> Volume:
    """Open a NRRD of plain or gzip-compressed voxels.

    A voxel size is believed only with its unit (``space units``, or ``units`` for ``spacings``): the format itself
    names none, and programs mean different ones. Position and direction in space are not used.

    Parameters
    ----------
    path : path
        Of the ``.nrrd`` or ``.nhdr``.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; needed where the header states no unit.

    Raises
    ------
    InputError
        If the header is damaged or of a kind we do not read, or the voxels are not there as it says.
    """
    place = Path(os.path.abspath(local_path(path)))
    start = first_bytes(place)
    if not start.startswith(b"NRRD"):
        raise InputError(f"{place} is not a NRRD: it begins with {start[:8]!r}, not with NRRD")
    end = _END.search(start)
    header = start if end is None else start[: end.start()]
    fields = _fields(header)
    if end is None and "datafile" not in fields:
        raise InputError(f"{place} is truncated: its header does not end with an empty line")
    missing = [key for key in ("type", "dimension", "sizes", "encoding") if key not in fields]
    if missing:
        raise InputError(f"{place} is not a NRRD that can be read: its header has no {' and no '.join(missing)}")
    storage = _storage(place, fields, len(start) if end is None else end.end())
    return Volume(storage, agreed_voxel_size(str(place), _voxel_size(place, fields), voxel_size_um))


def _fields(header: bytes) -> dict[str, str]:
    """Fields by their name without spaces, as some have both spellings; comments and free keys are left out."""
    fields = {}
    for line in header.decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[key.strip().lower().replace(" ", "")] = value.strip()
    return fields


def _storage(path: Path, fields: Mapping[str, str], header_bytes: int) -> RawFile | CompressedRaw:
    layout, encoding = _layout(path, fields), fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{path}: encoding {encoding[:20]!r} is not read, only raw and gzip: save it as one of them")
    where = fields.get("datafile")
    if where is not None and (where.split()[:1] == ["LIST"] or "%" in where):
        raise InputError(
            f"{path} keeps its voxels in several files ({where[:40]!r}), which we do not read: save it as one .nrrd"
        )
    data, start = (path, header_bytes) if where is None else (file_beside(path, where), 0)
    line_skip = whole_number(fields.get("lineskip", "0"), f"{path}: line skip")
    skip = whole_number(fields.get("byteskip", "0"), f"{path}: byte skip")
    if line_skip or skip < -1 or (skip and encoding != "raw"):
        # Programs disagree whether bytes are skipped before or after decompression.
        raise InputError(
            f"{path}: line skip {line_skip} and byte skip {skip} with encoding {encoding} are not read: save it without them"
        )
    if encoding != "raw":
        return compressed_storage(data, layout, wrapper="gzip", start_bytes=start)
    start = size_of(data) - layout.end_bytes if skip == -1 else start + skip
    if start < (header_bytes if where is None else 0):
        raise InputError(
            f"{path} is truncated, or its sizes {fields['sizes']} are wrong: {layout.end_bytes} bytes of voxels do not fit "
            f"into {data.name}, which has {size_of(data)}"
        )
    return raw_storage(data, RawLayout(layout.shape, layout.dtype, layout.byte_order, start))


def _layout(path: Path, fields: Mapping[str, str]) -> RawLayout:
    sizes = whole_numbers(fields["sizes"], f"{path}: sizes")
    if whole_numbers(fields["dimension"], f"{path}: dimension") != [len(sizes)]:
        raise InputError(f"{path}: dimension is {fields['dimension'][:20]} but there are {len(sizes)} sizes")
    shape = three_axes(sizes, f"{path}: sizes")
    dtype = _DTYPES.get(fields["type"].lower())
    if dtype is None:
        raise InputError(
            f"{path}: type {fields['type'][:40]!r} is not read, only integers of 8 to 64 bits, float and double"
        )
    endian = fields.get("endian", "little" if dtype in ("int8", "uint8") else "").lower()
    if endian not in ("little", "big"):
        raise InputError(f"{path}: endian is {endian[:20]!r}, but must be little or big for voxels of {dtype}")
    return RawLayout(shape, dtype, "big" if endian == "big" else "little")


def _voxel_size(path: Path, fields: Mapping[str, str]) -> Spacing | None:
    """Voxel size from vectors in a space with units, or from spacings with units; None without units."""
    if "spacedirections" in fields:
        units = _units(fields.get("spaceunits", ""))
        vectors = re.findall(r"\(([^)]*)\)", fields["spacedirections"])
        if not units or None in units:
            return None
        found = [_norm(path, vector, units) for vector in vectors[:3]]
        return spacing(found, 1.0, str(path))
    units = _units(fields.get("units", ""))[:3]
    if "spacings" not in fields or len(units) != 3 or None in units:
        return None
    values = lengths(fields["spacings"], f"{path}: spacings")
    return spacing([v * (unit or 0.0) for v, unit in zip(values, units, strict=False)], 1.0, str(path))


def _units(text: str) -> list[float | None]:
    return [micrometres_per(word) for word in re.findall(r'"([^"]*)"', text)]


def _norm(path: Path, vector: str, units: list[float | None]) -> float:
    """Length of a vector in µm, whose components may have different units."""
    values = lengths(vector.replace(",", " "), f"{path}: space directions")
    if len(values) != len(units):
        raise InputError(f"{path}: a space direction ({vector[:60]}) has {len(values)} numbers, but {len(units)} units")
    return math.hypot(*(v * (unit or 0.0) for v, unit in zip(values, units, strict=True)))
