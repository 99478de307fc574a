"""The second pass: find the pieces of a block again and give each the value that was decided for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.errors import IntegrityError
from tomoscale.geometry import Block, Halo
from tomoscale.kernels.row_runs import paint_pieces
from tomoscale.objects.pieces import Selection
from tomoscale.step import Kernel

VALUES, KEPT, STARTS = "values", "kept", "starts"
"""Files of what was decided: a value per piece, ordered by block; whether it stays as it is; where each block begins."""


@dataclass(frozen=True)
class Decided:
    """Where the values of pieces lie; it pickles small, workers map the files.

    Attributes
    ----------
    folder : str
    dtype : str
        Of the values, and of the target.
    on_source : bool
        Voxels that are not painted keep the source's value; else they are 0.
    """

    folder: str
    dtype: str
    on_source: bool

    def of_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Value of each piece of a block, and whether it stays as it is (empty if no piece of any block does)."""
        folder = Path(self.folder)
        starts = np.memmap(folder / STARTS, np.int64, "r")
        part = slice(int(starts[number]), int(starts[number + 1]))
        values = np.array(np.memmap(folder / VALUES, np.dtype(self.dtype), "r")[part])
        path = folder / KEPT
        return values, np.array(np.memmap(path, bool, "r")[part]) if path.exists() else np.zeros(0, bool)


def painting(
    name: str,
    selection: Selection,
    folder: Path,
    dtype: np.dtype[Any],
    *,
    on_source: bool,
    parameters: Mapping[str, Any],
) -> Kernel:
    """Kernel of `paint_block`, which looks at its own voxels only.

    Parameters
    ----------
    name : str
    selection : Selection
    folder : Path
        With the files `VALUES`, `STARTS` and perhaps `KEPT`.
    dtype : numpy dtype
        Of the values and the target.
    on_source : bool
        As for `Decided`.
    parameters : mapping
        JSON values that, with the selection, say what is painted.
    """
    return Kernel(
        name,
        partial(paint_block, selection=selection, decided=Decided(str(folder), dtype.str, on_source)),
        Halo(),
        dtype,
        bytes_per_voxel=selection.bytes_per_voxel
        + dtype.itemsize
        + selection.pieces_per_voxel * (dtype.itemsize + int(on_source)),
        parameters={**selection.describe(), **parameters},
        located=True,
    )


def paint_block(labels: Array, block: Block, *, selection: Selection, decided: Decided) -> np.ndarray:
    """Give each piece of a block its value.

    Raises
    ------
    IntegrityError
        If the block has other pieces than in the first pass: its voxels have changed.
    """
    source = np.ascontiguousarray(to_host(labels))
    runs, pieces, n = selection.runs(source)
    values, kept = decided.of_block(block.number)
    if values.size != n or kept.size not in (0, n):
        raise IntegrityError(
            f"block {block.number} has {n} pieces, but {values.size} were found in it before, so its voxels have changed: "
            f"remove {Path(decided.folder).parent} and the output, and run again"
        )
    dtype = np.dtype(decided.dtype)
    target = source.astype(dtype) if decided.on_source else np.zeros(source.shape, dtype)
    # Compiled code knows no bool arrays of its own; a byte is a byte.
    plain = (target.view(np.uint8), values.view(np.uint8)) if dtype.kind == "b" else (target, values)
    paint_pieces(plain[0], runs, pieces, plain[1], kept)
    return target
