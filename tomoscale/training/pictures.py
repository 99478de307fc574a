"""Pictures as volumes: PNG, TIFF and other images of slices, and masks whose classes are colours."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from tomoscale.errors import InputError
from tomoscale.geometry import Region, Shape, region_shape
from tomoscale.ome import Kind
from tomoscale.places import local_path

Colour = tuple[int, int, int]
ENDINGS = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
MAX_PIXELS = 2**28
"""Of a picture, since some compressed files would fill any memory."""


@dataclass(frozen=True)
class Pictures:
    """Equal pictures as slices along z: a storage that is read only.

    Attributes
    ----------
    files : tuple of str
        One for each slice.
    shape : (Z, Y, X)
    dtype : numpy dtype
        Of grey pictures; uint8 of masks.
    colours : tuple of (red, green, blue)
        The voxels are the places of their colours in this tuple; empty for grey pictures.
    """

    files: tuple[str, ...]
    shape: Shape
    dtype: np.dtype[Any]
    colours: tuple[Colour, ...] = ()

    @property
    def name(self) -> str:
        """The first file, or the folder."""
        return self.files[0] if len(self.files) == 1 else str(Path(self.files[0]).parent)

    @property
    def chunk_shape(self) -> Shape:
        """A slice is decoded as a whole."""
        return 1, *self.shape[1:]

    @property
    def kind(self) -> Kind:
        """Masks are labels."""
        return "labels" if self.colours else "grey"

    def read(self, region: Region) -> np.ndarray:
        """Voxels of a region.

        Raises
        ------
        InputError
            If a picture cannot be read, has changed its shape, or has a colour that no class has.
        """
        z, y, x = region
        result = np.empty(region_shape(region), self.dtype)
        for place, number in enumerate(range(z.start, z.stop)):
            pixels = _pixels(Path(self.files[number]))
            if pixels.shape[:2] != self.shape[1:] or (pixels.ndim == 3) != bool(self.colours):
                raise InputError(f"{self.files[number]} has changed: it is {pixels.shape} now, it was {self.shape[1:]}")
            part = pixels[y, x]
            result[place] = _classes(part, self.colours, self.files[number]) if self.colours else part
        return result

    def identity(self) -> dict[str, Any]:
        """Files with their sizes and times."""
        stats = [os.stat(file) for file in self.files]
        return {
            "pictures": [[file, s.st_size, s.st_mtime_ns] for file, s in zip(self.files, stats, strict=True)],
            "colours": [list(c) for c in self.colours],
        }


def open_pictures(path: str | Path, colours: Sequence[Colour] = ()) -> Pictures:
    """Open a picture, or a folder of equal pictures in the order of their names.

    Parameters
    ----------
    path : path
    colours : sequence of (red, green, blue)
        Of the classes; only for masks in colour.

    Raises
    ------
    InputError
        If there is none, they differ, or a mask is in colour and no colours are given.
    """
    files = _files(local_path(path))
    pixels = _pixels(files[0])
    if pixels.ndim == 3 and not colours:
        raise InputError(f"{files[0]} is in colour: give the classes their colours, or a picture in grey")
    height, width = pixels.shape[:2]
    dtype = np.dtype(np.uint8) if pixels.ndim == 3 else pixels.dtype.newbyteorder("=")
    used = tuple(colours) if pixels.ndim == 3 else ()
    for file in files[1:]:
        other = _pixels(file)
        if (other.shape, other.dtype) != (pixels.shape, pixels.dtype):
            raise InputError(
                f"{file} is {other.shape} {other.dtype}, but {files[0].name} is {pixels.shape} {pixels.dtype}: pictures of one "
                "volume are equal; give pictures that are not as samples of their own"
            )
    return Pictures(tuple(str(f) for f in files), (len(files), height, width), dtype, used)


def is_picture(path: str | Path) -> bool:
    """Whether a path is a picture other than TIFF, a TIFF in colour, or a folder of such."""
    place = local_path(path)
    if place.is_dir():
        found = [f for f in sorted(place.iterdir()) if f.suffix.lower() in ENDINGS]
        return bool(found) and not (place / "zarr.json").exists() and is_picture(found[0])
    if place.suffix.lower() not in ENDINGS or not place.is_file():
        return False
    return place.suffix.lower() not in (".tif", ".tiff") or _pixels(place).ndim == 3


def check_pairs(greys: Pictures, masks: Pictures) -> None:
    """Refuse pictures and masks that do not belong together by the numbers in their names.

    Raises
    ------
    InputError
    """
    if len(greys.files) != len(masks.files):
        raise InputError(
            f"{greys.name} holds {len(greys.files)} pictures but {masks.name} {len(masks.files)} masks: each needs one"
        )
    for grey, mask in zip(greys.files, masks.files, strict=True):
        if len(greys.files) > 1 and _numbers(grey) != _numbers(mask):
            raise InputError(f"{grey} and {mask} come together by their order, but their names have other numbers")


def _files(path: Path) -> list[Path]:
    files = [f for f in path.iterdir() if f.suffix.lower() in ENDINGS] if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path} is no picture and holds none ({', '.join(ENDINGS)})")
    return sorted(files, key=lambda f: (_numbers(f), f.name))


def _numbers(file: str | Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d{1,18}", Path(file).stem)]


def _pixels(file: Path) -> np.ndarray:
    """Values of a picture: (Y, X), or (Y, X, 3) uint8 if it is in colour."""
    try:
        if file.suffix.lower() in (".tif", ".tiff"):
            with tifffile.TiffFile(file) as tif:
                _check_size(file, tif.pages[0].size)
                pixels = np.asarray(tif.pages[0].asarray())
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    _check_size(file, image.width * image.height)
                    pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "LA") else image)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, Warning) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is not a picture that can be read: {str(error).splitlines()[0]}") from error
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8:
        return pixels[:, :, :3]
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif":
        raise InputError(f"{file} is {pixels.shape} {pixels.dtype}: pictures are in grey, or in colours of 8 bits")
    return pixels


def _check_size(file: Path, pixels: int) -> None:
    if pixels > 4 * MAX_PIXELS:
        raise InputError(f"{file} has {pixels} values, a picture may have {4 * MAX_PIXELS}")


def _classes(pixels: np.ndarray, colours: tuple[Colour, ...], file: str) -> np.ndarray:
    """Place of each pixel's colour among `colours`: uint8."""
    codes = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    wanted = np.array([r * 65536 + g * 256 + b for r, g, b in colours], np.uint32)
    order = np.argsort(wanted)
    found = order[np.minimum(np.searchsorted(wanted[order], codes), len(wanted) - 1)]
    wrong = np.argwhere(wanted[found] != codes)
    if len(wrong):
        y, x = wrong[0]
        raise InputError(
            f"{file} has the colour {tuple(int(v) for v in pixels[y, x])} in {len(wrong)} pixels, the first at row {y}, column "
            f"{x} of what was read, and no class has it: name a class of this colour, or save masks without smoothing"
        )
    return found.astype(np.uint8)
