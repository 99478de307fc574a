"""Which voxels along an axis make up a voxel of another size, and with which weights."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Order = Literal[0, 1, 2, 3]
Antialias = Literal["none", "area"]

# Poles of the filters that turn samples into B-spline coefficients: Unser, Aldroubi and Eden, IEEE Transactions on
# Signal Processing 41 (1993) 834, table I.
_POLES = {2: math.sqrt(8) - 3, 3: math.sqrt(3) - 2}


def sampling_table(
    target: np.ndarray, factor: float, order: Order, antialias: Antialias
) -> tuple[np.ndarray, np.ndarray]:
    """Source voxels along one axis, and their weights, that make up each target voxel.

    Parameters
    ----------
    target : (N,) integer array
        Indices in the whole target.
    factor : float
        Target voxel size over source voxel size.
    order, antialias
        See `tomoscale.kernels.resample.resample`.

    Returns
    -------
    index : (N, K) int64 array
        Indices in the whole source; those beyond its border stand for the voxel at the border.
    weights : (N, K) float32 array
        Each row adds up to 1.
    """
    if factor == 1:
        return target[:, None], np.ones((len(target), 1), np.float32)
    if antialias == "area" and factor > 1:
        start, stop = target * factor, (target + 1) * factor
        first = np.floor(start)
        taps = first[:, None] + np.arange(math.ceil(factor) + 1)
        overlap = np.minimum(taps + 1, stop[:, None]) - np.maximum(taps, start[:, None])
        weights = np.maximum(overlap, 0)
    else:
        position = (target + 0.5) * factor - 0.5
        # Splines of even order are centred on the nearest voxel, of odd order on the voxel before.
        first = np.floor(position + 0.5) if order % 2 == 0 else np.floor(position)
        weights = _spline_weights(position - first, order)
        first -= (weights.shape[1] - 1) // 2
    index = first.astype(np.int64)[:, None] + np.arange(weights.shape[1])
    return index, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _spline_weights(offset: np.ndarray, order: Order) -> np.ndarray:
    """Weights (N, K) of the samples around a position `offset` from the central one, for the spline through them."""
    t = offset
    if order == 0:
        return np.ones((len(t), 1))
    if order == 1:
        return np.stack([1 - t, t], axis=1)
    if order == 2:
        basis = np.stack([(0.5 - t) ** 2 / 2, 0.75 - t**2, (0.5 + t) ** 2 / 2], axis=1)
    else:
        middle = [(4 - 6 * u**2 + 3 * u**3) / 6 for u in (t, 1 - t)]
        basis = np.stack([(1 - t) ** 3 / 6, *middle, t**3 / 6], axis=1)
    # Coefficients are the samples filtered with (1 - p) / (1 + p) * p^|k|; basis and filter make one set of weights.
    pole, radius = _POLES[order], _filter_radius(order)
    inverse = (1 - pole) / (1 + pole) * pole ** np.abs(np.arange(-radius, radius + 1.0))
    weights = np.zeros((len(t), basis.shape[1] + 2 * radius))
    for k in range(basis.shape[1]):
        weights[:, k : k + 2 * radius + 1] += basis[:, k, None] * inverse
    return weights


def _filter_radius(order: Order) -> int:
    """Voxels on each side after which the weights left out add up to less than 2^-24."""
    if order < 2:
        return 0
    pole = abs(_POLES[order])
    tail = 2 * (1 + pole) / (1 - pole) ** 2
    return math.ceil(math.log(2.0**-24 / tail) / math.log(pole)) - 1


def sampling_reach(factor: float, order: Order, antialias: Antialias) -> tuple[int, int]:
    """Source voxels needed before and after the voxel at or before a sampled position."""
    if factor == 1:
        return 0, 0
    if antialias == "area" and factor > 1:
        # The extent begins (factor - 1) / 2 voxel centres before the position and ends as far after it.
        return math.ceil(factor / 2), math.ceil(factor / 2) + 1
    radius = _filter_radius(order)
    return (0, 1) if order < 2 else (radius + 1, radius + 2)
