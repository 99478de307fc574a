"""Grey values of classes in figures: percentiles, moments, signal and contrast to noise, from the counts of `intensity`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tomoscale.measures.fixed_point import FixedPoint, sums_of
from tomoscale.measures.greys import n_bins, values_of
from tomoscale.measures.population import Population
from tomoscale.measures.ranks import interpolate, keys_at, positions_of, ranks_around
from tomoscale.step import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Moments:
    """Number, mean and population standard deviation of the grey values of each class; NaN where a class is empty."""

    n: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray


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
    slots = slots_of(population, first, percents)
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


def slots_of(population: Population, first: Counts, percents: Sequence[float]) -> tuple[int, ...]:
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
