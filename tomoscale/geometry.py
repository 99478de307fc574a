"""Arithmetic on voxel indices: which voxels a block owns, which it reads, and how the two lie to each other.

Axes are always (z, y, x). A region is a tuple of three slices with concrete bounds.

.. code-block:: text

    source   |----------------------------------------------|
    read               [=== before ===|#### core ####|= after =]     clipped at the volume's edge, never padded
    write                             |##############|               what this block alone writes or counts
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Shape = tuple[int, int, int]
Region = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Halo:
    """Voxels read before and after the core, per axis; halos of steps that follow each other add.

    Examples
    --------
    >>> Halo.uniform(2) + Halo(after=(1, 0, 0))
    Halo(before=(2, 2, 2), after=(3, 2, 2))
    """

    before: Shape = (0, 0, 0)
    after: Shape = (0, 0, 0)

    def __post_init__(self) -> None:
        if min(self.before + self.after) < 0:
            raise ValueError(f"a halo cannot be negative, got before {self.before} and after {self.after}")

    @classmethod
    def uniform(cls, voxels: int) -> Halo:
        """Return the same number of voxels on all six sides."""
        return cls((voxels,) * 3, (voxels,) * 3)

    @classmethod
    def symmetric(cls, voxels: Shape) -> Halo:
        """Return a halo that is the same before and after, per axis (z, y, x)."""
        return cls(voxels, voxels)

    def __add__(self, other: Halo) -> Halo:
        return Halo(
            three(a + b for a, b in zip(self.before, other.before, strict=True)),
            three(a + b for a, b in zip(self.after, other.after, strict=True)),
        )

    def __or__(self, other: Halo) -> Halo:
        """Return the smallest halo that holds both: what steps reading the same block side by side need."""
        return Halo(
            three(max(a, b) for a, b in zip(self.before, other.before, strict=True)),
            three(max(a, b) for a, b in zip(self.after, other.after, strict=True)),
        )


@dataclass(frozen=True)
class Block:
    """One unit of work: the region it owns, the region it reads, and the first seen from the second.

    Attributes
    ----------
    number : int
        Rank in its grid, z-major.
    write : Region
        What the block owns, in voxels of the target (of the source, for a measure).
    read : Region
        What it reads, in voxels of the source, clipped at the volume's edge.
    source_shape, target_shape : (Z, Y, X)
        Shapes of the whole volumes, so that a step can tell a true border from an artificial one.
    """

    number: int
    write: Region
    read: Region
    source_shape: Shape
    target_shape: Shape

    @property
    def core(self) -> Region:
        """The written region in coordinates of the read block; only where source and target share one grid."""
        return shift(self.write, tuple(-r.start for r in self.read))

    @property
    def read_shape(self) -> Shape:
        """Shape of the block as read."""
        return region_shape(self.read)

    @property
    def write_shape(self) -> Shape:
        """Shape of the block as written."""
        return region_shape(self.write)


@dataclass(frozen=True)
class Grid:
    """Partition of one concrete shape into blocks, numbered z-major.

    Examples
    --------
    >>> grid = Grid((5, 4, 4), (2, 4, 4))
    >>> len(grid), grid.region(2)
    (3, (slice(4, 5, None), slice(0, 4, None), slice(0, 4, None)))
    """

    shape: Shape
    block_shape: Shape

    def __post_init__(self) -> None:
        for name, value in (("shape", self.shape), ("block_shape", self.block_shape)):
            if len(value) != 3 or min(value) < 1:
                raise ValueError(f"{name} must be three positive numbers of voxels (z, y, x), got {value}")

    @cached_property
    def counts(self) -> Shape:
        """Blocks along each axis."""
        return three(-(-n // b) for n, b in zip(self.shape, self.block_shape, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Region]:
        return (self.region(number) for number in range(len(self)))

    def position(self, number: int) -> Shape:
        """Return the place of block `number` along (z, y, x)."""
        if not 0 <= number < len(self):
            raise IndexError(f"block {number} does not exist: the grid has {len(self)} blocks")
        rest, x = divmod(number, self.counts[2])
        z, y = divmod(rest, self.counts[1])
        return z, y, x

    def region(self, number: int) -> Region:
        """Return the voxels block `number` owns."""
        start = tuple(p * b for p, b in zip(self.position(number), self.block_shape, strict=True))
        return _region(slice(s, min(s + b, n)) for s, b, n in zip(start, self.block_shape, self.shape, strict=True))


def read_span(  # noqa: PLR0913 -- what a kernel declares of an axis, each a number
    start: int, stop: int, source_length: int, before: int, after: int, stride: int, factor: float, tile: int = 1
) -> slice:
    """Source voxels along one axis that are needed for target voxels `start` to `stop`.

    Voxel centres map as ``source = (target + 0.5) * factor - 0.5``. The bounds go outwards to multiples of `tile`, then
    by the margins, then to multiples of `stride`, all counted from the volume's origin, and are clipped at its edge.
    """
    low = start if factor == 1 else math.floor((start + 0.5) * factor - 0.5)
    high = stop if factor == 1 else math.floor((stop - 0.5) * factor - 0.5) + 1
    low = (low // tile * tile - before) // stride * stride
    high = -(-(-(-high // tile) * tile + after) // stride) * stride
    return slice(max(0, low), min(source_length, high))


def shift(region: Region, offset: tuple[int, ...]) -> Region:
    """Move a region by `offset` voxels."""
    return _region(slice(r.start + o, r.stop + o) for r, o in zip(region, offset, strict=True))


def region_shape(region: Region) -> Shape:
    """Shape of a region."""
    return three(r.stop - r.start for r in region)


def whole(shape: Shape) -> Region:
    """Return the region of a whole volume."""
    return _region(slice(0, n) for n in shape)


def three(values: Iterable[int]) -> Shape:
    """Take exactly three numbers."""
    z, y, x = values
    return z, y, x


def _region(slices: Iterable[slice]) -> Region:
    z, y, x = slices
    return z, y, x
