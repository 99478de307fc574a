"""Scanco AIM and ISQ files: what their headers say, and where their voxels lie."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.raw import RawFile, raw_storage
from tomoscale.formats.raw_layout import RawLayout
from tomoscale.formats.scanco_runs import Runs, run_lengths
from tomoscale.formats.scanco_voxels import PackedBits, VmsFloats, from_vms, packed_bits
from tomoscale.geometry import Shape, Spacing, three
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size, check_voxel_size

_ISQ_MARK = b"CTDATA-HEADER_V1"
_AIM_3_MARK = b"AIMDATA_V030"
_AIM_2_START = struct.pack("<ii", 20, 140)
_AIM_1_STARTS = tuple(struct.pack("<ii", first, second) for first in (16, 20) for second in (92, 96))
_BLOCK_BYTES = 512
_ISQ_VOXELS = 3
_HEADER_BYTES = 4096
_MAX_AXIS = 2**31

_PLAIN = {0x00010001: "int8", 0x00160001: "uint8", 0x00020002: "int16", 0x00170002: "uint16", 0x001A0004: "float32"}
_VMS_FLOAT, _BITS, _TWO_VALUES, _PAIRS = 0x00040004, 0x00060001, 0x00150001, 0x00080002
_REFUSED = {
    0x00030004: "int",
    0x00030008: "long int",
    0x00080003: "charCmp2 (run lengths of differences)",
    0x000D0001: "pixel",
    0x00120003: "rgb",
    0x00140008: "double",
}


@dataclass(frozen=True)
class _Aim:
    """What the header of an AIM says."""

    version: int
    type: int
    shape: Shape
    offset: Shape
    voxel_size_mm: Spacing
    data_bytes: int
    size_bytes: int


def is_scanco(start: bytes, path: Path) -> bool:
    """Tell whether a file that begins with `start` is an AIM or ISQ."""
    first = start[:8]
    old = first in _AIM_1_STARTS and path.suffix.lower() == ".aim"
    return start.startswith((_ISQ_MARK, _AIM_3_MARK)) or first == _AIM_2_START or old


def open_scanco(path: str | os.PathLike[str], *, voxel_size_um: float | Spacing | None = None) -> Volume:
    """Open an AIM (version 2 or 3) or an ISQ.

    The values are those stored: the calibration to density or Hounsfield units in the headers is not applied. The
    margin of an AIM (its offset, where masks are undefined) is part of the volume.

    Parameters
    ----------
    path : path
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; needed only where the header contradicts itself, and must agree where it does not.

    Raises
    ------
    InputError
        If it is another kind of Scanco file, truncated, or its header makes no sense.

    Notes
    -----
    Layouts after the reader of the DICOM extensions of VTK (D. Gobbi) and AimIO (E. Nodwell), which agree with the
    files of the manufacturer.
    """
    place = Path(os.path.abspath(local_path(path)))
    try:
        with place.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}") from None
    try:
        return (
            _open_isq(place, start, voxel_size_um)
            if start[:16] == _ISQ_MARK
            else _open_aim(place, start, voxel_size_um)
        )
    except struct.error:
        raise InputError(f"{place} is truncated: it ends within its header, after {len(start)} bytes") from None


def _open_isq(path: Path, start: bytes, given: float | Spacing | None) -> Volume:
    kind, *_ = struct.unpack_from("<i", start, 16)
    x, y, z, x_um, y_um, z_um, _, step_um = struct.unpack_from("<8i", start, 44)
    (blocks,) = struct.unpack_from("<i", start, 508)
    if kind != _ISQ_VOXELS or z_um == 0:
        raise InputError(
            f"{path} holds data of kind {kind}, but only reconstructed volumes (ISQ, kind {_ISQ_VOXELS}) are read: "
            "sinograms (RSQ) and scout views (RAD) have no voxels"
        )
    shape = _checked_shape(path, (z, y, x))
    if blocks < 0:
        raise InputError(f"{path} says that its voxels begin after {blocks} blocks; its header is damaged")
    storage = raw_storage(path, RawLayout(shape, "int16", "little", (blocks + 1) * _BLOCK_BYTES), longer=True)
    size = check_voxel_size(
        [um / n for um, n in zip((z_um, y_um, x_um), shape, strict=True)], f"{path} (as stored)", InputError
    )
    # The increment is cut to whole micrometres; 0 is not stated.
    if step_um and abs(step_um - size[0]) > 1.1:
        if given is None:
            raise InputError(
                f"{path} states slices {step_um} µm apart, but {z_um} µm over {z} slices, {size[0]:.4g} µm each: give the "
                "voxel size"
            )
        return Volume(storage, agreed_voxel_size(str(path), None, given))
    return Volume(storage, agreed_voxel_size(str(path), size, given))


def _open_aim(path: Path, start: bytes, given: float | Spacing | None) -> Volume:
    aim = _read_aim_3(start) if start.startswith(_AIM_3_MARK) else _read_aim_2(path, start)
    shape = _checked_shape(path, aim.shape)
    size = path.stat().st_size
    if aim.size_bytes < 0 or not 0 < aim.data_bytes <= size or aim.data_bytes + aim.size_bytes > size:
        raise InputError(
            f"{path} is truncated or damaged: its voxels are said to be {aim.size_bytes} bytes from byte {aim.data_bytes} "
            f"on, but the file has {size}"
        )
    storage = _aim_storage(path, aim, shape)
    # Programs that do not know the size leave it at 0.
    stored = None if not any(aim.voxel_size_mm) else [mm * 1000 for mm in aim.voxel_size_mm]
    checked = None if stored is None else check_voxel_size(stored, f"{path} (as stored)", InputError)
    return Volume(storage, agreed_voxel_size(str(path), checked, given))


def _read_aim_2(path: Path, start: bytes) -> _Aim:
    """Header of version 2: after five sizes a block of 140 bytes, with VAX floats for the element size."""
    if start[:8] != _AIM_2_START:
        raise InputError(
            f"{path} is an AIM of version 1, but only versions 2 and 3 are read: save it again with a newer IPL"
        )
    head, struct_bytes, log_bytes, data_bytes = struct.unpack_from("<4i", start, 0)
    (kind,) = struct.unpack_from("<i", start, head + 20)
    numbers = struct.unpack_from("<21i", start, head + 24)
    sizes = from_vms(np.array(struct.unpack_from("<3I", start, head + 108), np.uint32))
    shape, offset = _reversed(numbers[3:6]), _reversed(numbers[6:9])
    _check_log(path, log_bytes)
    z, y, x = (float(v) for v in sizes[::-1])
    return _Aim(2, kind, shape, offset, (z, y, x), head + struct_bytes + log_bytes, data_bytes)


def _read_aim_3(start: bytes) -> _Aim:
    """Header of version 3: as version 2 with 64-bit sizes, and the element size in whole nanometres."""
    head, struct_bytes, log_bytes, data_bytes = struct.unpack_from("<4q", start, 16)
    if not 32 <= head <= 1024:
        raise struct.error
    begin = 16 + head
    (kind,) = struct.unpack_from("<i", start, begin + 12)
    numbers = struct.unpack_from("<24q", start, begin + 16)
    z, y, x = (nm / 1e6 for nm in numbers[23:20:-1])
    return _Aim(
        3,
        kind,
        _reversed(numbers[3:6]),
        _reversed(numbers[6:9]),
        (z, y, x),
        begin + struct_bytes + log_bytes,
        data_bytes,
    )


def _aim_storage(path: Path, aim: _Aim, shape: Shape) -> RawFile | VmsFloats | PackedBits | Runs:
    if aim.type in _PLAIN or aim.type == _VMS_FLOAT:
        dtype = _PLAIN.get(aim.type, "uint32")
        stated = math.prod(shape) * np.dtype(dtype).itemsize
        if aim.size_bytes < stated:
            raise InputError(
                f"{path} has {aim.size_bytes} bytes of voxels, but {shape} (z, y, x) of {dtype} take {stated}: the header is "
                "damaged"
            )
        raw = raw_storage(path, RawLayout(shape, dtype, "little", aim.data_bytes), longer=True)
        return VmsFloats(raw) if aim.type == _VMS_FLOAT else raw
    if aim.type == _BITS:
        return packed_bits(path, shape, aim.data_bytes, aim.size_bytes)
    if aim.type in (_PAIRS, _TWO_VALUES):
        if any(not 0 <= 2 * o < n for o, n in zip(aim.offset, shape, strict=True)):
            raise InputError(f"{path} says its margin is {aim.offset} voxels (z, y, x) of a volume of {shape}: damaged")
        span = (aim.data_bytes, aim.size_bytes, 4 if aim.version == 2 else 8)
        return run_lengths(path, shape, aim.offset, span, two_values=aim.type == _TWO_VALUES)
    kind = _REFUSED.get(aim.type, "unknown")
    raise InputError(
        f"{path} holds voxels of type {kind} ({aim.type:#010x}), which is not read: convert it to char, short or float in IPL"
    )


def _check_log(path: Path, log_bytes: int) -> None:
    if log_bytes < 0:
        raise InputError(f"{path} says its log has {log_bytes} bytes: its header is damaged")


def _checked_shape(path: Path, shape: Shape) -> Shape:
    if min(shape) < 1 or max(shape) >= _MAX_AXIS:
        raise InputError(f"{path} has shape {shape} (z, y, x), but must have at least one voxel: its header is damaged")
    return shape


def _reversed(numbers: tuple[int, ...]) -> Shape:
    """Take (x, y, z) of the file to (z, y, x)."""
    return three(numbers[::-1])
