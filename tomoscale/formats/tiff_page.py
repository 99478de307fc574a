"""Pages of a TIFF: what their headers say, and their voxels."""

from __future__ import annotations

import contextlib
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from tomoscale.errors import InputError
from tomoscale.geometry import Shape, Spacing
from tomoscale.voxel_size import check_voxel_size, micrometres_per

MAX_RATIO = 40_000
"""No codec of TIFF packs more into a byte: Zstandard has 128 KiB in 4 bytes, Deflate 1032 in one."""
MAX_TILE_BYTES = 64 * 2**20
"""A tile is decoded as a whole, however little of it lies in the page."""
_DEFLATE = (8, 32946)
_IMAGEJ_CHANNELS = 7
_NOT_DEPTH = {"C": "channels", "T": "times"}
_OME_NUMBER = re.compile(r"""\b(Size[ZCT]|IFD|PlaneCount|First[ZCT])\s*=\s*["']([^"']*)["']""")
_ENTITIES = re.compile(r"<!(?:DOCTYPE|ENTITY)")
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
    _check_samples(path, tif.pages[0])
    _check_ome(path, tif, pages)
    series = tif.series
    if len(series) > 1:
        raise InputError(
            f"{path} holds pages of {len(series)} different shapes or types, first {series[0].shape} and {series[1].shape}"
        )
    one = series[0]
    _check_axes(path, tif, one)
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


def _check_samples(path: Path, page: Any) -> None:
    if page.samplesperpixel != 1:
        raise InputError(
            f"{path} has slices of shape {tuple(page.shape)}, but they must be grey (y, x): convert colours to grey or classes"
        )
    tiled = "TileWidth" in page.tags or "TileLength" in page.tags
    if page.dtype is None or page.bitspersample < 1 or (tiled and min(page.tilewidth, page.tilelength) < 1):
        raise InputError(
            f"{path} has samples of {page.bitspersample} bits of a kind that is not known, or tiles without pixels: it is damaged"
        )
    if page.imagedepth != 1:
        raise InputError(f"{path} has {page.imagedepth} slices in a page, which is not read: save one slice a page")


def _check_axes(path: Path, tif: Any, series: Any) -> None:
    """Refuse channels and times where slices should be; an axis without a name is z."""
    axes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n != 1 or axis in "YX"]
    names = "".join(axis for axis, _ in axes)
    if names[-2:] != "YX" or len(names) > 3:
        raise InputError(
            f"{path} has axes {series.axes} of {series.shape}, but must be a stack of grey slices (z, y, x): save one channel "
            "and one time"
        )
    # tifffile writes what it is not told of into the channels of ImageJ, which itself has no more than seven.
    unnamed = tif.is_imagej and names[0] == "C" and axes[0][1] > _IMAGEJ_CHANNELS
    if len(names) == 3 and names[0] in _NOT_DEPTH and not unnamed:
        raise InputError(
            f"{path} has {axes[0][1]} {_NOT_DEPTH[names[0]]}, not slices, by its own word: save one of them, or if they are "
            "slices, say so in the file (Fiji: Image > Properties)"
        )


def _check_ome(path: Path, tif: Any, pages: int) -> None:
    """Refuse OME metadata that tell of more planes than there are, before a list of them is made."""
    text = (tif.ome_metadata or "") if tif.is_ome else ""
    if _ENTITIES.search(text):
        raise InputError(
            f"{path} has OME metadata with definitions of its own (<!DOCTYPE>), which is not read: save it again"
        )
    found: dict[str, int] = {}
    for name, number in _OME_NUMBER.findall(text):
        found[name] = max(found.get(name, 0), int(number))
    planes = math.prod(found.get(f"Size{axis}", 1) for axis in "ZCT")
    most = max(planes, *(n for name, n in found.items() if not name.startswith("Size")), 0)
    if most > pages:
        raise InputError(
            f"{path} tells of {most} planes, but holds {pages} pages: it is truncated, or one of several files; save all slices "
            "in one file, or one slice a file"
        )


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


def check_chain(path: Path, tif: Any) -> int:
    """Pages of a file; refuse one whose chain leads beyond its end or in a circle: the library drops the rest silently."""
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
    return len(seen)


def check_page(page: Any, path: Path) -> None:
    """Refuse a page that cannot be there as it is described, before memory is taken for it.

    Raises
    ------
    InputError
        If its data lie beyond the end of the file or nowhere (the library fills in zeros), are too few for its pixels,
        or are compressed in a way that is not known.
    """
    size, key = page.parent.filehandle.size, page.keyframe
    stored = 0
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset + count > size or count == 0:
            raise InputError(
                f"{path} is truncated: it has {size} bytes, but its voxels are said to be at {offset} to {offset + count}"
            )
        stored += count
    if key.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise InputError(
            f"{path} is compressed by method {key.compression}, which is not known: save it with Deflate or none"
        )
    rows, width = key.shape[-2:]
    least = rows * -(-width * key.bitspersample // 8)
    tile = key.tilewidth * key.tilelength * key.bitspersample // 8 if key.is_tiled else 0
    if tile > max(least, MAX_TILE_BYTES):
        raise InputError(f"{path} has tiles of {tile} bytes for pages of {least}: it is damaged; save it again")
    if stored < least if key.compression == 1 else least > MAX_RATIO * stored:
        raise InputError(
            f"{path} is truncated or damaged: {(rows, width)} pixels (y, x) cannot be in the {stored} bytes they are said to take"
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
