r"""Turn a volume by 45 degrees about one of its axes, and turn class probabilities back.

.. code-block:: text

    +------+             . /\ .
    |      |     <->     /    \       the canvas (u', v') holds every corner of the slice (u, v) and one voxel around it;
    |      |             \    /       what lies beyond the volume is 0
    +------+             . \/ .

Both ways are samples of a line along either axis of the slice, none along the axis of rotation (Baltruschat et al. 2021:
bilinear, filled with zeros, about the centre, not cropped). Positions are computed in float64 from indices in the whole
volume, never from a block's, and a sample is ``a + f (b - a)`` in float32: a constant stays exactly what it is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.geometry import Block, Halo, Region, Shape, region_shape, three
from tomoscale.step import Kernel

_STEP = math.sqrt(0.5)


@dataclass(frozen=True)
class Rotation:
    """A rotation of a whole volume by 45 degrees, and the two grids it leads between.

    Attributes
    ----------
    axis : 0, 1, 2
        That it turns about; the other two, in order, are u and v.
    shape : (Z, Y, X)
        Of the volume.
    """

    axis: int
    shape: Shape

    @property
    def in_plane(self) -> tuple[int, int]:
        """Axes u and v."""
        u, v = (a for a in range(3) if a != self.axis)
        return u, v

    @property
    def edge(self) -> int:
        """Voxels of the canvas along u' and v': every corner, and one voxel beyond for the samples around it."""
        u, v = self.in_plane
        return math.ceil((self.shape[u] + self.shape[v]) / math.sqrt(2)) + 2

    @property
    def canvas(self) -> Shape:
        """Shape of the turned volume; u' and v' lie where u and v lay."""
        return three(n if a == self.axis else self.edge for a, n in enumerate(self.shape))

    def canvas_box(self, region: Region) -> Region:
        """Part of the canvas that a region of the volume is sampled from."""
        u, v = self.in_plane
        return self._box(region, self._back_tables(region[u], region[v]), self.canvas)

    def volume_box(self, region: Region) -> Region:
        """Part of the volume that a region of the canvas is sampled from; empty (0:0) where it lies outside."""
        u, v = self.in_plane
        return self._box(region, self._tables(region[u], region[v]), self.shape)

    def footprint(self, normal: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 voxel, across each slice of the canvas, that a voxel of the volume is sampled from.

        What lies beyond is never looked at: a third to half of the canvas.

        Parameters
        ----------
        normal : int
            Axis that slices are cut across: that of u' or of v'.

        Returns
        -------
        start, stop : (slices,) int64 arrays
            Along the other of both axes; a slice that nothing is sampled from has 0 and 0.
        """
        centre = (self.edge - 1) / 2
        there = np.arange(self.edge) - centre
        # Voxels around a sample lie up to sqrt(2) from it along u and v.
        reach_u, reach_v = (math.sqrt(2) * ((self.shape[a] - 1) / 2 + 1.5) for a in self.in_plane)
        # u goes by the sum of both indices, v by their difference.
        low = np.maximum(-reach_u - there, there - reach_v) + centre
        high = np.minimum(reach_u - there, there + reach_v) + centre
        assert normal in self.in_plane
        start = np.clip(np.ceil(low), 0, self.edge).astype(np.int64)
        stop = np.clip(np.floor(high) + 1, 0, self.edge).astype(np.int64)
        some = start < stop
        return np.where(some, start, 0), np.where(some, stop, 0)

    def turn(self, values: Array, start: tuple[int, ...], region: Region) -> Array:
        """Grey values of a region of the canvas: float32.

        Parameters
        ----------
        values : (z, y, x) array, NumPy or CuPy
            Of a part of the volume that holds `volume_box` of the region; what lies beyond it is taken as 0.
        start : (z, y, x)
            Where that part begins.
        region : Region
            Of the canvas.
        """
        u, v = self.in_plane
        return self._sampled(values, start, region, self._tables(region[u], region[v]))

    def turn_back(self, values: Array, start: tuple[int, ...], region: Region) -> Array:
        """Values of a region of the volume from a part of the canvas that holds `canvas_box` of it: float32."""
        u, v = self.in_plane
        return self._sampled(values, start, region, self._back_tables(region[u], region[v]))

    def _tables(self, u: slice, v: slice) -> _Tables:
        """Positions in the volume of voxels (u', v'): u by their sum, v by their difference."""
        first, second = ((self.shape[a] - 1) / 2 for a in self.in_plane)
        total, difference = _sums(u, v), _differences(u, v)
        return _Tables(
            _positions((total - (self.edge - 1)) * _STEP + first),
            _positions(difference * _STEP + second),
            first_by_sum=True,
        )

    def _back_tables(self, u: slice, v: slice) -> _Tables:
        """Positions on the canvas of voxels (u, v): u' by their difference, v' by their sum."""
        first, second = ((self.shape[a] - 1) / 2 for a in self.in_plane)
        centre = (self.edge - 1) / 2
        total, difference = _sums(u, v), _differences(u, v)
        return _Tables(
            _positions((total - (first + second)) * _STEP + centre),
            _positions((-difference - (first - second)) * _STEP + centre),
            first_by_sum=False,
        )

    def _box(self, region: Region, tables: _Tables, shape: Shape) -> Region:
        spans = dict(zip(self.in_plane, (tables.first, tables.second), strict=True))
        z, y, x = (region[a] if a == self.axis else _span(spans[a][0], n) for a, n in zip(range(3), shape, strict=True))
        return z, y, x

    def _sampled(self, values: Array, start: tuple[int, ...], region: Region, tables: _Tables) -> Array:
        (u, v), a = self.in_plane, self.axis
        lines = slice(region[a].start - start[a], region[a].stop - start[a])
        assert 0 <= lines.start <= lines.stop <= values.shape[a], (
            "values must hold the region along the axis of rotation"
        )
        xp = namespace_for(values)
        result = xp.empty(region_shape(region), np.float32)
        source = values.transpose(a, u, v)[lines]
        sample = _sample_on_host if on_host(values) else _sample
        sample(source, result.transpose(a, u, v), tables, (start[u], start[v]))
        return result


