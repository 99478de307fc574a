"""How Scanco AIM files pack their voxels: floats of a VAX, and eight voxels in a byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.raw import RawFile
from tomoscale.geometry import Region, Shape, three

_DEFAULT_VALUE = 127


@dataclass(frozen=True)
class VmsFloats:
    """Voxels stored as the floats of a VAX, which are not those of IEEE.

    Attributes
    ----------
    raw : RawFile
        The same voxels as 32-bit words.
    """

    raw: RawFile

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return self.raw.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What they are converted to."""
        return np.dtype(np.float32)

    @property
    def chunk_shape(self) -> Shape:
        """One voxel: none needs another."""
        return self.raw.chunk_shape

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.raw.name

    def read(self, region: Region) -> np.ndarray:
        """Values of a region; raises `InputError` as `RawFile.read` does."""
        words = self.raw.read(region)
        for plane in words:
            plane[...] = from_vms(plane).view(np.uint32)
        return words.view(np.float32)

    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how it is read."""
        return {**self.raw.identity(), "floats": "vms"}


@dataclass(frozen=True)
class PackedBits:
    """Mask of which a byte holds 2 x 2 x 2 voxels, the lowest bit the first in x.

    Attributes
    ----------
    raw : RawFile
        The bytes, half as many along each axis, rounded up.
    shape : (Z, Y, X)
    value : int
        Of the voxels whose bit is set.
    """

    raw: RawFile
    shape: Shape
    value: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Signed bytes, as all masks of this format."""
        return np.dtype(np.int8)

    @property
    def chunk_shape(self) -> Shape:
        """What shares a byte."""
        return 2, 2, 2

    @property
    def name(self) -> str:
        """Path, for messages."""
        return self.raw.name

    def read(self, region: Region) -> np.ndarray:
        """Values of a region; raises `InputError` as `RawFile.read` does."""
        z, y, x = (slice(r.start // 2, -(-r.stop // 2)) for r in region)
        packed = self.raw.read((z, y, x))
        whole = np.empty(tuple(2 * n for n in packed.shape), np.int8)
        for bit in range(8):
            part = (packed >> bit) & 1
            whole[bit >> 2 :: 2, bit >> 1 & 1 :: 2, bit & 1 :: 2] = part.view(np.int8) * np.int8(self.value)
        inner = tuple(slice(r.start % 2, r.start % 2 + r.stop - r.start) for r in region)
        return np.ascontiguousarray(whole[inner])

    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file, and how it is read."""
        return {**self.raw.identity(), "bits": self.value}


def from_vms(words: np.ndarray) -> np.ndarray:
    """Values of VAX F floats, given as little-endian 32-bit words: float32 of the same shape.

    The two halves are swapped and the exponent is biased by two more than in IEEE; an exponent of zero is the value
    zero, or with the sign set no value at all.
    """
    swapped = (words << np.uint32(16)) | (words >> np.uint32(16))
    exponent = (swapped >> np.uint32(23)) & np.uint32(255)
    result = np.where(exponent > 2, swapped - np.uint32(2 << 23), swapped).view(np.float32)
    small = exponent <= 2
    result[small] *= np.float32(0.25)
    result[exponent == 0] = 0
    result[(exponent == 0) & (swapped >> np.uint32(31) == 1)] = np.nan
    return result


def packed_bits(path: Path, shape: Shape, start_bytes: int, size_bytes: int) -> PackedBits:
    """Mask packed in bits; the byte after the last one is the value of the set voxels.

    Raises
    ------
    InputError
        If there are too few bytes.
    """
    half = three(-(-n // 2) for n in shape)
    count = math.prod(half)
    if size_bytes < count + 1:
        raise InputError(f"{path} has {size_bytes} bytes of packed bits, but {shape} voxels (z, y, x) take {count + 1}")
    with path.open("rb") as file:
        file.seek(start_bytes + count)
        value = int.from_bytes(file.read(1), "little", signed=True)
    return PackedBits(
        RawFile(str(path), half, np.dtype(np.uint8), "little", start_bytes), shape, value or _DEFAULT_VALUE
    )
