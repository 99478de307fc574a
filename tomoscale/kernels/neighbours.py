"""Labels around pieces of an object: voxel faces between a piece and each label that touches it."""

from __future__ import annotations

import numba
import numpy as np

from tomoscale.geometry import Region
from tomoscale.kernels.row_runs import Runs

ENTRY_BYTES = 40
"""What is held of a piece and a label that touch, while the list of them grows and while it is put in order."""

_jit = numba.njit(cache=True, nogil=True)


def count_neighbours(  # noqa: PLR0913 -- a padded block, what is an object in it, and the pieces found in its core
    labels: np.ndarray,
    core: Region,
    mask: np.ndarray,
    runs: Runs,
    pieces: np.ndarray,
    wanted: np.ndarray,
    multilabel: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the faces between pieces and the labels of voxels that are not of their component.

    A 6-neighbour of a piece belongs to the same component exactly if it is a voxel of the object (of the same label,
    where only these belong together): no piece of another block need be known.

    Parameters
    ----------
    labels : (Z, Y, X) integer or bool array
        Padded by one voxel where the volume goes on.
    core : Region
    mask : (Z, Y, X) bool array
        Voxels of the object, of the padded block.
    runs, pieces
        Of the core.
    wanted : (n_pieces,) bool array
        Pieces to count for.
    multilabel : bool
        Whether only neighbours of equal label belong together.

    Returns
    -------
    (m,) uint32, (m,) label and (m,) int64 arrays
        Piece, label and faces, in the order of pieces and labels.
    """
    values = np.ascontiguousarray(labels).view(f"u{labels.dtype.itemsize}")
    members = np.ascontiguousarray(mask).view(np.uint8)
    origin = np.array([c.start for c in core], np.int64)
    found = _count(
        values, members, origin, runs.shape[1], runs.first, runs.starts, runs.stops, pieces, wanted, multilabel
    )
    piece, label, faces = found
    label = label.view(labels.dtype)
    order = np.lexsort((label, piece))
    return piece[order], label[order], faces[order].astype(np.int64)


@_jit  # type: ignore[untyped-decorator]
def _vote(  # noqa: PLR0913 -- plain arrays, as compiled code takes them
    head: np.ndarray, piece: np.ndarray, value: np.ndarray, faces: np.ndarray, after: np.ndarray, n: int, p: int, v: int
) -> int:
    """Add a face to the list of a piece; give the number of entries, one more if the label is new to it."""
    entry = head[p]
    while entry >= 0:
        if value[entry] == v:
            faces[entry] += 1
            return n
        entry = after[entry]
    piece[n], value[n], faces[n], after[n] = p, v, 1, head[p]
    head[p] = n
    return n + 1


@_jit  # type: ignore[untyped-decorator]
def _grown(values: np.ndarray, size: int) -> np.ndarray:
    grown = np.empty(size, values.dtype)
    grown[: values.size] = values
    return grown


@_jit  # type: ignore[untyped-decorator]
def _count(  # noqa: PLR0913, C901 -- plain arrays, as compiled code takes them, and one loop over them
    values: np.ndarray,
    members: np.ndarray,
    origin: np.ndarray,
    height: int,
    first: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    pieces: np.ndarray,
    wanted: np.ndarray,
    multilabel: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # A list for every piece: 32 bits hold the entries of any block that fits in memory, and its faces.
    head = np.full(wanted.size, -1, np.int32)
    piece, value = np.empty(1024, np.uint32), np.empty(1024, values.dtype)
    faces, after = np.empty(1024, np.uint32), np.empty(1024, np.int32)
    n = 0
    for row in range(first.size - 1):
        z, y = origin[0] + row // height, origin[1] + row % height
        for run in range(first[row], first[row + 1]):
            p = pieces[run]
            if not wanted[p]:
                continue
            start, stop = origin[2] + np.int64(starts[run]), origin[2] + np.int64(stops[run])
            own = values[z, y, start]
            for side in range(6):
                # Along x only the ends of a run have a neighbour that is not in it.
                dz = -1 if side == 0 else 1 if side == 1 else 0
                dy = -1 if side == 2 else 1 if side == 3 else 0
                low = start - 1 if side == 4 else stop if side == 5 else start
                high = start if side == 4 else stop + 1 if side == 5 else stop
                to_z, to_y = z + dz, y + dy
                if not (0 <= to_z < values.shape[0] and 0 <= to_y < values.shape[1]):
                    continue
                for x in range(max(low, 0), min(high, values.shape[2])):
                    v = values[to_z, to_y, x]
                    if members[to_z, to_y, x] and (not multilabel or v == own):
                        continue
                    if n == piece.size:
                        piece, value = _grown(piece, 2 * n), _grown(value, 2 * n)
                        faces, after = _grown(faces, 2 * n), _grown(after, 2 * n)
                    n = _vote(head, piece, value, faces, after, n, p, v)
    return piece[:n].copy(), value[:n].copy(), faces[:n].copy()
