"""Sums of grey values and of their squares as integers, so that no order of adding changes a bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.measures.choice import Found, Voxels, note_first, nothing_met, plain, slabs

N, SUM_HIGH, SUM_LOW, SQUARES_HIGH, SQUARES_LOW = range(5)
"""Columns of the sums: number, then sum and sum of squares of the steps, each in words of 32 bits."""

_WORD = 32
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class FixedPoint:
    """Whole steps of `quantum` above `low` in place of floats: ``step = round((value - low) / quantum)``.

    Attributes
    ----------
    low, high : float
        Range that holds every value; a value outside of it is refused, never clipped.
    bits : int
        The quantum is ``(high - low) / 2**bits``, 1 to 32. With 24 bits it is below the spacing of float32 over the
        upper half of a range that starts at zero.
    """

    low: float
    high: float
    bits: int = 24

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range needs two finite numbers, low below high, got {self.low} and {self.high}")
        if not 1 <= self.bits <= _WORD:
            raise ValueError(f"bits must be 1 to {_WORD}, got {self.bits}: squares of steps are held in 64 bits")

    @property
    def quantum(self) -> float:
        """Grey value of one step."""
        return (self.high - self.low) / 2**self.bits

    @classmethod
    def of_integers(cls, dtype: str) -> FixedPoint:
        """Return the steps that are the integers of a type themselves, from its least value."""
        limits = np.iinfo(dtype)
        return cls(float(limits.min), float(limits.max) + 1, limits.bits)


def sum_steps(voxels: Voxels, fixed_point: FixedPoint) -> tuple[np.ndarray, Found]:
    """Number, sum and sum of squares of the steps per class: (n_classes, 5) int64 on the host, exact.

    The sums are split in words of 32 bits because the squares of 10^12 16-bit values need 72 bits; each word adds over
    blocks without overflow. `sums_of` joins them.
    """
    met = nothing_met()
    table = np.zeros((voxels.n_classes, 5), np.uint64)
    low, high, scale = fixed_point.low, fixed_point.high, 1 / fixed_point.quantum
    if on_host(voxels.values):
        labels = plain(voxels.labels)
        rule = (voxels.skip_zeros, voxels.values.dtype.kind == "f", low, high, scale)
        _sum_steps(voxels.values, labels, voxels.inside, voxels.spans, rule, table, met)
    else:
        _sum_by_slabs(voxels, low, high, scale, table, met)
    # A block holds less than 2^31 voxels, so its sum of steps fits 63 bits.
    table[:, SUM_HIGH] = table[:, SUM_LOW] >> np.uint64(_WORD)
    table[:, SUM_LOW] &= np.uint64(_LOW)
    return table.astype(np.int64), Found.of(met, voxels.values.shape)


def sums_of(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Join the words: (number, sum, sum of squares) of the steps of each class, as Python integers."""
    rows = [[int(word) for word in row] for row in counts]
    return [(row[N], (row[SUM_HIGH] << _WORD) + row[SUM_LOW], (row[SQUARES_HIGH] << _WORD) + row[SQUARES_LOW]) for row in rows]


def _sum_by_slabs(voxels: Voxels, low: float, high: float, scale: float, table: np.ndarray, met: np.ndarray) -> None:  # noqa: PLR0913
    """Do what `_sum_steps` does with array functions only."""
    xp = namespace_for(voxels.values)
    for values, labels in slabs(voxels, met):
        wide = values.astype(np.float64)
        if bool(((wide < low) | (wide > high)).any()):
            # Which voxel it was is looked up in the whole block: it is refused anyway.
            note_first(met, 4, xp.isfinite(voxels.values) & ((voxels.values < low) | (voxels.values > high)), 0)
            continue
        steps = xp.rint((wide - low) * scale).astype(np.uint64)
        squares = steps * steps
        for k in range(voxels.n_classes):
            chosen = slice(None) if labels is None else labels == k
            table[k, N] += int(steps[chosen].size)
            table[k, SUM_LOW] += int(steps[chosen].sum())
            table[k, SQUARES_HIGH] += int((squares[chosen] >> np.uint64(_WORD)).sum())
            table[k, SQUARES_LOW] += int((squares[chosen] & np.uint64(_LOW)).sum())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum_steps(  # noqa: C901, PLR0913 -- one pass over the memory decides everything
    values: np.ndarray,
    labels: np.ndarray | None,
    inside: np.ndarray | None,
    spans: np.ndarray,
    rule: tuple[bool, bool, float, float, float],
    table: np.ndarray,
    met: np.ndarray,
) -> None:
    """Add to the table, whose two words of the sum are still one; `met` is that of `Found`."""
    skip_zeros, floating, low, high, scale = rule
    depth, height, width = values.shape
    row = 0
    for z in range(depth):
        for y in range(height):
            for x in range(spans[y, 0], spans[y, 1]):
                if inside is not None and not inside[z, y, x]:
                    continue
                value = np.float64(values[z, y, x])
                if skip_zeros and value == 0:
                    continue
                if floating and not np.isfinite(value):
                    met[1 if np.isinf(value) else 0] += 1
                    _note(met, 2, (z * height + y) * width + x)
                    continue
                if labels is not None:
                    row = np.int64(labels[z, y, x])
                    if row < 0 or row >= table.shape[0]:
                        _note(met, 3, (z * height + y) * width + x)
                        continue
                if value < low or value > high:
                    _note(met, 4, (z * height + y) * width + x)
                    continue
                step = np.uint64(np.rint((value - low) * scale))
                square = step * step
                table[row, N] += np.uint64(1)
                table[row, SUM_LOW] += step
                table[row, SQUARES_HIGH] += square >> np.uint64(_WORD)
                table[row, SQUARES_LOW] += square & np.uint64(_LOW)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _note(met: np.ndarray, which: int, index: int) -> None:
    if met[which] < 0:
        met[which] = index
