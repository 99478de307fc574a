"""What the blocks of a plan read along one axis: blocks are products of these, so totals over 10^6 blocks are too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tomoscale.geometry import read_span


@dataclass(frozen=True)
class Axis:
    """One axis of a plan.

    Attributes
    ----------
    block, length : int
        Of the grid, in voxels of the target.
    source_length : int
    halo : (before, after)
        In voxels of the source.
    stride : int
    factor : float
        Target voxel size over source voxel size.
    tile : int
    """

    block: int
    length: int
    source_length: int
    halo: tuple[int, int]
    stride: int = 1
    factor: float = 1.0
    tile: int = 1

    def spans(self) -> Iterator[slice]:
        """What each block reads, in order."""
        for start in range(0, self.length, self.block):
            stop = min(start + self.block, self.length)
            yield read_span(start, stop, self.source_length, *self.halo, self.stride, self.factor, self.tile)


@lru_cache(maxsize=64)
def lengths_along(axis: Axis) -> np.ndarray:
    """Voxels that each block reads along an axis: int64 array, read-only."""
    lengths = np.array([span.stop - span.start for span in axis.spans()], np.int64)
    lengths.flags.writeable = False
    return lengths


@lru_cache(maxsize=4096)
def read_along(axis: Axis) -> tuple[int, int]:
    """Voxels that all blocks read along an axis, and that the one with the most reads."""
    total = largest = 0
    for span in axis.spans():
        total += span.stop - span.start
        largest = max(largest, span.stop - span.start)
    return total, largest


@lru_cache(maxsize=4096)
def held_along(axis: Axis, chunk: int) -> int:
    """Voxels of the chunks that the block that touches the most touches along an axis."""
    touched: int = max(-(-span.stop // chunk) - span.start // chunk for span in axis.spans())
    return chunk * touched


@lru_cache(maxsize=4096)
def decoded_along(axis: Axis, chunk: int) -> int:
    """Voxels of all chunks that the blocks touch along an axis."""
    return sum(min(axis.source_length, -(-s.stop // chunk) * chunk) - s.start // chunk * chunk for s in axis.spans())