@dataclass(frozen=True)
class _Tables:
    """Where voxels of a target slice are sampled, by the sum and by the difference of their indices.

    Attributes
    ----------
    by_sum, by_difference : ((N,) int64, (N,) float32)
        The voxel before a position, and how far behind it the position lies, for the smallest sum (difference) onwards.
    first_by_sum : bool
        Whether the first axis of the source goes by the sum, and the second by the difference.
    """

    by_sum: tuple[np.ndarray, np.ndarray]
    by_difference: tuple[np.ndarray, np.ndarray]
    first_by_sum: bool

    @property
    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the first axis of the source."""
        return self.by_sum if self.first_by_sum else self.by_difference

    @property
    def second(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the second axis of the source."""
        return self.by_difference if self.first_by_sum else self.by_sum


def rotate(axis: int, shape: Shape) -> Kernel:
    """Kernel of `Rotation.turn` for a volume of `shape`; a block reads whole slices across the axis of rotation.

    Parameters
    ----------
    axis : 0, 1, 2
    shape : (Z, Y, X)
    """
    rotation = Rotation(axis, shape)
    whole = three(1 if a == axis else max(n, rotation.edge) for a, n in enumerate(shape))
    ratio = math.prod(rotation.canvas) / math.prod(shape)
    return Kernel(
        "rotate by 45 degrees",
        partial(_rotate_block, rotation=rotation),
        Halo(),
        np.dtype(np.float32),
        bytes_per_voxel=4 * ratio,
        parameters={"axis": axis, "shape": list(shape)},
        tile=whole,
        target_shape=partial(_canvas_of, rotation=rotation),
        located=True,
    )


def _rotate_block(values: Array, block: Block, rotation: Rotation) -> Array:
    return rotation.turn(values, tuple(r.start for r in block.read), block.write)


def _canvas_of(source_shape: Shape, rotation: Rotation) -> Shape:
    if source_shape != rotation.shape:
        raise ValueError(f"the kernel is for a volume of shape {rotation.shape}, got {source_shape}")
    return rotation.canvas


