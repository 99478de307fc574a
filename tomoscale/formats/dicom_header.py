"""What one DICOM file says of its frames, and where their voxels lie; the voxels themselves are not touched."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError, PlanError
from tomoscale.formats.dicom_file import BIG, RLE, BoundedFile, pixel_element, transfer_syntax
from tomoscale.formats.rows import ByteOrder
from tomoscale.zarr_metadata import MAX_CHUNK_BYTES

MAX_FRAMES = 1_000_000

Vector = tuple[float, float, float]

_TAGS = [
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SpacingBetweenSlices",
    "PixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class Frame:
    """Where one slice is in the patient, and how its stored values become the meant ones.

    Attributes
    ----------
    position, orientation : millimetres (x, y, z) and six cosines, or None
        As DICOM gives them.
    spacing_mm : (y, x) or None
        Between the centres of pixels.
    slope, intercept : float
        Meant value = slope * stored value + intercept.
    """

    position: Vector | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    slope: float
    intercept: float


@dataclass(frozen=True)
class DicomFile:
    """One file: its frames in the order stored, all of one shape and type.

    Attributes
    ----------
    name : str
        Without the folder.
    series : str
        Identifier of the series, and its description in brackets.
    number : int or None
        Of the instance.
    shape : (frames, Y, X)
    dtype : str
        Of a stored value.
    unused_bits : int
        Highest bits of a stored value that are not part of it.
    byte_order : "little" or "big"
    offset_bytes : int or None
        Where the first voxel begins; None where the voxels are packed in RLE.
    slice_step_mm : float or None
        SpacingBetweenSlices, for frames without positions.
    frames : tuple of Frame
    bytes, mtime_ns : int
        Size and time of the file when it was looked at.
    """

    name: str
    series: str
    number: int | None
    shape: tuple[int, int, int]
    dtype: str
    unused_bits: int
    byte_order: ByteOrder
    offset_bytes: int | None
    slice_step_mm: float | None
    frames: tuple[Frame, ...]
    bytes: int
    mtime_ns: int


def read_header(path: Path) -> DicomFile:
    """Read all of a file but its voxels.

    Raises
    ------
    InputError
        If it is damaged, or its voxels are not grey values that lie in it plainly (or in RLE).
    PlanError
        If pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise PlanError(
            f"{path} is DICOM, which is read with the package pydicom: pip install 'tomoscale[formats]'"
        ) from None
    try:
        with BoundedFile(path) as file, warnings.catch_warnings():
            # Values that break the rules of their type are told by what we do with them.
            warnings.simplefilter("ignore")
            syntax = transfer_syntax(path, file)
            file.seek(0)
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            return _described(path, file, data, syntax)
    except (InputError, PlanError, MemoryError):
        raise
    except Exception as error:
        # The library raises whatever a wrong byte leads to, OSError without a number included.
        what = (
            "cannot be read" if isinstance(error, OSError) and error.errno else "is not a DICOM file that can be read"
        )
        raise InputError(f"{path} {what}: {error or type(error).__name__}; copy or export it again") from None


