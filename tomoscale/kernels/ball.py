"""Euclidean balls on a grid of voxels, in integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from tomoscale.geometry import Shape, Spacing, three

_MAX_REACH = 2**13
_MAX_UNITS = 2**18


@dataclass(frozen=True)
class Ball:
    """Offsets of voxel centres that lie within a radius: ``sum(weights * offset ** 2) <= limit``, in integers.

    Attributes
    ----------
    weights : (z, y, x)
        Squared voxel edges in squared units; (1, 1, 1) for cubic voxels.
    limit : int
        Squared radius in squared units, rounded down.
    unit_um : float
        The unit: the largest length that all three voxel edges are whole multiples of.
    radius_um : float
    """

    weights: Shape
    limit: int
    unit_um: float
    radius_um: float

    @property
    def reach(self) -> Shape:
        """Voxels from the centre to the outermost one along each axis."""
        return three(math.isqrt(self.limit // w) for w in self.weights)


def make_ball(radius_um: float, voxel_size_um: Spacing) -> Ball:
    """Ball of a radius on a grid of voxels, both in micrometres; a centre at exactly the radius belongs to it.

    Lengths are read as the nearest fraction with a denominator of at most 10^6: 0.92 means 23/25, not the binary
    number next to it, and a radius of three voxels reaches the third voxel whatever the size of a voxel.

    Raises
    ------
    ValueError
        If the radius is less than the smallest voxel edge or 8192 voxels and more, or if the edges have no common unit.
    """
    if not all(math.isfinite(v) and v > 0 for v in (radius_um, *voxel_size_um)):
        raise ValueError(
            f"radius_um and voxel_size_um must be positive micrometres, got {radius_um} and {voxel_size_um}"
        )
    radius = Fraction(radius_um).limit_denominator(10**6)
    edges = [Fraction(h).limit_denominator(10**6) for h in voxel_size_um]
    if not 0 < min(edges) <= radius < _MAX_REACH * min(edges):
        raise ValueError(
            f"radius_um must be at least one and less than {_MAX_REACH} voxels, got {radius_um} µm on voxels of "
            f"{voxel_size_um} µm: a smaller radius changes nothing, a larger one is past exact distances; resample first"
        )
    units, unit = _common_unit(edges)
    return Ball(three(u * u for u in units), math.floor((radius / unit) ** 2), float(unit), float(radius_um))


def covering_ball(shape: Shape, voxel_size_um: Spacing) -> Ball:
    """Ball that reaches from any voxel of a volume of `shape` to any other.

    Raises
    ------
    ValueError
        If the edges have no common unit.
    """
    units, unit = _common_unit([Fraction(h).limit_denominator(10**6) for h in voxel_size_um])
    limit = sum((u * (n - 1)) ** 2 for u, n in zip(units, shape, strict=True))
    return Ball(three(u * u for u in units), limit, float(unit), float(unit) * math.sqrt(limit))


def _common_unit(edges: list[Fraction]) -> tuple[Shape, Fraction]:
    """Voxel edges as whole multiples of the largest length that divides all three, and that length."""
    denominator = math.lcm(*(e.denominator for e in edges))
    unit = Fraction(math.gcd(*(int(e * denominator) for e in edges)), denominator)
    units = three(int(e / unit) for e in edges)
    if max(units) > _MAX_UNITS:
        raise ValueError(
            f"voxels of {' x '.join(str(float(e)) for e in edges)} µm have no common unit down to 1/{_MAX_UNITS} of the longest "
            "edge, so distances cannot be exact: round the three edges to five digits"
        )
    return units, unit
