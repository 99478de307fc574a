"""Smooth random fields without a sequence: cubic B-splines over a lattice of hashed values; compiled.

Lattice values are hashed from their global index, so that any region sees the same field.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np

from tomoscale.geometry import Region, three

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function; division by zero as in NumPy, because Python's check keeps the compiler from vectors."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inlined(function: F) -> F:
    """Compile a function into its callers."""
    return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))


class Field(NamedTuple):
    """A smooth random field, mean 0 and standard deviation about 1, by its lattice around one region."""

    values: Any  # (z, y, x) float32
    low_z: int
    low_y: int
    low_x: int
    spacing_z: float
    spacing_y: float
    spacing_x: float


@inlined
def _mixed(key: np.uint64, z: int, y: int, x: int) -> np.uint64:
    """64 random bits for a lattice point (finaliser of SplitMix64: Steele, Lea, Flood 2014)."""
    h = key + np.uint64(z) * np.uint64(0x9E3779B97F4A7C15)
    h = h + np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(x) * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@compiled
def hashed(key: np.uint64, low: tuple[int, int, int], values: np.ndarray, scale: float) -> None:
    """Fill a (z, y, x) float32 array with uniform values in [-scale, scale) for the lattice points from `low` on."""
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                bits = _mixed(key, z + low[0], y + low[1], x + low[2]) >> np.uint64(40)
                values[z, y, x] = scale * (np.float64(bits) * (2.0 / 16777216.0) - 1.0)


@compiled
def whitened(key: np.uint64, low: tuple[int, int, int], values: np.ndarray) -> None:
    """Fill a (z, y, x) int32 array with the sum of four 16-bit uniforms: nearly Gaussian, mean 131070."""
    mask = np.uint64(0xFFFF)
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                h = _mixed(key, z + low[0], y + low[1], x + low[2])
                total = (h & mask) + ((h >> np.uint64(16)) & mask) + ((h >> np.uint64(32)) & mask)
                values[z, y, x] = np.int32(total + (h >> np.uint64(48)))


def field_around(key: np.uint64, region: Region, spacing: tuple[float, float, float]) -> Field:
    """Return the field of `key` around a region; `spacing` is that of its lattice along (z, y, x), in voxels."""
    low = three(math.floor(r.start / s) - 1 for r, s in zip(region, spacing, strict=True))
    high = three(math.floor((r.stop - 1) / s) + 3 for r, s in zip(region, spacing, strict=True))
    values = np.empty([h - n for h, n in zip(high, low, strict=True)], np.float32)
    # Uniform values have variance 1/3 and a cubic B-spline keeps 0.479 of it per axis: scaled to variance 1.
    hashed(key, low, values, math.sqrt(3 / 0.479**3))
    return Field(values, *low, *spacing)


def ring_amplitudes(
    key: np.uint64, region: Region, middle: tuple[float, float], amplitude: float
) -> tuple[int, np.ndarray]:
    """First radius, and (z, radius) amplitudes: each detector pixel errs by its own, slowly changing amount."""
    far = [max(abs(r.start - m), abs(r.stop - m)) for r, m in zip(region[1:], middle, strict=True)]
    near = [max(0.0, r.start - m, m - r.stop) for r, m in zip(region[1:], middle, strict=True)]
    first, last = int(math.hypot(*near)), int(math.hypot(*far)) + 2
    z = np.arange(region[0].start, region[0].stop) / 24.0
    low = int(z[0]) if z.size else 0
    knots = np.empty(((int(z[-1]) if z.size else 0) - low + 2, 1, last - first + 1), np.float32)
    hashed(key, (low, 0, first), knots, 1.0)
    knots = knots[:, 0]
    # To the fifth: few pixels err much. Multiplied out because machines differ in powers.
    knots = knots * knots * knots * knots * knots * np.float32(amplitude)
    n = z.astype(np.int64) - low
    t = (z - np.floor(z)).astype(np.float32)[:, None]
    return first, knots[n] * (1 - t) + knots[n + 1] * t


@inlined
def _spline(t: float) -> tuple[float, float, float, float]:
    """Weights of the four lattice points around a place, for the uniform cubic B-spline."""
    s = 1.0 - t
    return (
        s * s * s / 6.0,
        (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0,
        (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0,
        t * t * t / 6.0,
    )


@compiled
def tabulate(f: Field, low: int, index: np.ndarray, weights: np.ndarray) -> None:
    """Place on the lattice and spline weights of each voxel along x."""
    for x in range(index.size):
        u = (x + low) / f.spacing_x
        i = math.floor(u)
        index[x] = int(i) - 1 - f.low_x
        weights[0, x], weights[1, x], weights[2, x], weights[3, x] = _spline(u - i)


@compiled
def contract(f: Field, z: int, y: int, line: np.ndarray) -> None:
    """Contract a field's lattice over z and y, for one line of voxels along x."""
    u, v = z / f.spacing_z, y / f.spacing_y
    iz, iy = math.floor(u), math.floor(v)
    wz, wy = _spline(u - iz), _spline(v - iy)
    jz, jy = int(iz) - 1 - f.low_z, int(iy) - 1 - f.low_y
    n = f.values.shape[2]
    line[:n] = 0.0
    for a in range(4):
        for b in range(4):
            w = np.float32(wz[a] * wy[b])
            part = f.values[jz + a, jy + b]
            for x in range(n):
                line[x] += w * part[x]


@compiled
def interpolate(line: np.ndarray, index: np.ndarray, weights: np.ndarray, span: Any, row: np.ndarray) -> None:
    """Evaluate a contracted field at the voxels `span` of a line along x."""
    for x in range(span[0], span[1]):
        j = index[x]
        left = weights[0, x] * line[j] + weights[1, x] * line[j + 1]
        row[x] = left + (weights[2, x] * line[j + 2] + weights[3, x] * line[j + 3])
