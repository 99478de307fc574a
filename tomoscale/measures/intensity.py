"""Grey values of a volume or of its classes: exact histograms, percentiles, moments, signal and contrast to noise.

Percentiles of 8- and 16-bit volumes take one pass. Those of 32 bits take two: the first counts the upper 16 bits of a
key that sorts like the values, the second the lower 16 bits where the wanted ranks lie.

.. code-block:: python

    population = Population("float32", disc=True)
    first = run(plan_measure(histogram(population), ...))
    second = run(plan_measure(refinement(population, first, (0.5, 99.5)), ...))
    low, high = percentiles(population, (0.5, 99.5), first, second)[0]
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import Halo
from tomoscale.measures.choice import Found, Voxels, interior_of, spans_of
from tomoscale.measures.fixed_point import FixedPoint, sum_steps, sums_of
from tomoscale.measures.greys import COUNTED_TYPES, HALF, count_keys, n_bins, values_of
from tomoscale.measures.ranks import interpolate, keys_at, positions_of, ranks_around
from tomoscale.step import Counts, Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tomoscale.arrays import Array
    from tomoscale.geometry import Block


@dataclass(frozen=True)
class Population:
    """Which voxels count, and for what class.

    Attributes
    ----------
    dtype : str
        Type of the grey values: uint8, int8, uint16, int16, uint32, int32 or float32. 64 bits are refused: they would
        take four passes, and no detector fills them.
    n_classes : int or None
        Count by label, 0 to ``n_classes - 1``, from a second volume; None counts all voxels together.
    interior_voxels : int
        Only voxels with no other label within this many voxels (a Euclidean ball), so that voxels that are partly of
        another material do not widen the distribution.
    exclude_zeros : bool
        Leave out values that are exactly zero, with which reconstructions are filled outside the field of view.
    disc : bool
        Leave out what lies outside the disc inscribed in the (y, x) section.
    non_finite : str
        ``"refuse"`` raises at NaN and infinity, ``"exclude"`` leaves them out and counts them.
    """

    dtype: str
    n_classes: int | None = None
    interior_voxels: int = 0
    exclude_zeros: bool = False
    disc: bool = False
    non_finite: Literal["refuse", "exclude"] = "refuse"

    def __post_init__(self) -> None:
        if self.dtype not in COUNTED_TYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(COUNTED_TYPES)}, got {self.dtype!r}: exact percentiles of 64-bit values "
                "would take four passes; store the volume as float32 first"
            )
        if self.n_classes is not None and self.n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, got {self.n_classes}")
        if self.interior_voxels < 0 or (self.interior_voxels and self.n_classes is None):
            raise ValueError(
                f"interior_voxels must be 0 or more and needs n_classes, got {self.interior_voxels} with "
                f"n_classes {self.n_classes}: only a label has an interior"
            )
        if self.non_finite not in ("refuse", "exclude"):
            raise ValueError(f"non_finite must be 'refuse' or 'exclude', got {self.non_finite!r}")

    @property
    def n_rows(self) -> int:
        """Rows of every table of counts."""
        return self.n_classes or 1


@dataclass(frozen=True)
class Moments:
    """Number, mean and population standard deviation of the grey values of each class; NaN where a class is empty."""

    n: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray


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
    counts, found = count_keys(_voxels(grey, labels, block, population))
    _refuse(found, block, population)
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
    slots = _slots(population, first, percents)
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
    counts, found = count_keys(_voxels(grey, labels, block, population), ranks)
    _refuse(found, block, population)
    return {"refinement": counts.reshape(counts.shape[0], len(slots), 1 << HALF)}


def percentiles(
    population: Population, percents: Sequence[float], first: Counts, second: Counts | None = None
) -> np.ndarray:
    """Percentiles of the grey values, in grey values: (n_classes or 1, n_percents) float64; NaN where a class is empty.

    The definition is numpy's ``"linear"`` and so are the bits, for percents given as float64 array. 0 and 100 are the
    least and the largest value.

    Raises
    ------
    ValueError
        If the second pass is missing, or was for other percents.
    """
    slots = _slots(population, first, percents)
    fine = np.asarray(second["refinement"]) if second is not None and slots else None
    if slots and (fine is None or fine.shape[1] != len(slots)):
        raise ValueError(
            f"percentiles of {population.dtype} need the counts of refinement(population, first, percents) for the same "
            f"percents, got {'none' if fine is None else 'those of others'}: the first pass knows 16 of 32 bits"
        )
    result = np.full((population.n_rows, len(percents)), np.nan)
    for k, coarse in enumerate(np.asarray(first["histogram"])):
        n = int(coarse.sum())
        positions = positions_of(n, percents)
        if n:
            ranks = ranks_around(n, positions)
            keys = keys_at(ranks, coarse, slots, None if fine is None else fine[k])
            result[k] = interpolate(values_of(keys, population.dtype), positions - ranks[:, 0])
    return result


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
    counts, found = sum_steps(_voxels(grey, labels, block, population), fixed_point)
    _refuse(found, block, population, fixed_point)
    return {"moments": counts, "non_finite": np.array([found.n_nan, found.n_inf])}


def moments(population: Population, counts: Counts, fixed_point: FixedPoint | None = None) -> Moments:
    """Moments per class, in grey values, from the counts of `label_moments`."""
    steps = fixed_point or FixedPoint.of_integers(population.dtype)
    return _moments(sums_of(np.asarray(counts["moments"])), steps.low, steps.quantum)


def moments_from_histogram(population: Population, first: Counts) -> Moments:
    """Moments per class from the histogram of an 8- or 16-bit volume, the same bits as from `label_moments`."""
    bins = n_bins(population.dtype)
    if np.dtype(population.dtype).itemsize == 4:
        raise ValueError(f"a histogram of {population.dtype} knows 16 of 32 bits: use label_moments")
    keys = np.arange(bins).astype(object)
    rows = [row.astype(object) for row in np.asarray(first["histogram"])]
    sums = [(int(row.sum()), int(row @ keys), int(row @ keys**2)) for row in rows]
    return _moments(sums, float(values_of(np.zeros(1, int), population.dtype)[0]), 1.0)


def snr(of: Moments, k: int) -> float:
    """Signal to noise of class k, mean / sigma; infinite without noise, NaN for an empty class."""
    return _ratio(float(of.mean[k]), float(of.sigma[k]))


def cnr(
    of: Moments,
    k: int,
    other: int,
    denominator: Literal["root_sum_square", "pooled", "background"] = "root_sum_square",
) -> float:
    """Contrast to noise between two classes, ``|mean_k - mean_other|`` over a noise.

    Parameters
    ----------
    of : Moments
    k, other : int
        Classes.
    denominator : str
        ``"root_sum_square"``: √(σ_k² + σ_other²); ``"pooled"``: √((σ_k² + σ_other²) / 2); ``"background"``: σ of class 0.
    """
    square = float(of.sigma[k]) ** 2 + float(of.sigma[other]) ** 2
    noise = {
        "root_sum_square": math.sqrt(square),
        "pooled": math.sqrt(square / 2),
        "background": float(of.sigma[0]),
    }
    if denominator not in noise:
        raise ValueError(f"denominator must be one of {', '.join(noise)}, got {denominator!r}")
    return _ratio(abs(float(of.mean[k]) - float(of.mean[other])), noise[denominator])


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


def _voxels(grey: Array, labels: Array | None, block: Block, population: Population) -> Voxels:
    if grey.dtype.name != population.dtype or not grey.dtype.isnative:
        raise InputError(
            f"grey values are {grey.dtype} but the population is {population.dtype}: they would be read as other numbers; "
            f"give Population(dtype={grey.dtype.name!r})"
        )
    inside = None
    if labels is not None:
        if labels.dtype.kind not in "biu":
            raise InputError(f"labels are {labels.dtype}, but a class is a whole number: store them as uint8 or uint16")
        if labels.shape != grey.shape:
            raise InputError(
                f"labels have shape {labels.shape} but grey values have {grey.shape} (z, y, x): voxels are compared one "
                "by one, so both must lie on one grid"
            )
        if population.interior_voxels:
            inside = interior_of(labels, block.core, population.interior_voxels)
        labels = labels[block.core]
    return Voxels(
        grey[block.core], spans_of(block, population.disc), labels, inside, population.n_rows, population.exclude_zeros
    )


def _refuse(found: Found, block: Block, population: Population, fixed_point: FixedPoint | None = None) -> None:
    if found.non_finite is not None and population.non_finite == "refuse":
        raise InputError(
            f"{found.n_nan} NaN and {found.n_inf} infinite grey values in one block, the first at voxel "
            f"{_place(found.non_finite, block)} (z, y, x): they have no rank and no mean; mend the volume, or leave them "
            "out with non_finite='exclude'"
        )
    if found.foreign is not None:
        raise InputError(
            f"the label at voxel {_place(found.foreign, block)} (z, y, x) is not one of the {population.n_rows} classes "
            f"0 to {population.n_rows - 1}: give n_classes as the largest label plus one"
        )
    if found.outside is not None and fixed_point is not None:
        raise InputError(
            f"the grey value at voxel {_place(found.outside, block)} (z, y, x) is outside the range {fixed_point.low} to "
            f"{fixed_point.high}, which must hold every value: take it from percentiles 0 and 100 of the same population"
        )


def _place(place: tuple[int, ...], block: Block) -> tuple[int, ...]:
    return tuple(p + w.start for p, w in zip(place, block.write, strict=True))


def _slots(population: Population, first: Counts, percents: Sequence[float]) -> tuple[int, ...]:
    """High halves that hold the wanted ranks of any class, sorted; none for 8 and 16 bits."""
    if np.dtype(population.dtype).itemsize < 4:
        return ()
    halves: set[int] = set()
    for coarse in np.asarray(first["histogram"]):
        n = int(coarse.sum())
        if n:
            ranks = ranks_around(n, positions_of(n, percents))
            halves.update(np.searchsorted(coarse.cumsum(), ranks.ravel(), side="right").tolist())
    return tuple(sorted(halves))


def _moments(sums: list[tuple[int, int, int]], low: float, quantum: float) -> Moments:
    """Moments from exact sums of steps; every quotient is rounded once, Python's integers do not overflow."""
    mean, sigma = np.full((2, len(sums)), np.nan)
    for k, (n, total, squares) in enumerate(sums):
        if n:
            mean[k] = low + quantum * (total / n)
            sigma[k] = quantum * math.sqrt((n * squares - total * total) / (n * n))
    return Moments(np.array([n for n, _, _ in sums], np.int64), mean, sigma)


def _ratio(signal: float, noise: float) -> float:
    if noise == 0:
        return math.nan if signal == 0 else math.copysign(math.inf, signal)
    return signal / noise
