"""What is refused of a TIFF before memory is taken for it: pages that are not there, colours, channels, and hostile sizes."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import tifffile

from tomoscale.errors import InputError

MAX_RATIO = 40_000
"""No codec of TIFF packs more into a byte: Zstandard has 128 KiB in 4 bytes, Deflate 1032 in one."""
MAX_TILE_BYTES = 64 * 2**20
"""A tile is decoded as a whole, however little of it lies in the page."""
_IMAGEJ_CHANNELS = 7
_NOT_DEPTH = {"C": "channels", "T": "times"}
_OME_NUMBER = re.compile(r"""\b(Size[ZCT]|IFD|PlaneCount|First[ZCT])\s*=\s*["']([^"']*)["']""")
_ENTITIES = re.compile(r"<!(?:DOCTYPE|ENTITY)")


def check_samples(path: Path, page: Any) -> None:
    """Refuse colours, unknown samples, tiles without pixels and pages of several slices."""
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


def check_axes(path: Path, tif: Any, series: Any) -> None:
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


def check_ome(path: Path, tif: Any, pages: int) -> None:
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
