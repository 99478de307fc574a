"""Measures of the grey values of a volume or of its classes: exact histograms and sums; `grey_figures` reads them.

Percentiles of 8- and 16-bit volumes take one pass. Those of 32 bits take two: the first counts the upper 16 bits of a
key that sorts like the values, the second the lower 16 bits where the wanted ranks lie.

.. code-block:: python

    population = Population("float32", disc=True)
    first = run(plan_measure(histogram(population), ...))
    second = run(plan_measure(refinement(population, first, (0.5, 99.5)), ...))
    low, high = percentiles(population, (0.5, 99.5), first, second)[0]
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.geometry import Halo
from tomoscale.measures.fixed_point import FixedPoint, sum_steps
from tomoscale.measures.grey_figures import slots_of
from tomoscale.measures.greys import HALF, count_keys, n_bins
from tomoscale.measures.population import Population, refuse_found, voxels_of
from tomoscale.step import Counts, Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tomoscale.arrays import Array
    from tomoscale.geometry import Block


def histogram(population: Population) -> Measure:
    """Measure of `count_histogram`."""
    return _measure("histogram", population, partial(count_histogram, population=population), n_bins(population.dtype))


def count_histogram(grey: Array, labels: Array | None = None, *, block: Block, population: Population) -> Counts:
    """Histogram of the core's grey values.

    Parameters
    ----------
    grey : (Z, Y, X) array of ``population.dtype``, NumPy or CuPy
    labels : (Z, Y, X) integer array, if the population has classes
    block : Block
    population : Population

    Returns
    -------
    dict
        ``"histogram"``: (n_classes or 1, bins) int64 by `greys.keys_of` the values, or by its upper 16 bits for
        32-bit types; ``"non_finite"``: (2,) int64, NaN and infinities left out.

    Raises
    ------
    InputError
        At a NaN or infinity that is not excluded, a label that is no class, or another type, with its place.
    """
    counts, found = count_keys(voxels_of(grey, labels, block, population))
    refuse_found(found, block, population)
    return {"histogram": counts, "non_finite": np.array([found.n_nan, found.n_inf])}


def refinement(population: Population, first: Counts, percents: Sequence[float]) -> Measure | None:
    """Measure of the second pass for 32-bit values; None where the first says all (or found no voxel).

    Parameters
    ----------
    population : Population
        The same as in the first pass.
    first : dict
        Counts of `histogram` of the whole volume.
    percents : sequence of float
        0 to 100.
    """
    slots = slots_of(population, first, percents)
    if not slots:
        return None
    function = partial(count_refinement, population=population, slots=slots)
    return _measure("histogram refinement", population, function, len(slots) << HALF, {"high_halves": list(slots)})


def count_refinement(
    grey: Array, labels: Array | None = None, *, block: Block, population: Population, slots: tuple[int, ...]
) -> Counts:
    """Histogram of the lower 16 bits of the keys whose upper 16 bits are one of `slots`, which are sorted.

    Returns
    -------
    dict
        ``"refinement"``: (n_classes or 1, n_slots, 65 536) int64.
    """
    ranks = np.full(1 << HALF, -1)
    ranks[list(slots)] = np.arange(len(slots))
    counts, found = count_keys(voxels_of(grey, labels, block, population), ranks)
    refuse_found(found, block, population)
    return {"refinement": counts.reshape(counts.shape[0], len(slots), 1 << HALF)}


def label_moments(population: Population, fixed_point: FixedPoint | None = None) -> Measure:
    """Measure of `count_moments`; `fixed_point` is needed for float32 and not allowed for integers."""
    floating = np.dtype(population.dtype).kind == "f"
    if floating != (fixed_point is not None):
        raise ValueError(
            "float32 needs a fixed_point: sums of floats depend on the order of adding; take its range from percentiles 0 and 100"
            if floating
            else f"{population.dtype} is summed as it is, got {fixed_point}"
        )
    steps = fixed_point or FixedPoint.of_integers(population.dtype)
    if floating and steps.bits > 31:
        raise ValueError(
            f"fixed_point may have at most 31 bits for floats, got {steps.bits}: 2**32 squared needs 65 bits"
        )
    function = partial(count_moments, population=population, fixed_point=steps)
    return _measure("moments", population, function, 6, {"fixed_point": asdict(steps)})


def count_moments(
    grey: Array, labels: Array | None = None, *, block: Block, population: Population, fixed_point: FixedPoint
) -> Counts:
    """Exact sums of the core's grey values in steps of the quantum.

    Returns
    -------
    dict
        ``"moments"``: (n_classes or 1, 6) int64, see `fixed_point.sum_steps`; ``"non_finite"`` as in `count_histogram`.

    Raises
    ------
    InputError
        As `count_histogram`, and at a value outside the range of `fixed_point`.
    """
    counts, found = sum_steps(voxels_of(grey, labels, block, population), fixed_point)
    refuse_found(found, block, population, fixed_point)
    return {"moments": counts, "non_finite": np.array([found.n_nan, found.n_inf])}


def _measure(
    name: str,
    population: Population,
    function: Callable[..., Counts],
    columns: int,
    more: dict[str, object] | None = None,
) -> Measure:
    return Measure(
        name=name,
        function=function,
        inputs=("grey",) if population.n_classes is None else ("grey", "labels"),
        halo=Halo.uniform(population.interior_voxels),
        # Where there is an interior: that, and copies of the core of grey values and of labels of two bytes.
        bytes_per_voxel=1 + np.dtype(population.dtype).itemsize + 2 if population.interior_voxels else 0.25,
        counts_bytes=8 * (population.n_rows * columns + 2),
        parameters={**asdict(population), **(more or {})},
    )
