"""A mask of what is brighter than a grey value, darker, or between two; the value given, or Otsu's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.kernels.classes import threshold as threshold_kernel
from tomoscale.kernels.counted import NOT_ZERO, counting
from tomoscale.kernels.filters import cast
from tomoscale.measures.greys import n_bins, values_of
from tomoscale.measures.intensity import histogram
from tomoscale.measures.otsu import otsu_thresholds
from tomoscale.measures.population import Population
from tomoscale.parts import removed_if_refused
from tomoscale.places import Place, place
from tomoscale.volume import Volume
from tomoscale.work import Work

WHOLE = ("uint8", "int8", "uint16", "int16")
"""Types of which one pass counts every value."""


@dataclass(frozen=True)
class Thresholded:
    """A mask and the grey values that made it: what is above `low` and not above `high`; None where there is no limit."""

    mask: Volume
    low: float | None
    high: float | None

    @property
    def voxels(self) -> int | None:
        """How many voxels are in the mask; None where only plans are shown."""
        counted = self.mask.counted.get(NOT_ZERO)
        return None if counted is None else int(counted[0])


def threshold(
    source: Source,
    target: str | Place,
    *,
    low: float | None = None,
    high: float | None = None,
    otsu: bool = False,
    work: Work | None = None,
) -> Thresholded:
    """Write a mask of the voxels above `low` and not above `high`.

    Parameters
    ----------
    source : Volume or path
        Grey values.
    target : path
    low, high : float or None
        In grey values; a voxel of just the value `low` is not in the mask, one of `high` is.
    otsu : bool
        Take as `low` the value that best separates the histogram of the whole volume in two (Otsu 1979), exactly. The
        histogram is kept beside the target (``NAME.histogram``).
    work : Work or None

    Returns
    -------
    Thresholded
        Where only plans are shown, `low` is None if it would be Otsu's.

    Raises
    ------
    ValueError
        If no limit is given, Otsu's beside others, or none of the values can be between the limits.
    InputError
        If the source is a mask or holds NaN or infinite values; with `otsu`, if it does not hold 8 or 16 bits or only
        one grey value.
    """
    if otsu and (low is not None or high is not None):
        raise ValueError("Otsu's threshold is a lower limit found in the histogram: give it, or limits, not both")
    work = work or Work()
    volume = opened(source)
    if volume.dtype.kind == "b":
        raise InputError(f"{volume.name} is a mask already: there is nothing to threshold")
    if otsu:
        low = _otsu(volume, place(target), work)
    # Where only plans are shown nothing was counted: the plan is the same for every value.
    kernel = threshold_kernel(0.0 if otsu and low is None else low, high)
    if volume.dtype.kind == "f":
        # NaN is on neither side of a limit; to call it dark would be a guess.
        kernel = cast(volume.dtype, "refuse").then(kernel)
    return Thresholded(work.map(counting(kernel), volume, target, kind="mask"), low, high)


def _otsu(volume: Volume, target: Place, work: Work) -> float | None:
    if volume.dtype.name not in WHOLE:
        raise InputError(
            f"{volume.name} holds {volume.dtype}, but Otsu's threshold looks at every grey value of 8 or 16 bits: give limits "
            "in grey values, or convert the scan to 16 bits"
        )
    population = Population(volume.dtype.name)
    counts = work.measure((histogram(population),), {"grey": volume}, target.with_suffix(".histogram"))
    if counts is None:
        return None
    values = values_of(np.arange(n_bins(population.dtype)), population.dtype)
    with removed_if_refused(target.with_suffix(".histogram")):
        try:
            return otsu_thresholds(counts["histogram"][0], values)[0]
        except InputError as error:
            raise InputError(f"{volume.name}: {error}") from error
