"""Pieces of a volume as pictures that any painter opens: grey values, and labels with a colour map."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from tomoscale.errors import InputError
from tomoscale.training.pictures import Colour, open_pictures
from tomoscale.training.recipe import IGNORED

UNLABELLED: Colour = (255, 0, 255)
"""Colour of what nobody has labelled."""
MAX_BYTES = 2**33


def colours_of(colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """Colours of classes, if they can be told apart; else others, by their number."""
    if len({*colours, UNLABELLED}) == len(colours) + 1:
        return tuple(colours)

    def colour(number: int) -> Colour:
        hue = (number * 0.618034) % 0.75  # away from that of `UNLABELLED`
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 - 0.25 * (number % 3), 1 - 0.2 * (number // 3 % 4))
        return round(255 * red), round(255 * green), round(255 * blue)

    return ((0, 0, 0), *(colour(n) for n in range(1, len(colours))))


def write_grey(path: Path, values: np.ndarray) -> str:
    """Write grey values, (Y, X) or (Z, Y, X), and return the file's checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, photometric="minisblack", compression="zlib", metadata=None)
    return sha256_of(path)


def write_labels(path: Path, labels: np.ndarray, colours: Sequence[Colour]) -> str:
    """Write labels, uint8, with a colour map, and return the file's checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.zeros((3, 256), np.uint16)
    table[:, : len(colours)] = np.array(colours, np.uint16).T * 257
    table[:, IGNORED] = np.array(UNLABELLED, np.uint16) * 257
    tifffile.imwrite(path, labels, photometric="palette", colormap=table, compression="zlib", metadata=None)
    return sha256_of(path)


def read_labels(path: Path, shape: tuple[int, ...], colours: Sequence[Colour]) -> np.ndarray:
    """Labels that a painter has saved: as they were written, or in their colours.

    Parameters
    ----------
    path : path
    shape : tuple of int
        (Y, X) or (Z, Y, X) that they must have.
    colours : sequence of (red, green, blue)
        Of the classes.

    Returns
    -------
    array of uint8
        Class ids, 255 for what is not labelled.

    Raises
    ------
    InputError
        If the file is no such picture; the message says what is wrong and where.
    """
    labels = _plane(path, shape, colours) if len(shape) == 2 else _stack(path)
    if labels.shape != shape:
        raise InputError(
            f"{path} has {labels.shape} pixels and {shape} were given out: save corrections at their size, neither cut nor scaled"
        )
    if labels.dtype.kind not in "uib":
        raise InputError(
            f"{path} holds {labels.dtype}, but labels are whole numbers: save it as integers of 8 or 16 bits"
        )
    wrong = np.argwhere((labels >= len(colours)) & (labels != IGNORED) | (labels < 0))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise InputError(
            f"{path} holds {len(wrong)} voxels with labels that are no class (0 to {len(colours) - 1}, or {IGNORED} for not labelled), "
            f"the first, {labels[place]}, at {place}: paint them again"
        )
    return np.asarray(labels, np.uint8)


def sha256_of(path: Path) -> str:
    """Checksum of a file.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES >> 30} GiB: is it the right file?")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _plane(path: Path, shape: tuple[int, ...], colours: Sequence[Colour]) -> np.ndarray:
    pictures = open_pictures(path, (*colours, UNLABELLED))
    if pictures.shape[1:] != shape:
        return np.empty(pictures.shape[1:], np.uint8)
    found: np.ndarray = pictures.read((slice(0, 1), slice(0, shape[0]), slice(0, shape[1])))[0]
    if pictures.colours:
        found[found == len(colours)] = IGNORED
    return found


def _stack(path: Path) -> np.ndarray:
    try:
        return np.asarray(tifffile.imread(path))
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise InputError(f"{path} is not a TIFF that can be read: {str(error).splitlines()[0]}") from error
