"""Sums of grey values and of their squares as integers, so that no order of adding changes a bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tomoscale.arrays import namespace_for, on_host
from tomoscale.measures.choice import Found, Voxels, loopable, note_first, nothing_met, slabs

N, SUM, SQUARES = slice(0, 1), slice(1, 3), slice(3, 6)
"""Columns of the sums: number, then sum and sum of squares of the steps, each in words of 32 bits, high to low."""

WORD = 32
_SHIFT = np.uint64(WORD)
_LOW = np.uint64((1 << WORD) - 1)


@dataclass(frozen=True)
class FixedPoint:
    """Whole steps of `quantum` above `low` in place of floats: ``step = round((value - low) / quantum)``.

    Attributes
    ----------
    low, high : float
        Range that holds every value; a value outside of it is refused, never clipped.
    bits : int
        The quantum is ``(high - low) / 2**bits``, 1 to 32 (31 for floats, which can reach `high`). With 24 bits it is below the spacing of float32 over the
        upper half of a range that starts at zero.
    """

    low: float
    high: float
    bits: int = 24

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range needs two finite numbers, low below high, got {self.low} and {self.high}")
        if not 1 <= self.bits <= WORD:
            raise ValueError(f"bits must be 1 to {WORD}, got {self.bits}: squares of steps are held in 64 bits")

    @property
    def quantum(self) -> float:
        """Grey value of one step."""
        return (self.high - self.low) / (1 << self.bits)

    @classmethod
    def of_integers(cls, dtype: str) -> FixedPoint:
        """Return the steps that are the integers of a type themselves, from its least value."""
        limits = np.iinfo(dtype)
        return cls(float(limits.min), float(limits.max) + 1, limits.bits)


def sum_steps(voxels: Voxels, fixed_point: FixedPoint) -> tuple[np.ndarray, Found]:
    """Number, sum and sum of squares of the steps per class: (n_classes, 6) int64 on the host, exact.

    The sums are split in words of 32 bits because the squares of 10^12 16-bit values need 72 bits; each word adds over
    2^31 blocks without overflow. `sums_of` joins them. A block holds at most 2^31 voxels.
    """
    met = nothing_met()
    table = np.zeros((voxels.n_classes, 4), np.uint64)  # number, sum, upper and lower words of squares
    if on_host(voxels.values):
        rule = (voxels.skip_zeros, voxels.values.dtype.kind == "f")
        limits = (fixed_point.low, fixed_point.high, 1 / fixed_point.quantum)
        values = np.ascontiguousarray(voxels.values)
        labels, inside = loopable(voxels.labels, values.shape), loopable(voxels.inside, values.shape)
        _sum_steps(values, labels, inside, voxels.spans, rule, limits, table, met)
    else:
        _sum_by_slabs(voxels, fixed_point, table, met)
    number, total, upper, lower = table.T
    upper = upper + (lower >> _SHIFT)
    words = [number, total >> _SHIFT, total & _LOW, upper >> _SHIFT, upper & _LOW, lower & _LOW]
    return np.stack(words, axis=1).astype(np.int64), Found.of(met, voxels.values.shape)


def sums_of(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Join the words: (number, sum, sum of squares) of the steps of each class, as Python integers."""
    return [(_join(row[N]), _join(row[SUM]), _join(row[SQUARES])) for row in counts]


def _join(words: np.ndarray) -> int:
    number = 0
    for word in words.tolist():
        number = (number << WORD) + word
    return number


def _sum_by_slabs(voxels: Voxels, fixed_point: FixedPoint, table: np.ndarray, met: np.ndarray) -> None:
    """Do what `_sum_steps` does with array functions only."""
    xp = namespace_for(voxels.values)
    start = 0
    for keep, values, labels in slabs(voxels, met):
        wide = values.astype(np.float64)
        outside = (wide < fixed_point.low) | (wide > fixed_point.high)
        if bool(outside.any()):
            wrong = xp.zeros(keep.shape, bool)
            wrong[keep] = outside
            note_first(met, 4, wrong, start)
        start += keep.size
        steps = xp.rint((wide - fixed_point.low) * (1 / fixed_point.quantum))
        steps = xp.where(outside, 0, steps).astype(np.uint64)  # the block is refused anyway
        for k in range(voxels.n_classes):
            chosen = steps if labels is None else steps[labels == k]
            squares = chosen * chosen
            sums = (chosen.sum(), (squares >> _SHIFT).sum(), (squares & _LOW).sum())
            table[k] += np.array([chosen.size, *(int(number) for number in sums)], np.uint64)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum_steps(  # noqa: C901, PLR0913 -- one pass over the memory decides everything
    values: np.ndarray,
    labels: np.ndarray,
    inside: np.ndarray,
    spans: np.ndarray,
    rule: tuple[bool, bool],
    limits: tuple[float, float, float],
    table: np.ndarray,
    met: np.ndarray,
) -> None:
    """Add to a (n_classes, 4) table; `met` is that of `Found`; what is not asked for has size 0."""
    skip_zeros, floating = rule
    low, high, scale = limits
    depth, height, width = values.shape
    row = np.int64(0)
    for z in range(depth):
        for y in range(height):
            for x in range(spans[y, 0], spans[y, 1]):
                if inside.size and not inside[z, y, x]:
                    continue
                value = np.float64(values[z, y, x])
                if skip_zeros and value == 0:
                    continue
                if floating and not np.isfinite(value):
                    met[1 if np.isinf(value) else 0] += 1
                    _note(met, 2, (z * height + y) * width + x)
                    continue
                if labels.size:
                    row = np.int64(labels[z, y, x])
                    if row < 0 or row >= table.shape[0]:
                        _note(met, 3, (z * height + y) * width + x)
                        continue
                if value < low or value > high:
                    _note(met, 4, (z * height + y) * width + x)
                    continue
                step = np.uint64(np.rint((value - low) * scale))
                square = step * step
                table[row, 0] += np.uint64(1)
                table[row, 1] += step
                table[row, 2] += square >> _SHIFT
                table[row, 3] += square & _LOW


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _note(met: np.ndarray, which: int, index: int) -> None:
    if met[which] < 0:
        met[which] = index