def _described(path: Path, file: BoundedFile, data: Any, syntax: str) -> DicomFile:
    kind, vr, count, start = pixel_element(path, file, syntax)
    offset = None if syntax == RLE else start
    dtype, unused = _voxel_type(path, data, kind)
    order: ByteOrder = "big" if syntax == BIG else "little"
    frames = int(data.get("NumberOfFrames") or 1)
    shape = (frames, int(data.Rows), int(data.Columns))
    if not 1 <= frames <= MAX_FRAMES or min(shape) < 1:
        raise InputError(f"{path} has {frames} frames of {shape[1:]} pixels (y, x), but must have at least one voxel")
    item = np.dtype(dtype).itemsize
    wanted = math.prod(shape) * item
    if offset is None:
        if shape[1] * shape[2] * item > min(MAX_CHUNK_BYTES, 64 * file.bytes):
            raise InputError(f"{path} has {file.bytes} bytes, too few for frames of {shape[1:]} pixels: it is damaged")
    elif count < wanted or offset + wanted > file.bytes:
        raise InputError(
            f"{path} is truncated: {frames} frames of {shape[1:]} {dtype} take {wanted} bytes, but it has "
            f"{max(min(count, file.bytes - offset), 0)}"
        )
    elif item == 1 and order == "big" and vr == b"OW":
        raise InputError(f"{path} holds bytes in big-endian words, which is not read: convert it to little endian")
    stat = os.fstat(file.fileno())
    title = " ".join(str(data.get("SeriesDescription") or "").split())[:64]
    return DicomFile(
        name=path.name,
        series=f"{data.get('SeriesInstanceUID') or 'without identifier'}{f' ({title})' if title else ''}",
        number=None if data.get("InstanceNumber") is None else int(data.InstanceNumber),
        shape=shape,
        dtype=dtype,
        unused_bits=unused,
        byte_order=order,
        offset_bytes=offset,
        slice_step_mm=_number(data.get("SpacingBetweenSlices")),
        frames=_frames(path, data, frames),
        bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def _voxel_type(path: Path, data: Any, kind: str) -> tuple[str, int]:
    samples, colours = (
        int(data.get("SamplesPerPixel") or 1),
        str(data.get("PhotometricInterpretation") or "MONOCHROME2"),
    )
    if samples != 1 or not colours.startswith("MONOCHROME"):
        raise InputError(f"{path} holds colours ({samples} samples, {colours}), but slices must be grey: convert them")
    if kind:
        return kind, 0
    allocated = int(data.BitsAllocated)
    stored = int(data.get("BitsStored") or allocated)
    high = int(data.HighBit) if data.get("HighBit") is not None else stored - 1
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1:
        raise InputError(
            f"{path} has {stored} bits (the highest is {high}) in {allocated}, but only 8, 16 or 32 bits with the value in "
            "the lowest are read: convert it"
        )
    return f"{'int' if int(data.get('PixelRepresentation') or 0) else 'uint'}{allocated}", allocated - stored


def _frames(path: Path, data: Any, count: int) -> tuple[Frame, ...]:
    shared = next(iter(data.get("SharedFunctionalGroupsSequence") or []), None)
    groups = list(data.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and len(groups) != count:
        raise InputError(f"{path} describes {len(groups)} frames, but says it has {count}: it is damaged")
    if groups:
        return tuple(_frame(path, data, (group, shared)) for group in groups)
    one = _frame(path, data, (shared,))
    # A file that states one position for many frames tells of the others only their order.
    return (one,) if count == 1 else (replace(one, position=None, orientation=None),) * count


def _frame(path: Path, data: Any, groups: tuple[Any, ...]) -> Frame:
    def value(sequence: str, name: str) -> Any:
        for group in groups:
            items = group.get(sequence) if group is not None else None
            if items and items[0].get(name) is not None:
                return items[0].get(name)
        return data.get(name)

    position = _numbers(value("PlanePositionSequence", "ImagePositionPatient"), 3)
    spacing = _numbers(value("PixelMeasuresSequence", "PixelSpacing"), 2)
    slope = _number(value("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _number(value("PixelValueTransformationSequence", "RescaleIntercept"))
    if slope == 0 or not all(
        math.isfinite(v) for v in (slope or 1, intercept or 0, *(position or ()), *(spacing or ()))
    ):
        raise InputError(f"{path} has a slope of {slope}, position {position} and spacing {spacing}: it is damaged")
    return Frame(
        None if position is None else (position[0], position[1], position[2]),
        _numbers(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        None if spacing is None else (spacing[0], spacing[1]),
        1.0 if slope is None else slope,
        intercept or 0.0,
    )


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
        return None
    if len(values) != count:
        raise ValueError(f"{count} numbers are needed, but there are {len(values)}")
    return tuple(float(v) for v in values)
