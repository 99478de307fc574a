"""Classes of voxels whose grey values lie in given ranges, all others left open: markers of a watershed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Halo
from tomoscale.kernels.classes import select_between
from tomoscale.step import Kernel

Range = tuple[float | None, float | None]
"""Grey values above the first and not above the second; None is no limit."""


def class_of_ranges(values: Array, ranges: tuple[tuple[int, Range], ...]) -> Array:
    """Class of the range that a grey value lies in; 0 in none, as for NaN.

    Parameters
    ----------
    values : (Z, Y, X) array, NumPy or CuPy
    ranges : tuple of (class, range)

    Returns
    -------
    (Z, Y, X) uint8 array
    """
    result = namespace_for(values).zeros(values.shape, np.uint8)
    for label, (low, high) in ranges:
        result[select_between(values, low, high)] = label
    return result


def classes_of_ranges(ranges: Mapping[int, Sequence[Range]]) -> Kernel:
    """Kernel of `class_of_ranges`; pointwise, so no halo.

    Parameters
    ----------
    ranges : mapping of class to ranges
        Half open, ``low < x <= high``, so that ranges that meet share no voxel.

    Raises
    ------
    ValueError
        If a class is not 1 to 255 or has no range, a range is empty or without limits, or two ranges overlap.
    """
    listed = tuple((int(label), (low, high)) for label, of_class in ranges.items() for low, high in of_class)
    for label, of_class in ranges.items():
        if not 1 <= label <= 255 or not of_class:
            raise ValueError(f"class {label} must be one of 1 to 255 and have at least one range of grey values")
    numbers = [(-np.inf if a is None else float(a), np.inf if b is None else float(b)) for _, (a, b) in listed]
    for low, high in numbers:
        if not low < high or (low, high) == (-np.inf, np.inf):
            raise ValueError(f"a range of grey values must have a limit and end above its start, got {low} to {high}")
    numbers.sort()
    for (low, high), (start, end) in itertools.pairwise(numbers):
        if start < high:
            raise ValueError(
                f"the ranges {low} to {high} and {start} to {end} overlap: one voxel cannot mark two classes"
            )
    return Kernel(
        "classes of ranges",
        partial(class_of_ranges, ranges=listed),
        Halo(),
        np.dtype(np.uint8),
        # The result, and two masks while both limits are compared.
        bytes_per_voxel=3,
        parameters={"ranges": [[label, low, high] for label, (low, high) in listed]},
    )