def _sums(u: slice, v: slice) -> np.ndarray:
    return np.arange(u.start + v.start, u.stop + v.stop - 1, dtype=np.float64)


def _differences(u: slice, v: slice) -> np.ndarray:
    """Of v - u, ascending."""
    return np.arange(v.start - (u.stop - 1), v.stop - u.start, dtype=np.float64)


def _positions(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.floor(position)
    return low.astype(np.int64), (position - low).astype(np.float32)


def _span(low: np.ndarray, length: int) -> slice:
    """Indices within 0..length that samples between ``low`` and the next voxel touch."""
    start, stop = max(0, int(low.min())), min(length, int(low.max()) + 2)
    return slice(start, stop) if start < stop else slice(0, 0)


def _sample(source: Array, result: Array, tables: _Tables, start: tuple[int, int]) -> None:
    """Fill (A, I, J) from (A, U, V) on any device, with the same operations on every voxel as on the host."""
    xp = namespace_for(source)
    n, m = result.shape[1:]
    i, j = xp.arange(n)[:, None], xp.arange(m)[None]
    by_sum, by_difference = (
        (xp.asarray(low)[index], xp.asarray(part)[index])
        for (low, part), index in ((tables.by_sum, i + j), (tables.by_difference, j - i + n - 1))
    )
    (u, fu), (v, fv) = (by_sum, by_difference) if tables.first_by_sum else (by_difference, by_sum)
    u, v = u - start[0], v - start[1]
    for line in range(len(source)):
        corners = [_taken(source[line], u + du, v + dv) for du, dv in itertools.product((0, 1), (0, 1))]
        upper = corners[0] + fv * (corners[1] - corners[0])
        lower = corners[2] + fv * (corners[3] - corners[2])
        result[line] = upper + fu * (lower - upper)


def _taken(plane: Array, u: Array, v: Array) -> Array:
    """Values at indices, 0 outside: float32."""
    xp, (n, m) = namespace_for(plane), plane.shape
    result = xp.zeros(u.shape, np.float32)
    inside = (u >= 0) & (u < n) & (v >= 0) & (v < m)
    result[inside] = plane[u[inside], v[inside]]
    return result


def _sample_on_host(source: np.ndarray, result: np.ndarray, tables: _Tables, start: tuple[int, int]) -> None:
    lines_together = source.strides[0] < min(source.strides[1:])
    if source.dtype not in (np.float32, np.uint16):
        source = source.astype(np.float32)
    _fill(source, result, *tables.first, *tables.second, tables.first_by_sum, start[0], start[1], lines_together)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _at(source: Array, line: int, u: int, v: int) -> np.float32:
    inside = 0 <= u < source.shape[1] and 0 <= v < source.shape[2]
    return np.float32(source[line, u, v]) if inside else np.float32(0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _between(source: Array, line: int, u: int, v: int, fu: np.float32, fv: np.float32) -> Any:
    a, b = _at(source, line, u, v), _at(source, line, u, v + 1)
    c, d = _at(source, line, u + 1, v), _at(source, line, u + 1, v + 1)
    upper = a + fv * (b - a)
    lower = c + fv * (d - c)
    return upper + fu * (lower - upper)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fill(  # noqa: PLR0913 -- tables as plain arrays, which is what compiled code takes
    source: Array,
    result: Array,
    u_low: Array,
    u_part: Array,
    v_low: Array,
    v_part: Array,
    first_by_sum: bool,
    u_start: int,
    v_start: int,
    lines_together: bool,
) -> None:
    """Fill (A, I, J) from (A, U, V); lines go innermost where they are what lies together in memory."""
    lines, n, m = result.shape
    blocks, inner = (1, lines) if lines_together else (lines, 1)
    for block in range(blocks):
        for i in range(n):
            for j in range(m):
                total, difference = i + j, j - i + n - 1
                p, q = (total, difference) if first_by_sum else (difference, total)
                u, v, fu, fv = u_low[p] - u_start, v_low[q] - v_start, u_part[p], v_part[q]
                for line in range(block, block + inner):
                    result[line, i, j] = _between(source, line, u, v, fu, fv)
