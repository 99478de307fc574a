"""NIfTI-1 and NIfTI-2: a binary header and the voxels, in one file (.nii, .nii.gz) or two (.hdr and .img)."""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.header import file_beside, first_bytes, spacing, three_axes
from tomoscale.formats.raw import CompressedRaw, RawFile, compressed_storage, raw_storage
from tomoscale.formats.raw_layout import RawLayout
from tomoscale.formats.rows import ByteOrder
from tomoscale.geometry import Spacing
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size

DTYPES = {
    2: "uint8",
    4: "int16",
    8: "int32",
    16: "float32",
    64: "float64",
    256: "int8",
    512: "uint16",
    768: "uint32",
    1024: "int64",
    1280: "uint64",
}
HEADER_BYTES = {1: 348, 2: 540}
MICROMETRES = {1: 1e6, 2: 1e3, 3: 1.0}
"""By the lowest three bits of ``xyzt_units``: metre, millimetre, micrometre."""
_MAGIC = {b"n+1\0": (1, True), b"ni1\0": (1, False), b"n+2\0": (2, True), b"ni2\0": (2, False)}
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class _Header:
    """What a header says, x first."""

    byte_order: ByteOrder
    sizes: tuple[int, ...]
    datatype: int
    pixdim: tuple[float, ...]
    offset_bytes: int
    slope: float
    intercept: float
    units: int
    with_voxels: bool


def is_nifti(start: bytes, path: Path) -> bool:
    """Tell whether a file is NIfTI, also compressed, by its signature, or by its name where it is damaged."""
    named = path.name.lower().endswith((".nii", ".nii.gz")) or _header_file(path) != path
    return named or _kind(_plain(start)) is not None


def open_nifti(path: str | os.PathLike[str], *, voxel_size_um: float | Spacing | None = None) -> Volume:
    """Open a NIfTI file.

    The voxel size is ``pixdim`` in the unit of ``xyzt_units``; where that is "unknown", it must be given. Voxels are
    taken as they are stored; a file that asks for scaling (``scl_slope`` other than 0 and 1, or ``scl_inter`` other than
    0) is refused, since its stored integers are not the values meant. Position and direction in space are not used.

    Parameters
    ----------
    path : path
        Of the ``.nii``, the ``.nii.gz``, or the ``.hdr`` (or ``.img``) of a pair.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres.

    Raises
    ------
    InputError
        If the header is damaged or of a kind we do not read, or the voxels are not there as it says.
    """
    place = _header_file(Path(os.path.abspath(local_path(path))))
    start = first_bytes(place, 4096)
    plain = _plain(start)
    header = _parse(place, plain)
    data = place if header.with_voxels else _image_file(place)
    layout = _layout(place, header)
    compressed = start.startswith(_GZIP) if header.with_voxels else first_bytes(data, 2) == _GZIP
    storage: RawFile | CompressedRaw = (
        compressed_storage(data, layout, wrapper="gzip") if compressed else raw_storage(data, layout)
    )
    unit = MICROMETRES.get(header.units & 7)
    stored = None if unit is None else spacing(header.pixdim, unit, str(place))
    return Volume(storage, agreed_voxel_size(str(place), stored, voxel_size_um))


def _plain(start: bytes) -> bytes:
    """First bytes of a file, decompressed where they are gzip; nothing of what cannot be."""
    if not start.startswith(_GZIP):
        return start
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, 1024)
    except zlib.error:
        return b""


def _kind(start: bytes) -> tuple[int, bool] | None:
    """Version, and whether the voxels are in the same file."""
    return _MAGIC.get(start[344:348]) or _MAGIC.get(start[4:8])


def _header_file(path: Path) -> Path:
    """Header that belongs to an image file of a pair; any other path as it is."""
    for image, header in ((".img", ".hdr"), (".img.gz", ".hdr.gz"), (".img.gz", ".hdr")):
        if path.name.endswith(image):
            other = path.with_name(path.name.removesuffix(image) + header)
            if other.is_file():
                return other
    return path


def _image_file(header: Path) -> Path:
    stem = header.name.removesuffix(".gz").removesuffix(".hdr")
    for name in (f"{stem}.img", f"{stem}.img.gz"):
        if header.with_name(name).is_file():
            return file_beside(header, name)
    raise InputError(f"{header} keeps its voxels in {stem}.img, which is not there: copy it beside the header")


def _parse(path: Path, start: bytes) -> _Header:
    kind = _kind(start)
    if kind is None or len(start) < HEADER_BYTES[kind[0]]:
        raise InputError(
            f"{path} is not a NIfTI that can be read: it has no signature n+1, ni1, n+2 or ni2, or ends within its header"
        )
    version, with_voxels = kind
    size = HEADER_BYTES[version]
    order = next((o for o in "<>" if struct.unpack_from(f"{o}i", start)[0] == size), None)
    if order is None:
        raise InputError(f"{path} is not a NIfTI that can be read: its header does not begin with its size, {size}")

    def take(code: str, offset: int) -> tuple[float, ...]:
        return struct.unpack_from(f"{order}{code}", start, offset)

    places = ("8h", 40, 70, "8f", 76, 108, "2f", 112) if version == 1 else ("8q", 16, 12, "8d", 104, 168, "2d", 176)
    dims, dims_at, datatype_at, pixdim, pixdim_at, offset_at, scaling, scaling_at = places
    (units,) = take("B", 123) if version == 1 else take("i", 500)
    rank, *sizes = (int(n) for n in take(dims, dims_at))
    (offset,) = take("f" if version == 1 else "q", offset_at)
    datatype, bits = (int(n) for n in take("2h", datatype_at))
    slope, intercept = take(scaling, scaling_at)
    if not 1 <= rank <= 7 or not math.isfinite(offset) or offset < 0 or offset != int(offset):
        raise InputError(f"{path}: its header is damaged: it tells of {rank} axes, and of voxels from byte {offset} on")
    if datatype in DTYPES and bits != 8 * np.dtype(DTYPES[datatype]).itemsize:
        raise InputError(f"{path}: its header is damaged: datatype {datatype} with {bits} bits a voxel")
    # Some programs write 0 where the voxels follow the header.
    least = size + 4 if with_voxels else 0
    if with_voxels and 0 < offset < least:
        raise InputError(f"{path}: its voxels are said to begin at byte {int(offset)}, within the header of {least}")
    return _Header(
        "little" if order == "<" else "big",
        tuple(sizes[:rank]),
        datatype,
        # Read as the shortest decimal of that precision: the 0.65 that was meant, not the 0.6499999762 next to it.
        tuple(float(str((np.float32 if version == 1 else np.float64)(v))) for v in take(pixdim, pixdim_at)[1:4]),
        max(int(offset), least),
        slope,
        intercept,
        int(units),
        with_voxels,
    )


def _layout(path: Path, header: _Header) -> RawLayout:
    dtype = DTYPES.get(header.datatype)
    if dtype is None:
        raise InputError(f"{path}: NIfTI data type {header.datatype} is not read, only {', '.join(DTYPES.values())}")
    # NaN and a slope of 0 mean that there is no scaling.
    scaled = math.isfinite(header.slope) and header.slope != 0
    if scaled and (header.slope != 1 or (math.isfinite(header.intercept) and header.intercept != 0)):
        raise InputError(
            f"{path} stores scaled values (scl_slope {header.slope:g}, scl_inter {header.intercept:g}), so what is stored is not "
            "what is meant: save it as float32 without scaling"
        )
    return RawLayout(three_axes(header.sizes, f"{path}: dim"), dtype, header.byte_order, header.offset_bytes)
