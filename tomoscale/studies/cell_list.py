"""The cells of a porosity study: a table with a row for each, and what a report says of all and of the largest."""

from __future__ import annotations

import csv
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.drafts import draft_of
from tomoscale.objects.object_values import ObjectValues

LARGEST = 12
BINS_PER_OCTAVE = 2
_AT_ONCE = 2**16


@dataclass
class Cells:
    """What is known of all cells, gathered while the table is written.

    Attributes
    ----------
    n, cut : int
        Cells, and those that the border of the volume cuts.
    voxels, squares : int
        Sums of the sizes, and of their squares.
    sizes : list of int
        Cells by size in voxels: bin i holds sizes from 2^(i / 2) on, below 2^((i + 1) / 2).
    largest : list of (voxels, -id, row)
        A heap of the rows of the largest ones.
    """

    n: int = 0
    cut: int = 0
    voxels: int = 0
    squares: int = 0
    sizes: list[int] = field(default_factory=lambda: [0] * (63 * BINS_PER_OCTAVE))
    largest: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """Add a cell by its row of the table."""
        voxels = int(row["voxels"])
        self.n += 1
        self.cut += int(row["touches_border"])
        self.voxels += voxels
        self.squares += voxels * voxels
        # Exact at powers of two, where a logarithm may fall on either side.
        octave = voxels.bit_length() - 1
        half = int(voxels * voxels >= 1 << (2 * octave + 1))
        self.sizes[octave * BINS_PER_OCTAVE + half] += 1
        # Of equally large cells the one with the smaller number stands before the other.
        item = (voxels, -int(row["id"]), row)
        if len(self.largest) < LARGEST:
            heapq.heappush(self.largest, item)
        elif item[:2] > self.largest[0][:2]:
            heapq.heapreplace(self.largest, item)

    @property
    def mean_voxels(self) -> float:
        """Mean size; NaN without cells."""
        return self.voxels / self.n if self.n else math.nan

    @property
    def deviation_voxels(self) -> float:
        """Standard deviation of the size over all cells; NaN without cells."""
        return math.sqrt(self.n * self.squares - self.voxels**2) / self.n if self.n else math.nan

    def histogram(self, voxel_volume: float) -> dict[str, list[float] | list[int]]:
        """Edges of the bins as volumes, and counts, from the first to the last bin that holds a cell."""
        full = np.flatnonzero(self.sizes)
        if not full.size:
            return {"edges": [], "counts": []}
        first, last = int(full[0]), int(full[-1])
        edges = [voxel_volume * 2.0 ** (i / BINS_PER_OCTAVE) for i in range(first, last + 2)]
        return {"edges": edges, "counts": self.sizes[first : last + 1]}

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the largest cells, the largest first, with numbers in place of texts."""
        ordered = sorted(self.largest, key=lambda item: (-item[0], -item[1]))
        return [{k: _number(v) for k, v in row.items()} for _, _, row in ordered]


def write_cells(objects: Path, values: np.ndarray, target: Path, edge: float, known: bool) -> Cells:
    """Write the table of cells: that of `object_table` with the thickness of each, in the order of their numbers.

    Parameters
    ----------
    objects : Path
        CSV file of `object_table`.
    values : (n, 6) int64 array
        Of `object_values.joined`, by number of the cell less one.
    target : Path
        CSV file.
    edge : float
        Shortest edge of a voxel.
    known : bool
        Whether lengths are micrometres; else they are voxels, and the names of the columns say so.
    """
    found = Cells()
    partial = draft_of(target)
    try:
        with objects.open(newline="") as source, partial.open("w", newline="") as file:
            rows = csv.DictReader(source)
            names = [name_of(name, known) for name in ("id", *(rows.fieldnames or ())[1:], *THICKNESS)]
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            for row, thick in zip(rows, _thicknesses(values, edge), strict=True):
                cells = [*row.values(), *(f"{v:.9g}" for v in thick)]
                writer.writerow(cells)
                found.add(dict(zip(names, cells, strict=True)))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return found


THICKNESS = ("thickness_mean_um", "thickness_deviation_um", "thickness_max_um")


def name_of(column: str, known: bool) -> str:
    """Name of a column: where the voxel size is not known, lengths are voxels."""
    if known:
        return column
    for unit in ("_um3", "_um2", "_um"):
        if column.endswith(unit):
            return f"{column.removesuffix(unit)}_voxels{unit[3:]}"
    return column


def _thicknesses(values: np.ndarray, edge: float) -> Iterator[tuple[float, float, float]]:
    for start in range(0, len(values), _AT_ONCE):
        part = ObjectValues.of(np.array(values[start : start + _AT_ONCE]), edge)
        yield from zip(part.mean.tolist(), part.deviation.tolist(), part.largest.tolist(), strict=True)


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
