"""Where the classes of a label volume are, so that a rare one can be shown often: counts by cell, in bounded memory.

.. code-block:: text

    volume    | cell | cell | cell |        counts[cell, class], one pass over the labels
    draw      class -> cell by its counts -> voxel of the class in the cell, which is read again
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import Block, Region, Shape, three
from tomoscale.step import Counts, Measure
from tomoscale.training.recipe import IGNORED
from tomoscale.training.samples import FOREIGN

MAX_TABLE_BYTES = 2**18
CELL_VOXELS = 32
"""Edge of the smallest cell; edges are multiples of it."""
PART_VOXELS = 128
"""Edge of what is read at once to find a voxel in a larger cell."""

Read = Callable[[Region], np.ndarray]


@dataclass(frozen=True)
class Cells:
    """A partition of a volume into equal cells, clipped at its end."""

    shape: Shape
    cell: Shape

    @property
    def counts(self) -> Shape:
        """Cells along (z, y, x)."""
        return three(-(-n // c) for n, c in zip(self.shape, self.cell, strict=True))

    def region(self, number: int) -> Region:
        """Voxels of a cell."""
        places = np.unravel_index(number, self.counts)
        z, y, x = (
            slice(int(p) * c, min((int(p) + 1) * c, n)) for p, c, n in zip(places, self.cell, self.shape, strict=True)
        )
        return z, y, x


def cells_of(shape: Shape, n_classes: int) -> Cells:
    """Give the smallest cells whose table of counts is not larger than `MAX_TABLE_BYTES`."""
    most = max(1, MAX_TABLE_BYTES // (8 * (n_classes + 1)))
    edge = CELL_VOXELS
    while math.prod(-(-n // edge) for n in shape) > most:
        edge += CELL_VOXELS
    return Cells(shape, three(min(edge, n) for n in shape))


def class_cells(cells: Cells, n_classes: int) -> Measure:
    """Measure of `count_cells`: input ("labels",), count "cells"."""
    return Measure(
        name="classes by cell",
        function=partial(count_cells, cells=cells, n_classes=n_classes),
        inputs=("labels",),
        bytes_per_voxel=10.0,
        counts_bytes=8 * math.prod(cells.counts) * (n_classes + 1),
        parameters={"cell": list(cells.cell), "n_classes": n_classes},
    )


def count_cells(labels: Array, *, block: Block, cells: Cells, n_classes: int) -> Counts:
    """Count the core's voxels by (cell, class), the last column for labels that are no class: "cells" int64."""
    xp = namespace_for(labels)
    table = xp.zeros((math.prod(cells.counts), n_classes + 1), np.int64)
    spans = [range(w.start // c, -(-w.stop // c)) for w, c in zip(block.write, cells.cell, strict=True)]
    for z in spans[0]:
        for y in spans[1]:
            for x in spans[2]:
                number = int(np.ravel_multi_index((z, y, x), cells.counts))
                region = cells.region(number)
                part = tuple(
                    slice(max(r.start, w.start) - b.start, min(r.stop, w.stop) - b.start)
                    for r, w, b in zip(region, block.write, block.read, strict=True)
                )
                found = xp.bincount(labels[part].ravel(), minlength=256)
                table[number, :n_classes] += found[:n_classes]
                table[number, n_classes] += found[n_classes:IGNORED].sum()
    return {"cells": table}


@dataclass(frozen=True)
class ClassIndex:
    """Counts of classes by cell.

    Attributes
    ----------
    cells : Cells
    counts : (n_cells, n_classes) int64 array
    """

    cells: Cells
    counts: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        """Voxels of each class: (n_classes,) int64."""
        return np.asarray(self.counts.sum(axis=0))

    def draw(self, wanted: int, random: np.random.Generator, read: Read) -> tuple[int, int, int]:
        """Place of a voxel of a class.

        Cells are drawn by their voxels of the class; in a cell larger than `PART_VOXELS` a part is drawn evenly among
        those that hold the class.

        Parameters
        ----------
        wanted : int
            A class of which there is a voxel.
        random : numpy Generator
        read : callable
            Labels of a region.
        """
        column = np.cumsum(self.counts[:, wanted])
        region = self.cells.region(int(np.searchsorted(column, random.integers(column[-1]), side="right")))
        parts = _parts(region)
        for number in random.permutation(len(parts)):
            found = np.flatnonzero(read(parts[number]) == wanted)
            if len(found):
                shape = tuple(r.stop - r.start for r in parts[number])
                inside = np.unravel_index(int(found[random.integers(len(found))]), shape)
                z, y, x = (int(i) + r.start for i, r in zip(inside, parts[number], strict=True))
                return z, y, x
        raise InputError("labels have changed since they were counted: start the training again")


def index_of(cells: Cells, counts: np.ndarray, name: str) -> ClassIndex:
    """Index of what `class_cells` has counted.

    Raises
    ------
    InputError
        If a label is no class.
    """
    foreign = counts[:, -1]
    if foreign.any():
        z, y, x = cells.region(int(np.flatnonzero(foreign)[0]))
        raise InputError(
            f"{name} holds {int(foreign.sum())} voxels with labels that are no class (0 to {counts.shape[1] - 2}, or "
            f"{IGNORED} for not labelled), the first within z {z.start}:{z.stop}, y {y.start}:{y.stop}, x {x.start}:{x.stop}: "
            "name their classes or set them to 255"
        )
    return ClassIndex(cells, np.asarray(counts[:, :-1]))


def _parts(region: Region) -> list[Any]:
    starts = [range(r.start, r.stop, PART_VOXELS) for r in region]
    return [
        tuple(slice(s, min(s + PART_VOXELS, r.stop)) for s, r in zip((z, y, x), region, strict=True))
        for z in starts[0]
        for y in starts[1]
        for x in starts[2]
    ]


assert FOREIGN < IGNORED, "foreign labels are counted in the column before those that are not labelled"
