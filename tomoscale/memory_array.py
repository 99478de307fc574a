"""An array in memory where a `Volume` is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import xxhash

from tomoscale.geometry import Region, Shape, region_shape
from tomoscale.ome import Kind


@dataclass(frozen=True, eq=False)
class MemoryArray:
    """An array in memory as a storage, for notebooks and tests; it stays in its process."""

    values: np.ndarray = field(repr=False)
    kind: Kind = "grey"
    name: str = "array in memory"
    chunk_shape: Shape = (1, 1, 1)

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or isinstance(self.values, np.ma.MaskedArray):
            raise TypeError(
                f"values are of type {type(self.values).__name__}, but must be a NumPy array without a mask: give "
                "numpy.asarray(values), or array.filled(VALUE) of a masked array; what does not fit in memory is opened by its path"
            )
        if self.values.ndim != 3 or self.values.size == 0:
            raise ValueError(
                f"values must have three axes (z, y, x) and at least one voxel, got shape {self.values.shape}"
            )

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        z, y, x = self.values.shape
        return z, y, x

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return self.values.dtype.newbyteorder("=")

    def read(self, region: Region) -> np.ndarray:
        """Copy of a region."""
        return np.array(self.values[region], self.dtype, order="C")

    def write(self, region: Region, values: np.ndarray) -> None:
        """Set a region; shape and dtype must fit."""
        if values.shape != region_shape(region) or values.dtype != self.dtype:
            raise ValueError(
                f"values are {values.shape} {values.dtype} but the region takes {region_shape(region)} {self.dtype}; nothing "
                "is cast silently"
            )
        self.values[region] = values

    def identity(self) -> dict[str, Any]:
        """Digest of the values."""
        return {"memory": xxhash.xxh3_128_hexdigest(np.ascontiguousarray(self.values).data)}

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a volume in memory cannot be sent to another process: write it to disk with create_volume, or run without a client"
        )
