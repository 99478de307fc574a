"""Pieces: what one block sees of connected components, and the file in which a block leaves them.

A component that several blocks share is a *piece* in each of them. Only pieces at a side that two blocks share can
belong to one component; the file of a block therefore holds, beside a row for every piece, its sides with the pieces on
them. Pieces are numbered in the order of their first voxels, so they can be found again, by anyone, from the voxels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.geometry import Block, Halo
from tomoscale.kernels.neighbours import ENTRY_BYTES, count_neighbours
from tomoscale.kernels.row_runs import RUN_BYTES, Connectivity, Runs, find_runs, join_runs, piece_extents
from tomoscale.kernels.side_runs import SIDES, side_runs
from tomoscale.objects.distance import refuse_grey_values
from tomoscale.objects.stored import save_arrays
from tomoscale.step import Counts, Measure
from tomoscale.volume import Volume

PIECE_BYTES = 13
"""What is held of a piece: first voxel, size, number among those at a side, whether it is at the volume's border."""

LABELS_AROUND = 3
"""Labels that may touch a piece of noise of four labels."""


@dataclass(frozen=True)
class Selection:
    """Which voxels are the object, and which of them belong together.

    Attributes
    ----------
    connectivity : 6, 18 or 26
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    multilabel : bool
        Only neighbours of equal label belong together.
    inverted : bool
        The object is what is not of `classes`.
    """

    connectivity: Connectivity = 26
    classes: tuple[int, ...] | None = None
    multilabel: bool = False
    inverted: bool = False

    def __post_init__(self) -> None:
        if self.connectivity not in (6, 18, 26):
            raise ValueError(f"connectivity must be 6, 18 or 26, got {self.connectivity}")
        if self.classes is not None and (not self.classes or len(set(self.classes)) != len(self.classes)):
            raise ValueError(f"classes must name at least one label and none twice, got {self.classes}")

    @property
    def bytes_per_voxel(self) -> float:
        """Most that `runs` takes beyond its input: the mask while it is compared, and the runs of the worst case."""
        return 2.0 + (1.0 if self.multilabel else 0.5) * RUN_BYTES

    @property
    def pieces_per_voxel(self) -> float:
        """Most pieces that a voxel may bring: of those that do not touch each other, or of noise of many labels."""
        return 0.5 if self.multilabel else {6: 1 / 2, 18: 1 / 4, 26: 1 / 8}[self.connectivity]

    def check(self, volume: Volume) -> None:
        """Raise `InputError` if a volume holds no labels."""
        refuse_grey_values(volume, self.classes)

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Mask of the object: (Z, Y, X) bool."""
        if self.classes is None:
            mask = labels if labels.dtype == bool else labels != 0
        else:
            mask = labels == self.classes[0]
            for label in self.classes[1:]:
                mask |= labels == label
        return ~mask if self.inverted else mask

    def runs(self, labels: np.ndarray) -> tuple[Runs, np.ndarray, int]:
        """Runs of the object, the piece of each, and how many pieces there are; `labels` in C order."""
        mask = np.ascontiguousarray(self.mask(labels))
        values = unsigned(labels) if self.multilabel else None
        runs = find_runs(mask, values)
        del mask
        return runs, *join_runs(runs, self.connectivity, values)

    def describe(self) -> dict[str, Any]:
        """JSON values that guard a resumed run."""
        return {**asdict(self), "classes": None if self.classes is None else list(self.classes)}


def pieces(selection: Selection, folder: Path, *, voting: int | None = None) -> Measure:
    """Measure that leaves the pieces of every block in a file, and counts pieces and those that blocks may share.

    Parameters
    ----------
    selection : Selection
    folder : Path
        For the files.
    voting : int or None
        Where given, the labels around every piece are counted, but for pieces of more voxels; 0 counts for all. The
        faces of a piece lie in its block or one voxel past it.
    """
    per_piece = PIECE_BYTES + 8 + (0 if voting is None else LABELS_AROUND * ENTRY_BYTES)
    return Measure(
        "pieces",
        partial(find_pieces, selection=selection, folder=str(folder), voting=voting),
        ("labels",),
        Halo() if voting is None else Halo.uniform(1),
        selection.bytes_per_voxel + selection.pieces_per_voxel * per_piece + (0 if voting is None else 4),
        counts_bytes=16,
        parameters={**selection.describe(), "voting": voting},
    )


def find_pieces(labels: Array, *, block: Block, selection: Selection, folder: str, voting: int | None) -> Counts:
    """Find the pieces of a block and write its file.

    Arrays of the file (k pieces, b of them at a side that two blocks share):

    ``first``, ``voxels``
        (k,) unsigned: index in the block of the first voxel; number of voxels.
    ``outer``
        (k,) bool: whether it touches the border of the volume.
    ``label``
        (k,) label; only if neighbours of equal label belong together.
    ``border``
        (b,) uint32: numbers of the pieces at shared sides.
    ``rows``, ``runs``
        (n + 1,) and (r, 3) uint32: the first run of each row of all `SIDES`, and the runs: first voxel, the one after the
        last, place in ``border``. Sides that no block shares have none.
    ``vote_piece``, ``vote_label``, ``vote_faces``
        Voxel faces between a piece and a label around it; only with `voting`.
    """
    padded = to_host(labels)
    core = np.ascontiguousarray(padded[block.core])
    runs, of_runs, n = selection.runs(core)
    first, voxels = piece_extents(runs, of_runs, n)
    arrays = {"first": first, "voxels": voxels, "outer": np.zeros(n, bool)}
    if selection.multilabel:
        arrays["label"] = core.reshape(-1)[first]
    arrays["rows"], sides = _shared_sides(runs, of_runs, block, arrays["outer"])
    # As mask, not as a set: a side of 10^6 voxels need not be sorted.
    at_side = np.zeros(n, bool)
    at_side[sides[:, 2]] = True
    arrays["border"] = np.flatnonzero(at_side).astype(np.uint32)
    sides[:, 2] = (np.cumsum(at_side, dtype=np.uint32) - np.uint32(1))[sides[:, 2]]
    arrays["runs"] = sides
    if voting is not None:
        wanted = np.ones(n, bool) if voting == 0 else voxels < voting
        votes = count_neighbours(
            padded, block.core, selection.mask(padded), runs, of_runs, wanted, selection.multilabel
        )
        arrays.update(zip(("vote_piece", "vote_label", "vote_faces"), votes, strict=True))
    save_arrays(file_of(Path(folder), block.number), arrays)
    return {"pieces": np.array([n], np.int64), "shared": np.array([arrays["border"].size], np.int64)}


def file_of(folder: Path, number: int) -> Path:
    """File of a block; a thousand to a folder."""
    return Path(f"{folder}/{number // 1000:06d}/{number:09d}.arrays")


def unsigned(labels: np.ndarray) -> np.ndarray:
    """Labels as unsigned integers of the same width: to compare them, their sign does not matter."""
    return labels.view(f"u{labels.dtype.itemsize}")


def _shared_sides(runs: Runs, pieces: np.ndarray, block: Block, outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and runs of all sides, with their pieces; those at the volume's border only say so in `outer`."""
    rows, found = [np.zeros(1, np.int64)], []
    for axis, last in SIDES:
        counts, side = side_runs(runs, pieces, axis, last)
        if (block.write[axis].stop == block.source_shape[axis]) if last else (block.write[axis].start == 0):
            outer[side[:, 2]] = True
            counts, side = np.zeros_like(counts), side[:0]
        rows.append(counts)
        found.append(side)
    return np.cumsum(np.concatenate(rows)).astype(np.uint32), np.concatenate(found)
