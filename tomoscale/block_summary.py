"""Which block of a run took how long, was tried again, or is missing, in few numbers.

They are kept with the results, so that a report never depends on the record of a run, which may be gone. There are at most
8 x 8 x 8 fields, however many blocks there are: each holds the mean seconds, the most attempts and the number of missing
blocks of the blocks in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FIELDS_PER_AXIS = 8


def block_summary(records: np.ndarray, grid: Sequence[int]) -> dict[str, Any]:
    """Summary of the finished blocks of a run, as JSON values.

    Parameters
    ----------
    records : (n,) structured array
        ``number``, ``attempts`` and ``seconds`` (read, compute, write) of every finished block, in any order.
    grid : (z, y, x)
        Blocks along each axis, numbered z-major.

    Returns
    -------
    dict
        ``fields`` (z, y, x), and z-major lists: ``seconds`` (mean; None where no block is done), ``attempts`` (the most) and
        ``missing`` (blocks not done).
    """
    fields = tuple(min(n, FIELDS_PER_AXIS) for n in grid)
    numbers = records["number"].astype(np.int64)
    place = np.unravel_index(numbers, tuple(grid))
    # Block p of n lies in field p * fields // n: fields differ by one block at most.
    index = np.ravel_multi_index(tuple(p * f // n for p, f, n in zip(place, fields, grid, strict=True)), fields)
    size = math.prod(fields)
    sides = [np.bincount(np.arange(n) * f // n, minlength=f) for n, f in zip(grid, fields, strict=True)]
    expected = np.einsum("i,j,k->ijk", *sides).ravel()
    done = np.bincount(index, minlength=size)
    seconds = np.bincount(index, records["seconds"].astype(np.float64).sum(axis=1), size)
    attempts = np.zeros(size, np.int64)
    np.maximum.at(attempts, index, records["attempts"].astype(np.int64))
    means = [round(float(s) / int(n), 4) if n else None for s, n in zip(seconds, done, strict=True)]
    return {
        "fields": list(fields),
        "seconds": means,
        "attempts": attempts.tolist(),
        "missing": (expected - done).tolist(),
    }
