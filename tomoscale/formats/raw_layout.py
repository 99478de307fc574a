"""How voxels lie in a file without a header, and what its size and name suggest where that was not said."""

from __future__ import annotations

import math
import operator
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.rows import ByteOrder
from tomoscale.geometry import Shape, three
from tomoscale.places import local_path
from tomoscale.zarr_metadata import DTYPES

RAW_DTYPES = tuple(name for name in DTYPES if name != "bool")


@dataclass(frozen=True)
class RawLayout:
    """What a file without a header does not say of its voxels.

    Attributes
    ----------
    shape : (Z, Y, X)
    dtype : str
        Such as ``"uint16"``.
    byte_order : "little" or "big"
    offset_bytes : int
        Bytes before the first voxel; of the decompressed stream, where there is one.

    Raises
    ------
    ValueError
        If one of them makes no sense.
    """

    shape: Shape
    dtype: str
    byte_order: ByteOrder = "little"
    offset_bytes: int = 0

    def __post_init__(self) -> None:
        shape = tuple(operator.index(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be three positive numbers of voxels (z, y, x), got {self.shape}")
        object.__setattr__(self, "shape", shape)
        if self.dtype not in RAW_DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(RAW_DTYPES)}, got {self.dtype!r}")
        if self.byte_order not in ("little", "big"):
            raise ValueError(f"byte_order must be little or big, got {self.byte_order!r}")
        if operator.index(self.offset_bytes) < 0:
            raise ValueError(f"offset_bytes must not be negative, got {self.offset_bytes}")

    @property
    def end_bytes(self) -> int:
        """Where the last voxel ends."""
        return self.offset_bytes + math.prod(self.shape) * np.dtype(self.dtype).itemsize


def is_raw_name(name: str) -> bool:
    """Tell whether a file name is one that programs give to voxels without a header."""
    return name.lower().endswith((".raw", ".bin", ".vol", ".dat"))


def without_layout(path: Path) -> InputError:
    """Error for a file without a header whose layout was not given, with the shapes that its size and name suggest."""
    size = size_of(path)
    hints = [
        f"{' x '.join(map(str, shape))} of {bits} bits"
        for bits in (8, 16, 32)
        for shape in _suggested_shapes(path.name, size * 8 // bits)
        if size and math.prod(shape) * bits == size * 8
    ]
    suits = f" Its size would suit, for example, {'; '.join(hints[:3])}." if hints else ""
    return InputError(
        f"{path} has {size} bytes and no header, so nothing says how its voxels lie.{suits}\n"
        "Give its shape (z, y, x), dtype and voxel size, such as raw=RawLayout((1000, 800, 800), 'uint16') and voxel_size_um=5.0"
    )


def _suggested_shapes(name: str, voxels: int) -> list[Shape]:
    """Three numbers of a name in both orders, and the cube."""
    found = [
        three(map(int, match))
        for match in re.findall(r"(\d{1,6})[x_×,-](\d{1,6})[x_×,-](\d{1,6})", name)
        for match in (match, match[::-1])
    ]
    edge = round(voxels ** (1 / 3))
    return list(dict.fromkeys([*found, (edge, edge, edge)]))


def size_of(path: str | os.PathLike[str]) -> int:
    """Bytes in a file; raise `InputError` if there is no such file."""
    place = Path(os.path.abspath(local_path(path)))
    if not place.is_file():
        raise InputError(f"{place} {'is not a file' if place.exists() else 'does not exist; check the path'}")
    return place.stat().st_size
