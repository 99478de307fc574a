"""Pages of a TIFF: what their headers say, and their voxels."""

from __future__ import annotations

import contextlib
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tomoscale.errors import InputError
from tomoscale.geometry import Spacing
from tomoscale.voxel_size import check_voxel_size, micrometres_per

_DEFLATE = (8, 32946)


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


def grey_shape(series: Any) -> tuple[int, ...]:
    """Shape of a series of pages without its axes of length one; y and x stay."""
    return tuple(n for n, axis in zip(series.shape, series.axes, strict=True) if n != 1 or axis in "YX")


class Pages:
    """All pages of an open file; threads may read them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tif = tifffile.TiffFile(path)
        self.tif.filehandle.set_lock(True)
        series = self.tif.series[0]
        self.shape = grey_shape(series)[-2:]
        self.start = series.dataoffset
        self.dtype = np.dtype(series.dtype).newbyteorder(self.tif.byteorder)
        # Programs write huge stacks as one page and the voxels of all in a row.
        self.pages = [] if self.start is not None else list(series.pages)
        self.count = math.prod(grey_shape(series)[:-2])

    def __len__(self) -> int:
        return self.count

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.tif.close()

    def read(self, number: int) -> np.ndarray:
        """Voxels of one page, (Y, X)."""
        with named(f"page {number} of {self.path}"):
            if self.pages:
                return decode(self.pages[number])
            # Read, not mapped: a file cut short meanwhile is then an error, not the end of the process.
            size = math.prod(self.shape)
            offset = self.start + number * size * self.dtype.itemsize
            return np.fromfile(self.path, self.dtype, size, offset=offset).reshape(self.shape)


def check_chain(path: Path, tif: Any) -> None:
    """Refuse a file whose chain of pages leads beyond its end or in a circle: the library drops the rest silently."""
    word, count, entry = ("Q", "Q", 20) if tif.is_bigtiff else ("I", "H", 12)
    size, seen = path.stat().st_size, set[int]()
    with path.open("rb") as file:

        def number(kind: str, offset: int) -> int:
            file.seek(offset)
            return int(struct.unpack(tif.byteorder + kind, file.read(struct.calcsize(kind)))[0])

        offset = number(word, 8 if tif.is_bigtiff else 4)
        while offset:
            if offset in seen or offset >= size:
                where = "in a circle" if offset in seen else f"to byte {offset} of {size}"
                raise InputError(f"{path} is truncated or damaged: after {len(seen)} pages its header leads {where}")
            seen.add(offset)
            offset = number(word, offset + struct.calcsize(count) + entry * number(count, offset))


def check_segments(page: Any, path: Path) -> None:
    """Refuse a page that says its data lie beyond the end of the file, or nowhere: the library fills in zeros."""
    size = page.parent.filehandle.size
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset + count > size or count == 0:
            raise InputError(
                f"{path} is truncated: it has {size} bytes, but its voxels are said to be at {offset} to {offset + count}"
            )


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
