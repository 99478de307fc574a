"""What the values of another volume are over each object of a label volume: number, mean, deviation, largest.

A largest value does not add, so every block leaves a file with a row for each of its objects; the rows of an object are
joined afterwards, one file after the other, in a table on disk with as many rows as there are objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numba
import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.geometry import Block, Grid, Halo
from tomoscale.measures.thickness_histogram import STEPS_PER_EDGE, steps_of
from tomoscale.objects.pieces import file_of
from tomoscale.objects.stored import StoredArrays, save_arrays
from tomoscale.step import Counts, Measure

VOXELS, SUM, SQUARES_HIGH, SQUARES_LOW, LARGEST, OUTER = range(6)
COLUMNS = 6
_WORD_BITS = 24
_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class ObjectValues:
    """Values over some objects.

    Attributes
    ----------
    voxels : (k,) int64 array
        0 where there is no such object.
    mean, deviation, largest : (k,) float64 arrays
        In the unit of the edge that was given; NaN where there is no such object.
    outer : (k,) bool array
        Whether the object touches the border of the volume or what is absent.
    """

    voxels: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    largest: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, edge_um: float) -> ObjectValues:
        """Values from the rows of `joined`, (k, 6) int64."""
        n, total, high, low, largest, outer = np.asarray(rows).T
        quantum = edge_um / STEPS_PER_EDGE
        # Python integers: the variance is a difference of squares of which no digit may be lost.
        top = [
            int(k) * ((int(h) << _WORD_BITS) + int(w)) - int(s) ** 2
            for k, s, h, w in zip(n, total, high, low, strict=True)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            deviation = np.sqrt(np.array(top, np.float64)) / n
            return cls(
                n, quantum * (total / n), quantum * deviation, np.where(n > 0, quantum * largest, np.nan), outer > 0
            )


def object_values(
    folder: Path, edge_um: float, *, objects: str = "objects", values: str | None = None, absent: str | None = None
) -> Measure:
    """Measure of `write_values`; counts how many rows there are.

    Parameters
    ----------
    folder : Path
        For the files of the blocks.
    edge_um : float
        Shortest voxel edge: values are summed in steps of 1/1024 of it.
    objects : str
        Name of the label volume; 0 is no object.
    values : str or None
        Name of the volume of lengths, such as a thickness; None for sizes alone.
    absent : str or None
        Name of a volume whose zeros are the outside of a region of interest; objects beside them are `outer`.
    """
    names = (objects, *(name for name in (values, absent) if name is not None))
    return Measure(
        "object values",
        partial(
            write_values,
            folder=str(folder),
            edge_um=edge_um,
            has_values=values is not None,
            has_absent=absent is not None,
        ),
        names,
        Halo() if absent is None else Halo.uniform(1),
        # In the worst case every second voxel is an object of its own: labels of 8 bytes, sorted, and rows of 48.
        bytes_per_voxel=44.0,
        counts_bytes=8,
        parameters={"edge_um": edge_um},
    )


def write_values(
    objects: Array, *others: Array, block: Block, folder: str, edge_um: float, has_values: bool, has_absent: bool
) -> Counts:
    """Write ``label`` (k,) and ``rows`` (k, 6) of a block's objects to its file."""
    core = to_host(objects)[block.core]
    values = to_host(others[0])[block.core] if has_values else None
    present = to_host(others[-1]) != 0 if has_absent else None
    planes = [np.unique(_run_labels(np.ascontiguousarray(plane, np.int64))) for plane in core]
    labels = np.unique(np.concatenate(planes))
    del planes
    rows = np.zeros((labels.size, COLUMNS), np.int64)
    for z in range(len(core)):
        plane = np.ascontiguousarray(core[z], np.int64)
        steps = np.zeros(plane.shape, np.int64) if values is None else steps_of(values[z], edge_um)
        _add_plane(plane, steps, _outer_plane(z, block, present), labels, rows)
    save_arrays(file_of(Path(folder), block.number), {"label": labels, "rows": rows})
    return {"rows": np.array([labels.size], np.int64)}


@contextmanager
def joined(folder: Path, grid: Grid, n: int) -> Iterator[np.ndarray]:
    """Table of the objects 1 to `n`, (n, 6) int64, joined from the files of all blocks; gone afterwards."""
    place = folder / "joined"
    table = np.memmap(place, np.int64, "w+", shape=(n + 1, COLUMNS))
    try:
        for number in range(len(grid)):
            stored = StoredArrays.open(file_of(folder, number))
            label, rows = stored.read("label"), stored.read("rows")
            largest = np.maximum(table[label, LARGEST], rows[:, LARGEST])
            outer = table[label, OUTER] | rows[:, OUTER]
            table[label] += rows
            table[label, LARGEST], table[label, OUTER] = largest, outer
        yield table[1:]
    finally:
        del table
        place.unlink(missing_ok=True)


def _outer_plane(z: int, block: Block, present: np.ndarray | None) -> np.ndarray:
    """Voxels of a plane of the core that lie at the border of the volume, or have a face to one that is absent."""
    core, write, shape = block.core, block.write, block.source_shape
    at = write[0].start + z
    outer = np.full(block.write_shape[1:], at in (0, shape[0] - 1))
    outer[0] |= write[1].start == 0
    outer[-1] |= write[1].stop == shape[1]
    outer[:, 0] |= write[2].start == 0
    outer[:, -1] |= write[2].stop == shape[2]
    if present is None:
        return outer
    middle, rows, columns = core[0].start + z, core[1], core[2]
    for near in (middle - 1, middle + 1):
        if 0 <= near < present.shape[0]:
            outer |= ~present[near, rows, columns]
    padded = np.pad(present[middle], 1, constant_values=True)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        outer |= ~padded[rows.start + 1 + dy : rows.stop + 1 + dy, columns.start + 1 + dx : columns.stop + 1 + dx]
    return outer


@_jit  # type: ignore[untyped-decorator]
def _run_labels(plane: np.ndarray) -> np.ndarray:
    """Label of every run along x of a plane that is of an object."""
    found = np.empty(plane.size, np.int64)
    n = 0
    for y in range(plane.shape[0]):
        before = 0
        for x in range(plane.shape[1]):
            label = plane[y, x]
            if label != before and label != 0:
                found[n] = label
                n += 1
            before = label
    return found[:n].copy()


@_jit  # type: ignore[untyped-decorator]
def _add_plane(plane: np.ndarray, steps: np.ndarray, outer: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
    """Add the voxels of a plane to the rows of their objects; `labels` are sorted and hold all of them."""
    for y in range(plane.shape[0]):
        before, row = 0, 0
        for x in range(plane.shape[1]):
            label = plane[y, x]
            if label == 0:
                before = 0
                continue
            if label != before:
                before, row = label, np.searchsorted(labels, label)
            step = steps[y, x]
            square = step * step
            rows[row, 0] += 1
            rows[row, 1] += step
            rows[row, 2] += square >> 24
            rows[row, 3] += square & 0xFFFFFF
            rows[row, 4] = max(rows[row, 4], step)
            rows[row, 5] |= outer[y, x]
