"""DICOM: a folder with the slices of one series, or one file with many frames, in the order they lie in the patient."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.dicom_file import BoundedFile, has_mark
from tomoscale.formats.dicom_header import DicomFile, Frame, read_header
from tomoscale.formats.dicom_order import ordered
from tomoscale.formats.raw import RawFile
from tomoscale.geometry import Region, Shape, Spacing, region_shape
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size, check_voxel_size

NAMES = (".dcm", ".dicom", ".ima")
_LOOKED_AT = 32
"""Files of a folder, in the order of names, that are asked whether they are DICOM; slices often have no ending."""


@dataclass(frozen=True)
class DicomSeries:
    """Address of the slices of a series; their places in the files are looked up once in each process.

    Attributes
    ----------
    path : str
        Absolute path of the folder, or of the file with all frames.
    shape : (Z, Y, X)
    dtype : numpy dtype
        Of the values after slope and intercept.
    order : str
        Digest of the files and their order when the series was opened.
    """

    path: str
    shape: Shape
    dtype: np.dtype[Any]
    order: str

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.path

    @property
    def chunk_shape(self) -> Shape:
        """One row of a slice, which is what lies together."""
        return 1, 1, self.shape[2]

    def read(self, region: Region) -> np.ndarray:
        """Values of a region, read from the files at the place of its rows.

        Raises
        ------
        InputError
            If a file is gone or has changed; the message names it.
        """
        try:
            series = _series(self.path, os.stat(self.path).st_mtime_ns)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read any more: {error.strerror}") from None
        if series.digest != self.order:
            raise InputError(f"{self.path} does not hold the slices it held when it was opened: open it again")
        values = np.empty(region_shape(region), self.dtype)
        for plane, (file, frame) in zip(values, series.slices[region[0]], strict=True):
            series.read_into(plane, file, frame, region)
        return values

    def identity(self) -> dict[str, Any]:
        """Digest of the names, sizes and times of the files, and of their order."""
        return {"dicom": Path(self.path).name, "slices": self.shape[0], "sha256": self.order}


def is_dicom(start: bytes, path: Path) -> bool:
    """Tell whether a file that begins with `start`, or a folder, is DICOM."""
    if not path.is_dir():
        return path.suffix.lower() in NAMES or (path.is_file() and has_mark(path, start)) or start[128:132] == b"DICM"
    names = _names(path)
    return any(n.lower().endswith(NAMES) for n in names) or any(has_mark(path / n) for n in names[:_LOOKED_AT])


def open_dicom(path: str | os.PathLike[str], *, voxel_size_um: float | Spacing | None = None) -> Volume:
    """Open a folder with the slices of one series, or a file with many frames.

    Slices are sorted by their position along the normal of their plane, and the distance between them is that of these
    positions; the thickness of a slice says nothing of it. Where no slice has a position they are in the order of their
    instance numbers. Values are those stored, unless a slice has a slope and intercept other than 1 and 0: then they are
    the meant ones, slope * value + intercept, as integers where all slopes and intercepts are integers, else as float32
    (float64 for values of 32 bits).

    Parameters
    ----------
    path : path
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; needed where the slices state none, and must agree where they do.

    Raises
    ------
    InputError
        If there are several series, slices are missing, double, uneven or compressed, or differ in shape, type or
        spacing; the first such file is named.
    PlanError
        If pydicom is not installed.
    """
    place = os.path.abspath(local_path(path))
    try:
        modified = os.stat(place).st_mtime_ns
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}") from None
    series = _series(place, modified)
    # Files overwritten meanwhile do not change their folder's time.
    if any(file.mtime_ns != _mtime(series.folder / file.name) for file in series.files):
        _series.cache_clear()
        series = _series(place, modified)
    _, rows, columns = series.files[0].shape
    storage = DicomSeries(place, (len(series.slices), rows, columns), series.dtype, series.digest)
    return Volume(storage, agreed_voxel_size(place, series.voxel_size_um, voxel_size_um))


@dataclass(frozen=True)
class _Series:
    """What the headers of all files say together; `slices` are (file, frame) in ascending z."""

    folder: Path
    files: tuple[DicomFile, ...]
    slices: list[tuple[int, int]]
    voxel_size_um: Spacing | None
    dtype: np.dtype[Any]
    digest: str

    def read_into(self, plane: np.ndarray, number: int, frame: int, region: Region) -> None:
        """Fill a (Y, X) plane with a part of a frame."""
        file = self.files[number]
        path = self.folder / file.name
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"{path} cannot be read any more: {error.strerror}") from None
        if (stat.st_size, stat.st_mtime_ns) != (file.bytes, file.mtime_ns):
            raise InputError(f"{path} was overwritten since it was opened: open the series again")
        if file.offset_bytes is None:
            values = _unpacked(path, file, frame)[region[1:]]
        else:
            raw = RawFile(str(path), file.shape, np.dtype(file.dtype), file.byte_order, file.offset_bytes)
            values = raw.read((slice(frame, frame + 1), *region[1:]))[0]
        if file.unused_bits:
            # What lies above the value may be an overlay, or copies of its sign.
            values = (values << file.unused_bits) >> file.unused_bits
        one = file.frames[frame]
        if self.dtype == np.dtype(file.dtype):
            plane[...] = values
        elif self.dtype.kind == "i":
            plane[...] = values.astype(np.int64) * int(one.slope) + int(one.intercept)
        else:
            plane[...] = values * one.slope + one.intercept


@lru_cache(maxsize=4)
def _series(path: str, modified: int) -> _Series:
    """Headers of all files of a folder, or of one file, checked against each other."""
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    files = tuple(read_header(folder / name) for name in (_slices(folder) if folder == place else [place.name]))
    frames = [(number, frame) for number, file in enumerate(files) for frame in range(file.shape[0])]
    if len(files) > 1 and len(frames) > len(files):
        many = next(file for file in files if file.shape[0] > 1)
        raise InputError(
            f"{folder / many.name} holds {many.shape[0]} frames, but in a folder of slices every file must hold one; open "
            "that file itself"
        )
    _check_alike(folder, files)
    slices, step_mm = ordered(folder, files, frames)
    spacing = files[0].frames[0].spacing_mm
    size = None if spacing is None or step_mm is None else (step_mm * 1e3, spacing[0] * 1e3, spacing[1] * 1e3)
    digest = hashlib.sha256()
    for number, frame in slices:
        digest.update(f"{files[number].name} {frame} {files[number].bytes} {files[number].mtime_ns}\n".encode())
    return _Series(
        folder,
        files,
        slices,
        None if size is None else check_voxel_size(size, f"{path} (as stored)", InputError),
        _dtype(files),
        digest.hexdigest()[:32],
    )


def _names(folder: Path) -> list[str]:
    names = sorted(os.listdir(folder))
    return [n for n in names if not n.startswith(".") and n != "DICOMDIR" and (folder / n).is_file()]


def _slices(folder: Path) -> list[str]:
    names = [n for n in _names(folder) if n.lower().endswith(NAMES) or has_mark(folder / n)]
    if not names:
        raise InputError(f"{folder} holds no DICOM files")
    return names


def _check_alike(folder: Path, files: Sequence[DicomFile]) -> None:
    """Refuse a second series, and a file that differs from the first."""
    series = Counter(file.series for file in files)
    if len(series) > 1:
        held = "; ".join(f"{name}: {count} files" for name, count in series.most_common(4))
        raise InputError(f"{folder} holds {len(series)} series: {held}. Put each into a folder of its own")
    first = files[0]
    for file in files:
        for what, a, b in (
            ("slices of", file.shape[1:], first.shape[1:]),
            ("voxels of type", (file.dtype, file.unused_bits), (first.dtype, first.unused_bits)),
        ):
            if a != b:
                raise InputError(
                    f"{folder / file.name} has {what} {a}, but {first.name} has {b}: remove what does not belong"
                )
        for frame in file.frames:
            _check_frame(folder / file.name, frame, first.frames[0])


def _check_frame(path: Path, frame: Frame, first: Frame) -> None:
    for what, a, b, share, distance in (
        ("pixel spacing", frame.spacing_mm, first.spacing_mm, 1e-4, 0.0),
        ("orientation", frame.orientation, first.orientation, 0.0, 1e-3),
    ):
        if (a is None) != (b is None) or (a and b and not np.allclose(a, b, share, distance)):
            raise InputError(f"{path} has {what} {a}, but the first slice has {b}: remove what does not belong here")
    if (frame.position is None) != (first.position is None):
        raise InputError(f"{path} has {'no' if frame.position is None else 'a'} position, unlike the first slice")


def _dtype(files: Sequence[DicomFile]) -> np.dtype[Any]:
    """Type of the meant values: see `open_dicom`."""
    stored = np.dtype(files[0].dtype)
    scales = {(frame.slope, frame.intercept) for file in files for frame in file.frames}
    if scales == {(1.0, 0.0)}:
        return stored
    if stored.kind == "f" or any(v != int(v) for scale in scales for v in scale):
        return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)
    bits = 8 * stored.itemsize - files[0].unused_bits
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.kind == "i" else (0, 2**bits - 1)
    values = [int(slope) * end + int(intercept) for slope, intercept in scales for end in ends]
    for name in ("int16", "int32", "int64"):
        info = np.iinfo(name)
        if info.min <= min(values) and max(values) <= info.max:
            return np.dtype(name)
    return np.dtype(np.float64)


def _unpacked(path: Path, file: DicomFile, frame: int) -> np.ndarray:
    """A frame packed in RLE, (Y, X), by pydicom itself."""
    from pydicom.pixels.utils import pixel_array

    try:
        with BoundedFile(path) as source:
            source.largest = source.bytes
            values: np.ndarray = pixel_array(source, index=frame, raw=True)
    except Exception as error:
        raise InputError(f"frame {frame + 1} of {path} cannot be unpacked: {error}; copy or export it again") from None
    if values.shape != file.shape[1:] or values.dtype.itemsize != np.dtype(file.dtype).itemsize:
        raise InputError(
            f"frame {frame + 1} of {path} unpacks to {values.shape} {values.dtype}, but must be {file.shape[1:]}"
        )
    return values.astype(file.dtype)


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
