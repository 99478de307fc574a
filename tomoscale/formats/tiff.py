"""TIFF stacks: a folder with one slice a file, or one file with many pages."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.tiff_checks import check_page
from tomoscale.formats.tiff_names import is_tiff_name, slice_names
from tomoscale.formats.tiff_page import Pages, decode, first_series, named, open_tif, stated_voxel_size
from tomoscale.geometry import Region, Shape, Spacing, region_shape
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size
from tomoscale.zarr_metadata import DTYPES, MAX_CHUNK_BYTES

__all__ = ["TiffStack", "is_tiff_name", "open_tiff"]

THREADS = min(8, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class TiffStack:
    """Address of a TIFF stack; a chunk is a slice.

    Attributes
    ----------
    path : str
        Absolute path of the folder, or of the file with all pages.
    shape : (Z, Y, X)
    dtype : numpy dtype
        In native byte order, whatever the files have.
    """

    path: str
    shape: Shape
    dtype: np.dtype[Any]

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.path

    @property
    def chunk_shape(self) -> Shape:
        """One slice: it is decoded as a whole."""
        return 1, self.shape[1], self.shape[2]

    def read(self, region: Region) -> np.ndarray:
        """Values of a region; only its slices are decoded.

        Raises
        ------
        InputError
            If a slice is damaged or has changed; the message names its file.
        """
        result = np.empty(region_shape(region), self.dtype)
        read_slice = self._slice_reader()

        def fill(z: int) -> None:
            result[z - region[0].start] = read_slice(z)[region[1:]]

        wanted = range(region[0].start, region[0].stop)
        if len(wanted) == 1 or THREADS == 1:
            for z in wanted:
                fill(z)
        else:
            with ThreadPoolExecutor(min(THREADS, len(wanted))) as threads:
                list(threads.map(fill, wanted))
        return result

    def identity(self) -> dict[str, Any]:
        """Digest of names, sizes and times of the files."""
        folder = Path(self.path)
        files = [folder / name for name in slice_names(folder)[0]] if folder.is_dir() else [folder]
        digest = hashlib.sha256()
        for file in files:
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return {"tiff": folder.name, "slices": self.shape[0], "sha256": digest.hexdigest()[:32]}

    def _slice_reader(self) -> Callable[[int], np.ndarray]:
        path = Path(self.path)
        try:
            modified = path.stat().st_mtime_ns
        except OSError as error:
            raise InputError(f"{path} cannot be read any more: {error.strerror}") from None
        if path.is_dir():
            names = _names_of(self.path, modified)
            if len(names) != self.shape[0]:
                raise InputError(
                    f"{path} had {self.shape[0]} slices when it was opened and now has {len(names)}: open it again"
                )
            return lambda z: self._checked(_read_file(path / names[z]), str(path / names[z]))
        pages = _open_pages_of(self.path, modified)
        if len(pages) != self.shape[0]:
            raise InputError(
                f"{path} had {self.shape[0]} pages when it was opened and now has {len(pages)}: open it again"
            )
        return lambda z: self._checked(pages.read(z), f"page {z} of {path}")

    def _checked(self, values: np.ndarray, name: str) -> np.ndarray:
        if values.shape != self.shape[1:] or values.dtype.newbyteorder("=") != self.dtype:
            raise InputError(
                f"{name} is {values.shape} {values.dtype}, but was {self.shape[1:]} {self.dtype} when the stack was opened: it "
                "was overwritten; open the stack again"
            )
        return values


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: str
    voxel_size_um: Spacing | None


def open_tiff(path: str | os.PathLike[str], *, voxel_size_um: float | Spacing | None = None) -> Volume:
    """Open a folder of slices, in the order of the last number in their names, or a multi-page file.

    Where the numbers go up in equal steps of more than one (0000, 0002, 0004, ...), every n-th slice was saved, or the
    others were lost. A voxel size with another length along z than along y and x shows that this is known; one length
    for all would be that of the pixels, and is refused.

    Parameters
    ----------
    path : path
    voxel_size_um : (z, y, x), or one length for all
        In micrometres. TIFF rarely states it: only ImageJ and OME metadata with a unit for all axes are believed; the
        resolution tags say nothing of z.

    Raises
    ------
    InputError
        If slices are missing, double, damaged, empty, or differ in shape or dtype; the first such file is named.
    """
    place = Path(os.path.abspath(local_path(path)))
    names, step = slice_names(place) if place.is_dir() else ([], 1)
    if step > 1 and not _tells_z(voxel_size_um):
        raise InputError(
            f"{place}: the slices are numbered in steps of {step} ({names[0]}, {names[1]}, ...): every {step}th one was saved, or "
            "the others are missing, and how far apart these are is unclear. Copy the missing ones; or give the voxel size as "
            f"z,y,x with the distance between these slices as z; or number them 0, 1, 2, ... if they are no further apart "
            "than their pixels are wide"
        )
    if len(names) == 1:
        place, names = place / names[0], []
    if not names:
        return _open_pages(place, voxel_size_um)
    with ThreadPoolExecutor(THREADS) as threads:
        headers = list(threads.map(lambda name: _read_header(place / name), names))
    for name, header in zip(names, headers, strict=True):
        if (header.shape, header.dtype) != (headers[0].shape, headers[0].dtype):
            raise InputError(
                f"{place / name} is {header.shape} {header.dtype}, but the first slice {names[0]} is {headers[0].shape} "
                f"{headers[0].dtype}: all slices must have one shape and one type; remove what does not belong here"
            )
    y, x = headers[0].shape
    storage = TiffStack(str(place), (len(names), y, x), np.dtype(headers[0].dtype))
    return Volume(storage, agreed_voxel_size(str(place), headers[0].voxel_size_um, voxel_size_um))


def _tells_z(voxel_size_um: float | Spacing | None) -> bool:
    return isinstance(voxel_size_um, Sequence) and voxel_size_um[0] not in voxel_size_um[1:]


def _open_pages(path: Path, voxel_size_um: float | Spacing | None) -> Volume:
    with named(path), open_tif(path) as tif:
        series = first_series(path, tif)
        dtype, stored = np.dtype(series.dtype).newbyteorder("="), stated_voxel_size(tif)
    _check_slice(path, series.shape[1:], dtype.name)
    return Volume(TiffStack(str(path), series.shape, dtype), agreed_voxel_size(str(path), stored, voxel_size_um))


def _read_header(path: Path) -> _Header:
    with named(path), open_tif(path) as tif:
        page = tif.pages[0]
        more = [p for p in tif.pages[1:] if not p.is_reduced]
        images = int((tif.imagej_metadata or {}).get("images", 1))
        shape, dtype = page.shape, np.dtype(page.dtype).name if page.dtype else "nothing we know"
        if more or images > 1:
            raise InputError(
                f"{path} holds {max(images, len(more) + 1)} pages, but in a folder of slices every file must hold one"
            )
        _check_slice(path, shape, dtype)
        check_page(page, path)
        return _Header(shape, dtype, stated_voxel_size(tif))


def _check_slice(path: Path, shape: Sequence[int], dtype: str) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(
            f"{path} has slices of shape {tuple(shape)}, but they must be grey (y, x): convert colours to grey or classes"
        )
    if dtype not in DTYPES:
        raise InputError(f"{path} has voxels of type {dtype}, but only {', '.join(DTYPES)} are read")
    if math.prod(shape) * np.dtype(dtype).itemsize > MAX_CHUNK_BYTES:
        raise InputError(
            f"{path} has slices of {tuple(shape)} {dtype}, more than 2 GiB each, and a slice is decoded as a whole"
        )


@lru_cache(maxsize=16)
def _names_of(folder: str, modified: int) -> list[str]:
    return slice_names(Path(folder))[0]


@lru_cache(maxsize=8)
def _open_pages_of(path: str, modified: int) -> Pages:
    """Pages of a file, kept open in this process until others are read or the file changes."""
    with named(path):
        return Pages(path)


def _read_file(path: Path) -> np.ndarray:
    with named(path), open_tif(path) as tif:
        check_page(tif.pages[0], path)
        return decode(tif.pages[0])
