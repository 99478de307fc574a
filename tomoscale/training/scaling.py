"""Grey values as a network gets them: from the whole volume, never from a patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomoscale.errors import InputError
from tomoscale.measures.fixed_point import FixedPoint
from tomoscale.measures.grey_figures import Moments, moments, moments_from_histogram, percentiles
from tomoscale.measures.intensity import histogram, label_moments, refinement
from tomoscale.measures.population import Population
from tomoscale.networks.card import Normalisation
from tomoscale.step import Counts
from tomoscale.volume import Volume
from tomoscale.work import Work


@dataclass(frozen=True)
class Scaling:
    """``(grey - offset) / span``, values beyond `clip` clipped first."""

    offset: float
    span: float
    clip: tuple[float, float] | None

    def apply(self, grey: np.ndarray) -> np.ndarray:
        """Return normalised values: float32 of the same shape."""
        values = grey.astype(np.float32)
        if self.clip is not None:
            np.clip(values, np.float32(self.clip[0]), np.float32(self.clip[1]), out=values)
        values -= np.float32(self.offset)
        values /= np.float32(self.span)
        return values


def scaling_of(grey: Volume, how: Normalisation, record: str, work: Work) -> tuple[Scaling, Counts]:
    """Measure how the grey values of a volume are scaled.

    Parameters
    ----------
    grey : Volume
    how : Normalisation
    record : path
        Folder for the records of the passes.
    work : Work

    Returns
    -------
    Scaling
    counts
        The histogram of the volume, which tells whether two volumes hold the same.

    Raises
    ------
    InputError
        If the volume has no contrast.
    """
    population = Population(grey.dtype.name)
    first = work.measure((histogram(population),), {"grey": grey}, f"{record}/histogram")
    if how.scheme == "percentiles":
        refine = refinement(population, first, how.percentiles)
        second = None if refine is None else work.measure((refine,), {"grey": grey}, f"{record}/refined")
        low, high = (float(v) for v in percentiles(population, how.percentiles, first, second)[0])
        scaling = Scaling(low, high - low, (low, high))
    else:
        mean, deviation = how.mean, how.deviation
        if mean is None or deviation is None:
            found = _moments(grey, population, first, record, work)
            mean, deviation = float(found.mean[0]), float(found.sigma[0])
        scaling = Scaling(mean, deviation, how.clip)
    if not scaling.span > 0:
        raise InputError(f"{grey.name} has no contrast: its grey values are all near {scaling.offset}")
    return scaling, first


def _moments(grey: Volume, population: Population, first: Counts, record: str, work: Work) -> Moments:
    """Mean and standard deviation of all voxels: from the histogram, or of 32 bits by passes of their own."""
    if grey.dtype.itemsize < 4:
        return moments_from_histogram(population, first)
    steps = None
    if grey.dtype.kind == "f":
        refine = refinement(population, first, (0, 100))
        second = None if refine is None else work.measure((refine,), {"grey": grey}, f"{record}/range")
        low, high = (float(v) for v in percentiles(population, (0, 100), first, second)[0])
        if not low < high:
            raise InputError(f"{grey.name} has no contrast: its grey values are all {low}")
        steps = FixedPoint(low, high)
    counts = work.measure((label_moments(population, steps),), {"grey": grey}, f"{record}/moments")
    return moments(population, counts, steps)
