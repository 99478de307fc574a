"""How many voxels a pass puts through networks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from tomoscale.geometry import Grid, Shape
from tomoscale.kernels.planes import PlaneNetwork
from tomoscale.kernels.rotation import Rotation
from tomoscale.plan import Plan
from tomoscale.step import Kernel

Spans = tuple[list[slice], list[slice], list[slice]]
"""Of blocks along z, y and x."""


def window_voxels(plan: Plan) -> int:
    """Voxels of all windows that the blocks of a pass put through networks; 0 for a pass without one."""
    assert isinstance(plan.step, Kernel)
    function: Any = plan.step.function
    networks: tuple[PlaneNetwork, ...] = getattr(function, "networks", ())
    if hasattr(function, "network"):
        networks = (function.network,)
    spans = _spans(plan.grid, round(1 / plan.step.factor[0]))
    return sum(_window_voxels(n, spans, plan.source_shape) for n in networks)


def _spans(grid: Grid, numbers: int) -> Spans:
    """Voxels of the blocks along each axis."""
    z, y, x = (
        [slice(s, min(s + b, n)) for s in range(0, n, b)] for b, n in zip(grid.block_shape, grid.shape, strict=True)
    )
    return [slice(s.start // numbers, -(-s.stop // numbers)) for s in z], y, x


def _window_voxels(network: PlaneNetwork, spans: Spans, source_shape: Shape) -> int:
    axis = network.plane.rotation
    if axis is None or source_shape == network.shape:
        return _of_grid(network, spans)
    rotation = Rotation(axis, source_shape)
    u, v = rotation.in_plane
    total = 0
    for at_u, at_v in itertools.product(spans[u], spans[v]):
        region: list[slice] = [slice(0, 1)] * 3
        region[u], region[v] = at_u, at_v
        z, y, x = region
        box = rotation.canvas_box((z, y, x))
        wanted = [spans[axis] if a == axis else [box[a]] for a in range(3)]
        total += _of_grid(network, (wanted[0], wanted[1], wanted[2]))
    return total


def _of_grid(network: PlaneNetwork, spans: Spans) -> int:
    """Voxels for every block of a grid over the volume that is cut."""
    ordered = [spans[a] for a in network.plane.order]
    if not network.trimmed:
        return math.prod(_total(network, a, ordered[a]) for a in range(3))
    across = network.across
    slices = np.concatenate([np.arange(s.start, s.stop) for s in ordered[0]])
    first, last = (ends[slices] for ends in network.footprint)
    total = sum(int(_lengths(network, across, s, first, last).sum()) for s in ordered[across])
    return total * _total(network, 3 - across, ordered[3 - across])


def _total(network: PlaneNetwork, place: int, spans: list[slice]) -> int:
    length = np.array([network.tiles.shape[place]])
    return sum(int(_lengths(network, place, s, 0 * length, length).sum()) for s in spans)


def _lengths(network: PlaneNetwork, place: int, span: slice, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Lengths of the windows of all tiles that a span touches, each cut to first..last: (tiles, cuts) int64.

    `place` is an axis of (slice, row, column).
    """
    tiles = network.tiles
    tile, length, step = tiles.tile[place], tiles.shape[place], tiles.stride[place]
    number = np.arange(span.start // tile, -(-span.stop // tile))[:, None]
    start = np.maximum(number * tile, first)
    stop = np.minimum(np.minimum((number + 1) * tile, length), last)
    low = np.maximum((start - tiles.before[place]) // step * step, 0)
    high = np.minimum(-(-(stop + tiles.after[place]) // step) * step, tiles.canvas[place])
    met = (start < stop) & (start < span.stop) & (stop > span.start)
    return np.where(met, high - low, 0).astype(np.int64)
