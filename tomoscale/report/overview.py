"""A small copy of a label volume of any size: each of its cells has the most frequent class of a few voxels.

A coarser level is read where there is one that is fine enough, else the full volume region by region; memory is that of one
region and of the copy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import Shape, Spacing, three
from tomoscale.ome import level_paths, multiscales
from tomoscale.volume import ZarrArray, open_zarr
from tomoscale.zarr_metadata import read_node

if TYPE_CHECKING:
    from tomoscale.report.planes import Palette
    from tomoscale.volume import Volume

SIDE = 192
MOST_VOXELS = 1 << 34
"""Without a coarser level, a larger volume is not read: a full pass would take longer than all else together."""
_CHUNK_VOXELS = 64
_REGION_BYTES = 1 << 23


@dataclass(frozen=True)
class Overview:
    """Small copy of a label volume.

    Attributes
    ----------
    ranks : (z, y, x) uint8 array
        Rank of the class in a palette.
    cell : (float, float, float)
        Size of a cell along (z, y, x), in micrometres, or in voxels if the voxel size is not known.
    known : bool
        Whether `cell` is in micrometres.
    source : str
        What was read of it, in words.
    """

    ranks: np.ndarray
    cell: Spacing
    known: bool
    source: str


def overview(volume: Volume, palette: Palette, side: int = SIDE) -> Overview | None:
    """Small copy of labels, of at most `side` cells along the longest axis.

    Returns
    -------
    Overview, or None if the volume has no coarser level and more than `MOST_VOXELS` voxels.

    Raises
    ------
    InputError, IntegrityError
        If the data cannot be read.
    """
    level = _coarse_enough(volume, side)
    if math.prod(level.shape) > MOST_VOXELS:
        return None
    size = volume.voxel_size_um or (1.0, 1.0, 1.0)
    # From the extent of the full volume: a level's own size may be rounded.
    pitch = tuple(h * n / m for h, n, m in zip(size, volume.shape, level.shape, strict=True))
    edge = max(n * h for n, h in zip(level.shape, pitch, strict=True)) / side
    factors = three(min(max(1, math.ceil(edge / h * (1 - 1e-9))), n) for h, n in zip(pitch, level.shape, strict=True))
    ranks = _thinned(level, palette, factors)
    z, y, x = (f * h for f, h in zip(factors, pitch, strict=True))
    return Overview(ranks, (z, y, x), volume.voxel_size_um is not None, _in_words(volume, level, factors))


def _coarse_enough(volume: Volume, side: int) -> Volume:
    """The coarsest level of the volume's image that still has `side` voxels along its longest axis, or the volume itself."""
    storage = volume.storage
    if max(volume.shape) <= side or not isinstance(storage, ZarrArray):
        return volume
    node = read_node(storage.directory)
    image = None if node is None else multiscales(node.attributes)
    levels = level_paths(image) if image is not None else []
    if storage.inside not in levels:
        return volume
    for path in reversed(levels[levels.index(storage.inside) + 1 :]):
        try:
            level = open_zarr(storage.directory, array=path)
        except InputError:
            continue  # a level that cannot be used is not needed
        if max(level.shape) >= side:
            return level
    return volume


def _thinned(volume: Volume, palette: Palette, factors: Shape) -> np.ndarray:
    """Most frequent rank of up to 8 voxels spread over each cell of `factors` voxels: (z, y, x) uint8 array."""
    out = np.empty([-(-n // f) for n, f in zip(volume.shape, factors, strict=True)], np.uint8)
    steps = [list(_steps(n, f, volume.dtype.itemsize)) for n, f in zip(volume.shape, factors, strict=True)]
    for z, y, x in itertools.product(*steps):
        values = volume.read((z.read, y.read, x.read))[np.ix_(z.votes, y.votes, x.votes)]
        out[z.cells, y.cells, x.cells] = _majority(
            palette.ranks(values), (z.each, y.each, x.each), len(palette.ids) + 1
        )
    return out


@dataclass(frozen=True)
class _Step:
    """Cells along one axis that are read together: where to read, and which voxels of that vote, `each` for a cell."""

    cells: slice
    read: slice
    votes: np.ndarray
    each: int


def _steps(length: int, factor: int, itemsize: int) -> Iterator[_Step]:
    """Regions of about one chunk of whole cells; where a cell is larger than a chunk, one voxel of each is read."""
    if factor > _CHUNK_VOXELS:
        for cell in range(-(-length // factor)):
            middle = min(cell * factor + factor // 2, length - 1)
            yield _Step(slice(cell, cell + 1), slice(middle, middle + 1), np.zeros(1, np.intp), 1)
        return
    widest = round((_REGION_BYTES / itemsize) ** (1 / 3))
    together = max(1, max(widest // _CHUNK_VOXELS, 1) * _CHUNK_VOXELS // factor)
    offsets = np.unique([factor // 4, factor // 2 + factor // 4])
    for first in range(0, -(-length // factor), together):
        cells = np.arange(first, min(first + together, -(-length // factor)))
        votes = np.minimum((cells[:, None] * factor + offsets).ravel(), length - 1)
        start = first * factor
        stop = min((int(cells[-1]) + 1) * factor, length)
        yield _Step(slice(first, int(cells[-1]) + 1), slice(start, stop), votes - start, len(offsets))


def _majority(ranks: np.ndarray, each: Shape, n_ranks: int) -> np.ndarray:
    """Most frequent rank in cells of `each` votes; of two that are as frequent the higher, so that thin parts stay."""
    if each == (1, 1, 1):
        return ranks
    z, y, x = (n // e for n, e in zip(ranks.shape, each, strict=True))
    cells = ranks.reshape(z, each[0], y, each[1], x, each[2])
    best, most = np.zeros((z, y, x), np.uint8), np.zeros((z, y, x), np.uint8)
    for rank in range(n_ranks):
        votes = (cells == rank).sum(axis=(1, 3, 5), dtype=np.uint8)
        better = (votes >= most) & (votes > 0)
        best[better], most[better] = rank, votes[better]
    return best


def _in_words(volume: Volume, level: Volume, factors: Shape) -> str:
    which = "" if level is volume else f" of the coarser level of {' × '.join(map(str, level.shape))} voxels"
    if factors == (1, 1, 1):
        return f"Every voxel{which} is drawn."
    return f"A cell of the picture stands for {' × '.join(map(str, factors))} voxels (z × y × x){which}."
