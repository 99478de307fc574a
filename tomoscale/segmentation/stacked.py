"""Several numbers of every voxel in one volume: those of a slice after each other along z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.geometry import Region, Shape, region_shape
from tomoscale.volume import Storage, Volume


@dataclass(frozen=True)
class Stacked:
    """A stored volume of (Z * numbers, Y, X) values seen as one of (Z, Y, X) voxels, or as a larger one with zeros behind.

    Attributes
    ----------
    stored : Volume
        Plane ``z * numbers + i`` holds number i of slice z.
    numbers : int
        Of a voxel; `read` gives (z, numbers, y, x).
    shape : (Z, Y, X)
        At least that of the voxels.
    """

    stored: Volume
    numbers: int
    shape: Shape

    @property
    def storage(self) -> Storage:
        """Where the numbers are."""
        return self.stored.storage

    @property
    def dtype(self) -> np.dtype[Any]:
        """All numbers of a voxel together."""
        return np.dtype((self.storage.dtype, (self.numbers,)))

    @property
    def chunk_shape(self) -> Shape:
        """Voxels of a chunk, rounded up."""
        z, y, x = self.storage.chunk_shape
        return -(-z // self.numbers), y, x

    @property
    def name(self) -> str:
        """The path, for messages."""
        return self.storage.name

    @property
    def exists(self) -> bool:
        """Whether the numbers are there."""
        return self.stored.exists

    def read(self, region: Region) -> np.ndarray:
        """Numbers of a region: (z, numbers, y, x), zeros beyond what is stored."""
        k = self.numbers
        length = (self.storage.shape[0] // k, *self.storage.shape[1:])
        held = tuple(slice(r.start, min(r.stop, n)) for r, n in zip(region, length, strict=True))
        z, y, x = held
        shape = region_shape(region)
        whole = (shape[0], k, *shape[1:])
        if any(h.stop <= h.start for h in held):
            return np.zeros(whole, self.storage.dtype)
        values = self.storage.read((slice(z.start * k, z.stop * k), y, x))
        values = values.reshape(-1, k, *values.shape[1:])
        if values.shape == whole:
            return values
        result = np.zeros(whole, self.storage.dtype)
        result[: values.shape[0], :, : values.shape[2], : values.shape[3]] = values
        return result

    def identity(self) -> dict[str, Any]:
        """Of the stored volume."""
        return {**self.storage.identity(), "numbers": self.numbers}


def stacked(stored: Volume, numbers: int, like: Volume, shape: Shape | None = None) -> Volume:
    """Volume of several numbers per voxel, with the voxel size of `like` and its shape, or a larger one."""
    return Volume(Stacked(stored, numbers, shape or like.shape), like.voxel_size_um)
