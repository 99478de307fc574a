"""Places around an axis: how far along it, and in which sector about it.

.. code-block:: text

    angle   0 towards x (towards y for an axis along x), counted as a screw that drives along the axis turns from there
    along   0 at the centroid of the object, in the direction of the axis
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Shape, Spacing
from tomoscale.measures.inertia import Axis

STEPS, SECTORS = 48, 36
"""Bins along the axis, over the whole volume, and about it."""


@dataclass(frozen=True)
class Cylinder:
    """Bins of places around an axis; made by `cylinder_around`.

    Attributes
    ----------
    axis : Axis
    voxel_size_um : (z, y, x)
    low_um, step_um : float
        Start of the first bin along the axis, and the length of each.
    n_steps, n_sectors : int
        Bins along and about the axis; the sectors are a multiple of 4.
    """

    axis: Axis
    voxel_size_um: Spacing
    low_um: float
    step_um: float
    n_steps: int
    n_sectors: int

    @property
    def along_um(self) -> list[float]:
        """Edges of the bins along the axis: (n_steps + 1,)."""
        return [self.low_um + k * self.step_um for k in range(self.n_steps + 1)]

    @property
    def angle_deg(self) -> list[float]:
        """Edges of the sectors: (n_sectors + 1,), 0 to 360."""
        return [360.0 * k / self.n_sectors for k in range(self.n_sectors + 1)]

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows that turn doubled voxel indices (z, y, x, 1) into step, and the two lengths across the axis: (3, 4).

        Doubled, because the middle of a face lies half way between two voxels.
        """
        u = np.array(self.axis.direction)
        first, second = _across(self.axis.direction)
        half = np.array(self.voxel_size_um) / 2
        centre = np.array(self.axis.centre_um)
        rows = []
        for vector, start, scale in ((u, self.low_um, 1 / self.step_um), (first, 0.0, 1.0), (second, 0.0, 1.0)):
            rows.append([*(vector * half * scale).tolist(), -(float(vector @ centre) + start) * scale])
        return np.array(rows)

    @cached_property
    def sines(self) -> np.ndarray:
        """Sines and cosines of the edges between the sectors of a quarter turn: (2, n_sectors / 4 - 1)."""
        edges = [2 * math.pi * k / self.n_sectors for k in range(1, self.n_sectors // 4)]
        return np.array([[math.sin(e) for e in edges], [math.cos(e) for e in edges]])

    def parameters(self) -> dict[str, object]:
        """JSON values that say where the bins are."""
        return {
            "centre_um": list(self.axis.centre_um),
            "direction": list(self.axis.direction),
            "along_um": [self.low_um, self.step_um, self.n_steps],
            "sectors": self.n_sectors,
        }


def cylinder_around(
    axis: Axis, shape: Shape, voxel_size_um: Spacing, steps: int = STEPS, sectors: int = SECTORS
) -> Cylinder:
    """Bins that hold every voxel of a volume: up to `steps` along the axis, none shorter than a voxel.

    Raises
    ------
    ValueError
        If `sectors` is no multiple of 4, or `steps` is not positive.
    """
    if sectors < 4 or sectors % 4 or steps < 1:
        raise ValueError(f"steps must be 1 or more and sectors a multiple of 4, got {steps} and {sectors}")
    corners = itertools.product(*((-0.5 * h, (n - 0.5) * h) for n, h in zip(shape, voxel_size_um, strict=True)))
    places = [
        sum(u * (p - c) for u, p, c in zip(axis.direction, corner, axis.centre_um, strict=True)) for corner in corners
    ]
    low, length = min(places), max(places) - min(places)
    n = max(1, min(steps, int(length / max(voxel_size_um))))
    return Cylinder(axis, voxel_size_um, low, length / n, n, sectors)


def bins_of(places: Array, rows: np.ndarray, sines: np.ndarray, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Step and sector of places given as (N, 3) doubled voxel indices; `surface_map` does the same voxel by voxel."""
    xp = namespace_for(places)
    z, y, x = (places[:, a].astype(np.float64) for a in range(3))
    along, a, b = (r[0] * z + r[1] * y + r[2] * x + r[3] for r in rows.tolist())
    step = xp.clip(xp.floor(along), 0, shape[0] - 1).astype(np.int64)
    quarter = xp.where(b >= 0, xp.where(a > 0, 0, 1), xp.where(a < 0, 2, 3))
    quarter = xp.where((b == 0) & (a < 0), 2, quarter)
    quarter = xp.where((a == 0) & (b == 0), 0, quarter)
    # Turned back by the quarter, so that both lengths are positive.
    p = xp.where(quarter == 0, a, xp.where(quarter == 1, b, xp.where(quarter == 2, -a, -b)))
    q = xp.where(quarter == 0, b, xp.where(quarter == 1, -a, xp.where(quarter == 2, -b, a)))
    sector = quarter * (shape[1] // 4)
    for sine, cosine in sines.T.tolist():
        sector = sector + (q * cosine >= p * sine)
    return step, xp.where((p == 0) & (q == 0), 0, sector).astype(np.int64)


def _across(direction: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across the axis, as (z, y, x): the second a quarter turn after the first."""
    u = np.array(direction)
    towards = np.array([0.0, 1.0, 0.0]) if np.argmax(np.abs(u).round(6)) == 2 else np.array([0.0, 0.0, 1.0])
    first = towards - u * float(towards @ u) / float(u @ u)
    first = first / math.sqrt(float(first @ first))
    # The cross product of vectors in the order (x, y, z) is right-handed.
    second = np.cross(u[::-1], first[::-1])[::-1]
    return first, second / math.sqrt(float(second @ second))
