"""Kernel of the local thickness with the clean-up of its surface that the Local Thickness plug-in of Fiji makes.

What the plug-in and BoneJ do after all balls are painted, in the same order (Dougherty and Kunzelmann, Microscopy and
Microanalysis 13 (2007) 1678; facts from the published sources of fiji/LocalThickness):

.. code-block:: text

    map        balls also reach voxels outside the structure, at exactly their radius: an overhang of about a voxel
    surface    voxels of the map with a voxel outside of it among their 26 neighbours; beyond the volume lies neither
    interior   all other voxels of the map
    clean-up   a voxel of the surface gets the mean diameter of its interior neighbours, if it has any
    mask       what is not of the structure becomes 0

Since most of the surface is overhang, few voxels of the structure change. A voxel's mean depends on which of its
neighbours are interior and so on what is painted two voxels away: blocks read two voxels more than without.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo, Region, Spacing
from tomoscale.kernels.ball import Ball
from tomoscale.kernels.distance import slabs
from tomoscale.kernels.thickness import paint_largest
from tomoscale.kernels.thickness import thickness as plain_thickness
from tomoscale.step import Kernel

REACH = 2
"""Voxels around the core in which the map must be painted."""
NEIGHBOURS = tuple(d for d in product((-1, 0, 1), repeat=3) if d != (0, 0, 0))


def cleaned_thickness(largest: Ball, voxel_size_um: Spacing, correction_um: float = 0.0) -> Kernel:
    """Kernel of the local thickness in micrometres with Fiji's clean-up; parameters as for `thickness`."""
    kernel = plain_thickness(largest, voxel_size_um, correction_um)
    return replace(
        kernel,
        name="local thickness, cleaned up",
        function=partial(_cleaned_block, ball=largest, correction_um=correction_um),
        halo=kernel.halo + Halo.uniform(REACH),
        # The map of two voxels more, its interior, and for a sixteenth of the planes sums of 8 bytes and what is added.
        bytes_per_voxel=kernel.bytes_per_voxel + 8,
        parameters={**kernel.parameters, "cleanup": "fiji"},
    )


def interior_of(painted: Array) -> Array:
    """Voxels of a map without a voxel outside of it among their 26 neighbours; beyond the array lies neither: bool."""
    interior = painted > 0
    for axis in range(3):
        here = interior.swapaxes(0, axis)
        before = here.copy()
        here[1:] &= before[:-1]
        here[:-1] &= before[1:]
    return interior


def mean_of_interior(painted: Array, interior: Array, unit_um: float, part: slice) -> tuple[Array, Array]:
    """Mean diameter of the interior neighbours of the voxels of some planes, and how many they are.

    Parameters
    ----------
    painted : (Z, Y, X) integer array
        Squared radii.
    interior : (Z, Y, X) bool array
    unit_um : float
        Unit of the radii.
    part : slice
        Planes.

    Returns
    -------
    (z, Y, X) float64 and int8 arrays
        The mean is 0 where there are none. Sums are in one order of neighbours, so that all blocks give the same bits.
    """
    xp = namespace_for(painted)
    first, last = max(part.start - 1, 0), min(part.stop + 1, len(painted))
    diameters = 2 * unit_um * xp.sqrt(painted[first:last], dtype=np.float64)
    diameters *= interior[first:last]
    shape = (part.stop - part.start, *painted.shape[1:])
    total, n = xp.zeros(shape, np.float64), xp.zeros(shape, np.int8)
    for step in NEIGHBOURS:
        here, there = _shifted(step, part, first, len(painted), painted.shape)
        total[here] += diameters[there]
        n[here] += interior[first:last][there]
    total /= xp.maximum(n, 1)
    return total, n


def _shifted(
    step: tuple[int, ...], part: slice, first: int, planes: int, shape: tuple[int, ...]
) -> tuple[Region, Region]:
    """Voxels of some planes that have a neighbour in a direction, and these neighbours, counted from `first`."""
    start, stop = max(part.start, -step[0]), min(part.stop, planes - step[0])
    here, there = (
        [slice(start - part.start, stop - part.start)],
        [slice(start + step[0] - first, stop + step[0] - first)],
    )
    for n, s in zip(shape[1:], step[1:], strict=True):
        here.append(slice(max(0, -s), n - max(0, s)))
        there.append(slice(max(0, s), n + min(0, s)))
    return (here[0], here[1], here[2]), (there[0], there[1], there[2])


def _cleaned_block(squared: Array, block: Block, ball: Ball, correction_um: float) -> Array:
    xp = namespace_for(squared)
    around = [
        slice(max(c.start - REACH, 0), min(c.stop + REACH, n)) for c, n in zip(block.core, squared.shape, strict=True)
    ]
    region = (around[0], around[1], around[2])
    painted = paint_largest(xp.minimum(squared, ball.limit), ball, region, beyond=True)
    interior = interior_of(painted)
    core = [slice(c.start - r.start, c.stop - r.start) for c, r in zip(block.core, region, strict=True)]
    result = xp.zeros(block.write_shape, np.float32)
    for part in slabs(len(result)):
        planes = slice(core[0].start + part.start, core[0].start + part.stop)
        inner = (slice(None), core[1], core[2])
        mean, n = mean_of_interior(painted, interior, ball.unit_um, planes)
        own = 2 * ball.unit_um * xp.sqrt(painted[planes], dtype=np.float64)
        changed = ~interior[planes] & (n > 0)
        diameter = xp.where(changed, mean, own)[inner] - correction_um
        result[part] = xp.where(squared[block.core][part] > 0, diameter, 0)
    return result
