"""Pages of a TIFF: what their headers say, and their voxels."""

from __future__ import annotations

import contextlib
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tomoscale.errors import InputError
from tomoscale.formats.tiff_checks import check_axes, check_chain, check_ome, check_page, check_samples
from tomoscale.geometry import Shape, Spacing
from tomoscale.voxel_size import check_voxel_size, micrometres_per

_DEFLATE = (8, 32946)
_INSTRUMENTS = (
    "avs",
    "bif",
    "eer",
    "fluoview",
    "indica",
    "lsm",
    "mdgel",
    "mmstack",
    "ndpi",
    "ndtiff",
    "nih",
    "philips",
    "qpi",
    "scanimage",
    "scn",
    "sis",
    "stk",
    "svs",
)
_FOREIGN = {f"is_{name}": False for name in _INSTRUMENTS}
"""Files of these follow rules of their own, some of which open other files."""


class named:
    """Turn whatever a damaged TIFF makes the libraries raise into one error that names the file."""

    def __init__(self, name: object) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError | MemoryError):
            raise InputError(
                f"{self.name} is not a TIFF that can be read: {error or type(error).__name__}; copy or export it again"
            ) from None


@dataclass(frozen=True)
class Series:
    """The grey slices of a file.

    Attributes
    ----------
    shape : (Z, Y, X)
    dtype : numpy dtype
        In the byte order of the file.
    start_bytes : int or None
        Where the first voxel begins, if all follow each other uncompressed.
    pages : list of TiffPage or TiffFrame
        One for each slice, unless `start_bytes` is given.
    """

    shape: Shape
    dtype: np.dtype[Any]
    start_bytes: int | None
    pages: list[Any]


def open_tif(path: str | Path) -> tifffile.TiffFile:
    """Open a TIFF as what it is itself: no other file it names is opened, and no instrument's own rules are asked."""
    return tifffile.TiffFile(path, _multifile=False, **_FOREIGN)


def first_series(path: Path, tif: Any) -> Series:
    """Slices of a file with many pages, or of one page with many slices, as old ImageJ stacks above 4 GiB are.

    Raises
    ------
    InputError
        If the pages are not slices of one grey volume, or not all there.
    """
    pages = check_chain(path, tif)
    check_samples(path, tif.pages[0])
    check_ome(path, tif, pages)
    series = tif.series
    if len(series) > 1:
        raise InputError(
            f"{path} holds pages of {len(series)} different shapes or types, first {series[0].shape} and {series[1].shape}"
        )
    one = series[0]
    check_axes(path, tif, one)
    long = [n for n, axis in zip(one.shape, one.axes, strict=True) if n != 1 or axis in "YX"]
    z, y, x = [1, *long] if len(long) == 2 else long
    dtype = np.dtype(one.dtype).newbyteorder(tif.byteorder)
    images = int((tif.imagej_metadata or {}).get("images", z)) if tif.is_imagej else z
    size, needed = path.stat().st_size, z * y * x * dtype.itemsize
    start = one.dataoffset
    if images > z or (start is not None and start + needed > size):
        raise InputError(
            f"{path} is truncated: it has {size} bytes, too few for {max(images, z)} slices of {(y, x)} {dtype.name}"
        )
    if start is None and (len(one.pages) != z or z > pages or any(page is None for page in one.pages)):
        raise InputError(
            f"{path} says it has {z} slices, but holds {pages} pages: it is truncated, or one of several files"
        )
    found = [] if start is not None else list(one.pages)
    for page in found:
        check_page(page, path)
    return Series((z, y, x), dtype, start, found)


class Pages:
    """All slices of an open file; threads may read them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tif = open_tif(path)
        self.tif.filehandle.set_lock(True)
        self.series = first_series(Path(path), self.tif)

    def __len__(self) -> int:
        return self.series.shape[0]

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.tif.close()

    def read(self, number: int) -> np.ndarray:
        """Voxels of one slice, (Y, X)."""
        with named(f"page {number} of {self.path}"):
            if self.series.start_bytes is None:
                return decode(self.series.pages[number])
            # Read, not mapped: a file cut short meanwhile is then an error, not the end of the process.
            shape, dtype = self.series.shape[1:], self.series.dtype
            size = math.prod(shape)
            offset = self.series.start_bytes + number * size * dtype.itemsize
            return np.fromfile(self.path, dtype, size, offset=offset).reshape(shape)


def stated_voxel_size(tif: Any) -> Spacing | None:
    """Voxel size from ImageJ or OME metadata, if they give it for all axes with a unit."""
    lengths: list[float | None] = [None]
    if tif.is_ome and tif.ome_metadata:
        # Not parsed as XML: entities of a hostile header would fill the memory.
        tag = (re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", tif.ome_metadata) or [""])[0]
        stated = dict(re.findall(r'\b(PhysicalSize[XYZ](?:Unit)?)="([^"]*)"', tag))
        lengths = [
            _times(stated.get(f"PhysicalSize{a}"), micrometres_per(stated.get(f"PhysicalSize{a}Unit"))) for a in "ZYX"
        ]
    elif tif.is_imagej and tif.imagej_metadata:
        unit = micrometres_per(tif.imagej_metadata.get("unit"))
        tags = tif.pages[0].tags
        lengths = [
            _times(tif.imagej_metadata.get("spacing"), unit),
            *(_times(_inverse(tags.get(n)), unit) for n in ("YResolution", "XResolution")),
        ]
    z, y, x = (*lengths, None, None)[:3]
    if z is None or y is None or x is None:
        return None
    return check_voxel_size((z, y, x), f"{tif.filename} (as stored)", InputError)


def _times(length: Any, unit: float | None) -> float | None:
    try:
        return None if unit is None or length is None else float(length) * unit
    except (TypeError, ValueError):
        return None


def _inverse(tag: Any) -> float | None:
    pixels, units = tag.value if tag is not None else (0, 0)
    return units / pixels if pixels else None


def decode(page: Any) -> np.ndarray:
    """Voxels of a page, (Y, X)."""
    try:
        values: np.ndarray = page.asarray(maxworkers=1)
    except RuntimeError:
        key = page.keyframe
        if key.compression not in _DEFLATE or key.predictor != 1 or key.is_tiled or key.samplesperpixel != 1:
            raise
        return _inflate(page)
    return values


def _inflate(page: Any) -> np.ndarray:
    """Decode a Deflate page whose last strip holds more rows than the page has left; the usual decoder refuses it."""
    key = page.keyframe
    dtype = np.dtype(key.dtype).newbyteorder(key.parent.byteorder)
    rows, width = key.shape
    result = np.empty((rows, width), dtype)
    row = 0
    for strip, _ in page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts):
        count = min(key.rowsperstrip, rows - row)
        # Bounded, so that a hostile strip cannot fill the memory.
        values = zlib.decompressobj().decompress(strip, count * width * dtype.itemsize)
        result[row : row + count] = np.frombuffer(values, dtype).reshape(count, width)
        row += count
    if row != rows:
        raise ValueError(f"only {row} of {rows} rows are there")
    return result
