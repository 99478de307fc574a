"""Which slices or patches are worth most to annotate: the highest scores, a distance apart, ties by place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tomoscale.geometry import AXES, Region, Shape, three
from tomoscale.training.class_index import Cells

MAX_PIECES = 2**20
"""Every block returns a number for each: 8 MiB."""


def slices_across(axis: str, shape: Shape) -> Cells:
    """Slices across an axis."""
    number = AXES.index(axis)
    return Cells(shape, three(1 if a == number else n for a, n in enumerate(shape)))


def patches_of(patch: Shape, shape: Shape) -> Cells:
    """Patches of a size.

    Raises
    ------
    ValueError
        If no patch lies within the volume, or there are more than `MAX_PIECES`.
    """
    if any(p > n for p, n in zip(patch, shape, strict=True)):
        raise ValueError(f"patches of {patch} voxels do not lie within a volume of {shape}: make them smaller")
    cells = Cells(shape, patch)
    if math.prod(cells.counts) > MAX_PIECES:
        raise ValueError(
            f"a volume of {shape} holds {math.prod(cells.counts)} patches of {patch}, and {MAX_PIECES} can be scored: make them larger"
        )
    return cells


def name_of(region: Region, shape: Shape) -> str:
    """Name of a piece of a volume of `shape`, for files: ``z00012``, or ``z00000_y00256_x00512``."""
    cut = [a for a, n, r in zip(AXES, shape, region, strict=True) if r.stop - r.start != n]
    starts = dict(zip(AXES, (r.start for r in region), strict=True))
    return "_".join(f"{a}{starts[a]:05d}" for a in (cut or AXES))


def pick(
    scores: np.ndarray, cells: Cells, number: int, spacing: int, taken: Sequence[Region] = ()
) -> list[tuple[Region, int]]:
    """Take the cells of the highest scores, one after the other, leaving out those too near to one that is taken.

    Parameters
    ----------
    scores : (cells along z, y, x) int64 array
        Sums over the voxels; cells that the volume's end cuts are not taken.
    cells : Cells
    number : int
        At most.
    spacing : int
        Voxels between the starts of two, along at least one axis.
    taken : sequence of regions
        That are annotated already: none of the new ones is nearer to them.

    Returns
    -------
    list of (region, score)
        In the order in which they were taken; of equal scores the one that comes first (z, y, x) is.
    """
    uncut = three(n // c for n, c in zip(cells.shape, cells.cell, strict=True))
    whole = scores[tuple(slice(0, n) for n in uncut)]
    starts = [np.array([r.start for r in region]) for region in taken]
    found: list[tuple[Region, int]] = []
    # A stable sort of the negative keeps the order of places among equals.
    for place in np.argsort(-whole, axis=None, kind="stable"):
        if len(found) == number:
            break
        index = np.unravel_index(int(place), whole.shape)
        region = cells.region(int(np.ravel_multi_index(index, cells.counts)))
        start = np.array([r.start for r in region])
        if all(np.abs(start - other).max() >= max(1, spacing) for other in starts):
            starts.append(start)
            found.append((region, int(whole[index])))
    return found
