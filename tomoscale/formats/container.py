"""Files of other formats with their header and room for the voxels, which are then put in at known places."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tomoscale.formats import metaimage, nifti
from tomoscale.geometry import Shape, Spacing

_NIFTI_1_LONGEST = 2**15 - 1
_NIFTI_UNIT_MM = 2
_RESOLUTION_UNIT_NONE = 1


@dataclass(frozen=True)
class Contents:
    """What a file is to hold.

    Attributes
    ----------
    shape : (Z, Y, X)
    dtype : str
        Such as ``"uint16"``; stored with the lowest byte first.
    voxel_size_um : (z, y, x) or None
        In micrometres.
    first_slice : int
        Number in the name of the first slice, where slices have names.
    """

    shape: Shape
    dtype: str
    voxel_size_um: Spacing | None
    first_slice: int = 0

    @property
    def plane_bytes(self) -> int:
        """Size of one (Y, X) plane."""
        return self.shape[1] * self.shape[2] * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Size of all voxels."""
        return self.shape[0] * self.plane_bytes


@dataclass(frozen=True)
class Planes:
    """Where the voxels go.

    Attributes
    ----------
    files : tuple of Path
        One for all planes, or one for each.
    start_bytes : int
        Where the first plane of a file begins.
    """

    files: tuple[Path, ...]
    start_bytes: int


def lay_tiff_folder(path: Path, contents: Contents) -> Planes:
    """Make a folder of TIFF files, one for each slice, named by its zero-padded number."""
    path.mkdir()
    last = contents.first_slice + contents.shape[0] - 1
    width = max(4, len(str(last)))
    files = tuple(path / f"slice_{z:0{width}d}.tif" for z in range(contents.first_slice, last + 1))
    # All headers are equal, and a header lies before its voxels: one is made and copied.
    start = _lay_tiff(files[0], contents, planes=1)
    with files[0].open("rb") as file:
        header = file.read(start)
    for other in files[1:]:
        _lay(other, header, contents.plane_bytes)
    return Planes(files, start)


def lay_bigtiff(path: Path, contents: Contents) -> Planes:
    """Make a BigTIFF with one page for each slice."""
    return Planes((path,), _lay_tiff(path, contents, planes=contents.shape[0]))


def lay_nifti(path: Path, contents: Contents) -> Planes:
    """Make a NIfTI-1 file, or a NIfTI-2 file where an axis is too long for that."""
    header = _nifti_header(contents, 1 if max(contents.shape) <= _NIFTI_1_LONGEST else 2)
    _lay(path, header, contents.nbytes)
    return Planes((path,), len(header))


def lay_metaimage(path: Path, contents: Contents) -> Planes:
    """Make an ``.mha``, or an ``.mhd`` and a ``.raw`` beside it."""
    z, y, x = contents.shape
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = False", f"DimSize = {x} {y} {z}"]
    if contents.voxel_size_um is not None:
        size = (v / metaimage.MICROMETRES_PER_MILLIMETRE for v in reversed(contents.voxel_size_um))
        lines.append("ElementSpacing = " + " ".join(repr(v) for v in size))
    lines.append(f"ElementType = {next(k for k, v in metaimage.DTYPES.items() if v == contents.dtype)}")
    data = path if path.suffix.lower() == ".mha" else raw_beside(path)
    lines.append(f"ElementDataFile = {'LOCAL' if data == path else data.name}")
    header = ("\n".join(lines) + "\n").encode()
    if data == path:
        _lay(path, header, contents.nbytes)
        return Planes((path,), len(header))
    path.write_bytes(header)
    _lay(data, b"", contents.nbytes)
    return Planes((data,), 0)


def raw_beside(path: Path) -> Path:
    """File of the voxels that belong to an ``.mhd``; a ``%`` in its name would be taken for that of a series."""
    return path.with_name(path.stem.replace("%", "_") + ".raw")


def _lay(path: Path, header: bytes, room_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + room_bytes)


def _lay_tiff(path: Path, contents: Contents, planes: int) -> int:
    """Make a TIFF of so many pages, their voxels in a row; return where they begin.

    The voxel size is written as ImageJ writes it, which is the only way that also holds for slices of their own and for
    every dtype.
    """
    lines, resolution = ["ImageJ=1.53t"], None
    if planes > 1:
        lines += [f"images={planes}", f"slices={planes}"]
    if contents.voxel_size_um is not None:
        z, y, x = contents.voxel_size_um
        lines += ["unit=um", f"spacing={z!r}"]
        resolution = (1 / x, 1 / y)
    with tifffile.TiffWriter(path, bigtiff=planes > 1, byteorder="<") as tif:
        tif.write(
            shape=(planes, *contents.shape[1:]),
            dtype=contents.dtype,
            photometric="minisblack",
            description="\n".join(lines) + "\n",
            metadata=None,
            resolution=resolution,
            resolutionunit=_RESOLUTION_UNIT_NONE,
            software="tomoscale",
        )
    with tifffile.TiffFile(path) as tif:
        return int(tif.pages[0].dataoffsets[0])


def _nifti_header(contents: Contents, version: int) -> bytes:
    """Header with the four bytes that say that no extension follows."""
    size = nifti.HEADER_BYTES[version]
    header = bytearray(size + 4)
    known = contents.voxel_size_um is not None
    mm = [v / 1000 for v in reversed(contents.voxel_size_um or (1000.0,) * 3)]
    rows = [[mm[axis] if column == axis else 0.0 for column in range(4)] for axis in range(3)]
    datatype = next(k for k, v in nifti.DTYPES.items() if v == contents.dtype)
    bits = np.dtype(contents.dtype).itemsize * 8
    sizes = (3, *reversed(contents.shape), 1, 1, 1, 1)
    pixdim = (1.0, *mm, 1.0, 1.0, 1.0, 1.0)
    unit = _NIFTI_UNIT_MM if known else 0
    fields: list[tuple[Any, ...]]
    # Without position and direction, which we do not know, readers differ in what they assume: x, y, z as they lie.
    if version == 1:
        fields = [("i", 0, size), ("8h", 40, *sizes), ("2h", 70, datatype, bits), ("8f", 76, *pixdim)]
        fields += [("3f", 108, float(size + 4), 1.0, 0.0), ("B", 123, unit), ("10s", 148, b"tomoscale")]
        fields += [("2h", 252, 1, 1), ("12f", 280, *rows[0], *rows[1], *rows[2]), ("4s", 344, b"n+1\0")]
    else:
        fields = [("i", 0, size), ("8s", 4, b"n+2\0\r\n\x1a\n"), ("2h", 12, datatype, bits), ("8q", 16, *sizes)]
        fields += [("8d", 104, *pixdim), ("q", 168, size + 4), ("2d", 176, 1.0, 0.0), ("10s", 240, b"tomoscale")]
        fields += [("2i", 344, 1, 1), ("12d", 400, *rows[0], *rows[1], *rows[2]), ("i", 500, unit)]
    for code, offset, *values in fields:
        struct.pack_into(f"<{code}", header, offset, *values)
    return bytes(header)
