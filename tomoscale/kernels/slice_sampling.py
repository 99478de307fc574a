"""Samples of slices at positions that depend on the sum and the difference of two indices: rotations by 45 degrees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for


@dataclass(frozen=True)
class Tables:
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


def sums(u: slice, v: slice) -> np.ndarray:
    """Of u + v, ascending."""
    return np.arange(u.start + v.start, u.stop + v.stop - 1, dtype=np.float64)


def differences(u: slice, v: slice) -> np.ndarray:
    """Of v - u, ascending."""
    return np.arange(v.start - (u.stop - 1), v.stop - u.start, dtype=np.float64)


def positions(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxel before each position, and how far behind it the position lies."""
    low = np.floor(position)
    return low.astype(np.int64), (position - low).astype(np.float32)


def span_of(low: np.ndarray, length: int) -> slice:
    """Indices within 0..length that samples between ``low`` and the next voxel touch."""
    start, stop = max(0, int(low.min())), min(length, int(low.max()) + 2)
    return slice(start, stop) if start < stop else slice(0, 0)


def sample(source: Array, result: Array, tables: Tables, start: tuple[int, int]) -> None:
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


def sample_on_host(source: np.ndarray, result: np.ndarray, tables: Tables, start: tuple[int, int]) -> None:
    """Fill (A, I, J) from (A, U, V), which begins at `start` of a slice and is 0 beyond."""
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
