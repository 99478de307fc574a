"""What the filters of components decide: which stay, and what the others become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.objects.fates import Surroundings, Whole, largest, write_fates
from tomoscale.objects.joining import Joined, Tables


def keep(
    tables: Tables, joined: Joined, folder: Path, *, dtype: np.dtype[Any], stays: Callable[[Whole], np.ndarray]
) -> Mapping[str, Any]:
    """Set what does not stay to 0."""
    return write_fates(tables, joined, folder, dtype, lambda _, whole: (0, stays(whole)))


def keep_n_largest(tables: Tables, joined: Joined, folder: Path, *, dtype: np.dtype[Any], n: int) -> Mapping[str, Any]:
    """Set all but the `n` largest to 0."""
    least, last = largest(tables, joined, n)

    def stays(whole: Whole) -> np.ndarray:
        result: np.ndarray = (whole.voxels > least) | ((whole.voxels == least) & (whole.first <= last))
        return result

    return keep(tables, joined, folder, dtype=dtype, stays=stays)


def surround(
    tables: Tables, joined: Joined, folder: Path, *, dtype: np.dtype[Any], stays: Callable[[Whole], np.ndarray]
) -> Mapping[str, Any]:
    """Give what does not stay the label that surrounds it."""
    around = Surroundings(tables, joined)

    def fate(number: int, whole: Whole) -> tuple[np.ndarray, np.ndarray]:
        labels, known = around.of_block(number)
        return labels, stays(whole) | ~known

    return write_fates(tables, joined, folder, dtype, fate)


def fill(tables: Tables, joined: Joined, folder: Path, *, dtype: np.dtype[Any], value: int) -> Mapping[str, Any]:
    """Give what is closed all around a value."""
    return write_fates(tables, joined, folder, dtype, lambda _, whole: (value, whole.outer))


def paint_outer(tables: Tables, joined: Joined, folder: Path) -> Mapping[str, Any]:
    """Mask of what touches the border of the volume."""
    return write_fates(tables, joined, folder, np.dtype(bool), lambda _, whole: (1, ~whole.outer))


def from_size(whole: Whole, min_voxels: int) -> np.ndarray:
    """Stays: what has so many voxels or more."""
    return whole.voxels >= min_voxels


def inside(whole: Whole) -> np.ndarray:
    """Stays: what does not touch the border of the volume."""
    return ~whole.outer


def outside(whole: Whole) -> np.ndarray:
    """Stays: what touches the border of the volume."""
    return whole.outer
