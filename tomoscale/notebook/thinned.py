"""A plane of a volume read within a budget of decoded bytes, however large the volume is.

What is counted is what storage decodes, chunks, and not what is looked at. A plane within the budget is read whole, in
strips, and thinned as it comes. Of a larger one, only chunks that hold a voxel shown are read; where that would leave too
few voxels for a picture, the middle of the plane is read instead.

.. code-block:: text

    shown     .   .   .   .   .      every step-th voxel, as far from one end as from the other
    chunks   [##][  ][##][  ][##]    those without such a voxel are not decoded
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.errors import InputError, IntegrityError
from tomoscale.geometry import AXES, Shape

if TYPE_CHECKING:
    from tomoscale.volume import Volume

BUDGET_BYTES = 256 * 2**20
"""Decoded for one plane: a quarter of a second to a second."""
SECONDS = 10.0
"""After so long, on a slow file system, what is not read yet is left out."""
LEAST_PIXELS = 64
"""A picture of fewer rows or columns, of a plane that has more, says less than the middle of the plane."""
LEAST_VOXELS = 12
"""A middle smaller than this shows nothing."""
STRIP_BYTES = 8 * 2**20
STRIP_ROWS = 64
LEAST_BYTES = 64 * 2**10
"""A chunk counts as no less: to find one takes as long as to decode so much."""
PLAIN_VOXELS = 8
"""Chunks of no more are voxels stored plainly (or bits, of which eight share a byte): their neighbours are read too."""
PLAIN_BYTES = 256 * 2**10
"""Of those, what is counted as one: to start a read takes as long as to read so much."""


@dataclass(frozen=True)
class Thinned:
    """Some voxels of a plane.

    Attributes
    ----------
    axis, index : int
        The plane is where the coordinate `axis` is `index`.
    start, extent : (int, int)
        First voxel and number of voxels of the part that is shown, along rows and columns: of the whole plane, or of its
        middle.
    steps : (int, int)
        One voxel in so many of that part is shown.
    values : (rows, columns) array
        Of the volume's dtype; zero where `missing`.
    missing : (rows, columns) bool array
        What could not be read.
    problem : str
        Why not; "" if nothing is missing.
    """

    axis: int
    index: int
    start: tuple[int, int]
    extent: tuple[int, int]
    steps: tuple[int, int]
    values: np.ndarray
    missing: np.ndarray
    problem: str


def read_thinned(volume: Volume, axis: int, index: int, pixels: int, deadline_s: float | None = None) -> Thinned:
    """Read one plane, thinned to at most `pixels` a side and to what `BUDGET_BYTES` allow.

    Parameters
    ----------
    volume : Volume
    axis, index : int
    pixels : int
    deadline_s : float or None
        Reading of ``time.monotonic`` after which the rest is left out; None is `SECONDS` from now.

    Raises
    ------
    InputError
        If the budget does not allow a picture; the message says what it would take.
    """
    deadline_s = time.monotonic() + SECONDS if deadline_s is None else deadline_s
    rows, columns = (a for a in range(3) if a != axis)
    start, extent, steps = _choose(volume, axis, pixels)
    where = start[0] + positions(extent[0], steps[0]), start[1] + positions(extent[1], steps[1])
    piece = stored_piece(volume)
    # What is not written yet, or is damaged, is so by shard.
    unit = getattr(volume.storage, "shard_shape", piece)
    values = np.zeros((len(where[0]), len(where[1])), volume.dtype)
    missing, problem = np.ones(values.shape, bool), ""

    def read(down: slice, across: slice) -> None:
        """Fill the pixels `down`, `across`; where that fails, piece by piece."""
        nonlocal problem
        r, c = where[0][down], where[1][across]
        if time.monotonic() > deadline_s:
            problem = problem or f"reading took more than {SECONDS:.0f} s, and the rest is left out"
            return
        region = {axis: slice(index, index + 1), rows: _span(r), columns: _span(c)}
        try:
            found = volume.read((region[0], region[1], region[2])).squeeze(axis)
        except (InputError, IntegrityError, OSError) as error:
            problem = problem or str(error).splitlines()[0]
            parts = list(itertools.product(_runs(r, unit[rows], 1), _runs(c, unit[columns], 1)))
            for part in parts if len(parts) > 1 else ():
                read(_moved(part[0], down.start), _moved(part[1], across.start))
            return
        values[down, across] = found[np.ix_(r - r[0], c - c[0])]
        missing[down, across] = False

    height = max(STRIP_ROWS, STRIP_BYTES // (extent[1] * volume.dtype.itemsize))
    for down in _runs(where[0], piece[rows], height):
        for across in _runs(where[1], piece[columns], extent[1]):
            read(down, across)
    return Thinned(axis, index, start, extent, steps, values, missing, problem)


def stored_piece(volume: Volume) -> Shape:
    """Voxels (z, y, x) that are counted as one: a chunk, or some rows where voxels are stored plainly."""
    piece = [min(c, n) for c, n in zip(volume.storage.chunk_shape, volume.shape, strict=True)]
    if math.prod(volume.storage.chunk_shape) <= PLAIN_VOXELS:
        for axis in (2, 1, 0):
            room = PLAIN_BYTES // (math.prod(piece) * volume.dtype.itemsize)
            piece[axis] = min(piece[axis] * max(room, 1), volume.shape[axis])
    z, y, x = piece
    return z, y, x


def plane_bytes(volume: Volume, axis: int) -> int:
    """Bytes that a whole plane counts as: those decoded for it, or more where chunks are small."""
    piece = stored_piece(volume)
    across = (-(-n // p) for a, (n, p) in enumerate(zip(volume.shape, piece, strict=True)) if a != axis)
    return math.prod(across) * _counted(volume, piece)


def _counted(volume: Volume, piece: Shape) -> int:
    """Bytes that a piece counts as."""
    return max(math.prod(piece) * volume.dtype.itemsize, LEAST_BYTES)


def positions(length: int, step: int) -> np.ndarray:
    """Every `step`-th of `length` voxels, as far from one end as from the other: (n,) int64."""
    return np.arange((length - 1) % step // 2, length, step)


def _choose(volume: Volume, axis: int, pixels: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Start, extent and steps of the picture of a plane, so that what is decoded stays within the budget."""
    piece = stored_piece(volume)
    one = _counted(volume, piece)
    if one > BUDGET_BYTES:
        raise InputError(f"one chunk takes {one / 2**30:.1f} GiB, more than is decoded for a picture")
    lengths = [n for a, n in enumerate(volume.shape) if a != axis]
    chunks = [c for a, c in enumerate(piece) if a != axis]
    affordable = BUDGET_BYTES // one
    steps = _sparse_steps(lengths, chunks, affordable, pixels)
    if all(-(-n // step) >= min(LEAST_PIXELS, pixels, n) for n, step in zip(lengths, steps, strict=True)):
        return (0, 0), (lengths[0], lengths[1]), steps
    start, extent = _middle(lengths, chunks, affordable)
    if min(extent) < min(LEAST_VOXELS, *lengths):
        raise InputError(
            f"a picture across {AXES[axis]} would decode {plane_bytes(volume, axis) / 2**30:.1f} GiB, as chunks are "
            f"{' x '.join(map(str, volume.storage.chunk_shape))} voxels: convert the volume to show it"
        )
    return start, extent, (-(-extent[0] // pixels), -(-extent[1] // pixels))


def _sparse_steps(lengths: list[int], chunks: list[int], affordable: int, pixels: int) -> tuple[int, int]:
    """Smallest steps along rows and columns within `pixels`, whose voxels lie in no more chunks than are affordable."""
    down, right = (-(-n // pixels) for n in lengths)
    while True:
        # More than a chunk's length skips chunks, less touches them all.
        touched = -(-lengths[0] // max(down, chunks[0])), -(-lengths[1] // max(right, chunks[1]))
        if touched[0] * touched[1] <= affordable:
            return down, right
        if touched[0] >= touched[1]:
            down = max(down, chunks[0]) * 9 // 8 + 1
        else:
            right = max(right, chunks[1]) * 9 // 8 + 1


def _middle(lengths: list[int], chunks: list[int], affordable: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and extent of the largest square in the middle of a plane that lies in no more chunks than are affordable."""
    side = max(lengths)
    while True:
        spans = []
        for n, chunk in zip(lengths, chunks, strict=True):
            first = (n - min(side, n)) // 2
            last = first + min(side, n)
            # Chunks are shown whole, where they are not larger than the square.
            spans.append(
                slice(first // chunk * chunk, min(-(-last // chunk) * chunk, n))
                if chunk <= side
                else slice(first, last)
            )
        touched = [-(-s.stop // chunk) - s.start // chunk for s, chunk in zip(spans, chunks, strict=True)]
        if touched[0] * touched[1] <= affordable:
            down, right = spans
            return (down.start, right.start), (down.stop - down.start, right.stop - right.start)
        side = side * 15 // 16


def _runs(where: np.ndarray, piece: int, longest: int) -> Iterator[slice]:
    """Split sorted positions into runs whose pieces follow each other, each of `longest` voxels or one piece."""
    number = where // piece
    per_run = max(1, longest // piece)
    start = 0
    for place in range(1, len(where) + 1):
        if (
            place == len(where)
            or number[place] - number[place - 1] > 1
            or (number[place] // per_run != number[start] // per_run)
        ):
            yield slice(start, place)
            start = place


def _moved(part: slice, offset: int) -> slice:
    return slice(part.start + offset, part.stop + offset)


def _span(where: np.ndarray) -> slice:
    return slice(int(where[0]), int(where[-1]) + 1)
