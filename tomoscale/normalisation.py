"""How the grey values of a volume are scaled: from exact percentiles or moments of all its voxels, never of a block."""

from __future__ import annotations

from typing import NoReturn

from tomoscale.errors import InputError
from tomoscale.kernels.filters import clip_and_scale
from tomoscale.kernels.scaling import STANDARDISED, Scaling
from tomoscale.measures.fixed_point import FixedPoint
from tomoscale.measures.grey_figures import moments, moments_from_histogram, percentiles
from tomoscale.measures.intensity import histogram, label_moments, refinement
from tomoscale.measures.population import Population
from tomoscale.networks.card import Normalisation
from tomoscale.parts import removed_if_refused
from tomoscale.places import Place
from tomoscale.step import Counts
from tomoscale.volume import Volume, ZarrArray
from tomoscale.work import Work

SCHEMES = ("percentiles", "zscore")
MADE_BY = {"percentiles": clip_and_scale(0, 1).name, "zscore": STANDARDISED}
"""Name of the kernel that `normalise` runs, by scheme: it stands in the record of what it made."""


def scaling_of(
    volume: Volume, how: Normalisation, record: Place, work: Work, population: Population | None = None
) -> Scaling:
    """Scaling of a volume by a scheme; without numbers where only plans are shown.

    Parameters
    ----------
    volume : Volume
    how : Normalisation
    record : Path
        Folder in which the passes keep their counts, so that they are not done twice.
    work : Work
    population : Population, optional
        Voxels that count; all by default.

    Raises
    ------
    InputError
        If there is no contrast to scale, or no voxel counts.
    """
    population = population or Population(volume.dtype.name)
    if how.scheme == "zscore":
        low, high = how.clip or (None, None)
        if how.mean is not None and how.deviation is not None:
            return Scaling(how.mean, how.deviation, low, high)
        mean, deviation = _moments(volume, population, record, work)
        if not deviation > 0:
            _refuse_flat(volume, f"all its grey values are {mean}", mean, record)
        return Scaling(mean, deviation, low, high)
    least, most = how.percentiles
    low, high = range_of(volume, population, how.percentiles, record, work)
    if not low < high:
        _refuse_flat(volume, f"its percentiles {least} and {most} are both {low}", low, record)
    return Scaling.between(low, high)


def scaling_unless_done(volume: Volume, how: Normalisation, record: Place, work: Work, *, asks: str) -> Scaling | None:
    """Scaling of a volume by a scheme; None if `normalise` has scaled it so, or it lies in 0..1 already.

    Trainings and segmentations both ask here, so that a network sees in use what it has learned from.

    Parameters
    ----------
    volume, how, record, work
        As for `scaling_of`.
    asks : str
        Who asks for the scheme, and the way out: ends the message.

    Raises
    ------
    InputError
        If it was scaled by another scheme, or has no contrast.
    """
    scheme = made_by_normalise(volume)
    if scheme == how.scheme or (work.plan_only and volume.dtype.kind == "f"):
        return None
    if scheme is not None:
        raise InputError(f"{volume.name} was normalised by {scheme}, but {asks}")
    if volume.dtype.kind == "f" and how.scheme == "percentiles":
        least, most = range_of(volume, Population(volume.dtype.name), (0.0, 100.0), record, work)
        if least >= 0 and most <= 1:
            return None
    return scaling_of(volume, how, record, work)


def counted_greys(volume: Volume, record: Place, work: Work) -> Counts:
    """Histogram of all voxels that the numbers of a scaling come from, which is counted once for both."""
    counts: Counts = work.measure((histogram(Population(volume.dtype.name)),), {"grey": volume}, record / "first")
    return counts


def range_of(
    volume: Volume, population: Population, percents: tuple[float, float], record: Place, work: Work
) -> tuple[float, float]:
    """Two exact percentiles: one pass for 8 and 16 bits, two for 32; (0, 1) where only plans are shown."""
    first = work.measure((histogram(population),), {"grey": volume}, record / "first")
    if first is None:
        return 0.0, 1.0
    return _percentiles(volume, population, first, percents, record, work)


def made_by_normalise(volume: Volume) -> str | None:
    """Scheme of a volume that `normalise` made; None of any other."""
    state = volume.storage.state() if isinstance(volume.storage, ZarrArray) else None
    steps = ((state or {}).get("record") or {}).get("run", {}).get("step", {})
    return next((scheme for scheme, name in MADE_BY.items() if list(steps) == [name]), None)


def _moments(volume: Volume, population: Population, record: Place, work: Work) -> tuple[float, float]:
    """Exact mean and standard deviation: one pass, or three for floats, whose range must be known first."""
    steps = None
    if volume.dtype.kind == "f":
        low, high = range_of(volume, population, (0.0, 100.0), record, work)
        if not low < high:
            return low, 0.0
        steps = FixedPoint(low, high)
    elif volume.dtype.itemsize < 4:
        first = work.measure((histogram(population),), {"grey": volume}, record / "first")
        if first is None:
            return 0.0, 1.0
        found = moments_from_histogram(population, first)
        return float(found.mean[0]), float(found.sigma[0])
    counts = work.measure((label_moments(population, steps),), {"grey": volume}, record / "moments")
    if counts is None:
        return 0.0, 1.0
    found = moments(population, counts, steps)
    return float(found.mean[0]), float(found.sigma[0])


def _percentiles(
    volume: Volume, population: Population, first: Counts, percents: tuple[float, float], record: Place, work: Work
) -> tuple[float, float]:
    refine = refinement(population, first, percents)
    name = "range" if percents == (0, 100) else "second"
    second = None if refine is None else work.measure((refine,), {"grey": volume}, record / name)
    low, high = percentiles(population, percents, first, second)[0]
    return float(low), float(high)


def _refuse_flat(volume: Volume, found: str, value: float, record: Place) -> NoReturn:
    why = "no voxel counts" if value != value else found
    with removed_if_refused(record):
        raise InputError(f"{volume.name}: {why}, so there is no contrast to scale")
