"""Least squared distances along one axis, in 64-bit integers: the step all Euclidean distances are made of."""

from __future__ import annotations

import numba
import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host


def spread_squares(costs: Array, weight: int, limit: int, reach: int) -> Array:
    """Least of ``costs[..., i] + weight * (x - i) ** 2`` over i along the last axis, at most ``limit + 1``: int64."""
    if weight * costs.shape[-1] ** 2 >= 2**62:
        raise ValueError(
            f"blocks of {costs.shape[-1]} voxels are too long for exact distances on these voxels: take smaller blocks"
        )
    if on_host(costs):
        return _lower_envelope(costs.reshape(-1, costs.shape[-1]), weight, limit).reshape(costs.shape)
    return least_of_shifts(costs, weight, limit, reach)


def least_of_shifts(costs: Array, weight: int, limit: int, reach: int) -> Array:
    """`spread_squares` in array operations, for a device: time grows with the reach, but in long runs of memory."""
    xp = namespace_for(costs)
    best = xp.minimum(costs, limit + 1)
    for d in range(1, min(reach, costs.shape[-1] - 1) + 1):
        xp.minimum(best[..., d:], costs[..., :-d] + weight * d * d, out=best[..., d:])
        xp.minimum(best[..., :-d], costs[..., d:] + weight * d * d, out=best[..., :-d])
    return best


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _lower_envelope(costs: Array, weight: int, limit: int) -> Array:
    """`spread_squares` of the rows of an (N, L) array in time that does not depend on the reach.

    The lower envelope of parabolas of Felzenszwalb and Huttenlocher, Theory of Computing 8 (2012) 415, algorithm 1,
    with the crossings rounded up to whole voxels in integers.
    """
    rows, length = costs.shape
    result = np.empty_like(costs)
    centres, starts = np.empty(length, np.int64), np.empty(length + 1, np.int64)
    for row in range(rows):
        cost = costs[row]
        count = 0
        for j in range(length):
            if cost[j] > limit:
                continue
            start = 0
            while count > 0:
                i = centres[count - 1]
                # Parabola j is at or below parabola i from the voxel x on, 2 * weight * (j - i) * (x - i) >= rise.
                rise = weight * (j - i) * (j - i) + cost[j] - cost[i]
                slope = 2 * weight * (j - i)
                if rise > slope * (starts[count - 1] - i):
                    start = i + _divide_up(rise, slope)
                    break
                count -= 1
            if start < length:
                centres[count], starts[count] = j, start
                count += 1
        if count == 0:
            result[row] = limit + 1
        starts[count] = length
        _draw(cost, weight, limit, centres[:count], starts, result[row])
    return result


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw(cost: Array, weight: int, limit: int, centres: Array, starts: Array, out: Array) -> None:
    """Draw parabola k from ``starts[k]`` to ``starts[k + 1]``."""
    for k in range(len(centres)):
        i = centres[k]
        for x in range(starts[k], starts[k + 1]):
            out[x] = min(cost[i] + weight * (x - i) * (x - i), limit + 1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _divide_up(numerator: int, denominator: int) -> int:
    """Quotient of positive integers, rounded up: a guess in floating point, corrected; whole division is far slower."""
    quotient = int(numerator / denominator)
    while quotient * denominator < numerator:
        quotient += 1
    while (quotient - 1) * denominator >= numerator:
        quotient -= 1
    return quotient
